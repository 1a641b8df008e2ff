"""An engine at the seam the routes see: it plays a script and remembers what it was told."""

import asyncio
import math
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from lorax_serve.ipc.adapter_report import AdapterReport, TierUse
from lorax_serve.ipc.messages import AdapterAction, Generate, Pool, PromptPooled, TokensGenerated
from lorax_serve.ipc.types import (
    AdapterRef,
    EngineInfo,
    ErrorCode,
    FinishReason,
    HeadKind,
    PromptStats,
    RequestId,
    TokenLogprob,
)
from lorax_serve.server.errors import ServeError

ENGINE_INFO = EngineInfo(
    architecture="LlamaForCausalLM",
    device="cpu",
    dtype="float32",
    num_parameters=1000,
    vocab_size=384,
    hidden_size=4,
    eos_token_ids=(2,),
    max_model_len=256,
    block_size=16,
    num_blocks=64,
    max_num_sequences=8,
    max_adapter_rank=64,
    adapter_pool_bytes=2**20,
    typical_adapter_bytes=2**10,
)


@dataclass(frozen=True)
class Tokens:
    """One step's tokens."""

    ids: Sequence[int]
    finish: FinishReason | None = None


Step = Tokens | asyncio.Event | Exception  # tokens, a wait, or how it fails


@dataclass
class FakeEngine:
    """Every request plays `script`: tokens are sent, an event is waited for, an error is raised.

    After the script a request waits for its end, as if the engine were busy.
    """

    script: Sequence[Step] = ()
    scripts: dict[int, Sequence[Step]] = field(default_factory=dict)  # of single requests, by order
    info_: EngineInfo = ENGINE_INFO
    failures: list[Callable[[], ServeError]] = field(default_factory=list)  # of the next requests
    is_ready: bool = True
    requests: list[Generate] = field(default_factory=list)
    pooled: list[Pool] = field(default_factory=list)
    labels: tuple[HeadKind, list[list[float]]] | None = None  # what the next heads say
    aborted: list[RequestId] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    commands: list[tuple[AdapterAction, AdapterRef | None]] = field(default_factory=list)
    refusal: ServeError | None = None  # of every command that names an adapter
    lost: ServeError | None = None  # the answer to every command
    report: AdapterReport = field(
        default_factory=lambda: AdapterReport([], TierUse(1000, 0), TierUse(2000, 0))
    )

    @property
    def info(self) -> EngineInfo:
        if not self.is_ready:
            raise ServeError(ErrorCode.NOT_READY, "The engine is not ready.")
        return self.info_

    async def command(
        self, action: AdapterAction, adapter: AdapterRef | None = None
    ) -> AdapterReport | None:
        self.commands.append((action, adapter))
        if self.lost is not None:
            raise self.lost
        if adapter is None:
            return self.report
        if self.refusal is not None:
            raise self.refusal
        return None

    async def pool(self, request: Pool) -> PromptPooled:
        """After all of the script, which tokens end; the vector says which prompt it is of."""
        script = self.scripts.get(len(self.pooled), self.script)
        self.pooled.append(request)
        ended = False
        try:
            if self.failures:
                ended = True
                raise self.failures.pop(0)()
            for step in script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    ended = True
                    raise step
            ended = True
            stats = PromptStats(num_cached_tokens=3, queue_seconds=0.002)
            if request.pooling is None:
                assert self.labels is not None, "the test did not say what the head says"
                kind, rows = self.labels
                said = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
                return PromptPooled(request.request_id, said, stats, kind, len(rows[0]))
            vector = pooled_vector(request.prompt_token_ids)
            return PromptPooled(request.request_id, vector, stats)
        finally:
            if not ended:
                self.aborted.append(request.request_id)
                self.changed.set()

    async def generate(self, request: Generate) -> AsyncGenerator[TokensGenerated, None]:
        script = self.scripts.get(len(self.requests), self.script)
        self.requests.append(request)
        ended = False
        num_sent = 0
        try:
            if self.failures:
                ended = True
                raise self.failures.pop(0)()
            for step in script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    ended = True
                    raise step
                else:
                    if num_sent == 0 and request.num_prompt_logprobs is not None:
                        yield prompt_event(request)
                    ended = step.finish is not None
                    yield event(request, step, first=num_sent == 0)
                    num_sent += 1
                    if ended:
                        return
            await asyncio.Event().wait()
        finally:
            if not ended:
                self.aborted.append(request.request_id)
                self.changed.set()


def pooled_vector(prompt_token_ids: Sequence[int]) -> bytes:
    """Of length 1, and other for other sums of ids."""
    angle = float(sum(prompt_token_ids))
    pair = (math.cos(angle), math.sin(angle))
    return struct.pack("<4f", pair[0], pair[1], 0.0, 0.0)


def event(request: Generate, step: Tokens, *, first: bool) -> TokensGenerated:
    """What the engine would send: logprobs when asked for, the prompt's facts once."""
    num_top = request.sampling.num_logprobs
    top = tuple((i, -1.0 - i) for i in range(num_top or 0))
    return TokensGenerated(
        request_id=request.request_id,
        token_ids=list(step.ids),
        finish_reason=step.finish,
        logprobs=None if num_top is None else [TokenLogprob(-0.5, top) for _ in step.ids],
        prompt=PromptStats(num_cached_tokens=3, queue_seconds=0.002) if first else None,
    )


def prompt_event(request: Generate) -> TokensGenerated:
    """Of each token of the prompt but the first: minus its position."""
    top = tuple((i, -1.0 - i) for i in range(request.num_prompt_logprobs or 0))
    length = len(request.prompt_token_ids)
    scores = [TokenLogprob(-float(position), top) for position in range(1, length)]
    return TokensGenerated(request.request_id, [], prompt_logprobs=scores)
