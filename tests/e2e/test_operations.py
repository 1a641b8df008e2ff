"""Operating adapters on the real server: both processes, a tiny model, a hub on sockets."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hub_stand_in import HubStandIn, Repository, hub_in_thread
from live_server import LiveServer
from peft_adapters import build_adapter
from tiny_models import build_tiny_model
from tiny_tokenizers import write_byte_level

KEY = "canary-of-the-admin-key"
ALICE = "hf_canary_of_alice"
FILES = ("adapter_config.json", "adapter_model.safetensors")
COMMAND = Path(sys.executable).with_name("lorax-serve")


@dataclass(frozen=True)
class Site:
    server: LiveServer
    root: Path

    def admin(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.server.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                status, content = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
        return status, json.loads(content) if content[:1] == b"{" else content.decode()

    def load(self, name: str, path: str, **more: object) -> tuple[int, Any]:
        return self.admin("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **more})

    def status(self, name: str) -> dict[str, Any]:
        status, listed = self.admin("/adapters")
        assert status == 200, listed
        found = [each for each in listed["data"] if each["name"] == name]
        assert len(found) == 1, listed
        return dict(found[0])

    def say(self, name: str, **more: object) -> tuple[int, Any]:
        parameters = {
            "adapter_id": name,
            "max_new_tokens": 6,
            "ignore_eos_token": True,
            **more,
        }
        return self.server.post("/generate", {"inputs": "abc", "parameters": parameters})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operations")
    base = build_tiny_model("llama", folder / "model")
    write_byte_level(folder / "model", vocab_size=300)
    for seed, name in enumerate(("first", "second", "third")):
        build_adapter(folder / "adapters" / name, base, targets=["q_proj", "v_proj"], seed=seed)
    build_adapter(folder / "closed", base, targets=["q_proj"], seed=9)
    build_adapter(
        folder / "adapters" / "dora", base, targets=["q_proj"], edited_config={"use_dora": True}
    )
    return folder


@pytest.fixture(scope="module")
def site(root: Path) -> Iterator[Site]:
    content = {file: (root / "closed" / file).read_bytes() for file in FILES}
    repositories = {"org/closed": Repository([content], {ALICE})}
    with hub_in_thread(lambda: HubStandIn(repositories)) as hub:
        os.environ["LORAX_ADMIN_KEY"] = KEY
        try:
            server = LiveServer(
                *options(root),
                *("--hub-endpoint", hub.url, "--preload", "first", "--pin", "second"),
                log=root / "log",
            )
        finally:
            del os.environ["LORAX_ADMIN_KEY"]
        with server:
            yield Site(server, root)
            environment = Path(f"/proc/{server.engine_pid}/environ").read_bytes().decode()
            command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes().decode()
            metrics = server.get("/metrics")[1].decode()
        shown = (root / "log").read_text() + command + environment + metrics
    assert "Traceback" not in shown
    assert "canary" not in shown
    assert "org/closed" not in metrics


def options(root: Path) -> list[str | Path]:
    return [
        *("--model-id", root / "model", "--adapter-dir", root / "adapters"),
        *("--adapter-cache-dir", root / "kept", "--num-threads", "1"),
    ]


def test_preloaded_and_pinned_before_ready(site: Site) -> None:
    first, second, third = map(site.status, ("first", "second", "third"))
    assert (first["tier"], first["pinned"], first["loads"], first["requests"]) == (
        *("device", False, 1),
        0,
    )
    assert (second["tier"], second["pinned"], second["rank"]) == ("device", True, 8)
    assert (third["tier"], third["pinned"], third["rank"]) == ("disk", False, None)
    assert first["bytes"]["device"] > 0 and third["bytes"] == {"device": 0, "host": 0}


def test_load_use_and_unload(site: Site) -> None:
    assert site.say("support")[0] == 424
    assert site.load("support", str(site.root / "adapters" / "third"))[0] == 200
    assert site.status("support")["tier"] == "device"
    assert site.say("support") == site.say("third")
    assert site.say("support") != site.say("first")
    found = site.status("support")
    assert (found["requests"], found["requests_in_flight"], found["alias_of"]) == (
        *(2, 0),
        "local:third",
    )
    assert b'"support"' in site.server.get("/v1/models")[1]
    assert site.admin("/v1/unload_lora_adapter", {"lora_name": "support"})[0] == 200
    assert site.say("support")[0] == 424
    assert site.say("third")[0] == 200


def test_what_cannot_be_used_is_refused_with_the_engines_reason(site: Site) -> None:
    status, error = site.load("bad", "dora")
    assert status == 422
    assert "DoRA" in error["error"]["message"]
    assert site.say("bad")[0] == 424
    assert site.load("bad", "/etc")[0] == 404


def test_pin_and_unpin(site: Site) -> None:
    assert site.admin("/adapters/third/pin", {})[1]["pinned"] is True
    assert site.status("third")["pinned"]
    assert site.admin("/adapters/third/unpin", {})[1]["was_pinned"] is True
    assert not site.status("third")["pinned"]
    assert site.admin("/adapters/third/refresh", {})[1]["changed"] is False


def test_an_alias_of_a_private_adapter_is_its_owners(site: Site) -> None:
    assert site.load("closed", "hf://org/closed")[0] == 404
    assert site.load("closed", "hf://org/closed", api_token=ALICE)[0] == 200
    assert site.say("closed", api_token=ALICE)[0] == 200
    assert site.say("closed")[0] == 424
    assert b"closed" not in site.server.get("/v1/models")[1]


def test_the_wrong_key(site: Site) -> None:
    status, error = site.server.post("/v1/load_lora_adapter", {})
    assert (status, error["error"]["code"]) == (403, "forbidden")


def test_metrics_by_adapter(site: Site) -> None:
    site.say("first")
    text = site.server.get("/metrics")[1].decode()
    assert 'lorax_adapter_requests_total{adapter="first"}' in text
    assert 'lorax_adapter_resident_bytes{adapter="first",tier="device"}' in text
    assert 'lorax_adapter_loads_total{adapter="first"} 1.0' in text
    assert 'lorax_adapter_requests_total{adapter="other"}' not in text


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--preload", "first,no-such"], "--preload no-such: Model 'no-such' does not exist."),
        (["--pin", "dora"], "--pin dora: Adapter 'dora' cannot be used: use_dora"),
    ],
)
def test_a_preload_that_fails_ends_the_start_and_is_named(
    root: Path, tmp_path: Path, flags: list[str], reason: str
) -> None:
    command = [COMMAND, *options(root), "--port", "0", "--adapter-cache-dir", tmp_path, *flags]
    ended = subprocess.run(
        [*map(str, command), "--log-format", "text"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr and "Unclosed" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "status", "shown"),
    [
        ("adapters/first", 0, "rank     8"),
        ("adapters/dora", 1, "use_dora (DoRA) is not served"),
        ("model", 1, "adapter_config.json is missing"),
        ("nowhere", 2, "nowhere is no folder."),
    ],
)
def test_check(root: Path, name: str, status: int, shown: str) -> None:
    ended = check(root / name, "--model-id", root / "model")
    assert ended.returncode == status, ended.stdout
    assert shown in ended.stdout


@pytest.mark.parametrize("inner", ["model_weights", "model/model_weights"])
def test_check_accepts_ludwigs_layout(root: Path, tmp_path: Path, inner: str) -> None:
    shutil.copytree(root / "adapters" / "first", tmp_path / inner)
    ended = check(tmp_path, "--model-id", root / "model")
    assert ended.returncode == 0, ended.stdout
    assert f"{tmp_path / inner} can be served." in ended.stdout


def test_check_tells_of_missing_weights_beside_a_config_at_the_root(
    root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "adapters" / "first", tmp_path / "model_weights")
    (tmp_path / "model_weights" / "adapter_config.json").rename(tmp_path / "adapter_config.json")
    ended = check(tmp_path, "--model-id", root / "model")
    assert ended.returncode == 1
    assert "adapter_model.safetensors is missing" in ended.stdout


def test_check_needs_no_weights_of_the_model(root: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((root / "model" / "config.json").read_bytes())
    assert check(root / "adapters" / "first", "--model-id", tmp_path).returncode == 0
    (tmp_path / "config.json").unlink()
    assert check(root / "adapters" / "first", "--model-id", tmp_path).returncode == 2


def test_check_of_a_link_says_what_a_server_would(root: Path, tmp_path: Path) -> None:
    """One that leads outside the adapter directory does not exist for requests."""
    (tmp_path / "adapters").mkdir()
    for name, target in (("out", root / "adapters" / "first"), ("in", Path("real"))):
        (tmp_path / "adapters" / name).symlink_to(target)
    shutil.copytree(root / "adapters" / "first", tmp_path / "adapters" / "real")
    (tmp_path / "adapters" / "nested").mkdir()
    (tmp_path / "adapters" / "nested" / "model_weights").symlink_to(root / "adapters" / "first")
    model = ("--model-id", root / "model")
    directory = ("--adapter-dir", tmp_path / "adapters")
    refused = check(tmp_path / "adapters" / "out", *model, *directory)
    assert refused.returncode == 1, refused.stdout
    assert f"it leads to {root / 'adapters' / 'first'}, outside" in refused.stdout
    assert check(tmp_path / "adapters" / "in", *model, *directory).returncode == 0
    assert check(tmp_path / "adapters" / "nested", *model, *directory).returncode == 1
    noted = check(tmp_path / "adapters" / "out", *model)
    assert noted.returncode == 0 and "Note: it leads to" in noted.stdout, noted.stdout
    assert "Note" not in check(tmp_path / "adapters" / "in", *model).stdout


def test_check_of_a_name_says_that_a_path_is_wanted(root: Path) -> None:
    assert "not an adapter's name" in check(Path("first")).stdout
    ended = check(Path("first"), "--adapter-dir", root / "adapters")
    assert f"Did you mean {root / 'adapters' / 'first'}?" in ended.stdout


def test_check_tells_every_reason(root: Path, tmp_path: Path) -> None:
    other = build_tiny_model("llama_wide_heads", tmp_path / "other")
    build_adapter(tmp_path / "adapter", other)
    ended = check(tmp_path / "adapter", "--model-id", root / "model")
    assert ended.returncode == 1
    reasons = [line for line in ended.stdout.splitlines() if line.startswith("  - ")]
    assert len(reasons) >= 4, "of q, k, v and o"
    assert all("(2 layers)" in line for line in reasons)


def test_check_reads_of_the_weights_what_the_adapter_repeats(root: Path, tmp_path: Path) -> None:
    base = build_tiny_model("llama_untied", tmp_path / "model")
    build_adapter(tmp_path / "head", base, targets=["lm_head"], save_embedding_layers=True)
    assert check(tmp_path / "head", "--model-id", tmp_path / "model").returncode == 0
    ended = check(tmp_path / "head", "--model-id", root / "model")
    assert ended.returncode == 1
    assert "embed" in ended.stdout


def check(folder: Path, *flags: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in (COMMAND, "adapters", "check", folder, *flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
