"""What goes wrong in /v1, and the exceptions that the published openai package makes of it."""

from typing import Any

import openai
import pytest

from client_replies import MESSAGES
from fake_engine import Tokens
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import EngineLost, ServeError
from wire import Wire


async def test_unknown_model_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("no/such/model")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="nobody", messages=MESSAGES)


async def test_context_length_has_the_code_clients_match(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="", messages=MESSAGES, max_tokens=1000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="", prompt="long " * 300)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        (ErrorCode.ADAPTER_INCOMPATIBLE, openai.UnprocessableEntityError),
        (ErrorCode.QUEUE_FULL, openai.RateLimitError),
        (ErrorCode.SERVER_SHUTDOWN, openai.InternalServerError),
        (ErrorCode.GENERATION_ERROR, openai.InternalServerError),
    ],
)
async def test_engine_failures(
    wire: Wire, client: Any, code: ErrorCode, raised: type[openai.APIStatusError]
) -> None:
    """Before the first byte a failure has a status of its own, in streams too."""
    wire.engine.script = [ServeError(code, "It failed.")]
    for stream in (False, True):
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(model="", messages=MESSAGES, stream=stream)
        assert caught.value.code == code.value
        assert "It failed." in caught.value.message


async def test_a_stream_that_breaks_raises(wire: Wire, client: Any) -> None:
    wire.engine.script = [Tokens(wire.spell("He")), EngineLost()]
    seen = []
    with pytest.raises(openai.APIError) as caught:
        stream = await client.chat.completions.create(model="", messages=MESSAGES, stream=True)
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)
    assert seen == ["", "He"]
    assert caught.value.code == "engine_lost"
