"""What a model's text turns out to hold when it may call tools."""

import itertools
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
    told = [event for event in events if isinstance(event, CallBegun) or event.text]
    result: list[ToolEvent] = []
    for kind, run in itertools.groupby(told, type):
        if kind is CallBegun:
            result += run
            continue
        text = "".join(event.text for event in run if not isinstance(event, CallBegun))
        result.append(Content(text) if kind is Content else Arguments(text))
    return result
