"""What the scheduler has planned: a step, and whom to turn away."""

from dataclasses import dataclass

from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.sequence import Sequence
from lorax_serve.engine.step import Step


@dataclass(frozen=True, slots=True)
class Rejection:
    """A waiting sequence that can never run, and why."""

    sequence: Sequence
    error: RequestError


@dataclass(frozen=True, slots=True)
class Schedule:
    step: Step
    rejections: tuple[Rejection, ...]
