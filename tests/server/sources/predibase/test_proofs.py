"""Who may have an adapter: the gateway is asked for every caller, and nobody hears more."""

import logging
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fake_gateway import (
    ADAPTER_ID,
    ALICE,
    BOB,
    FakeGateway,
    endless,
    fake_gateway,
    reset,
    status,
    text,
)
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.predibase import PredibaseSource
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteFile,
    SourceCorrupt,
    SourceError,
    SourceUnavailable,
)
from moto_bucket import BUCKET


async def test_every_caller_brings_a_proof_of_their_own(
    source: PredibaseSource, gateway: FakeGateway
) -> None:
    await source.resolve(ADAPTER_ID, ALICE)
    gateway.requests.clear()
    for token in (None, "", "two words", "tok\nen", "t\u00f6ken", "x" * 5000):
        with pytest.raises(NotFoundOrForbidden):
            await source.resolve(ADAPTER_ID, token)
    assert gateway.requests == []
    for adapter_id, token in ((ADAPTER_ID, BOB), (ADAPTER_ID, "nobody"), ("sql/9", ALICE)):
        with pytest.raises(NotFoundOrForbidden):
            await source.resolve(adapter_id, token)
    assert (await source.resolve(ADAPTER_ID, ALICE)).files
    gateway.owners["sql"].clear()  # revoked
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve(ADAPTER_ID, ALICE)


async def test_timing_oracle_not_permitted_is_as_much_work_as_not_found(
    source: PredibaseSource, gateway: FakeGateway
) -> None:
    """The gateway is asked the same whether an adapter is another's, nobody's, or not there."""

    async def work(adapter_id: str, token: str) -> list[str]:
        gateway.requests.clear()
        with pytest.raises(NotFoundOrForbidden):
            await source.resolve(adapter_id, token)
        repo, _, _ = adapter_id.partition("/")
        return [request.replace(repo, "it") for request in gateway.requests]

    for permitted, forbidden, absent in (
        ("other/2", "sql/2", "nobodys/2"),  # 404, 403 with a path behind it, 403
        ("other", "sql", "nobodys"),
    ):
        done = [await work(name, BOB) for name in (permitted, forbidden, absent)]
        assert done[0] == done[1] == done[2]
        assert len(done[0]) == (2 if "/" in permitted else 1), "no refusal is asked about again"
        assert await work(forbidden, "nobodys-token-canary") == done[0]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (f"s3://{BUCKET}/private/x", NotFoundOrForbidden),
        ("s3://elsewhere/models/x", NotFoundOrForbidden),
        ("absent", NotFoundOrForbidden),
        ("../private/x", SourceUnavailable),
        ("a/../../private/x", SourceUnavailable),
        ("https://host/x", SourceUnavailable),
        ("s3://x", SourceUnavailable),
    ],
)
async def test_the_gateway_points_only_where_the_operator_lets_it(
    source: PredibaseSource, gateway: FakeGateway, path: str, error: type[SourceError]
) -> None:
    gateway.versions[ADAPTER_ID]["adapterPath"] = path
    with capture_logs() as logs, pytest.raises(error):
        await source.resolve(ADAPTER_ID, ALICE)
    events = [line["event"] for line in logs]
    assert events == (["predibase_files_refused"] if error is NotFoundOrForbidden else [])


async def test_the_token_goes_to_no_other_host(
    source: PredibaseSource, gateway: FakeGateway
) -> None:
    elsewhere = FakeGateway()
    async with fake_gateway(elsewhere):
        for code in (301, 302, 303, 307, 308):
            gateway.replies = [status(code, Location=f"{elsewhere.url}/v2/repos/sql/version/2")] * 3
            with pytest.raises(SourceUnavailable):
                await source.resolve(ADAPTER_ID, ALICE)
    assert elsewhere.requests == []


async def test_what_an_earlier_run_remembered_needs_a_proof_again(
    source: PredibaseSource, gateway: FakeGateway, tmp_path: Path
) -> None:
    found = await source.resolve(ADAPTER_ID, ALICE)
    plain = tuple(RemoteFile(f.name, f.num_bytes, f.sha256) for f in found.files)
    remembered = replace(found, files=plain)
    with pytest.raises(NotFoundOrForbidden):
        await source.download(remembered, plain[0], tmp_path / "x", None, lambda n: None)
    await source.download(remembered, plain[0], tmp_path / "x", ALICE, lambda n: None)
    assert (tmp_path / "x").read_bytes() == b"{}"
    gateway.versions[ADAPTER_ID]["adapterPath"] = "new"
    with pytest.raises(SourceCorrupt, match="replaced"):
        await source.download(remembered, plain[0], tmp_path / "y", ALICE, lambda n: None)


async def test_no_token_gets_out(
    source: PredibaseSource,
    gateway: FakeGateway,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG, logger="aiohttp")
    said = [repr(source), repr(vars(source)), repr(vars(source._gateway))]
    replies = [status(401), status(403), status(500), reset, text("canary"), endless]
    with capture_logs() as logs:
        for reply in replies:
            gateway.replies = [reply] * 9
            with pytest.raises(SourceError) as failed:
                await source.resolve(ADAPTER_ID, ALICE)
            said += [repr(failed.value), *traceback.format_exception(failed.value)]
        gateway.replies.clear()
        for path in ("../x", "absent", None):
            gateway.versions[ADAPTER_ID]["adapterPath"] = path
            with pytest.raises((SourceError, ServeError)) as refused:
                await source.resolve(ADAPTER_ID, ALICE)
            said += [repr(refused.value), *traceback.format_exception(refused.value)]
    said += [str(logs), *capfd.readouterr()]
    said += [record.getMessage() for record in caplog.records if record.name != "aiohttp.access"]
    assert len(said) > 20
    assert "canary" not in "".join(said)
