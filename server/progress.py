"""How far the start has come: a bar on a terminal, a line now and then elsewhere."""

from typing import Final, Protocol

import structlog
from tqdm import tqdm

from lorax_serve.ipc.messages import LoadProgress

log = structlog.get_logger(__name__)

_BAR_FORMAT: Final = "{desc:<24} {bar:30} {percentage:3.0f}%"
_LINES_PER_PHASE: Final = 4


class Progress(Protocol):
    def update(self, progress: LoadProgress) -> None: ...

    def close(self) -> None:
        """Nothing more will come. May be called more than once."""


class ProgressBar:
    """One bar a phase, on standard error."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def update(self, progress: LoadProgress) -> None:
        if self._bar is None or self._bar.desc != progress.phase:
            self.close()
            self._bar = tqdm(desc=progress.phase, total=1.0, bar_format=_BAR_FORMAT)
        self._bar.n = progress.fraction
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class ProgressLines:
    """A log line where a phase begins and at each further quarter of it."""

    def __init__(self) -> None:
        self._said = ("", -1)

    def update(self, progress: LoadProgress) -> None:
        now = (progress.phase, int(progress.fraction * _LINES_PER_PHASE))
        if now != self._said:
            self._said = now
            log.info("loading", phase=progress.phase, percent=round(progress.fraction * 100))

    def close(self) -> None:
        """Lines need no end."""
