"""Names of the hub's adapters: one repository and one revision, or no request at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub_stand_in import HubStandIn
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.hub import HubSource
from lorax_serve.server.sources.hub_id import parse_hub_id

IDS_THAT_NAME_NOTHING = [
    "",
    "name",
    "http://h/x",
    "https://huggingface.co/org/open",
    "//h/x",
    "a/b/../c",
    "a/..",
    "../b",
    "./b",
    "a\\b",
    "a/b?x=1",
    "a/b#x",
    "user:key@h/x",
    "a/b@../../c",
    "a/b@x//y",
    "a/b@",
    "a/b@/x",
    "a/b%2e",
    "a/b\n",
    "a/b\x00",
    "a\u2215b/c",
    "\uff41/b",
    "a/" + "b" * 97,
]


@pytest.mark.parametrize("adapter_id", IDS_THAT_NAME_NOTHING)
async def test_ids_that_can_name_nothing_reach_no_network(
    hub: HubStandIn, source: HubSource, adapter_id: str
) -> None:
    with pytest.raises(ServeError) as caught:
        source.check_id(adapter_id)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    with pytest.raises(ServeError):
        await source.resolve(adapter_id, None)
    assert hub.seen == []


@given(st.text(alphabet=st.sampled_from("ab.-_/@:?#%\\~ \n\u2215\uff0f0"), max_size=20))
def test_what_passes_is_one_repository_and_one_revision(adapter_id: str) -> None:
    try:
        parsed = parse_hub_id(adapter_id)
    except ServeError:
        return
    owner, name = parsed.repository.split("/")
    assert not {owner, name} & {"", ".", ".."}
    revision = "" if parsed.revision is None else f"@{parsed.revision}"
    assert parsed.repository + revision == adapter_id
    assert adapter_id.isascii()
    assert not set("?#%\\: \n~") & set(adapter_id)
