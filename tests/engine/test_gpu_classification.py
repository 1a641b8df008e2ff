"""Classification heads on a GPU: the probabilities of transformers and PEFT, beside generations."""

from pathlib import Path

import numpy as np
import pytest

from local_engine import LocalEngine, greedy, pooling_request
from lorax_serve.ipc.config import Device, DType
from lorax_serve.ipc.messages import PromptPooled
from lorax_serve.ipc.types import HeadKind
from oracles import prompts, reference_tokens
from peft_heads import build_head_adapter, reference_probabilities
from tiny_models import build_tiny_model

pytestmark = pytest.mark.gpu

HEADS = {"mood": (HeadKind.SEQUENCE, 3), "names": (HeadKind.TOKEN, 5)}


@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "no graphs"])
def test_probabilities_equal_transformers(cuda_graphs: bool, tmp_path: Path) -> None:
    """Some prompts are short enough for a graph, and some take several steps."""
    base = build_tiny_model("llama", tmp_path / "model")
    oracles = {
        name: build_head_adapter(tmp_path / name, tmp_path / "model", kind, num_labels=number)
        for name, (kind, number) in HEADS.items()
    }
    texts = [[7], *prompts(4, seed=41, low=2), *prompts(2, seed=42, low=70, high=200)]
    asked = [
        pooling_request(f"{name}-{i}", text, pooling=None, adapter=tmp_path / name)
        for i, text in enumerate(texts)
        for name in oracles
    ]
    plain = greedy("plain", texts[1], num_tokens=32)
    with LocalEngine(
        tmp_path / "model",
        device=Device.CUDA,
        dtype=DType.FLOAT32,
        cuda_graphs=cuda_graphs,
        max_batch_tokens=64,
        max_num_sequences=8,
    ) as engine:
        got = engine.generate(plain, *asked)
    assert got["plain"].token_ids == reference_tokens(base, texts[1], 32)
    for request in asked:
        name, number = request.request_id.split("-")
        (end,) = got[request.request_id].ends
        assert isinstance(end, PromptPooled), end
        said = np.frombuffer(end.vector, "<f4").reshape(-1, end.num_labels)
        expected = reference_probabilities(oracles[name], texts[int(number)])
        assert said == pytest.approx(expected.numpy(), abs=1e-4)
