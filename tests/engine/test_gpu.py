"""The engine on a GPU: the tokens of transformers and PEFT in fp32 with every attention, graphs and
overlap included; bf16 close to fp32; padding that cannot leak.
"""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from triton import knobs

from local_engine import Generated, LocalEngine, greedy
from lorax_serve.engine.errors import ModelRefused
from lorax_serve.ipc.config import AttentionBackendName, Device, DType
from lorax_serve.ipc.messages import Generate
from lorax_serve.ipc.types import SamplingParams
from oracles import prompts, reference_tokens
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

pytestmark = pytest.mark.gpu
NUM_TOKENS = 32
RANKS = (2, 16, 64, 100)
WITH_LOGPROBS = SamplingParams(temperature=0.0, num_logprobs=5)
SAMPLINGS = (
    WITH_LOGPROBS,
    SamplingParams(seed=1),
    SamplingParams(seed=2, top_p=0.9, num_logprobs=2),
    SamplingParams(seed=3, top_k=5, typical_p=0.8, min_p=0.01),
    SamplingParams(seed=4, repetition_penalty=1.2),
    SamplingParams(seed=5, top_p=0.9, frequency_penalty=0.5, logit_bias=((7, 2.0),)),
    SamplingParams(temperature=0.0, presence_penalty=0.5),
)
FP32 = {"device": Device.CUDA, "dtype": DType.FLOAT32, "max_batch_tokens": 64}


class Traffic:
    """Base and adapter requests of one tiny model, and what transformers and PEFT answer."""

    def __init__(self, variant: str, folder: Path) -> None:
        self.model = folder / "model"
        oracle = build_tiny_model(variant, self.model)
        texts = prompts(6, seed=4, low=4)
        self.requests: list[Generate] = []
        self.expected: dict[str, list[int]] = {}
        self.oracles: dict[str, torch.nn.Module] = {}
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
        self.oracles[name] = oracle
        self.expected[name] = reference_tokens(oracle, prompt, NUM_TOKENS)
        self.requests.append(greedy(name, prompt, num_tokens=NUM_TOKENS, adapter=adapter))

    def check(self, got: dict[str, Generated]) -> None:
        assert {name: result.token_ids for name, result in got.items()} == self.expected


def test_the_host_never_waits_for_the_device_and_nothing_is_compiled(tmp_path: Path) -> None:
    """While adapters arrive, prompts are chunked, rows are penalised, drawn and greedy. The first
    test of this file: later ones would find the kernels compiled by those before.
    """
    traffic = Traffic("llama", tmp_path)
    asked = [
        msgspec.structs.replace(request, request_id=f"{request.request_id} {index}", sampling=how)
        for request in traffic.requests
        for index, how in enumerate(SAMPLINGS)
    ]
    compiled: list[str] = []

    def note(*, fn: Any, **_: object) -> None:
        compiled.append(fn.name)

    with LocalEngine(traffic.model, **FP32) as engine:
        knobs.runtime.jit_post_compile_hook = note
        torch.cuda.set_sync_debug_mode("error")
        try:
            answers = engine.generate(*asked)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            knobs.runtime.jit_post_compile_hook = None
    assert compiled == []
    assert all(len(answer.token_ids) == NUM_TOKENS for answer in answers.values())


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
def test_bf16_stays_close_to_fp32_across_graph_replays(backend: str, tmp_path: Path) -> None:
    """Base and every adapter in one batch: the log-probabilities after each prefix the engine chose
    are those that transformers and PEFT give the same prefix in fp32.
    """
    if backend == "flash":
        pytest.importorskip("flash_attn")
    traffic = Traffic("llama_wide_heads", tmp_path)
    options = {**FP32, "dtype": DType.BFLOAT16, "attention_backend": AttentionBackendName(backend)}
    asked = [msgspec.structs.replace(r, sampling=WITH_LOGPROBS) for r in traffic.requests]
    with LocalEngine(traffic.model, **options) as engine:
        together = engine.generate(*asked)
        for request in asked[4:7]:
            alone = engine.generate(request)
            check_logprobs(traffic.oracles[request.request_id], request, alone)
    for request in asked:
        check_logprobs(traffic.oracles[request.request_id], request, together)


def check_logprobs(
    oracle: torch.nn.Module, request: Generate, answers: dict[str, Generated]
) -> None:
    got = answers[request.request_id]
    assert len(got.logprobs) == NUM_TOKENS
    with torch.inference_mode():
        ids = torch.tensor([request.prompt_token_ids + got.token_ids])
        exact = oracle(input_ids=ids).logits[0, -NUM_TOKENS - 1 : -1].log_softmax(-1)
    rounded = torch.tensor([[value for _, value in entry.top] for entry in got.logprobs])
    tokens = torch.tensor([[token for token, _ in entry.top] for entry in got.logprobs])
    assert (exact.gather(1, tokens) - rounded).abs().max() < 0.15, request.request_id


def test_a_model_that_does_not_fit_is_refused_with_the_sums(tmp_path: Path) -> None:
    build_tiny_model("llama", tmp_path)
    share = _used_share() / 2
    with pytest.raises(ModelRefused, match=r"weights - .* adapters - .* = -?[\d.]+ GiB for the KV"):
        LocalEngine(tmp_path, **FP32, gpu_memory_share=share, kv_cache_bytes=None)


def _used_share() -> float:
    free, total = torch.cuda.mem_get_info()
    return 1 - free / total
