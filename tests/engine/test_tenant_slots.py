"""`--max-slots-per-tenant` in the whole engine: others keep their adapters, all are answered."""

from pathlib import Path

import msgspec
import pytest

from local_engine import Generated, LocalEngine, greedy
from lorax_serve.ipc.messages import Generate
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

NUM_ADAPTERS = 10  # of the busy tenant
PROMPT = [3, 4, 5, 6, 7]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tenant_slots")
    base = build_tiny_model("llama", root / "model")
    for number in range(NUM_ADAPTERS + 1):
        build_adapter(root / f"a{number}", base, targets=["q_proj"], rank=8, seed=number)
    return root


def request(files: Path, number: int, tenant: str, name: str = "") -> Generate:
    asked = greedy(name or f"{tenant}{number}", PROMPT, num_tokens=4, adapter=files / f"a{number}")
    return msgspec.structs.replace(asked, tenant=tenant)


@pytest.fixture(scope="module")
def solo(files: Path) -> tuple[dict[int, list[int]], int]:
    """What each adapter says by itself, and the bytes that one takes."""
    with LocalEngine(files / "model") as engine:
        said = {}
        for number in range(NUM_ADAPTERS + 1):
            (only,) = engine.generate(request(files, number, "alone")).values()
            said[number] = only.token_ids
        pool = engine.parts.exchange.pool
        return said, pool.used_bytes // pool.num_resident


@pytest.mark.parametrize("bound", [None, 1, 2])
def test_ten_adapters_of_one_tenant_take_turns_in_its_slots(
    files: Path, solo: tuple[dict[int, list[int]], int], bound: int | None
) -> None:
    said, num_bytes = solo
    config = {"adapter_pool_bytes": 4 * num_bytes, "max_slots_per_tenant": bound}
    with LocalEngine(files / "model", **config) as engine:
        engine.generate(request(files, 0, "quiet"))
        pool = engine.parts.exchange.pool
        ((_, digest),) = engine.parts.exchange.digests()
        quiet = pool.find(digest)
        assert quiet is not None
        asked = [
            request(files, number, "busy", f"{number}.{turn}")
            for turn in range(3)
            for number in range(1, NUM_ADAPTERS + 1)
        ]
        answers: dict[str, Generated] = engine.generate(*asked)
        assert len(answers) == len(asked)
        for name, answer in answers.items():
            assert answer.token_ids == said[int(name.split(".")[0])], name
        assert (pool.find(quiet.digest) is quiet) == (bound is not None)
        assert bound is None or pool.num_of("busy") == bound
