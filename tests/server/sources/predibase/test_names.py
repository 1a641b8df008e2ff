"""Names that could never be an adapter, and settings that could never work, are refused at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.sources.predibase import PredibaseSettings, PredibaseSource
from lorax_serve.server.sources.predibase_gateway import PredibaseGateway, parse_predibase_id
from lorax_serve.server.sources.s3_settings import S3Settings


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "ftp://127.0.0.1",
        "api.example.com",
        "https://",
        "https://user:password@api.example.com",
        "https://api.example.com?x=1",
        "https://[",
        "",
    ],
)
def test_gateways_that_are_none_end_the_start(url: str) -> None:
    with pytest.raises(StartError, match="https"):
        PredibaseGateway(url, stall_seconds=1)


def test_it_needs_a_place_where_adapters_lie() -> None:
    with pytest.raises(StartError, match="bucket or folder"):
        PredibaseSource(PredibaseSettings(s3=S3Settings()))


TRICKS = st.sampled_from(["..", ".", "", "a", "1", "%2e", "a\\b", "\0", "http:", "a@b", "a?b"])
IDS = st.one_of(st.text(max_size=20), st.lists(TRICKS, max_size=4).map("/".join))


@given(IDS)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_every_accepted_name_is_one_or_two_plain_parts(adapter_id: str) -> None:
    try:
        asked = parse_predibase_id(adapter_id)
    except ServeError as refused:
        assert refused.code is ErrorCode.INVALID_REQUEST
        return
    assert str(asked) == adapter_id
    assert adapter_id.isascii() and adapter_id.isprintable()
    assert not {"", ".", ".."} & set(adapter_id.split("/")) and adapter_id.count("/") <= 1


@pytest.mark.parametrize(
    "adapter_id",
    ["", "/", "a/", "/1", "a/b/1", "..", "a/..", "a/.", "a b", "a/1?x", "a%2f", "a\n", "x" * 97],
)
def test_what_could_never_name_an_adapter(adapter_id: str) -> None:
    with pytest.raises(ServeError) as refused:
        parse_predibase_id(adapter_id)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
