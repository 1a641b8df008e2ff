"""Replies as they leave, byte for byte, to be held against files that were read by people.

A transcript is a status, the headers and the body. Left out are headers of the transport; what
differs each time is masked.
"""

import re
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import ClientPayloadError, ClientResponse

from fake_engine import Step, Tokens
from lorax_serve.ipc.types import FinishReason
from wire import Wire

TRANSPORT = {"date", "server", "x-request-id", "transfer-encoding", "content-length"}
DRAWN_ID = re.compile(rb'(?<="id":")(?P<kind>chatcmpl|cmpl|call)[-_][0-9a-zA-Z]+(?=")')
NOW = re.compile(rb'(?<="created":)\d+')
FINGERPRINT = re.compile(rb'(?<="system_fingerprint":")fp_[0-9a-f]+(?=")')
TIME_HEADER = re.compile(rb"(?m)^(x-[a-z-]*time[a-z-]*): \d+$")


def script(wire: Wire, says: str, ends: Sequence[Step] = ()) -> list[Step]:
    """One token for each byte of `says`, then `ends` or else the end token. A byte of a `Tokens`
    in `ends` is an id only once it is spelled.
    """
    steps: list[Step] = [Tokens([token_id]) for token_id in wire.spell(says)]
    for step in ends or [Tokens([wire.eos], FinishReason.EOS)]:
        if isinstance(step, Tokens) and ends:
            step = Tokens([wire.token(bytes([byte])) for byte in step.ids], step.finish)
        steps.append(step)
    return steps


async def transcript(reply: ClientResponse, *, so_far: bytes = b"") -> bytes:
    """All that came of it, also if the connection broke."""
    body = bytearray(so_far)
    with suppress(ClientPayloadError):
        async for piece in reply.content.iter_any():
            body += piece
    shown = sorted(
        f"{name.lower()}: {value}\n"
        for name, value in reply.headers.items()
        if name.lower() not in TRANSPORT
    )
    return f"{reply.status}\n{''.join(shown)}\n".encode() + bytes(body)


def masked(text: bytes) -> bytes:
    """Drawn ids numbered in their order, so that which of them are the same still shows."""
    numbers: dict[bytes, int] = {}

    def name(found: re.Match[bytes]) -> bytes:
        number = numbers.setdefault(found[0], len(numbers) + 1)
        return b"<%s %d>" % (found["kind"], number)

    text = TIME_HEADER.sub(rb"\1: <ms>", DRAWN_ID.sub(name, text))
    return FINGERPRINT.sub(b"<fp>", NOW.sub(b"<now>", text))
