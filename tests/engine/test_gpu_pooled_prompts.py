"""Pooled prompts on a GPU: the vectors of transformers and PEFT, beside plain requests."""

from pathlib import Path

import numpy as np
import pytest

from local_engine import LocalEngine, greedy, pooling_request
from lorax_serve.ipc.config import AttentionBackendName, Device, DType
from lorax_serve.ipc.types import Pooling
from oracles import prompts, reference_tokens, reference_vector
from peft_adapters import build_adapter
from tiny_models import build_tiny_model

pytestmark = pytest.mark.gpu

TOLERANCES = {DType.FLOAT32: 1e-4, DType.BFLOAT16: 3e-2}


@pytest.mark.parametrize("attention", [AttentionBackendName.TRITON, AttentionBackendName.TORCH])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "no graphs"])
def test_vectors_equal_transformers(
    attention: AttentionBackendName, dtype: DType, cuda_graphs: bool, tmp_path: Path
) -> None:
    """Some prompts are short enough for a graph, and some take several steps."""
    base = build_tiny_model("llama", tmp_path / "model")
    fresh = build_tiny_model("llama", tmp_path / "base")
    oracles = {0: base, 1: build_adapter(tmp_path / "adapter", fresh, rank=16)}
    texts = [[7], *prompts(5, seed=41, low=2), *prompts(2, seed=42, low=70, high=200)]
    asked = [
        pooling_request(
            f"{how.value}-{i}-{has_adapter}",
            text,
            pooling=how,
            adapter=tmp_path / "adapter" if has_adapter else None,
        )
        for i, text in enumerate(texts)
        for how in Pooling
        for has_adapter in oracles
    ]
    plain = greedy("plain", texts[1], num_tokens=32)
    with LocalEngine(
        tmp_path / "model",
        device=Device.CUDA,
        dtype=dtype,
        attention_backend=attention,
        cuda_graphs=cuda_graphs,
        max_batch_tokens=64,
        max_num_sequences=8,
    ) as engine:
        got = engine.generate(plain, *asked)
        again = engine.generate(*asked)
    if dtype is DType.FLOAT32:
        assert got["plain"].token_ids == reference_tokens(base, texts[1], 32)
    for answers in (got, again):
        for request in asked:
            how, number, has_adapter = request.request_id.split("-")
            expected = reference_vector(oracles[int(has_adapter)], texts[int(number)], Pooling(how))
            vector = np.frombuffer(answers[request.request_id].vector, "<f4")
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
            assert vector == pytest.approx(expected, abs=TOLERANCES[dtype])
