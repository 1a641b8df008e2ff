"""Probabilities of labels to what a client reads: labels of a text, or entities in it.

A head's labels have numbers and no names in an adapter's files: they are called LABEL_0, LABEL_1
and so on, as transformers calls them.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from lorax_serve.ipc.messages import PromptPooled
from lorax_serve.ipc.types import HeadKind
from lorax_serve.server.schema.classify import Label
from lorax_serve.server.text.tokenizer import TokenPiece


def labels(answer: PromptPooled, text: str, pieces: Iterable[TokenPiece]) -> list[Label]:
    """`pieces` are those of the prompt, which are not read if the head looks at the whole text."""
    if answer.head is HeadKind.TOKEN:
        return list(_entities(_rows(answer), text, pieces))
    (row,) = _rows(answer)
    ranked = sorted(enumerate(row), key=lambda item: -item[1])
    return [
        Label(entity_group=_name(number), score=score, word="", start=0, end=len(text))
        for number, score in ranked
    ]


def _entities(
    rows: Iterator[Sequence[float]], text: str, pieces: Iterable[TokenPiece]
) -> Iterator[Label]:
    """Neighbouring tokens with the same likeliest label are one; tokens that stand for no text, as
    those that a tokenizer adds, are left out.
    """
    found = (
        (max(enumerate(row), key=lambda item: item[1]), piece)
        for row, piece in zip(rows, pieces, strict=True)
        if piece.stop > piece.start
    )
    for number, group in groupby(found, key=lambda item: item[0][0]):
        members = list(group)
        start, end = members[0][1].start, members[-1][1].stop
        score = sum(score for (_, score), _ in members) / len(members)
        yield Label(
            entity_group=_name(number), score=score, word=text[start:end], start=start, end=end
        )


def _rows(answer: PromptPooled) -> Iterator[Sequence[float]]:
    return struct.iter_unpack(f"<{answer.num_labels}f", answer.vector)


def _name(number: int) -> str:
    return f"LABEL_{number}"
