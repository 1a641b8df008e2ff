"""docs/compatibility.md says of every field what becomes of it, and the code agrees."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fake_engine import FakeEngine
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.app import build_app
from lorax_serve.server.documentation import packaged_document
from lorax_serve.server.error_replies import (
    HTTP_SENTENCES,
    INTERNAL,
    NativeError,
    failure_of,
)
from lorax_serve.server.errors import EngineLost, ServeError
from lorax_serve.server.routes.health import Info
from lorax_serve.server.schema import chat, classify, embeddings, native, openai, tokenize
from lorax_serve.server.schema import openai_replies as replies
from lorax_serve.server.schema.common import ObjectShape
from lorax_serve.server.schema.constraints import ResponseFormat
from lorax_serve.server.schema.merging import MergedAdapters
from lorax_serve.server.text.tokenizer import TokenPiece
from wire import Wire, make_service

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
NAME = re.compile(r"`([^`]+)`")
KINDS = {"served", "no effect", "refused"}

Rows = list[list[str]]


def tables() -> dict[str, Rows]:
    """Every table of the page, by "last heading: first column's head"."""
    found: dict[str, Rows] = {}
    heading, rows = "", None  # rows: of the table that the last line was in
    for line in PAGE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if rows is None:
            rows = found[f"{heading}: {cells[0]}".rstrip(": ")] = []
        elif not set(cells[0]) <= {"-", " "}:
            rows.append(cells)
    return found


TABLES = tables()
DOCUMENT = msgspec.json.decode(packaged_document())

REQUESTS: dict[str, ObjectShape[Any]] = {
    "Body: field": native.BODY,
    "Parameters: field": native.PARAMETERS,
    "Embeddings: field of `/embed`": embeddings.EMBED,
    "Embeddings: field of its `parameters`": embeddings.EMBED_PARAMETERS,
    "`POST /v1/embeddings`: field": embeddings.EMBEDDINGS,
    "Classification: field of `/classify`": classify.CLASSIFY,
    "Classification: field of `/classify_batch`": classify.CLASSIFY_BATCH,
    "Tokenize: field of LoRAX's shape": tokenize.LORAX,
    "Tokenize: field of vLLM's shape for a text": tokenize.PROMPT,
    "Tokenize: field of vLLM's shape for a chat": tokenize.MESSAGES,
    "Tokenize: field of `/detokenize`": tokenize.DETOKENIZE,
}

# Requests whose fields are in two tables: what both have, and what is the one's own.
BOTH = "Chats and completions: field of both"
SHARING: dict[str, ObjectShape[Any]] = {
    "`POST /v1/chat/completions`: field of chats alone": chat.CHAT,
    "`POST /v1/completions`: field of completions alone": openai.COMPLETION,
}

# Objects inside of requests, of which no field is left out.
STRICT: dict[str, type[msgspec.Struct]] = {
    "`parameters.merged_adapters`: field": MergedAdapters,
    "`parameters.response_format`: field": ResponseFormat,
}

CHATS = "`POST /v1/chat/completions`: field of a"
REPLIES: dict[str, type[msgspec.Struct]] = {
    f"{CHATS} chat's reply": replies.ChatCompletion,
    f"{CHATS} message": replies.ChatMessage,
    f"{CHATS} call": replies.ToolCall,
    f"{CHATS} token's logprob": replies.TokenLogprob,
    "`POST /v1/completions`: field of a completion's reply": replies.Completion,
    "`POST /v1/completions`: field of a completion's logprobs": replies.CompletionLogprobs,
    "Chats and completions: field of `usage`": replies.Usage,
    "Reply: field": native.Reply,
    "Reply: field of `details`": native.Details,
    "Reply: field of another answer": native.BestOfSequence,
    "Reply: field of a prompt's token": native.PrefillToken,
    "Reply: field of a token": native.Token,
    "Reply: field of an alternative token": native.AlternativeToken,
    "Stream: field of an event": native.StreamEvent,
    "Stream: field of a stream's `details`": native.StreamDetails,
    "Embeddings: field of the reply": embeddings.Embedded,
    "`POST /v1/embeddings`: field of the reply": embeddings.EmbeddingList,
    "`POST /v1/embeddings`: field of an item": embeddings.Embedding,
    "Classification: field of a label": classify.Label,
    "Tokenize: field of a piece": TokenPiece,
    "Tokenize: field of vLLM's reply": tokenize.Tokenized,
    "Tokenize: field of its reply": tokenize.Detokenized,
    "Info: field of `/info`": Info,
}


def fields(struct: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(struct)]


def named(rows: Rows) -> list[str]:
    return [name for row in rows for name in NAME.findall(row[0])]


def by_kind(rows: Rows) -> Mapping[str, list[str]]:
    kinds: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for row in rows:
        kinds[row[1]] += NAME.findall(row[0])
    return kinds


@pytest.mark.parametrize("table", REQUESTS)
def test_fields_of_requests(table: str) -> None:
    """Sorted lists: what is named twice is found too."""
    shape, kinds = REQUESTS[table], by_kind(TABLES[table])
    assert sorted(kinds["served"]) == sorted(shape.served)
    assert sorted(kinds["no effect"]) == sorted(shape.tolerated)
    assert sorted(kinds["refused"]) == sorted(shape.unserved.keys() - shape.served)


@pytest.mark.parametrize("table", SHARING)
def test_fields_of_requests_that_share_most(table: str) -> None:
    shape, kinds = SHARING[table], by_kind([*TABLES[BOTH], *TABLES[table]])
    assert sorted(kinds["served"]) == sorted(shape.served)
    tolerated = shape.tolerated - shape.served
    assert sorted(kinds["no effect"]) == sorted(tolerated)
    assert sorted(kinds["refused"]) == sorted(shape.unserved.keys() - shape.served)


@pytest.mark.parametrize("table", STRICT)
def test_fields_of_objects_inside(table: str) -> None:
    struct, kinds = STRICT[table], by_kind(TABLES[table])
    assert sorted(kinds["served"]) == sorted(fields(struct))
    assert kinds["refused"] == kinds["no effect"] == []
    assert struct.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("table", REPLIES)
def test_fields_of_replies_in_their_order(table: str) -> None:
    assert named(TABLES[table]) == fields(REPLIES[table])


@pytest.mark.parametrize(
    ("struct", "own"),
    [
        (replies.ChatChoice, ["message"]),
        (replies.ChatChunkChoice, ["delta"]),
        (replies.CompletionChoice, ["text", "prompt_token_ids"]),
    ],
)
def test_fields_of_choices(struct: type[msgspec.Struct], own: list[str]) -> None:
    shared = named(TABLES["Chats and completions: field of a choice of either"])
    assert sorted([*shared, *own]) == sorted(fields(struct))


def test_chunks_have_no_field_that_a_whole_reply_has_not() -> None:
    chat_fields = set(named(TABLES[f"{CHATS} chat's reply"]))
    assert set(fields(replies.ChatChunk)) == chat_fields - {"service_tier"}
    assert set(fields(replies.ChatDelta)) == set(named(TABLES[f"{CHATS} message"])) - {"refusal"}


def test_errors() -> None:
    """Each pair of a status and a type that can leave, and none that cannot."""
    failures = [failure_of(ServeError(code, "x")) for code in ErrorCode]
    possible = {(f.native_status, f.native_type) for f in [*failures, failure_of(EngineLost())]}
    possible |= {(status, kind) for status, (kind, _) in HTTP_SENTENCES.items()}
    possible.add((INTERNAL.native_status, INTERNAL.native_type))
    rows = TABLES["LoRAX: errors: status"]
    assert len(rows) == len(possible)
    assert {(HTTPStatus(int(row[0])), row[1].strip("`")) for row in rows} == possible
    assert fields(NativeError) == ["error", "error_type"]


def test_addresses(wire_files: Path) -> None:
    service = make_service(wire_files, FakeEngine())
    app = build_app(service)
    service.tokenizer.close()
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    rows = TABLES["Addresses"]
    assert sorted(named([row[:1] for row in rows])) == sorted(served)


@pytest.mark.parametrize(("path", "column"), [("/generate", 0), ("/generate_stream", 1)])
async def test_headers(wire: Wire, path: str, column: int) -> None:
    wire.will_say("{}")
    schema = {"type": "string", "format": "surely-unknown"}
    parameters = {
        "adapter_id": "alice",
        "top_n": 1,
        "response_format": {"type": "json_object", "schema": schema},
    }
    reply = await wire.client.post(path, json={"inputs": "hi", "parameters": parameters})
    assert reply.status == 200, await reply.text()
    sent = {name.lower() for name in reply.headers if name.lower().startswith("x-")}
    rows = TABLES["Headers: header of a reply"]
    listed = {NAME.findall(row[0])[0] for row in rows if column == 0 or row[1] == "yes"}
    assert sent - {"x-accel-buffering"} == listed
    documented = DOCUMENT["paths"][path]["post"]["responses"]["200"]["headers"]
    assert listed == documented.keys()
