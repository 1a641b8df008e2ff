"""Sequences that wait for another's prompt to be computed, so that it is computed once."""

from lorax_serve.engine.sequence import Sequence, SequenceId


class PromptFollowers:
    """They are in no queue: whoever waits behind them would wait for that prompt too."""

    def __init__(self) -> None:
        self._by_leader: dict[SequenceId, list[Sequence]] = {}
        self._leaders: dict[SequenceId, SequenceId] = {}  # by follower

    def __len__(self) -> int:
        return len(self._leaders)

    def hold(self, sequence: Sequence, leader: SequenceId) -> None:
        self._by_leader.setdefault(leader, []).append(sequence)
        self._leaders[sequence.id] = leader

    def release(self, leader: SequenceId) -> list[Sequence]:
        """The leader's prompt is computed, or never will be: its followers, by arrival."""
        released = self._by_leader.pop(leader, [])
        for sequence in released:
            del self._leaders[sequence.id]
        return released

    def discard(self, sequence: Sequence) -> bool:
        """A follower ends; False if the sequence is none."""
        leader = self._leaders.pop(sequence.id, None)
        if leader is None:
            return False
        self._by_leader[leader].remove(sequence)
        return True
