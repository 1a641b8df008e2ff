"""EngineCore: the loop. Drain messages, plan a step, launch it, apply the one before, send.

While the device runs a forward pass, this process reads what the step before it sampled, tells the
clients, and plans the next step. A step is therefore planned before the outcome of the last one is
known: it takes for granted that sequences go on, and what it computes for one that has ended is
dropped. A runner that computes at once (`overlaps` is false) has every step applied before the next
is planned.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import structlog

from lorax_serve.engine.adapter_desk import AdapterDesk
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.intake import Intake
from lorax_serve.engine.lull import Lull
from lorax_serve.engine.outbox import Outbox
from lorax_serve.engine.scheduler import Scheduler
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.engine.step import Step, StepOutput
from lorax_serve.grammar.errors import GrammarError
from lorax_serve.ipc.messages import (
    Abort,
    AdapterCommand,
    EngineReady,
    Generate,
    Hello,
    Pool,
    ToEngine,
    ToFrontend,
)
from lorax_serve.ipc.types import ErrorCode

log = structlog.get_logger(__name__)

# How long to sleep while nothing but a copy of an adapter to the device is under way.
_COPY_POLL_SECONDS = 0.001
_LOAD_POLL_SECONDS = 1.0  # whether files of which nothing is heard are to be given up


class Link(Protocol):
    """The frontends, as EngineLink reaches them."""

    def receive(self, timeout_seconds: float | None) -> Iterable[tuple[bytes, ToEngine]]: ...
    def send(self, frontend: bytes, message: ToFrontend) -> bool: ...


class LaunchedStep(Protocol):
    """A step whose forward pass has been handed to the device."""

    @property
    def step(self) -> Step: ...

    def sample(self) -> "SampledStep":
        """Hand over the sampling too. All tokens before this step's must be in its sequences."""


class SampledStep(Protocol):
    """A step whose tokens are being sampled."""

    @property
    def step(self) -> Step: ...

    def output(self) -> StepOutput:
        """Wait for what was sampled."""


class StepRunner(Protocol):
    @property
    def overlaps(self) -> bool:
        """Whether `launch` returns before the forward pass is done."""

    def launch(self, step: Step) -> LaunchedStep:
        """Pending tokens of the step are those sampled by the step launched before it."""


class EngineCore:
    """Conducts one scheduler, one runner and one adapter exchange; owns no state of its own."""

    def __init__(
        self,
        *,
        link: Link,
        ready: EngineReady,
        intake: Intake,
        scheduler: Scheduler,
        exchange: AdapterExchange,
        runner: StepRunner,
        lull: Lull,
    ) -> None:
        self._link = link
        self._ready = ready
        self._intake = intake
        self._scheduler = scheduler
        self._exchange = exchange
        self._runner = runner
        self._lull = lull
        self._in_flight: SampledStep | None = None  # not applied yet
        self._outbox = Outbox(link.send)
        self._desk = AdapterDesk(exchange, link.send)

    def run_forever(self) -> None:
        """Serve until the process is ended."""
        timeout: float | None = 0.0
        while True:
            self._receive(timeout)
            timeout = 0.0
            if not self.step():
                self._scheduler.check_integrity()
                timeout = self._seconds_to_sleep()

    def _seconds_to_sleep(self) -> float | None:
        """A message or a finished adapter load wakes us before."""
        if self._exchange.num_arriving or self._desk.is_busy:
            return _COPY_POLL_SECONDS
        return _LOAD_POLL_SECONDS if self._exchange.num_loading else None

    def step(self) -> bool:
        """Plan and launch one step, and apply the one before; False when there was neither."""
        self._lull.end()
        try:
            return self._step()
        finally:
            self._lull.begin()

    def _step(self) -> bool:
        self._exchange.poll()
        schedule = self._scheduler.schedule()
        for rejection in schedule.rejections:
            self._outbox.failed(rejection.sequence.id, rejection.error)
        self._desk.poll()  # after the scheduler: requests go before what is loaded ahead of them
        was_busy = bool(schedule.step.scheduled) or self._in_flight is not None
        if schedule.step.scheduled:
            self._run(schedule.step)
        else:
            self._settle()
        for frontend in self._outbox.flush():
            log.error("frontend_lost", num_aborted=self._scheduler.remove_all_of(frontend))
        return was_busy

    def _receive(self, timeout_seconds: float | None) -> None:
        for frontend, message in self._link.receive(timeout_seconds):
            self._accept(frontend, message)

    def _accept(self, frontend: bytes, message: ToEngine) -> None:
        match message:
            case Hello():
                self._link.send(frontend, self._ready)
            case Abort(request_id=request_id):
                self._scheduler.remove(SequenceId(frontend, request_id))
                self._desk.abort(SequenceId(frontend, request_id))
            case AdapterCommand():
                self._desk.take(frontend, message)
            case Generate() | Pool():
                self._add(frontend, message)

    def _add(self, frontend: bytes, request: Generate | Pool) -> None:
        sequence_id = SequenceId(frontend, request.request_id)
        if sequence_id in self._scheduler:
            log.error("duplicate_request_id", request_id=request.request_id)
            return
        try:
            sequence = self._intake.sequence(sequence_id, request, self._scheduler.num_waiting)
        except RequestError as error:
            self._outbox.failed(sequence_id, error)
            return
        after = request.after if isinstance(request, Generate) else None
        leader = None if after is None else SequenceId(frontend, after)
        self._scheduler.add(sequence, after=leader)

    def _run(self, step: Step) -> None:
        """Launch the step, then apply the one before it while the device works."""
        try:
            launched = self._runner.launch(step)
        except Exception:
            log.exception("step_failed", num_sequences=len(step.scheduled))
            self._settle()
            self._run_one_by_one(step)
            return
        self._scheduler.launched(step)
        self._settle()
        try:
            self._in_flight = launched.sample()
        except Exception:
            log.exception("sampling_failed", num_sequences=len(step.scheduled))
            self._scheduler.withdraw(step)
            self._run_one_by_one(step)
            return
        if not self._runner.overlaps:
            self._settle()

    def _run_one_by_one(self, step: Step) -> None:
        """Run a failed step's sequences alone, to find whom to blame. Nothing is in flight."""
        items = [item for item in step.scheduled if not item.sequence.is_finished]
        if len(step.scheduled) == 1:
            for item in items:
                self._fail(item.sequence, "The engine failed on this request.")
            return
        for item in items:
            # What was pending is known by now.
            token_ids = item.sequence.tokens(item.start, item.start + item.num_tokens)
            self._run(Step((replace(item, token_ids=token_ids),)))
            self._settle()

    def _settle(self) -> None:
        """Apply the step in flight, if there is one."""
        sampled, self._in_flight = self._in_flight, None
        if sampled is not None:
            self._lull.begin()
            output = sampled.output()
            self._lull.end()
            self._apply(sampled.step, output)

    def _apply(self, step: Step, output: StepOutput) -> None:
        """Give the step's tokens and rows to its sequences, and end those that are done."""
        # One may have ended while this step was in flight.
        going_on = [
            (index, item.sequence)
            for index, item in enumerate(step.sampling)
            if not item.sequence.is_finished
        ]
        # First, so that blocks with keys that are no numbers are not offered to others.
        for index, sequence in going_on:
            if not output.finite[index]:
                self._fail(sequence, "The model gave no usable probabilities.")
        self._tell_prompt_logprobs(step, output)
        self._add_rows(step, output)
        self._scheduler.finished(step)
        self._tell_pooled(step)
        for index, sequence in going_on:
            if not sequence.is_finished:
                self._append(sequence, index, output)

    def _tell_prompt_logprobs(self, step: Step, output: StepOutput) -> None:
        """Those that a sequence computed again, after it was preempted, were told before."""
        for item, entries in zip(step.scoring, output.prompt_logprobs, strict=True):
            sequence = item.sequence
            if sequence.is_finished:
                continue
            if entries is None:
                self._fail(sequence, "The model gave no usable probabilities for the prompt.")
                continue
            unknown = entries[sequence.num_scored - item.start :]
            sequence.num_scored += len(unknown)
            if unknown:
                self._outbox.prompt_logprobs(sequence, unknown)

    def _add_rows(self, step: Step, output: StepOutput) -> None:
        for item, rows in zip(step.pooling, output.rows, strict=True):
            sequence, pooled = item.sequence, item.sequence.pooled
            if sequence.is_finished or pooled is None:
                continue
            if rows is None:
                self._fail(sequence, "The model gave no usable hidden states.")
                continue
            num_tokens = item.start + item.num_tokens
            pooled.add(rows, first=num_tokens - item.num_pooled, num_rows=item.num_pooled)

    def _tell_pooled(self, step: Step) -> None:
        for item in step.pooling:
            sequence, pooled = item.sequence, item.sequence.pooled
            is_whole = item.start + item.num_tokens == sequence.num_prompt_tokens
            if pooled is not None and is_whole and not sequence.is_finished:
                self._outbox.pooled(sequence)
                self._scheduler.remove(sequence.id)

    def _append(self, sequence: Sequence, index: int, output: StepOutput) -> None:
        token_id = output.token_ids[index]
        sequence.output_token_ids.append(token_id)
        reason = sequence.finish_reason()
        if sequence.guide is not None and reason is None:
            try:
                sequence.guide.advance(token_id)
            except GrammarError as error:
                # A client's own grammar may go over a step's limits: that is no fault of ours.
                request_id = sequence.id.request_id
                log.warning("guide_failed", request_id=request_id, reason=error.message)
                self._fail(sequence, "The output could not be kept within the constraint.")
                return
        self._outbox.token(sequence, token_id, output.logprobs[index], reason)
        if reason is not None:
            self._scheduler.remove(sequence.id)

    def _fail(self, sequence: Sequence, message: str) -> None:
        self._scheduler.remove(sequence.id)
        self._outbox.failed(sequence.id, RequestError(ErrorCode.GENERATION_ERROR, message))
