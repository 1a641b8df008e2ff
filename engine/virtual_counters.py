"""Who of several clients is next: the one that was served least, in weighted tokens.

Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024,
arXiv:2401.00588): a client's counter grows with what it is served, and who begins to wait is lifted
to a level, so that nobody saves up turns by staying away. In the paper that is the least counter of
those who wait. Where new clients keep coming, as with thousands of adapters, each of them would so
go before one that was served a little more, which waits for ever. Here the level is a virtual time,
as in fair queueing of packets (Bennett and Zhang, "WF2Q: Worst-case Fair Weighted Fair Queueing",
INFOCOM 1996): it grows by what is served, divided by the number of clients that have anything here,
and is never below the least counter of those who wait, nor below that of whoever was admitted last.

What that comes to, where M is the most that requests in service can still be charged:

- Of clients that all wait all the time, what two are served differs by 2 M at most, however large
  the requests of each are (theorem 4.4 of the paper: nobody is lifted meanwhile).
- A client that begins to wait d above the level, with n clients here, is next after at most
  n (d + M) tokens, whoever comes meanwhile: by then the level is above its counter.
"""

from collections import Counter

_MAX_REMEMBERED = 512  # clients that have nothing here


class VirtualCounters:
    """The clients of one level, named by strings."""

    def __init__(self, max_saved: int = 0) -> None:
        """A client may begin to wait so far below the level, if it was served that much less:
        requests come in bursts, and who sent few for a while would else wait as if the one beside
        it, that never stops asking, had been as modest.
        """
        self._max_saved = max_saved
        self._values: dict[str, float] = {}  # the last one served last
        self._level = 0.0
        self._num_live: Counter[str] = Counter()  # sequences that wait or run
        self._waiting: set[str] = set()

    def __getitem__(self, client: str) -> float:
        return self._values.get(client, self._level)

    def __len__(self) -> int:
        return len(self._values)

    def began(self, client: str) -> None:
        """A sequence of the client is here."""
        self._num_live[client] += 1

    def ended(self, client: str) -> list[str]:
        """One of them is gone. Who is forgotten, as too many that have nothing here are known."""
        self._num_live[client] -= 1
        if self._num_live[client] == 0:
            del self._num_live[client]
        return self._forget()

    def arrive(self, client: str) -> None:
        """The client begins to wait."""
        if self._waiting:
            self._level = max(self._level, min(map(self.__getitem__, self._waiting)))
        lifted = max(self._values.pop(client, 0.0), self._level - self._max_saved)
        self._values[client] = lifted
        self._waiting.add(client)

    def leave(self, client: str) -> None:
        """None of the client's sequences waits any more."""
        self._waiting.remove(client)
        if not self._waiting:
            self._level = max(self._level, self[client])

    def admitted(self, client: str) -> None:
        """The client's turn has come; it is charged afterwards. Whoever has less stands aside, as
        its adapter is not here: that must not let newcomers pass the client until it has caught up
        (start-time fair queueing: the level is where service is).
        """
        self._level = max(self._level, self[client])

    def charge(self, client: str, amount: int) -> None:
        """The client is served. Where nobody waits, nobody owes anybody anything for it."""
        value = self._values[client] = self._values.pop(client, self._level) + amount
        if self._waiting:
            self._level += amount / max(1, len(self._num_live))
        else:
            self._level = max(self._level, value)

    def _forget(self) -> list[str]:
        num_excess = len(self._values) - len(self._num_live) - _MAX_REMEMBERED
        if num_excess <= 0:
            return []
        idle = [client for client in self._values if client not in self._num_live]
        for client in idle[:num_excess]:
            del self._values[client]
        return idle[:num_excess]
