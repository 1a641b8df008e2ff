"""Prompts to vectors: all of one request's, some at a time. Knows neither API."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from lorax_serve.ipc.messages import Pool, PromptPooled
from lorax_serve.ipc.types import AnyAdapterRef, ErrorCode, Pooling, RequestId
from lorax_serve.server.asked_adapter import AskedAdapter
from lorax_serve.server.engine import Engine
from lorax_serve.server.errors import ServeError

# Of one request's prompts. More in the engine at a time would not make a step fuller, and would
# keep others from their places.
MAX_EMBEDDED_AT_ONCE: Final = 32


@dataclass(frozen=True)
class AcceptedEmbeddings:
    """A request of which the engine can take every prompt as it is."""

    prompts: tuple[list[int], ...]  # token ids
    num_at_once: int  # places that it has
    num_prompt_characters: int
    pooling: Pooling | None  # None: labels
    adapter: AskedAdapter
    cache_salt: str
    tenant: str
    renew: Callable[[], Awaitable[AnyAdapterRef]]  # the adapter anew, folders as they are by then

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))


async def pooled_prompts(engine: Engine, accepted: AcceptedEmbeddings) -> tuple[PromptPooled, ...]:
    """The vectors of all prompts, in their order.

    Raises ServeError for the first that fails; then, or cancelled, it aborts the others.
    """
    answers: dict[int, PromptPooled] = {}
    waiting = iter(enumerate(accepted.prompts))

    async def work() -> None:
        for index, prompt_ids in waiting:
            answers[index] = await _pooled(engine, accepted, prompt_ids)

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(accepted.num_at_once):
                workers.create_task(work())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tuple(answers[index] for index in range(len(accepted.prompts)))


async def _pooled(
    engine: Engine, accepted: AcceptedEmbeddings, prompt_ids: list[int]
) -> PromptPooled:
    """From anew where the adapter's files were replaced meanwhile, twice at most."""
    ref = accepted.adapter.ref
    for _ in range(2):
        try:
            return await engine.pool(_message(accepted, prompt_ids, ref))
        except ServeError as error:
            if error.code is not ErrorCode.ADAPTER_CHANGED:
                raise
        ref = await accepted.renew()
    return await engine.pool(_message(accepted, prompt_ids, ref))


def _message(
    accepted: AcceptedEmbeddings, prompt_ids: list[int], adapter: AnyAdapterRef | None
) -> Pool:
    return Pool(
        request_id=RequestId(uuid.uuid4().hex),
        prompt_token_ids=prompt_ids,
        pooling=accepted.pooling,
        adapter=adapter,
        cache_salt=accepted.cache_salt,
        tenant=accepted.tenant,
    )
