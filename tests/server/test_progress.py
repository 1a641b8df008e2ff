import pytest
from structlog.testing import capture_logs

from lorax_serve.ipc.messages import LoadProgress
from lorax_serve.server.progress import Progress, ProgressBar, ProgressLines

PHASES = [
    LoadProgress(phase, step / 100)
    for phase in ("Loading weights", "Preparing grammars")
    for step in range(101)
]


def follow(progress: Progress) -> None:
    for report in PHASES:
        progress.update(report)
    progress.close()
    progress.close()


def test_lines_come_at_the_beginning_and_at_each_quarter() -> None:
    with capture_logs() as lines:
        follow(ProgressLines())
    assert [(line["phase"], line["percent"]) for line in lines] == [
        (phase, percent)
        for phase in ("Loading weights", "Preparing grammars")
        for percent in (0, 25, 50, 75, 100)
    ]


def test_a_bar_shows_each_phase_to_its_end_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    follow(ProgressBar())
    captured = capsys.readouterr()
    assert captured.out == ""
    bars = captured.err.split("\n")
    assert len(bars) == 3
    assert "Loading weights" in bars[0]
    assert bars[0].rstrip().endswith("100%")
    assert "Preparing grammars" in bars[1]
    assert bars[1].rstrip().endswith("100%")
    assert bars[2] == ""


def test_a_bar_that_is_not_used_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressBar().close()
    assert capsys.readouterr().err == ""
