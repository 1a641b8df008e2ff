"""Stop strings found in a text that arrives in pieces.

The Aho-Corasick automaton (Aho and Corasick, "Efficient string matching", CACM 18(6), 1975): after
each character, the state is the longest end of the text that begins some stop string. That length
is exactly what must be held back, since the rest can no longer become part of a match.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopResult:
    emit: str  # text that is now certain
    matched: str | None = None  # the stop string that ended the text


class StopMatcher:
    """The first stop string to be complete ends the text; of several at that place, the longest.

    So the outcome depends on the text alone, never on how it was split. Characters are compared as
    they are: no case folding, no normalization.

    With `keep`, the stop string stays at the end of the text, and nothing is ever held back.
    """

    def __init__(self, stop_strings: Sequence[str], *, keep: bool = False) -> None:
        if "" in stop_strings:
            raise ValueError("a stop string must not be empty")
        self._keep = keep
        self._first = frozenset(stop[0] for stop in stop_strings)
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]  # state -> characters of the text it stands for
        self._fallback = [0]  # state -> the state of the longest shorter end of the text
        self._match = [""]  # state -> the longest stop string that ends here
        for stop in stop_strings:
            self._insert(stop)
        self._link()
        self._state = 0
        self._held = ""
        self._ended = False

    def push(self, text: str) -> StopResult:
        """Text in, text out. After a match everything further is dropped."""
        if self._ended:
            return StopResult("")
        if self._state == 0 and self._first.isdisjoint(text):
            return StopResult(text)
        for place, character in enumerate(text, start=1):
            self._step(character)
            if self._match[self._state]:
                return self._end(text[:place])
        if self._keep:
            return StopResult(text)
        seen = self._held + text
        num_certain = len(seen) - self._depth[self._state]
        self._held = seen[num_certain:]
        return StopResult(seen[:num_certain])

    def flush(self) -> str:
        """The text is over: what was held back belongs to it."""
        held, self._held = self._held, ""
        self._ended = True
        return held

    def _end(self, text: str) -> StopResult:
        matched = self._match[self._state]
        seen = self.flush() + text
        return StopResult(seen if self._keep else seen[: -len(matched)], matched)

    def _step(self, character: str) -> None:
        while self._state and character not in self._next[self._state]:
            self._state = self._fallback[self._state]
        self._state = self._next[self._state].get(character, 0)

    def _insert(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._fallback.append(0)
                self._match.append("")
            state = self._next[state][character]
        self._match[state] = stop

    def _link(self) -> None:
        """Breadth first, so that every shorter state is linked before it is fallen back on."""
        queue = deque(self._next[0].values())
        while queue:
            parent = queue.popleft()
            for character, state in self._next[parent].items():
                self._state = self._fallback[parent]
                self._step(character)
                self._fallback[state] = self._state
                self._match[state] = self._match[state] or self._match[self._state]
                queue.append(state)
