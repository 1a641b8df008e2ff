"""EngineCore: the loop. Drain messages, plan a step, run it, apply it, send what it said."""

from typing import Protocol

import structlog

from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.intake import Intake
from lorax_serve.engine.outbox import Outbox
from lorax_serve.engine.scheduler import Scheduler
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.engine.step import Step, StepOutput
from lorax_serve.grammar.errors import GrammarError
from lorax_serve.ipc.link import EngineLink
from lorax_serve.ipc.messages import Abort, EngineReady, Generate, Hello, ToEngine
from lorax_serve.ipc.types import ErrorCode

log = structlog.get_logger(__name__)


class StepRunner(Protocol):
    def run(self, step: Step) -> StepOutput: ...


class EngineCore:
    """Conducts one scheduler, one runner and one adapter exchange; owns no state of its own."""

    def __init__(
        self,
        *,
        link: EngineLink,
        ready: EngineReady,
        intake: Intake,
        scheduler: Scheduler,
        exchange: AdapterExchange,
        runner: StepRunner,
    ) -> None:
        self._link = link
        self._ready = ready
        self._intake = intake
        self._scheduler = scheduler
        self._exchange = exchange
        self._runner = runner
        self._outbox = Outbox(link.send)

    def run_forever(self) -> None:
        """Serve until the process is ended."""
        idle = False
        while True:
            # With nothing to run, sleep until a message or a finished adapter load wakes us.
            self._receive(timeout_seconds=None if idle else 0.0)
            idle = not self.step()
            if idle:
                self._scheduler.check_integrity()

    def step(self) -> bool:
        """Plan, run and apply one step; False when there was nothing to do."""
        self._exchange.poll()
        schedule = self._scheduler.schedule()
        for rejection in schedule.rejections:
            self._outbox.failed(rejection.sequence.id, rejection.error)
        if schedule.step.scheduled:
            self._run(schedule.step)
        for frontend in self._outbox.flush():
            log.error("frontend_lost", num_aborted=self._scheduler.remove_all_of(frontend))
        return bool(schedule.step.scheduled)

    def _receive(self, timeout_seconds: float | None) -> None:
        for frontend, message in self._link.receive(timeout_seconds):
            self._accept(frontend, message)

    def _accept(self, frontend: bytes, message: ToEngine) -> None:
        match message:
            case Hello():
                self._link.send(frontend, self._ready)
            case Abort(request_id=request_id):
                self._scheduler.remove(SequenceId(frontend, request_id))
            case Generate():
                self._add(frontend, message)

    def _add(self, frontend: bytes, request: Generate) -> None:
        sequence_id = SequenceId(frontend, request.request_id)
        if sequence_id in self._scheduler:
            log.error("duplicate_request_id", request_id=request.request_id)
            return
        try:
            sequence = self._intake.sequence(sequence_id, request, self._scheduler.num_waiting)
        except RequestError as error:
            self._outbox.failed(sequence_id, error)
            return
        self._scheduler.add(sequence)

    def _run(self, step: Step) -> None:
        """Run the step; when it raises, run its sequences one by one to find whom to blame."""
        try:
            output = self._runner.run(step)
        except Exception:
            log.exception("step_failed", num_sequences=len(step.scheduled))
            if len(step.scheduled) == 1:
                self._fail(step.scheduled[0].sequence, "The engine failed on this request.")
                return
            for item in step.scheduled:
                self._run(Step((item,)))
            return
        self._apply(step, output)

    def _apply(self, step: Step, output: StepOutput) -> None:
        """Append the step's tokens to its sequences and end those that are done."""
        self._scheduler.computed(step)
        for index, item in enumerate(step.sampling):
            if output.finite[index]:
                self._append(item.sequence, index, output)
            else:
                self._fail(item.sequence, "The model gave no usable probabilities.")

    def _append(self, sequence: Sequence, index: int, output: StepOutput) -> None:
        token_id = output.token_ids[index]
        sequence.output_token_ids.append(token_id)
        reason = sequence.finish_reason()
        if sequence.guide is not None and reason is None:
            try:
                sequence.guide.advance(token_id)
            except GrammarError:
                log.exception("guide_failed", request_id=sequence.id.request_id)
                self._fail(sequence, "The output could not be kept within the constraint.")
                return
        self._outbox.token(sequence, token_id, output.logprobs[index], reason)
        if reason is not None:
            self._scheduler.remove(sequence.id)

    def _fail(self, sequence: Sequence, message: str) -> None:
        self._scheduler.remove(sequence.id)
        self._outbox.failed(sequence.id, RequestError(ErrorCode.GENERATION_ERROR, message))
