"""The engine on a GPU: the tokens of transformers and PEFT in fp32 with every attention, graphs and
overlap included; bf16 close to fp32; padding that cannot leak.
"""

import random
from pathlib import Path

import pytest
import torch

from local_engine import Generated, LocalEngine, greedy
from lorax_serve.ipc.config import AttentionBackendName, Device, DType
from lorax_serve.ipc.messages import Generate
from oracles import prompts, reference_tokens
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

pytestmark = pytest.mark.gpu
NUM_TOKENS = 32
RANKS = (2, 16, 64, 100)
FP32 = {"device": Device.CUDA, "dtype": DType.FLOAT32, "max_batch_tokens": 64}


class Traffic:
    """Base and adapter requests of one tiny model, and what transformers and PEFT answer."""

    def __init__(self, variant: str, folder: Path) -> None:
        self.model = folder / "model"
        oracle = build_tiny_model(variant, self.model)
        texts = prompts(6, seed=4, low=4)
        self.requests: list[Generate] = []
        self.expected: dict[str, list[int]] = {}
        for index, prompt in enumerate(texts):
            self._add(f"base {index}", prompt, oracle, None)
        for index, rank in enumerate(RANKS):
            fresh = build_tiny_model(variant, folder / f"base {rank}")
            adapter = folder / f"rank-{rank}"
            # The head's kernel runs outside of the graph, so one adapter has it and others do not.
            targets = ["q_proj", "down_proj", "lm_head"] if rank == 16 else "all-linear"
            self._add(
                f"rank {rank}",
                texts[index],
                build_adapter(adapter, fresh, rank=rank, targets=targets),
                adapter,
            )

    def _add(
        self, name: str, prompt: list[int], oracle: torch.nn.Module, adapter: Path | None
    ) -> None:
        self.expected[name] = reference_tokens(oracle, prompt, NUM_TOKENS)
        self.requests.append(greedy(name, prompt, num_tokens=NUM_TOKENS, adapter=adapter))

    def check(self, got: dict[str, Generated]) -> None:
        assert {name: result.token_ids for name, result in got.items()} == self.expected


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("variant", ["llama_untied", "mistral_sliding", "qwen2", "qwen3"])
def test_tokens_equal_transformers_and_peft(variant: str, backend: str, tmp_path: Path) -> None:
    traffic = Traffic(variant, tmp_path)
    options = {**FP32, "attention_backend": AttentionBackendName(backend)}
    with LocalEngine(traffic.model, **options) as engine:
        traffic.check(engine.generate(*traffic.requests))
        for request in traffic.requests:  # alone, where other graphs and splits are used
            alone = engine.generate(request)[request.request_id]
            assert alone.token_ids == traffic.expected[request.request_id]


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_random_arrivals_in_a_tiny_cache_change_no_token(cuda_graphs: bool, tmp_path: Path) -> None:
    traffic = Traffic("llama", tmp_path)
    rng = random.Random(7)
    options = {**FP32, "cuda_graphs": cuda_graphs, "block_size": 16, "kv_cache_bytes": 80 * 2**10}
    with LocalEngine(traffic.model, **options) as engine:
        waiting = list(traffic.requests)
        rng.shuffle(waiting)
        while waiting:
            for _ in range(rng.randrange(3)):
                if waiting:
                    engine.submit(waiting.pop())
            engine.step()
        engine.run_until_idle()
        traffic.check(engine.collect_all())


def test_padding_never_leaks_into_outputs(tmp_path: Path) -> None:
    traffic = Traffic("llama", tmp_path)
    with LocalEngine(traffic.model, **FP32) as engine:
        runner = engine.parts.runner
        for poisoned in (*runner._kv_cache.layers, runner._partials):
            poisoned.fill_(float("nan"))
        traffic.check(engine.generate(*traffic.requests))  # ten rows in graphs of sixteen
        for request in traffic.requests[5:8]:
            engine.submit(request)
        engine.run_until_idle()
        for name, result in engine.collect_all().items():
            assert result.token_ids == traffic.expected[name]


def test_a_long_prompt_that_runs_ahead_of_the_device_keeps_its_integers(tmp_path: Path) -> None:
    """Chunks that sample nothing are awaited by nobody; the device is far behind the host here."""
    model = tmp_path / "model"
    oracle = build_tiny_model("llama", model)
    (prompt,) = prompts(1, seed=9, low=300, high=400)
    with LocalEngine(model, **{**FP32, "max_batch_tokens": 16}) as engine:
        engine.generate(greedy("warm", prompt[:40], num_tokens=2))  # compiles, and waits
        torch.cuda._sleep(1_000_000_000)
        got = engine.generate(greedy("long", prompt, num_tokens=NUM_TOKENS))["long"]
    assert got.token_ids == reference_tokens(oracle, prompt, NUM_TOKENS)


@pytest.mark.parametrize("backend", ["flash", "triton", "torch"])
def test_bf16_stays_close_to_fp32(backend: str, tmp_path: Path) -> None:
    """The raw log-probabilities of the first tokens, base and every adapter in one batch."""
    if backend == "flash":
        pytest.importorskip("flash_attn")
    traffic = Traffic("llama_wide_heads", tmp_path)
    asked = [
        greedy(r.request_id, r.prompt_token_ids, num_tokens=2, num_logprobs=5, adapter=_folder(r))
        for r in traffic.requests
    ]
    answers = {}
    for name, dtype in (("torch", DType.FLOAT32), (backend, DType.BFLOAT16)):
        options = {"device": Device.CUDA, "dtype": dtype, "max_batch_tokens": 64}
        options["attention_backend"] = AttentionBackendName(name)
        with LocalEngine(traffic.model, **options) as engine:
            answers[dtype] = engine.generate(*asked)
    for name, exact in answers[DType.FLOAT32].items():
        for wanted, rounded in zip(
            exact.logprobs[:1], answers[DType.BFLOAT16][name].logprobs[:1], strict=True
        ):
            got = dict(rounded.top)
            common = [(value, got[token]) for token, value in wanted.top if token in got]
            assert len(common) >= 3, name
            for value, other in common:
                assert other == pytest.approx(value, abs=0.15), name


def _folder(request: Generate) -> Path | None:
    return None if request.adapter is None else Path(request.adapter.path)
