"""Adapters of Predibase: where the gateway says that they lie, and whether they are trained."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fake_gateway import ADAPTER_ID, ALICE, BOB, FOLDER, FakeGateway
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.sources.predibase import PredibaseSource
from lorax_serve.server.sources.source import NotFoundOrForbidden
from moto_bucket import BUCKET


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
