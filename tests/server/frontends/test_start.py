"""What frontends are told: all of it arrives, and their parts make up the whole."""

import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.server.cli import parse
from lorax_serve.server.config import ServerConfig
from lorax_serve.server.frontends.start import FrontendStart, frontend_starts
from lorax_serve.server.model_source import ModelSource

SOURCE = ModelSource("org/model", "abc", Path("/model"), Path("/adapters"), frozenset({"m"}))


def starts(*options: str) -> list[FrontendStart]:
    settings = parse(options, {"HF_TOKEN": "hf_canary", "LORAX_S3_SECRET_ACCESS_KEY": "s3_canary"})
    with socket.socket() as bound:
        return frontend_starts(settings, SOURCE, [bound], "ipc:///engine", Path("/run"))


def test_all_that_is_told_arrives_and_shows_no_credential() -> None:
    told = starts("--frontends=2", "--hub-token=hf_other", "--adapter-dir=/adapters")
    for start in told:
        assert FrontendStart.decode(start.encode()) == start
        assert start.config.hub_token is not None
        assert start.config.hub_token.revealed == "hf_other"
        assert "hf_other" not in repr(start)
        assert start.tenant_secret.revealed not in repr(start)
    assert [start.index for start in told] == [0, 1]
    assert len({start.tenant_secret for start in told}) == 1
    assert starts()[0].tenant_secret not in {start.tenant_secret for start in told}


@given(number=st.integers(2, 32), most=st.integers(32, 5000))
def test_parts_make_up_the_whole_and_everybody_has_some(number: int, most: int) -> None:
    options = (
        f"--frontends={number}",
        f"--max-concurrent-requests={most}",
        f"--max-waiting-requests={most}",
        f"--max-adapter-downloads={min(most, 256)}",
        f"--adapter-cache-bytes={most * 2**20}",
    )
    told = [start.config for start in starts(*options)]
    for field, whole in (
        ("max_concurrent_requests", most),
        ("max_waiting_requests", most),
        ("max_adapter_downloads", min(most, 256)),
        ("adapter_cache_bytes", most * 2**20),
    ):
        parts = [getattr(config, field) for config in told]
        assert sum(parts) == whole
        assert max(parts) - min(parts) <= 1
        assert min(parts) >= 1
    assert {start.all_concurrent_requests for start in starts(*options)} == {most}


def test_what_each_needs_one_of_is_more_together() -> None:
    told = starts("--frontends=8", "--max-adapter-downloads=2", "--adapter-cache-bytes=1MiB")
    assert {start.config.max_adapter_downloads for start in told} == {1}
    assert {start.config.adapter_cache_bytes for start in told} == {2**20}
    for start in told:
        msgspec.convert(
            msgspec.to_builtins(start.config, enc_hook=str), ServerConfig, dec_hook=_any
        )


def _any(kind: type, value: object) -> object:
    return kind(value)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--admin-key=k", "--admin-key does not go with --frontends 2"),
        ("--preload=a", "--preload does not go with --frontends 2"),
        ("--pin=a", "--pin does not go with --frontends 2"),
        ("--adapter-cache-dir=/kept", "--adapter-cache-dir does not go with --frontends 2"),
        ("--max-concurrent-requests=1", "--max-concurrent-requests 1 leaves nothing for some"),
        ("--max-waiting-requests=1", "--max-waiting-requests 1 leaves nothing for some"),
    ],
)
def test_what_cannot_be_spread_is_refused_and_goes_with_one(
    option: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parse([option], {})
    parse([option, "--frontends=1"], {})
    with pytest.raises(SystemExit) as caught:
        parse([option, "--frontends=2"], {})
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err
