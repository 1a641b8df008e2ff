"""/tokenize in both shapes and /detokenize, against Hugging Face's own tokenizer."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer

from lorax_serve.server.service import Limits
from tool_chats import CLOCK, TEMPLATE, WEATHER
from wire import Wire, files_with_bos, running

TEXT = "Hello  wörld 😀 <|im_start|>x"


async def post(wire: Wire, path: str, **body: object) -> Any:
    reply = await wire.client.post(path, json=body)
    assert reply.status == 200, await reply.text()
    return await reply.json()


async def refused(wire: Wire, path: str, body: object) -> str:
    """The sentence of a validation error in LoRAX's shape."""
    reply = await wire.client.post(path, json=body)
    error = await reply.json()
    assert (reply.status, error["error_type"]) == (422, "validation")
    assert set(error) == {"error", "error_type"}
    return str(error["error"])


@pytest.fixture
def theirs(wire_files: Path) -> RustTokenizer:
    return RustTokenizer.from_file(str(wire_files / "model" / "tokenizer.json"))


async def test_loraxs_shape(wire: Wire, theirs: RustTokenizer) -> None:
    got = await post(wire, "/tokenize", inputs=TEXT)
    expected = theirs.encode(TEXT)
    assert got == [
        {"id": token_id, "text": token, "start": start, "stop": stop}
        for token_id, token, (start, stop) in zip(
            expected.ids, expected.tokens, expected.offsets, strict=True
        )
    ]
    at = TEXT.index("<|im_start|>")
    assert got[-2] | {"id": 0} == {
        "id": 0,
        "text": "<|im_start|>",
        "start": at,
        "stop": at + len("<|im_start|>"),
    }


async def test_nothing_to_tokenize(wire: Wire) -> None:
    assert await post(wire, "/tokenize", inputs="") == []
    assert (await post(wire, "/tokenize", prompt=""))["tokens"] == []
    assert await post(wire, "/detokenize", tokens=[]) == {"prompt": ""}


@pytest.mark.parametrize("add", [True, False, None])
async def test_special_tokens(wire_files: Path, tmp_path: Path, add: bool | None) -> None:
    """None is LoRAX's default, which adds them."""
    files = files_with_bos(wire_files, tmp_path)
    async with running(files) as wire:
        pieces = await post(wire, "/tokenize", inputs="hi", add_special_tokens=add)
        ids = (await post(wire, "/tokenize", prompt="hi", add_special_tokens=add))["tokens"]
    assert [piece["id"] for piece in pieces] == ids
    added = [piece for piece in pieces if piece["text"] == "<|endoftext|>"]
    assert [(piece["start"], piece["stop"]) for piece in added] == (
        [] if add is False else [(0, 0)]
    )


async def test_a_template_spells_special_tokens_out(wire_files: Path, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    async with running(files_with_bos(wire_files, tmp_path)) as wire:
        plain = (await post(wire, "/tokenize", messages=messages))["tokens"]
        more = (await post(wire, "/tokenize", messages=messages, add_special_tokens=True))["tokens"]
        bos = wire.token(b"<|endoftext|>")
    assert more == [bos, *plain]


async def test_vllms_shape(wire: Wire, theirs: RustTokenizer) -> None:
    expected = theirs.encode(TEXT)
    got = await post(wire, "/tokenize", model="whatever", prompt=TEXT)
    assert got == {
        "count": len(expected.ids),
        "max_model_len": 256,
        "tokens": expected.ids,
        "token_strs": None,
    }
    got = await post(wire, "/tokenize", prompt=TEXT, return_token_strs=True)
    assert got["token_strs"] == expected.tokens


async def test_tools_are_tokenized_as_a_chat_request_would_be(
    wire_files: Path, tmp_path: Path
) -> None:
    """And so refused, by a template that shows none."""
    messages = [{"role": "user", "content": "hi"}]
    shutil.copytree(wire_files, tmp_path, dirs_exist_ok=True)
    async with running(tmp_path) as wire:
        body = {"messages": messages, "tools": [WEATHER]}
        assert "shows no tools" in await refused(wire, "/tokenize", body)
    (tmp_path / "model" / "chat_template.jinja").write_text(TEMPLATE)
    async with running(tmp_path) as wire:
        got = await post(wire, "/tokenize", messages=messages, tools=[WEATHER, CLOCK])
        wire.will_say("ok")
        asked = {"messages": messages, "tools": [WEATHER, CLOCK]}
        await post(wire, "/v1/chat/completions", model="", **asked)
        assert got["tokens"] == wire.engine.requests[0].prompt_token_ids
        bare = await post(wire, "/tokenize", messages=messages)
        assert bare["count"] < got["count"]
        none = await post(wire, "/tokenize", messages=messages, tools=[])
        assert none == bare


async def test_messages_are_tokenized_as_a_chat_request_would_be(wire: Wire) -> None:
    messages = [{"role": "user", "content": "hi"}]
    got = await post(wire, "/tokenize", messages=messages)
    wire.will_say("ok")
    await post(wire, "/v1/chat/completions", model="", messages=messages)
    assert got["tokens"] == wire.engine.requests[0].prompt_token_ids
    bare = await post(wire, "/tokenize", messages=messages, add_generation_prompt=False)
    assert got["tokens"][: bare["count"]] == bare["tokens"]
    assert bare["count"] < got["count"]


@settings(
    max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_a_text_comes_back_as_it_was(wire_files: Path, text: str) -> None:
    async def there_and_back() -> None:
        async with running(wire_files) as wire:
            tokens = (await post(wire, "/tokenize", prompt=text))["tokens"]
            assert await post(wire, "/detokenize", tokens=tokens) == {"prompt": text}

    asyncio.run(there_and_back())


async def test_special_tokens_are_part_of_a_detokenized_text(wire: Wire) -> None:
    assert await post(wire, "/detokenize", tokens=[wire.eos]) == {"prompt": "<|im_end|>"}


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/tokenize", {}, "`inputs` is required, or `prompt`, or `messages`"),
        ("/tokenize", {"inputs": None}, "`inputs` is required"),
        ("/tokenize", {"inputs": 5}, "`inputs`"),
        ("/tokenize", {"inputs": "a", "prompt": "a"}, "`prompt` cannot be given beside `inputs`"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": "yes"}, "`add_special_tokens`"),
        ("/tokenize", {"messages": []}, "`messages`"),
        ("/tokenize", {"messages": [{"role": "king"}]}, "`messages[0].role`"),
        ("/tokenize", {"messages": [{"role": "user"}], "chat_template": "x"}, "`chat_template`"),
        ("/tokenize", {"messages": [{"role": "user"}], "tools": [1]}, "`tools[0]`"),
        ("/detokenize", {}, "`tokens` is required"),
        ("/detokenize", {"tokens": [-1]}, "`tokens[0]`"),
        ("/detokenize", {"tokens": [384]}, "outside the vocabulary of 384"),
    ],
)
async def test_refusals_name_the_field(wire: Wire, path: str, body: object, named: str) -> None:
    assert named in await refused(wire, path, body)


async def test_unknown_fields_are_named(wire: Wire) -> None:
    for path, body in [("/tokenize", {"inputs": "a"}), ("/detokenize", {"tokens": [5]})]:
        reply = await wire.client.post(path, json=body | {"colour": 1})
        assert (reply.status, reply.headers["x-ignored-params"]) == (200, "colour")


async def test_as_much_text_as_truncate_could_rescue(wire_files: Path) -> None:
    async with running(wire_files, Limits(max_untruncated_tokens=300)) as wire:
        text = "ö" * 150  # longer than the model takes
        assert (await post(wire, "/tokenize", prompt=text))["count"] == 300
        assert len(await post(wire, "/tokenize", inputs=text)) == 300
        assert "at most 300" in await refused(wire, "/tokenize", {"inputs": text + "ö"})
        assert "at most 300" in await refused(wire, "/tokenize", {"prompt": text + "ö"})
        tokens = wire.spell(text)
        assert await post(wire, "/detokenize", tokens=tokens) == {"prompt": text}
        assert "more than 300" in await refused(wire, "/detokenize", {"tokens": [*tokens, 5]})


async def test_long_texts_leave_the_loop_free(wire: Wire) -> None:
    """Another request is answered while a text is read that takes a thousand times as long."""
    text = "word and another " * 6000
    whole = asyncio.ensure_future(wire.client.post("/tokenize", json={"inputs": text}))
    while not whole.done():
        assert (await wire.client.get("/health")).status == 200
    pieces = await (await whole).json()
    assert [pieces[0]["start"], pieces[-1]["stop"]] == [0, len(text)]
    ids = [piece["id"] for piece in pieces]
    assert await post(wire, "/detokenize", tokens=ids) == {"prompt": text}


async def test_more_at_a_time_than_there_are_places(wire_files: Path) -> None:
    async with running(wire_files, Limits(max_concurrent_requests=1)) as wire:
        wanted = [
            wire.client.post("/tokenize", json={"inputs": "word " * 20_000}) for _ in range(12)
        ]
        replies = await asyncio.gather(*wanted)
        assert {reply.status for reply in replies} == {200, 429}
        (kind,) = {(await r.json())["error_type"] for r in replies if r.status == 429}
        assert kind == "overloaded"
        wire.will_say("ok")
        await post(wire, "/generate", inputs="hi")


async def test_before_the_engine_is_ready(wire: Wire) -> None:
    wire.engine.is_ready = False
    reply = await wire.client.post("/tokenize", json={"inputs": "a"})
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    ("data", "content_type", "status", "kind"),
    [
        (b"{", "application/json", 400, "bad_request"),
        (b"[]", "application/json", 422, "validation"),
        (b'{"inputs": "\\ud800"}', "application/json", 400, "bad_request"),
        (b'{"inputs": "a"}', "text/plain", 415, "unsupported_media_type"),
        (b" " * 5000, "application/json", 413, "payload_too_large"),
    ],
)
async def test_what_is_no_such_body(
    wire_files: Path, path: str, data: bytes, content_type: str, status: int, kind: str
) -> None:
    async with running(wire_files, Limits(max_body_bytes=4096)) as wire:
        headers = {"Content-Type": content_type}
        reply = await wire.client.post(path, data=data, headers=headers)
        assert (reply.status, (await reply.json())["error_type"]) == (status, kind)
