import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.sources.s3_location import (
    Location,
    is_allowed,
    parse_location,
    parse_place,
)

DEFAULT = Location("bucket", "folder")


@pytest.mark.parametrize(
    ("adapter_id", "default", "expected"),
    [
        ("s3://loras/foo", None, "s3://loras/foo"),
        ("s3://loras/foo/bar", None, "s3://loras/foo/bar"),
        ("s3://loras/foo/bar/", None, "s3://loras/foo/bar"),
        ("s3://loras/foo/bar", DEFAULT, "s3://loras/foo/bar"),
        ("loras/foo", None, "s3://loras/foo"),
        ("loras/foo/bar", DEFAULT, "s3://bucket/folder/loras/foo/bar"),
        ("foo", DEFAULT, "s3://bucket/folder/foo"),
        ("foo", Location("bucket", ""), "s3://bucket/foo"),
        ("my.loras-1/v=1_a+b/...", None, "s3://my.loras-1/v=1_a+b/..."),
    ],
)
def test_names(adapter_id: str, default: Location | None, expected: str) -> None:
    location = parse_location(adapter_id, default)
    assert str(location) == expected
    assert parse_location(str(location), default) == location


@pytest.mark.parametrize(
    "adapter_id",
    [
        "",
        "/",
        "loras",
        "s3://",
        "s3://loras",
        "s3://loras/",
        "s3:///foo",
        "S3://loras/foo",
        "s3:/loras/foo",
        "s3://s3://loras/foo",
        "http://host/x",
        "https://loras.s3.amazonaws.com/foo",
        "//loras/foo",
        "/loras/foo",
        "loras//foo",
        "loras/foo//",
        "loras/foo/../bar",
        "loras/..",
        "loras/.",
        "../loras/foo",
        "loras/./foo",
        "loras/%2e%2e/foo",
        "loras/foo%2fbar",
        "loras\\foo",
        "loras/foo\\bar",
        "user@loras/foo",
        "user:key@loras/foo",
        "loras/foo@v1",
        "loras/foo?versionId=1",
        "loras/foo#x",
        "loras/foo\n",
        "loras/foo\0",
        "loras/fo o",
        "loras/f\u00f6\u00f6",
        "loras/\uff0e\uff0e/foo",
        "l\u043eras/foo",
        "Loras/foo",
        "lo/foo",
        "lo..ras/foo",
        "-loras/foo",
        "loras-/foo",
        "192.168.1.1/foo",
        "arn:aws:s3:us-west-2:1:accesspoint/x/foo",
        "x" * 64 + "/foo",
        "loras/" + "x" * 256,
        "loras/" + "x/" * 300,
    ],
)
def test_what_could_never_name_an_adapter(adapter_id: str) -> None:
    with pytest.raises(ServeError) as refused:
        parse_location(adapter_id)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert len(refused.value.message) < 200  # and it quotes nothing


@pytest.mark.parametrize(
    "adapter_id", ["", "/", "/foo", "..", "a/../b", "s3://", "s3://loras", "s3:/a", "a@v1", "a//b"]
)
def test_what_could_never_be_a_folder_of_the_default_bucket(adapter_id: str) -> None:
    with pytest.raises(ServeError):
        parse_location(adapter_id, DEFAULT)


TRICKS = st.sampled_from(["..", ".", "", "s3:", "%2e%2e", "a\\b", "\0", "loras", "s3://", "a@b"])
IDS = st.one_of(st.text(max_size=30), st.lists(TRICKS, max_size=6).map("/".join))


@given(IDS, st.sampled_from([None, DEFAULT]))
@example("s3://loras/folder/../x", None)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_every_accepted_name_is_one_plain_folder(adapter_id: str, default: Location | None) -> None:
    try:
        location = parse_location(adapter_id, default)
    except ServeError as refused:
        assert refused.code is ErrorCode.INVALID_REQUEST
        return
    assert location.prefix and str(location).isascii() and str(location).isprintable()
    assert not {"", ".", ".."} & set(location.prefix.split("/"))
    if default is not None and not adapter_id.startswith("s3://"):
        assert default.contains(location)
    assert parse_location(str(location), default) == location


@pytest.mark.parametrize(
    ("place", "inside", "outside"),
    [
        ("loras", ["s3://loras/a", "s3://loras/a/b"], ["s3://loras2/a", "s3://lora/s"]),
        (
            "s3://loras/team/",
            ["s3://loras/team", "s3://loras/team/a", "s3://loras/team/a/b"],
            ["s3://loras/team2", "s3://loras/tea", "s3://loras/a", "s3://other/team/a"],
        ),
    ],
)
def test_places_end_at_a_slash(place: str, inside: list[str], outside: list[str]) -> None:
    places = (parse_place(place),)
    assert all(is_allowed(parse_location(name), places) for name in inside)
    assert not any(is_allowed(parse_location(name), places) for name in outside)
    assert not any(is_allowed(parse_location(name), ()) for name in inside + outside)


@pytest.mark.parametrize("place", ["", "*", "loras/*", "lo ras", "loras/../x", "http://loras"])
def test_places_that_are_none_end_the_start(place: str) -> None:
    with pytest.raises(StartError, match="neither a bucket"):
        parse_place(place)
