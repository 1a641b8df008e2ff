"""Requests rendered by the templates of published models, as transformers renders them."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError
from lorax_serve.server.schema.chat import CHAT, chat_conversation
from lorax_serve.server.text import chat_template_environment
from lorax_serve.server.text.chat_template import ChatTemplate
from oracle_tokenizer import load_oracle
from published_templates import FAMILIES, SPECIAL_TOKENS, all_names, published
from tiny_tokenizers import write_byte_level

Turns = list[dict[str, Any]]

CONFIG = json.dumps({**SPECIAL_TOKENS, "tokenizer_class": "PreTrainedTokenizerFast"})

SYSTEM = {"role": "system", "content": "Be brief. <b>&amp;</b>"}
USER = {"role": "user", "content": "How warm is it in Köln? 你好 😀 {{ 7 * 7 }}"}
ANSWER = {"role": "assistant", "content": "Nine degrees."}
THANKS = {"role": "user", "content": "Thanks!"}
ARGUMENTS = {"city": "Çanakkale", "days": [1, 2.5, None], "deep": {"x": True}}
TOOLS: Turns = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather, <now>.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "é"}},
                "required": ["city"],
            },
        },
    }
]
DOCUMENTS: Turns = [{"title": "Köln", "text": "A <monsoon>."}]


def call(arguments: object) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": "a1b2c3d4e", "type": "function", "function": function}


def history(content: str | None, arguments: object) -> Turns:
    return [
        USER,
        {"role": "assistant", "content": content, "tool_calls": [call(arguments)]},
        {"role": "tool", "content": '{"c": 9}', "tool_call_id": "a1b2c3d4e"},
    ]


JSON_TEXT = json.dumps(ARGUMENTS)
PARTS = [{"type": "text", "text": "How "}, {"type": "text", "text": "warm?"}]
# What a client sends, and what transformers is shown where that is something else.
CASES: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a turn": ({"messages": [USER]}, {}),
    "system": ({"messages": [SYSTEM, USER]}, {}),
    "turns": ({"messages": [SYSTEM, USER, ANSWER, THANKS]}, {}),
    "no prompt": ({"messages": [USER, ANSWER], "add_generation_prompt": False}, {}),
    "twice the user": ({"messages": [USER, USER]}, {}),
    "empty": ({"messages": [{"role": "user", "content": ""}]}, {}),
    "null": (
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": ""}]},
    ),
    "parts": (
        {"messages": [{"role": "user", "content": PARTS}]},
        {"messages": [{"role": "user", "content": "How warm?"}]},
    ),
    "thoughts off": (
        {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}},
        {"enable_thinking": False},
    ),
    "past thoughts": (
        {"messages": [USER, {**ANSWER, "reasoning_content": "It is cold."}, THANKS]},
        {},
    ),
    "tools": ({"messages": [SYSTEM, USER], "tools": TOOLS}, {}),
    "tool history": (
        {"messages": history(None, JSON_TEXT), "tools": TOOLS},
        {"messages": history(None, ARGUMENTS)},
    ),
    "tool history with words": (
        {"messages": [*history("Let me see.", JSON_TEXT), ANSWER, THANKS], "tools": TOOLS},
        {"messages": [*history("Let me see.", ARGUMENTS), ANSWER, THANKS]},
    ),
    "tool history without tools": (
        {"messages": history("", JSON_TEXT)},
        {"messages": history("", ARGUMENTS)},
    ),
    "continued": (
        {"messages": [USER, {"role": "assistant", "content": "It is "}]}
        | {"continue_final_message": True},
        {},
    ),
    "continued nothing": (
        {"messages": [USER, {"role": "assistant", "content": ""}], "continue_final_message": True},
        {},
    ),
    "documents": ({"messages": [USER], "documents": DOCUMENTS}, {}),
}


@pytest.fixture(autouse=True)
def _one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Day(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2026, 3, 4, 5, 6)

    for module in (chat_template_environment, chat_template_utils):
        monkeypatch.setattr(module, "datetime", Day)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("oracle")
    write_byte_level(folder)
    (folder / "tokenizer_config.json").write_text(CONFIG)
    return load_oracle(folder)


def load(folder: Path, name: str) -> ChatTemplate:
    (folder / "tokenizer_config.json").write_text(CONFIG)
    (folder / "chat_template.jinja").write_text(published(name))
    template = ChatTemplate.from_folder(folder)
    assert template is not None
    return template


def ours(template: ChatTemplate, request: dict[str, Any]) -> str | ServeError:
    tools = request.get("tools")
    fields = {name: value for name, value in request.items() if name != "tools"}
    body, ignored = CHAT.parse(json.dumps({"model": "", **fields}).encode())
    assert not ignored
    asked = chat_conversation(body, shows_effort=False)
    try:
        return template.render(
            asked.messages,
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message,
            tools=tools,
            documents=asked.documents,
            extra=asked.kwargs,
        )
    except ServeError as error:
        return error


def theirs(oracle: Any, name: str, request: dict[str, Any], shown: dict[str, Any]) -> str | None:
    """None where it is refused."""
    fields = {"add_generation_prompt": "continue_final_message" not in request, **request, **shown}
    fields.pop("chat_template_kwargs", None)
    conversation = fields.pop("messages")
    try:
        text: str = oracle.apply_chat_template(
            conversation, chat_template=published(name), tokenize=False, **fields
        )
    except Exception:  # of the template's, or of Python: whatever its expressions raise
        return None
    return text


def check(template: ChatTemplate, oracle: Any, name: str, case: str) -> None:
    request, shown = CASES[case]
    got, expected = ours(template, request), theirs(oracle, name, request, shown)
    if isinstance(got, str) or "does not read" not in got.message:
        assert (got if isinstance(got, str) else None) == expected, (name, case)
    elif expected is not None:  # what would have been left out without a word
        assert ("anakkale" if "tool calls" in got.message else "monsoon") not in expected, (
            name,
            case,
        )
    if isinstance(got, ServeError):
        assert got.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("name", FAMILIES)
def test_as_transformers_renders_it(tmp_path: Path, oracle: Any, name: str) -> None:
    template = load(tmp_path, name)
    for case in CASES:
        check(template, oracle, name, case)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_developer_is_a_system_where_no_developer_is_known(
    tmp_path: Path, oracle: Any, name: str
) -> None:
    template = load(tmp_path, name)
    request = {"messages": [{**SYSTEM, "role": "developer"}, USER]}
    knows = re.search(r"""(["'])developer\1""", published(name))
    shown = request if knows else {"messages": [SYSTEM, USER]}
    got, expected = ours(template, request), theirs(oracle, name, request, shown)
    assert (got if isinstance(got, str) else None) == expected


@pytest.mark.slow
def test_every_template_there_is(tmp_path: Path, oracle: Any) -> None:
    for name in all_names():
        template = load(tmp_path, name)
        for case in CASES:
            check(template, oracle, name, case)
