"""Collects what a step has to say and sends one message per frontend."""

from collections.abc import Callable

from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.labelled_prompt import LabelledPrompt
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.ipc.messages import (
    PromptPooled,
    RequestEvent,
    RequestFailed,
    StepEvents,
    ToFrontend,
    TokensGenerated,
)
from lorax_serve.ipc.types import FinishReason, PromptStats, TokenLogprob


class Outbox:
    def __init__(self, send: Callable[[bytes, ToFrontend], bool]) -> None:
        self._send = send
        self._events: dict[bytes, list[RequestEvent]] = {}

    def token(
        self,
        sequence: Sequence,
        token_id: int,
        logprob: TokenLogprob | None,
        reason: FinishReason | None,
    ) -> None:
        """The sequence's newest token; the first one carries what is known about the prompt."""
        is_first = len(sequence.output_token_ids) == 1
        event = TokensGenerated(
            request_id=sequence.id.request_id,
            token_ids=[token_id],
            finish_reason=reason,
            logprobs=None if logprob is None else [logprob],
            prompt=_prompt_stats(sequence) if is_first else None,
        )
        self._events.setdefault(sequence.id.frontend, []).append(event)

    def prompt_logprobs(self, sequence: Sequence, entries: tuple[TokenLogprob, ...]) -> None:
        """Of the prompt's next tokens."""
        event = TokensGenerated(sequence.id.request_id, [], prompt_logprobs=list(entries))
        self._events.setdefault(sequence.id.frontend, []).append(event)

    def pooled(self, sequence: Sequence) -> None:
        """What has become of its prompt, all of which is computed."""
        name, stats = sequence.id.request_id, _prompt_stats(sequence)
        if isinstance(sequence.pooled, LabelledPrompt):
            head = None if sequence.slot is None else sequence.slot.head
            assert head is not None, "labels without a head"
            found = sequence.pooled.probabilities(head)
            event = PromptPooled(name, found.tobytes(), stats, head, found.shape[1])
        else:
            assert sequence.pooled is not None, "it generates"
            event = PromptPooled(name, sequence.pooled.vector(), stats)
        self._events.setdefault(sequence.id.frontend, []).append(event)

    def failed(self, sequence_id: SequenceId, error: RequestError) -> None:
        event = RequestFailed(sequence_id.request_id, error.code, error.message)
        self._events.setdefault(sequence_id.frontend, []).append(event)

    def flush(self) -> list[bytes]:
        """Send everything; the frontends that could not be reached, whose events are lost."""
        lost = [
            frontend
            for frontend, events in self._events.items()
            if not self._send(frontend, StepEvents(events))
        ]
        self._events.clear()
        return lost


def _prompt_stats(sequence: Sequence) -> PromptStats:
    assert sequence.first_scheduled_time is not None, "an answer before the first forward"
    return PromptStats(
        num_cached_tokens=sequence.num_cached_tokens,
        queue_seconds=sequence.first_scheduled_time - sequence.arrival_time,
    )
