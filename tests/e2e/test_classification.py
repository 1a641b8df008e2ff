"""Classification by adapters of the demo model, against transformers' own pipelines."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
    TextClassificationPipeline,
    TokenClassificationPipeline,
)

from e2e_constants import CACHE
from live_server import ADAPTERS, LiveServer
from lorax_serve.ipc.types import HeadKind
from peft_heads import build_head_adapter

TEXTS = [
    "Hugging Face is in New York; I like it. ",
    "Über den Wolken muss die Freiheit wohl grenzenlos sein. 🌊",
    "no",
]
HEADS = {"mood": (HeadKind.SEQUENCE, 3), "names": (HeadKind.TOKEN, 4)}


@pytest.fixture(scope="module")
def oracles(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """PEFT models by the names of their folders, which are under `root`."""
    root = tmp_path_factory.mktemp("adapters")
    found: dict[str, Any] = {"root": root}
    for seed, (name, (kind, number)) in enumerate(HEADS.items()):
        found[name] = build_head_adapter(
            root / name, demo_model, kind, num_labels=number, seed=seed, scale=0.02
        )
    shutil.copytree(ADAPTERS / "pirate", root / "pirate")
    return found


@pytest.fixture(scope="module")
def tokenizer(demo_model: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(demo_model)


@pytest.fixture(scope="module")
def served(oracles: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("server") / "log"
    with LiveServer("--adapter-dir", oracles["root"], "--cache-dir", CACHE, log=log) as running:
        yield running.url


def ask(url: str, adapter: str, text: str) -> Any:
    body = {"inputs": text, "parameters": {"adapter_id": adapter}}
    reply = requests.post(f"{url}/classify", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_all_at_once_equal_transformers_pipelines(
    served: str, oracles: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    asked = [(name, text) for name in HEADS for text in TEXTS]
    with ThreadPoolExecutor(len(asked)) as threads:
        got = dict(zip(asked, threads.map(lambda each: ask(served, *each), asked), strict=True))
    with torch.inference_mode():
        moods = TextClassificationPipeline(
            model=oracles["mood"].base_model.model, tokenizer=tokenizer, top_k=None
        )
        names = TokenClassificationPipeline(
            model=oracles["names"].base_model.model,
            tokenizer=tokenizer,
            aggregation_strategy="simple",
        )
        for text in TEXTS:
            (expected,) = moods([text])
            assert [each["entity_group"] for each in got["mood", text]] == [
                each["label"] for each in expected
            ]
            assert [each["score"] for each in got["mood", text]] == pytest.approx(
                [each["score"] for each in expected], abs=1e-4
            )
            entities = names(text)
            assert [
                (each["entity_group"], each["start"], each["end"]) for each in got["names", text]
            ] == [(each["entity_group"], each["start"], each["end"]) for each in entities]
            assert [each["score"] for each in got["names", text]] == pytest.approx(
                [float(each["score"]) for each in entities], abs=1e-4
            )
            assert all(e["word"] == text[e["start"] : e["end"]] for e in got["names", text])


def test_a_batch_is_each_text_alone(served: str) -> None:
    body = {"inputs": TEXTS, "parameters": {"adapter_id": "names"}}
    batch = requests.post(f"{served}/classify_batch", json=body, timeout=120).json()
    for text, entities in zip(TEXTS, batch, strict=True):
        alone = ask(served, "names", text)
        assert [e["start"] for e in entities] == [e["start"] for e in alone]
        assert [e["score"] for e in entities] == pytest.approx(
            [e["score"] for e in alone], abs=1e-5
        )


def test_what_an_adapter_is_not_for(served: str) -> None:
    """One with a head does not generate, one without does not classify."""
    parameters = {"adapter_id": "mood", "max_new_tokens": 2}
    body = {"inputs": "x", "parameters": parameters}
    reply = requests.post(f"{served}/generate", json=body, timeout=120)
    assert reply.status_code == 424
    assert "does not generate" in reply.json()["error"]
    body = {"inputs": "x", "parameters": {"adapter_id": "pirate"}}
    reply = requests.post(f"{served}/classify", json=body, timeout=120)
    assert reply.status_code == 424
    assert reply.json()["error"] == "Adapter 'pirate' has no classification head."
