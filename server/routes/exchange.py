"""One generation between its body and its reply, the same for every API."""

import functools
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Protocol

from aiohttp import web

from lorax_serve.server.adapter_records import noting_failures
from lorax_serve.server.adapter_token import with_adapter_token
from lorax_serve.server.admission import Accepted
from lorax_serve.server.asked_adapter import note_failure
from lorax_serve.server.error_replies import Failure
from lorax_serve.server.generation import Answer, Piece, collect, pieces
from lorax_serve.server.json_reply import json_reply
from lorax_serve.server.keys import ADMISSION, SERVICE
from lorax_serve.server.reply_headers import answer_headers, common_headers
from lorax_serve.server.request import GenerationRequest
from lorax_serve.server.request_log import FACTS
from lorax_serve.server.sse import send_events
from lorax_serve.server.threads import run_sized


class View(Protocol):
    """How one API shows a generation."""

    def reply(self, answers: Sequence[Answer]) -> bytes:
        """The JSON body of a finished one: its choices, by index. On a thread if it is long."""

    def frames(self, source: AsyncGenerator[Piece, None]) -> AsyncGenerator[bytes, None]:
        """The events of a streamed one; closing this closes `source`."""

    def error_frame(self, failure: Failure) -> bytes:
        """The event that says why a stream ends early."""


async def generate(
    request: web.Request,
    asked: GenerationRequest,
    view: Callable[[Accepted], View],
    *,
    streams: bool,
    ignored: Iterable[str],
) -> web.StreamResponse:
    """Raises ServeError as long as nothing was sent. Cancelled, it aborts the generation."""
    service, admission = request.app[SERVICE], request.app[ADMISSION]
    asked = with_adapter_token(asked, request)
    async with admission.accept(asked) as accepted:
        accepted_at = time.monotonic()
        headers = common_headers(request, accepted, ignored)
        shown = view(accepted)
        source = noting_failures(
            pieces(service.engine, service.tokenizer, accepted),
            functools.partial(note_failure, service, accepted.adapters, accepted.adapter_records),
        )
        if (facts := request.get(FACTS)) is not None:
            facts.accepted(accepted.adapter_records, accepted.num_prompt_tokens)
            source = facts.noting(source)
        if streams:
            return await send_events(
                request,
                shown.frames(source),
                headers=headers,
                error_frame=shown.error_frame,
                limits=service.limits,
            )
        answers = await collect(source, len(accepted.messages))
    body = await run_sized(_num_tokens(accepted, answers), shown.reply, answers)
    return json_reply(body, headers | answer_headers(request, accepted, accepted_at, answers))


def _num_tokens(accepted: Accepted, answers: Iterable[Answer]) -> int:
    """Prompts included: a reply may list them all."""
    return accepted.num_prompt_tokens + sum(len(answer.tokens) for answer in answers)
