"""The `x-*` headers of LoRAX, on its own routes and on OpenAI's alike. Times in milliseconds."""

import re
import time
from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote_to_bytes

from aiohttp import web

from lorax_serve.ipc.messages import PromptPooled
from lorax_serve.ipc.types import AnyAdapterRef
from lorax_serve.server.admission import Accepted
from lorax_serve.server.embedding import AcceptedEmbeddings
from lorax_serve.server.generation import Answer
from lorax_serve.server.keys import RECEIVED_AT, SERVICE

MAX_VALUE_BYTES = 1024
PRINTABLE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
CUT_ESCAPE = re.compile(r"%[0-9A-F]?\Z")


def safe_value(text: str) -> str:
    """Text as a header value: anything but printable ASCII is percent-encoded, the end cut off.

    Proxies allow all headers of a reply together 4 or 8 KiB. What is cut is cut between characters.
    """
    value = quote(text, safe=PRINTABLE)
    if len(value) <= MAX_VALUE_BYTES:
        return value
    kept = unquote_to_bytes(CUT_ESCAPE.sub("", value[:MAX_VALUE_BYTES]))
    return quote(kept.decode(errors="ignore"), safe=PRINTABLE)


def ignored_headers(ignored: Iterable[str]) -> dict[str, str]:
    """Names the fields of a body that were left out, if there were any."""
    names = ", ".join(ignored)
    return {"x-ignored-params": safe_value(names)} if names else {}


def common_headers(
    request: web.Request, accepted: Accepted, ignored: Iterable[str]
) -> dict[str, str]:
    """Known before the first token: of every reply, streamed or not."""
    headers = _served_headers(
        request, accepted.num_prompt_characters, accepted.message.adapter, accepted.adapter_source
    )
    if accepted.grammar_warnings:
        headers["x-grammar-warnings"] = safe_value("; ".join(accepted.grammar_warnings))
    return headers | ignored_headers(ignored)


def embedding_headers(
    request: web.Request,
    accepted: AcceptedEmbeddings,
    accepted_at: float,
    answers: Sequence[PromptPooled],
    ignored: Iterable[str],
) -> dict[str, str]:
    """Of a reply with vectors: what no generated token has a part in."""
    received_at, now = request[RECEIVED_AT], time.monotonic()
    queued = min(answer.prompt.queue_seconds for answer in answers)
    adapter = accepted.adapter
    headers = _served_headers(request, accepted.num_prompt_characters, adapter.ref, adapter.source)
    return headers | {
        "x-compute-time": _ms(now - received_at),
        "x-total-time": _ms(now - received_at),
        "x-validation-time": _ms(accepted_at - received_at),
        "x-queue-time": _ms(queued),
        "x-inference-time": _ms(max(now - accepted_at - queued, 0.0)),
        "x-prompt-tokens": str(accepted.num_prompt_tokens),
        "x-total-tokens": str(accepted.num_prompt_tokens),
        **ignored_headers(ignored),
    }


def _served_headers(
    request: web.Request, num_characters: int, adapter: AnyAdapterRef | None, source: str | None
) -> dict[str, str]:
    service = request.app[SERVICE]
    on_gpu = service.engine.info.device.startswith("cuda")
    headers = {
        "x-compute-type": "gpu+optimized" if on_gpu else "cpu",
        "x-compute-characters": str(num_characters),
        "x-model-id": safe_value(service.model_id),
    }
    if adapter is not None:
        headers["x-adapter-id"] = safe_value(adapter.name)
    if source is not None:
        headers["x-adapter-source"] = source
    return headers


def answer_headers(
    request: web.Request, accepted: Accepted, accepted_at: float, answers: Sequence[Answer]
) -> dict[str, str]:
    """Counts of all answers, and times from the first one's start to the last one's end."""
    received_at = request[RECEIVED_AT]
    num_tokens = sum(len(answer.tokens) for answer in answers)
    queued = min(answer.prompt.queue_seconds if answer.prompt else 0.0 for answer in answers)
    total = time.monotonic() - received_at
    first_token_at = min(answer.first_token_at for answer in answers)
    ended_at = max(answer.ended_at for answer in answers)
    inference = max(ended_at - accepted_at - queued, 0.0)
    after_first = ended_at - first_token_at
    return {
        "x-compute-time": _ms(total),
        "x-total-time": _ms(total),
        "x-validation-time": _ms(accepted_at - received_at),
        "x-queue-time": _ms(queued),
        "x-inference-time": _ms(inference),
        "x-time-per-token": _ms(inference / max(num_tokens, 1)),
        "x-time-to-first-token": _ms(first_token_at - received_at),
        "x-time-per-output-token": _ms(after_first / max(num_tokens - 1, 1)),
        "x-prompt-tokens": str(accepted.num_prompt_tokens),
        "x-generated-tokens": str(num_tokens),
        "x-skipped-tokens": "0",
        "x-total-tokens": str(accepted.num_prompt_tokens + num_tokens),
    }


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))
