"""/classify and /classify_batch: what becomes of a head's probabilities, and what is refused."""

from typing import Any

import pytest

from lorax_serve.ipc.types import ErrorCode, HeadKind
from lorax_serve.server.errors import ServeError
from wire import Wire

ALICE = {"adapter_id": "alice"}


async def post(wire: Wire, path: str, inputs: object, **fields: object) -> Any:
    body = {"inputs": inputs, "parameters": ALICE, "stream": False, **fields}
    reply = await wire.client.post(path, json=body)
    assert reply.status == 200, await reply.text()
    return await reply.json()


async def test_labels_of_a_text(wire: Wire) -> None:
    wire.engine.labels = (HeadKind.SEQUENCE, [[0.25, 0.5, 0.25]])
    got = await post(wire, "/classify", "So good ö")
    assert [(each["entity_group"], each["score"]) for each in got] == [
        ("LABEL_1", 0.5),
        ("LABEL_0", 0.25),
        ("LABEL_2", 0.25),
    ]
    assert all((each["word"], each["start"], each["end"]) == ("", 0, 9) for each in got)
    (request,) = wire.engine.pooled
    assert request.pooling is None
    assert request.adapter is not None


async def test_entities_of_tokens(wire: Wire) -> None:
    """Neighbours with one label are one; offsets are characters of the text, whatever its bytes."""
    text = "ö Rome"
    pieces = await wire.tokenizer.pieces_bounded(text, add_special_tokens=True, max_tokens=99)
    numbers = [0 if piece.start < 2 else 1 for piece in pieces]
    rows = [[0.75, 0.25] if number == 0 else [0.125, 0.875] for number in numbers]
    wire.engine.labels = (HeadKind.TOKEN, rows)
    first, second = await post(wire, "/classify", text)
    start = min(piece.start for piece, n in zip(pieces, numbers, strict=True) if n == 1)
    assert first == {
        "entity_group": "LABEL_0",
        "score": 0.75,
        "word": text[:start],
        "start": 0,
        "end": start,
    }
    assert (second["entity_group"], second["score"]) == ("LABEL_1", 0.875)
    assert (second["word"], second["end"]) == (text[start:], len(text))


async def test_tokens_that_are_not_of_the_text_are_no_entities(wire: Wire) -> None:
    pieces = await wire.tokenizer.pieces_bounded("ab ab", add_special_tokens=True, max_tokens=99)
    wire.engine.labels = (HeadKind.TOKEN, [[1.0]] * len(pieces))
    (entity,) = await post(wire, "/classify", "ab ab")
    assert (entity["start"], entity["end"], entity["word"]) == (0, 5, "ab ab")


async def test_a_batch_in_its_order(wire: Wire) -> None:
    wire.engine.labels = (HeadKind.SEQUENCE, [[0.5, 0.5]])
    got = await post(wire, "/classify_batch", ["a", "bbb", "cc"])
    assert [each[0]["end"] for each in got] == [1, 3, 2]
    assert len(wire.engine.pooled) == 3


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/classify", {"inputs": "a", "parameters": None}, "no classification head"),
        ("/classify_batch", {"inputs": ["a"], "parameters": {}}, "no classification head"),
        ("/classify", {"inputs": ["a"]}, "inputs"),
        ("/classify", {"inputs": ""}, "inputs"),
        ("/classify_batch", {"inputs": "a"}, "inputs"),
        ("/classify_batch", {"inputs": []}, "inputs"),
        ("/classify", {"inputs": "a", "adapter_id": "alice"}, "adapter_id"),
        ("/classify", {"inputs": "a", "truncate": True}, "truncate"),
        (
            "/classify",
            {"inputs": "a", "parameters": {"merged_adapters": {"ids": ["alice", "team/ops"]}}},
            "merged",
        ),
    ],
    ids=str,
)
async def test_what_is_refused(wire: Wire, path: str, body: Any, named: str) -> None:
    reply = await wire.client.post(path, json={"parameters": ALICE, **body})
    assert reply.status == 422
    got = await reply.json()
    assert got["error_type"] == "validation"
    assert named in got["error"]
    assert not wire.engine.pooled


async def test_an_adapter_without_a_head(wire: Wire) -> None:
    text = "Adapter 'alice' has no classification head."
    wire.engine.failures = [lambda: ServeError(ErrorCode.ADAPTER_INCOMPATIBLE, text)]
    reply = await wire.client.post("/classify", json={"inputs": "a", "parameters": ALICE})
    assert reply.status == 424
    assert (await reply.json())["error"] == text


async def test_unknown_fields_are_named(wire: Wire) -> None:
    wire.engine.labels = (HeadKind.SEQUENCE, [[1.0]])
    parameters = {**ALICE, "top_k": 3}
    reply = await wire.client.post("/classify", json={"inputs": "a", "parameters": parameters})
    assert reply.status == 200
    assert reply.headers["x-ignored-params"] == "parameters.top_k"
    assert reply.headers["x-adapter-id"] == "alice"
