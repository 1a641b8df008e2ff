"""Which sources there are, and what is said of one that is not reached."""

import pytest
from structlog.testing import capture_logs

from hub_site import Site, unreachable
from lorax_serve.server.errors import UnservedSource
from lorax_serve.server.remote_adapters import FetchLimits, RemoteAdapters
from lorax_serve.server.verdicts import Verdicts


@pytest.mark.parametrize(
    ("served", "named"),
    [
        (("local",), "which serves `local`."),
        (("local", "hub"), "which serves `local` and `hub`."),
        (("local", "hub", "s3"), "which serves `local`, `hub` and `s3`."),
    ],
)
def test_served_sources_are_listed_as_people_do(served: tuple[str, ...], named: str) -> None:
    assert UnservedSource(served).message.endswith(named)


async def test_what_came_from_a_source_that_is_served_no_more_is_not_listed(site: Site) -> None:
    (await site.get("org/open")).release()
    assert dict(site.adapters.listed(None)).keys() == {"org/open"}
    without = RemoteAdapters({}, site.store, FetchLimits(), Verdicts(site.clock))
    assert dict(without.listed(None)) == {}


async def test_an_operator_is_told_whom_the_server_did_not_reach(site: Site) -> None:
    with unreachable(site.hub), capture_logs() as logs:
        refused = await site.refusal("org/open")
    assert "`hub`" in refused.message and "try again" in refused.message
    (line,) = (line for line in logs if line["event"] == "adapter_source_failed")
    assert (line["source"], line["host"]) == ("hub", site.hub.url.removeprefix("http://"))
