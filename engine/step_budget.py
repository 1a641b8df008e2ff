"""The tokens that one step may compute, and who is given them.

Sequences that have one token to compute come first. What they leave is for prompts, of which the
oldest goes first; but were that all, a tenant's long prompts would fill step after step while
others' short ones wait. So where several tenants have prompts, running or waiting, some of it is
shared by all of them in equal parts before the oldest is given the rest. Not all of it is: long
prompts that are computed at the same time all end late.
"""

from collections import Counter

_SHARED = 4  # one part in so many is shared equally


class StepBudget:
    """One step's tokens, counted down as they are given."""

    def __init__(self, num_tokens: int) -> None:
        self.left = num_tokens
        self._part = num_tokens
        self._used: Counter[str] = Counter()  # of their parts, by tenants

    @property
    def is_whole(self) -> bool:
        """Whether no prompt has been given any of it."""
        return not self._used

    def share(self, num_tenants: int) -> None:
        """What is left is for the prompts of so many tenants."""
        self._part = self.left
        if num_tenants > 1:
            self._part = -(-self.left // (_SHARED * num_tenants))

    def most(self, tenant: str) -> int:
        """Tokens that the tenant's next prompt may be given before all have had their parts."""
        return min(self.left, max(0, self._part - self._used[tenant]))

    def decode(self) -> None:
        """One token, of no tenant's part."""
        self.left -= 1

    def take(self, tenant: str, num_tokens: int) -> None:
        self.left -= num_tokens
        self._used[tenant] += num_tokens

    def give_back(self, tenant: str, num_tokens: int) -> None:
        """A sequence that was given so many tokens will not compute them."""
        self.left += num_tokens
        self._used[tenant] -= min(num_tokens, self._used[tenant])
