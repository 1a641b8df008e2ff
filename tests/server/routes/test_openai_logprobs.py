"""Logprobs in replies of /v1, by the published openai package."""

from typing import Any

from openai.types.chat import ChatCompletion

from client_replies import MESSAGES
from openai_types import fits
from wire import Wire


async def test_logprobs_that_name_tokens_by_their_ids(wire: Wire, client: Any) -> None:
    """In chats the bytes still say what they spell."""
    wire.will_say("ö")
    extra = {"extra_body": {"return_tokens_as_token_ids": True, "return_token_ids": True}}
    reply = await client.chat.completions.create(
        model="", messages=MESSAGES, logprobs=True, top_logprobs=2, **extra
    )
    (choice,) = reply.choices
    content = choice.logprobs.content
    names = [f"token_id:{i}" for i in choice.token_ids[:-1]]  # the last one ended the answer
    assert [each.token for each in content] == names
    assert all(top.token.startswith("token_id:") for each in content for top in each.top_logprobs)
    assert b"".join(bytes(each.bytes) for each in content).decode() == "ö"
    reply = await client.completions.create(model="", prompt="x", logprobs=2, echo=True, **extra)
    (choice,) = reply.choices
    ids = [*choice.prompt_token_ids, *choice.token_ids[:-1]]
    assert choice.logprobs.tokens == [f"token_id:{i}" for i in ids]
    tops = choice.logprobs.top_logprobs[1:]
    assert all(f"token_id:{i}" in top for i, top in zip(ids[1:], tops, strict=True))
    assert all(name.startswith("token_id:") for top in tops for name in top)


async def test_chat_logprobs(wire: Wire, client: Any) -> None:
    wire.will_say("ö")
    reply = await client.chat.completions.create(
        model="", messages=MESSAGES, logprobs=True, top_logprobs=2
    )
    fits(reply, ChatCompletion)
    content = reply.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in content).decode() == "ö"
    assert [len(token.top_logprobs) for token in content] == [2, 2]
    assert content[0].top_logprobs[0].token == "<|endoftext|>"
