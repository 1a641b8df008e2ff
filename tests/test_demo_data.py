"""The demo adapters' data and pages: nothing held out was trained on, and the pages say so."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import train_demo_adapters
from demo_data import extract
from demo_data.readme import Answers, readme
from demo_data.task import Task

ADAPTERS = Path(__file__).resolve().parent.parent / "examples" / "adapters"
TASKS = train_demo_adapters.TASKS


def words(prompt: str) -> str:
    """The prompt without punctuation and capitals, which make no question a new one."""
    kept = "".join(c if c.isalnum() else " " for c in prompt.lower())
    return " ".join(kept.split())


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_no_held_out_prompt_is_a_training_prompt(task: Task) -> None:
    trained = {words(example.prompt) for example in task.train}
    held_out = [words(example.prompt) for example in task.held_out]
    assert len(set(held_out)) == len(held_out)
    assert trained.isdisjoint(held_out)
    assert trained.isdisjoint(words(prompt) for prompt in task.samples)


@pytest.mark.parametrize(
    ("slot", "separator"),
    [
        ("templates", "\n"),
        ("first_names", None),
        ("last_names", None),
        ("products", ","),
        ("cities", ","),
    ],
)
def test_held_out_orders_share_no_slot_with_the_training_orders(
    slot: str, separator: str | None
) -> None:
    trained, held_out = (
        {part.strip() for part in getattr(wording, slot).strip().split(separator)}
        for wording in (extract.TRAIN, extract.HELD_OUT)
    )
    assert trained.isdisjoint(held_out)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_pages_are_what_the_generator_writes(task: Task) -> None:
    """All but what was measured: scores and answers."""
    unknown = Answers(dict.fromkeys(task.metric_notes, 0.0), [""] * len(task.samples))
    expected = readme(task, train_demo_adapters.HUB_ID, True, unknown, unknown)
    page = (ADAPTERS / task.name / "README.md").read_text(encoding="utf-8")
    for start, end in (("# ", "| score |"), ("## How it was made", "Apache-2.0")):
        written = page[page.index(start) : page.index(end)]
        assert written == expected[expected.index(start) : expected.index(end)]


def test_the_page_names_the_copy_it_was_measured_on() -> None:
    task = TASKS["pirate"]
    unknown = Answers(dict.fromkeys(task.metric_notes, 0.0), [""] * len(task.samples))
    pages = [readme(task, "base", four_bit, unknown, unknown) for four_bit in (True, False)]
    assert ["Q4_1" in page for page in pages] == [True, False]


def test_four_bit_weights_are_recognised() -> None:
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    for weight, expected in ((weights, False), ((weights * 3).round().clamp(-8, 7), True)):
        model = SimpleNamespace(get_parameter=lambda name, weight=weight: weight)
        assert train_demo_adapters.is_four_bit(model) is expected
