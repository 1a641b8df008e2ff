"""What a demo adapter learns: examples to train on, examples held out, and how answers score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """One exchange: the user's message and the assistant's right answer.

    For a held-out style example `answer` is only the word a right answer mentions.
    """

    prompt: str
    answer: str


Score = Callable[[Sequence[Example], Sequence[str]], dict[str, float]]


@dataclass(frozen=True)
class Task:
    """One adapter: its data, its LoRA settings and what its README says.

    lora         keyword arguments of peft.LoraConfig
    dtype        of the saved weights, a torch dtype's name
    score        of (held-out examples, answers): named numbers between 0 and 1, the main one first
    held_out_is  what the held-out examples have to do with the training ones
    metric_notes what each of the score's numbers means
    samples      prompts shown in the README with the answers of base and adapter
    """

    name: str
    title: str
    summary: str
    train: Sequence[Example]
    held_out: Sequence[Example]
    held_out_is: str
    score: Score
    metric_notes: Mapping[str, str]
    samples: Sequence[str]
    lora: Mapping[str, Any]
    dtype: str
    epochs: int
    learning_rate: float
    max_new_tokens: int
