"""Reasons why an adapter is refused, as people read them: alike ones in one, and not too many."""

import re
from collections.abc import Iterable, Sequence

_LAYER = re.compile(r"\.\d+\.")
_MOST_SHOWN = 5


def grouped(reasons: Iterable[str]) -> list[str]:
    """Those that differ in the number of the layer alone as one, with how many layers there are."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(_LAYER.sub(".*.", reason, count=1), []).append(reason)
    return [
        alike[0] if len(alike) == 1 else f"{kind} ({len(alike)} layers)"
        for kind, alike in kinds.items()
    ]


def joined(reasons: Sequence[str], *, max_bytes: int) -> str:
    """As many as have room, up to five in order but one at least, and how many more there are."""
    most = min(len(reasons), _MOST_SHOWN)
    forms = (_begun(reasons, number) for number in range(most, 0, -1))
    return next(filter(lambda form: _num_bytes(form) <= max_bytes, forms), _begun(reasons, 1))


def _begun(reasons: Sequence[str], number: int) -> str:
    num_more = len(reasons) - number
    return "; ".join(reasons[:number]) + (f"; and {num_more} more" if num_more else "")


def _num_bytes(text: str) -> int:
    return len(text.encode(errors="replace"))
