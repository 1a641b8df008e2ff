"""What an error suggests instead of a name that is not there, and what it never does."""

from collections.abc import Awaitable, Callable

import pytest

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.name_hints import NameHints
from wire import Wire


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("alise", "alice"),
        ("Alice", "alice"),
        ("team/op", "team/ops"),
        ("ops", None),
        ("bob", None),
        ("", None),
        ("alice" * 1000, None),
    ],
)
async def test_the_closest_name(name: str, meant: str | None) -> None:
    async def closest() -> str | None:
        return await NameHints(listing("team/ops", "alice", "zebra")).closest(name)

    assert await closest() == meant


def listing(*names: str) -> Callable[[], Awaitable[list[str]]]:
    async def answer() -> list[str]:
        return list(names)

    return answer


async def test_folders_that_cannot_be_listed_give_no_hint_for_a_while() -> None:
    looks = []

    async def hanging() -> list[str]:
        looks.append(None)
        raise ServeError(ErrorCode.ADAPTER_UNAVAILABLE, "Too slow.")

    hints = NameHints(hanging)
    assert await hints.closest("alic") is None and await hints.closest("alic") is None
    assert len(looks) == 1


async def test_among_thousands() -> None:
    hints = NameHints(listing(*(f"customer-{number:05d}" for number in range(5000))))
    assert await hints.closest("customer_04321") == "customer-04321"
    assert await hints.closest("custmer-00017") == "customer-00017"


async def test_however_many_errors_the_folders_are_looked_at_now_and_then() -> None:
    looks = []
    now = [0.0]

    async def names() -> list[str]:
        looks.append(now[0])
        return ["alice"] if now[0] < 10 else ["alina"]

    hints = NameHints(names, lambda: now[0])
    assert {await hints.closest("alic") for _ in range(50)} == {"alice"}
    assert looks == [0.0]
    now[0] = 11.0
    assert await hints.closest("alin") == "alina"
    assert looks == [0.0, 11.0]


async def test_a_client_is_told(wire: Wire) -> None:
    reply = await wire.client.post("/v1/completions", json={"model": "alise", "prompt": "x"})
    error = (await reply.json())["error"]
    assert reply.status == 404 and error["code"] == ErrorCode.MODEL_NOT_FOUND.value
    assert error["message"] == "Model 'alise' does not exist. Did you mean 'alice'?"
    body = {"inputs": "x", "parameters": {"adapter_id": "alise"}}
    native = await (await wire.client.post("/generate", json=body)).json()
    assert native["error"] == "Adapter 'alise' does not exist. Did you mean 'alice'?"
