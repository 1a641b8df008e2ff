"""Clients' grammars at the two OpenAI routes, under both of vLLM's names."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from lorax_serve.ipc.types import GrammarKind
from wire import Wire, running

SQL = 'start: "SELECT " NAME " FROM " NAME\nNAME: /[a-z]+/'
TEXT = "SELECT a FROM b"


@pytest.fixture
async def wire(wire_files: Path) -> AsyncIterator[Wire]:
    async with running(wire_files) as served:
        yield served


@pytest.fixture
async def client(wire: Wire) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{wire.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize(
    "extra", [{"structured_outputs": {"grammar": SQL}}, {"guided_grammar": SQL}]
)
async def test_a_grammar_reaches_the_engine(
    wire: Wire, client: AsyncOpenAI, extra: dict[str, Any]
) -> None:
    wire.will_say(TEXT)
    completion = await client.completions.create(model="", prompt="?", extra_body=extra)
    assert completion.choices[0].text == TEXT
    messages: Any = [{"role": "user", "content": "?"}]
    chat = await client.chat.completions.create(model="", messages=messages, extra_body=extra)
    assert chat.choices[0].message.content == TEXT
    for request in wire.engine.requests[-2:]:
        assert request.grammar is not None
        assert request.grammar.kind is GrammarKind.LARK
        assert b"SELECT" in request.grammar.payload


@pytest.mark.parametrize(
    ("grammar", "code", "says"),
    [
        ("start: a", "invalid_grammar", 'unknown name: "a"'),
        ('root ::= "a"', "invalid_grammar", "GBNF"),
        ("start: <|im_end|>", "invalid_grammar", "token"),
        ("start: A\nA: /(x{1000}){1000}/", "schema_too_complex", "too complex"),
    ],
)
async def test_one_that_cannot_be_served_says_why(
    client: AsyncOpenAI, grammar: str, code: str, says: str
) -> None:
    extra = {"structured_outputs": {"grammar": grammar}}
    with pytest.raises(BadRequestError) as caught:
        await client.completions.create(model="", prompt="?", extra_body=extra)
    assert caught.value.code == code
    assert says in caught.value.message


async def test_it_is_the_only_constraint(client: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        await client.completions.create(
            model="", prompt="?", extra_body={"guided_grammar": SQL, "guided_regex": "a"}
        )
    assert "cannot be combined" in caught.value.message
