"""Embeddings of the demo model and its adapters, by the openai package, against transformers."""

from pathlib import Path

import numpy as np
import openai
import pytest
import torch
from openai import OpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from live_server import ADAPTERS, LiveServer

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
NAMES = (BASE, "pirate", "triage")
TEXTS = [
    "How do I bake bread?",
    "Über den Wolken muss die Freiheit wohl grenzenlos sein. 🌊",
    "The app crashes when I log in. " * 40,
]


@pytest.fixture(scope="module")
def expected(demo_model: Path) -> dict[str, list[np.ndarray]]:
    """By model: the normalised last hidden state of each text's last token."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    fresh = AutoModelForCausalLM.from_pretrained(demo_model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(fresh, ADAPTERS / "pirate", adapter_name="pirate").eval()
    adapted.load_adapter(ADAPTERS / "triage", adapter_name="triage")
    found: dict[str, list[np.ndarray]] = {}
    for name in NAMES[1:]:
        adapted.set_adapter(name)
        found[name] = [_state(adapted, tokenizer(text).input_ids) for text in TEXTS]
    with adapted.disable_adapter():
        found[BASE] = [_state(adapted, tokenizer(text).input_ids) for text in TEXTS]
    return found


def _state(model: torch.nn.Module, prompt: list[int]) -> np.ndarray:
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
    state: np.ndarray = torch.nn.functional.normalize(
        output.hidden_states[-1][0, -1], dim=0
    ).numpy()
    return state


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_they_equal_transformers_and_peft(
    server: LiveServer, expected: dict[str, list[np.ndarray]], encoding: str
) -> None:
    """base64 is what the package asks for where its user says nothing, and decodes."""
    asked = {"encoding_format": "float"} if encoding == "float" else {}
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        for name in NAMES:
            reply = client.embeddings.create(model=name, input=TEXTS, **asked)
            assert reply.model == name
            for item, state in zip(reply.data, expected[name], strict=True):
                assert item.embedding == pytest.approx(state, abs=1e-4)
    far = np.abs(expected["pirate"][0] - expected[BASE][0]).max()
    assert far > 1e-2, "the adapter changes nothing"


def test_embed_is_the_same_vector(
    server: LiveServer, expected: dict[str, list[np.ndarray]]
) -> None:
    body = {"inputs": TEXTS[0], "parameters": {"adapter_id": "pirate"}}
    status, reply = server.post("/embed", body)
    assert status == 200
    assert reply["embeddings"] == pytest.approx(expected["pirate"][0], abs=1e-4)


def test_ids_of_another_models_tokenizer(server: LiveServer) -> None:
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"),
    ):
        client.embeddings.create(model=BASE, input=[[9906, 100_000]])
