"""What a model's text turns out to hold when it may call tools."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the JSON text of the newest call's arguments, as the model wrote it."""

    text: str


ToolEvent = Content | CallBegun | Arguments


class ToolReader(Protocol):
    """Reads one choice's text as it grows. Work is linear in the text."""

    def push(self, text: str) -> list[ToolEvent]:
        """What has become certain with this text."""

    def finish(self) -> list[ToolEvent]:
        """No more text comes: what was held back."""


def joined(events: list[ToolEvent]) -> list[ToolEvent]:
    """Neighbours of one kind as one; empty ones left out, but for calls."""
    result: list[ToolEvent] = []
    for event in events:
        match event, result[-1] if result else None:
            case (Content(""), _) | (Arguments(""), _):
                continue
            case Content(text), Content(before):
                result[-1] = Content(before + text)
            case Arguments(text), Arguments(before):
                result[-1] = Arguments(before + text)
            case _:
                result.append(event)
    return result
