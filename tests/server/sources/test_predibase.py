"""The gateway is a stand-in, the buckets behind it are a real S3 service."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fake_gateway import (
    FakeGateway,
    Reply,
    endless,
    fake_gateway,
    reset,
    silence,
    status,
    text,
    trickle,
)
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.sources.predibase import PredibaseSettings, PredibaseSource
from lorax_serve.server.sources.predibase_gateway import PredibaseGateway, parse_predibase_id
from lorax_serve.server.sources.s3_location import Location
from lorax_serve.server.sources.s3_settings import S3Settings, make_client
from lorax_serve.server.sources.source import (
    NotFoundOrForbidden,
    RemoteFile,
    SourceCorrupt,
    SourceError,
    SourceUnavailable,
)
from moto_bucket import BUCKET, Bucket, moto_server, settings_for
from unruly_bucket import QUICK

ALICE, BOB = "alice-token-canary", "bob-token-canary"
FOLDER = "uuid-1/run-1/artifacts/model/model_weights"
ADAPTER_ID = "sql/2"


@pytest.fixture(scope="module")
def s3_settings() -> Iterator[S3Settings]:
    with moto_server() as url:
        client = make_client(settings_for(url))
        bucket = Bucket(client)
        for folder in (f"models/{FOLDER}", "private/x", "models/new"):
            bucket.put(f"{folder}/adapter_config.json", b"{}")
            bucket.put(f"{folder}/adapter_model.safetensors", folder.encode())
        client.close()
        yield settings_for(url, f"{BUCKET}/models", default=Location(BUCKET, "models"))


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    fake = FakeGateway(
        owners={"sql": {ALICE}, "other": {BOB}},
        versions={ADAPTER_ID: {"status": "completed", "adapterPath": f"{FOLDER}/", "id": 7}},
        runs={"sql": {"uuid": "uuid-1", "bestRunID": "run-1", "status": "ready"}},
    )
    async with fake_gateway(fake) as served:
        yield served


@pytest_asyncio.fixture
async def source(gateway: FakeGateway, s3_settings: S3Settings) -> AsyncIterator[PredibaseSource]:
    made = PredibaseSource(
        PredibaseSettings(
            s3=s3_settings, gateway_url=gateway.url, stall_seconds=0.3, resolve_seconds=1.5
        ),
        QUICK,
    )
    yield made
    await made.close()


async def test_a_version_is_found_and_fetched(
    source: PredibaseSource, gateway: FakeGateway, tmp_path: Path
) -> None:
    adapter = await source.resolve(ADAPTER_ID, ALICE)
    assert (adapter.source, adapter.repository, adapter.public) == ("pbase", ADAPTER_ID, False)
    assert gateway.requests == ["/base/v2/repos/sql/version/2"]
    assert gateway.tokens == [f"Bearer {ALICE}"]
    for file in adapter.files:
        await source.download(adapter, file, tmp_path / file.name, ALICE, lambda n: None)
    assert (tmp_path / "adapter_model.safetensors").read_text() == f"models/{FOLDER}"


@pytest.mark.parametrize("adapter_id", ["sql", "sql/1"])
async def test_the_older_catalogue(
    source: PredibaseSource, gateway: FakeGateway, adapter_id: str
) -> None:
    """Names without a version are there only, and versions that the newer one does not know."""
    gateway.runs["sql/1"] = gateway.runs["sql"]
    adapter = await source.resolve(adapter_id, ALICE)
    assert adapter.repository == adapter_id
    asked = {
        "sql": ["/base/v1/models/version/name/sql"],
        "sql/1": ["/base/v2/repos/sql/version/1", "/base/v1/models/version/name/sql?version=1"],
    }
    assert gateway.requests == asked[adapter_id]
    assert adapter.revision == (await source.resolve(ADAPTER_ID, ALICE)).revision


@pytest.mark.parametrize("path", [f"s3://{BUCKET}/models/{FOLDER}", f"{FOLDER}/", FOLDER])
async def test_paths_with_and_without_a_bucket(
    source: PredibaseSource, gateway: FakeGateway, path: str
) -> None:
    gateway.versions[ADAPTER_ID]["adapterPath"] = path
    assert len((await source.resolve(ADAPTER_ID, ALICE)).files) == 2


async def test_a_path_to_a_model_or_a_trainings_results(
    source: PredibaseSource, gateway: FakeGateway, tmp_path: Path
) -> None:
    """The files are below it, as Ludwig lays them out."""
    inside = await source.resolve(ADAPTER_ID, ALICE)
    for path in ("uuid-1/run-1/artifacts/model", "uuid-1/run-1/artifacts"):
        gateway.versions[ADAPTER_ID]["adapterPath"] = path
        assert await source.resolve(ADAPTER_ID, ALICE) == inside
    gateway.versions[ADAPTER_ID]["adapterPath"] = "uuid-1/run-1"
    with pytest.raises(NotFoundOrForbidden):
        await source.resolve(ADAPTER_ID, ALICE)


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


@pytest.mark.parametrize("said", ["pending", "queued"])
async def test_untrained_adapters_are_refused_with_a_message(
    source: PredibaseSource, gateway: FakeGateway, said: str
) -> None:
    gateway.versions[ADAPTER_ID]["status"] = said
    with pytest.raises(ServeError, match=f"not available yet; its status is {said}") as refused:
        await source.resolve(ADAPTER_ID, ALICE)
    assert refused.value.code is ErrorCode.ADAPTER_UNAVAILABLE
    with pytest.raises(NotFoundOrForbidden):  # which is news for the owner only
        await source.resolve(ADAPTER_ID, BOB)


@pytest.mark.parametrize(
    "said", ["training", "stopping", "stopped", "canceled", "completed", "errored"]
)
async def test_what_training_has_left_may_be_used(
    source: PredibaseSource, gateway: FakeGateway, said: str
) -> None:
    gateway.versions[ADAPTER_ID]["status"] = said
    with capture_logs() as logs:
        assert (await source.resolve(ADAPTER_ID, ALICE)).files
    assert logs == []


async def test_a_status_nobody_knows_is_logged(
    source: PredibaseSource, gateway: FakeGateway
) -> None:
    gateway.versions[ADAPTER_ID]["status"] = "x" * 1000
    with capture_logs() as logs:
        assert (await source.resolve(ADAPTER_ID, ALICE)).files
    (line,) = logs
    assert (line["event"], line["status"]) == ("predibase_status_unknown", "x" * 32)


@pytest.mark.parametrize("path", [None, ""])
async def test_no_path_yet(source: PredibaseSource, gateway: FakeGateway, path: str | None) -> None:
    gateway.versions[ADAPTER_ID] = {"status": "tr\naining", "adapterPath": path}
    with pytest.raises(ServeError, match="its status is unknown") as refused:
        await source.resolve(ADAPTER_ID, ALICE)
    assert refused.value.code is ErrorCode.ADAPTER_UNAVAILABLE


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


@pytest.mark.parametrize(
    "reply",
    [
        status(400),
        status(429),
        status(500),
        status(503),
        status(302, Location="/base/v2/repos/sql/version/2"),
        reset,
        silence,
        text("<html>"),
        text("[]"),
        text('{"adapterPath": 7}'),
        text("[" * 30_000),
        text("{}" + " " * 2**17),
        endless,
    ],
)
async def test_failures_of_the_gateway(
    source: PredibaseSource, gateway: FakeGateway, reply: Reply
) -> None:
    gateway.replies = [reply] * 9
    with pytest.raises(SourceUnavailable):
        await source.resolve(ADAPTER_ID, ALICE)
    assert set(gateway.requests) == {"/base/v2/repos/sql/version/2"}
    # aiohttp itself asks once more when a connection that it kept turns out to be closed.
    allowed = range(3, 7) if reply is reset else (3,)
    assert len(gateway.requests) in allowed
    gateway.replies = [status(503)]
    assert (await source.resolve(ADAPTER_ID, ALICE)).files  # one failure is survived


async def test_retry_after_is_passed_on(source: PredibaseSource, gateway: FakeGateway) -> None:
    gateway.replies = [status(429, Retry_After="30")]
    with pytest.raises(SourceUnavailable) as refused:
        await source.resolve(ADAPTER_ID, ALICE)
    assert (refused.value.retry_after, len(gateway.requests)) == (30, 1)


async def test_a_trickle_ends_at_the_deadline(
    source: PredibaseSource, gateway: FakeGateway
) -> None:
    gateway.replies = [trickle]
    with pytest.raises(SourceUnavailable, match="not done within"):
        await source.resolve(ADAPTER_ID, ALICE)


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


async def test_a_hanging_answer_holds_up_no_other_caller(
    source: PredibaseSource, gateway: FakeGateway
) -> None:
    gateway.replies = [silence]
    hanging = asyncio.create_task(source.resolve(ADAPTER_ID, ALICE))
    while not gateway.requests:
        await asyncio.sleep(0.001)
    gateway.owners["sql"].add("carol")
    await source.resolve(ADAPTER_ID, "carol")
    assert gateway.tokens[:2] == [f"Bearer {ALICE}", "Bearer carol"]
    assert (await hanging).files


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
