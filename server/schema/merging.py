"""LoRAX's `merged_adapters`: several adapters, to be used as one."""

import enum
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from lorax_serve.ipc.types import (
    MAX_MERGED_ADAPTERS,
    MajoritySignMethod,
    MergeStrategy,
    MergeWeight,
)
from lorax_serve.server.request import Merge
from lorax_serve.server.schema.common import invalid

AdapterId = Annotated[str, Meta(min_length=1, max_length=4096)]
Word = Annotated[str, Meta(max_length=64)]

E = TypeVar("E", bound=enum.Enum)


class MergedAdapters(Struct, frozen=True, forbid_unknown_fields=True):
    """LoRAX's clients send all fields, nulls included, and a density where none is used."""

    ids: Annotated[tuple[AdapterId, ...], Meta(min_length=1, max_length=MAX_MERGED_ADAPTERS)]
    weights: tuple[MergeWeight, ...] | None = None  # absent, null or empty: all 1
    merge_strategy: Word | None = None  # linear
    density: Annotated[float, Meta(ge=0, le=1)] | None = None
    majority_sign_method: Word | None = None  # total

    def merge(self, name: str) -> Merge:
        """`name` is the field's name for messages. Raises ServeError on what cannot be meant."""
        strategy = _word(MergeStrategy, self.merge_strategy, f"{name}.merge_strategy")
        method = _word(
            MajoritySignMethod, self.majority_sign_method, f"{name}.majority_sign_method"
        )
        weights = self.weights or (1.0,) * len(self.ids)
        if len(weights) != len(self.ids):
            raise invalid(f"{name}.weights", "must have one number per id")
        # LoRAX's default of 0 prunes everything away, which nobody wants.
        if strategy.prunes and not self.density:
            raise invalid(f"{name}.density", f"must be above 0 for {strategy.value}")
        return Merge(
            adapter_ids=self.ids,
            weights=weights,
            strategy=strategy,
            density=self.density if strategy.prunes else None,
            majority_sign_method=method if strategy.elects_signs else MajoritySignMethod.TOTAL,
        )


def _word(words: type[E], given: str | None, name: str) -> E:
    """The member whose value is `given`, in any letter case; without one the first, LoRAX's own."""
    if given is None:
        return next(iter(words))
    try:
        return words(given.lower())
    except ValueError:
        known = ", ".join(str(word.value) for word in words)
        raise invalid(name, f"must be one of {known}") from None
