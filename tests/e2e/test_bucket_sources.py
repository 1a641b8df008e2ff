"""Adapters of buckets and of Predibase through the real server: both processes, a tiny model, an
S3 service and a gateway on sockets, and settings as an operator of LoRAX has them.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fake_gateway import FakeGateway, gateway_in_thread
from live_server import LiveServer
from lorax_serve.server.sources.s3_settings import make_client
from moto_bucket import BUCKET, CREDENTIALS, Bucket, moto_server, settings_for
from peft_adapters import CONFIG_NAME, WEIGHTS_NAME, build_adapter
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

ALICE, BOB = "alice-canary", "bob-canary"
OPERATOR = "operator-canary"
OPEN_ID = f"s3://{BUCKET}/open/sql"
CLOSED_ID = "sql/2"
SHARD_NAME = "adapter_model-00001-of-00001.safetensors"


@dataclass(frozen=True)
class Site:
    server: LiveServer
    gateway: FakeGateway

    def say(self, name: str | None, source: str, token: str | None = None) -> tuple[int, Any]:
        """`token` is the caller's."""
        parameters = {
            "max_new_tokens": 8,
            "ignore_eos_token": True,
            "details": True,
            "adapter_id": name,
            "adapter_source": source,
            "api_token": token,
        }
        return self.server.post("/generate", {"inputs": "abc", "parameters": parameters})

    def token_ids(self, name: str | None, source: str, token: str | None = None) -> list[int]:
        status, reply = self.say(name, source, token)
        assert status == 200, reply
        return [token["id"] for token in reply["details"]["tokens"]]

    def refusal(self, name: str, source: str, token: str | None = None) -> tuple[int, str]:
        status, reply = self.say(name, source, token)
        return status, reply["error"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucket-sources")
    base = build_tiny_model("llama", folder / "model")
    write_byte_level(folder / "model", vocab_size=300)
    for seed, name in enumerate(("open", "closed")):
        build_adapter(folder / "adapters" / name, base, targets=["q_proj", "v_proj"], seed=seed)
    return folder


def fill(bucket: Bucket, adapters: Path) -> None:
    for folder, name, weights in (
        ("open/sql", "open", WEIGHTS_NAME),
        ("open/shards", "open", SHARD_NAME),
        ("closed/uuid/run", "closed", WEIGHTS_NAME),
        ("elsewhere/sql", "open", WEIGHTS_NAME),
    ):
        bucket.put(f"{folder}/{CONFIG_NAME}", (adapters / name / CONFIG_NAME).read_bytes())
        bucket.put(f"{folder}/{weights}", (adapters / name / WEIGHTS_NAME).read_bytes())


def environment(endpoint_url: str, gateway_url: str) -> dict[str, str]:
    return {
        "S3_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": CREDENTIALS.access_key_id,
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS.secret_access_key,
        "AWS_SESSION_TOKEN": CREDENTIALS.session_token or "",
        "PREDIBASE_MODEL_BUCKET": BUCKET,
        "PREDIBASE_MODEL_FOLDER": "closed",
        "PREDIBASE_GATEWAY_ENDPOINT": gateway_url,
        "PREDIBASE_API_TOKEN": OPERATOR,
    }


@pytest.fixture(scope="module")
def site(root: Path) -> Iterator[Site]:
    fake = FakeGateway(
        owners={"sql": {ALICE, OPERATOR}, "other": {BOB}},
        versions={
            CLOSED_ID: {"status": "completed", "adapterPath": "uuid/run"},
            "sql/3": {"status": "pending"},
            "sql/4": {"status": "completed", "adapterPath": f"s3://{BUCKET}/elsewhere/sql"},
        },
    )
    with ExitStack() as stack:
        url = stack.enter_context(moto_server())
        gateway = stack.enter_context(gateway_in_thread(fake))
        client = make_client(settings_for(url))
        stack.callback(client.close)
        fill(Bucket(client), root / "adapters")
        server = stack.enter_context(serving(root, environment(url, gateway.url)))
        yield Site(server, gateway)
        running = [Path(f"/proc/{pid}") for pid in server.group()]
        shown = b"".join((process / "cmdline").read_bytes() for process in running)
        shown += Path(f"/proc/{server.engine_pid}/environ").read_bytes()
    shown += (root / "log").read_bytes()
    assert b"Traceback" not in shown
    assert b"canary" not in shown.lower()


def serving(root: Path, environ: dict[str, str]) -> LiveServer:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        return LiveServer(
            *("--model-id", root / "model", "--adapter-dir", root / "adapters"),
            *("--adapter-cache-dir", root / "kept", "--s3-allow", f"{BUCKET}/open"),
            *("--num-threads", "1"),
            log=root / "log",
        )


def test_an_adapter_says_the_same_wherever_it_comes_from(site: Site) -> None:
    ours, theirs = site.token_ids("open", "local"), site.token_ids("closed", "local")
    assert site.token_ids(OPEN_ID, "s3") == ours != theirs
    assert site.token_ids(CLOSED_ID, "pbase", ALICE) == theirs


def test_buckets_over_the_other_api(site: Site) -> None:
    body = {"model": OPEN_ID, "adapter_source": "s3", "prompt": "abc", "max_tokens": 8}
    status, reply = site.server.post("/v1/completions", {**body, "temperature": 0})
    assert status == 200, reply
    assert reply["model"] == OPEN_ID


def test_what_the_operator_does_not_allow_does_not_exist(site: Site) -> None:
    for name in (f"s3://{BUCKET}/elsewhere/sql", f"s3://{BUCKET}/open/absent", "s3://other/sql"):
        assert site.refusal(name, "s3") == (424, f"Adapter '{name}' does not exist.")


def test_predibases_folder_is_closed_to_who_knows_where_it_is(site: Site) -> None:
    assert site.token_ids(CLOSED_ID, "pbase", ALICE)  # so that it is here
    for name in (f"s3://{BUCKET}/closed/uuid/run", "uuid/run"):
        assert site.refusal(name, "s3", ALICE) == (424, f"Adapter '{name}' does not exist.")


def test_nobodys_token_stands_in_for_a_callers(site: Site) -> None:
    assert site.token_ids(CLOSED_ID, "pbase", ALICE)
    for token in (None, BOB):
        refused = (424, f"Adapter '{CLOSED_ID}' does not exist.")
        assert site.refusal(CLOSED_ID, "pbase", token) == refused
    assert f"Bearer {OPERATOR}" not in site.gateway.tokens


def test_the_gateway_cannot_point_where_the_operator_does_not_allow(site: Site) -> None:
    assert site.refusal("sql/4", "pbase", ALICE) == (424, "Adapter 'sql/4' does not exist.")


def test_an_untrained_adapter_is_unavailable(site: Site) -> None:
    status, sentence = site.refusal("sql/3", "pbase", ALICE)
    assert (status, sentence) == (503, "The adapter is not available yet; its status is pending.")
    assert site.server.get("/ready")[0] == 200


def test_shards_are_refused_by_name(site: Site) -> None:
    status, sentence = site.refusal(f"s3://{BUCKET}/open/shards", "s3")
    assert (status, "in shards" in sentence) == (424, True)
