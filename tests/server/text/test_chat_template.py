import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils as template_utils

from chat_templates import CHATML, QWEN, STYLES, Style
from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.text import chat_template
from lorax_serve.server.text.chat_template import ChatTemplate
from lorax_serve.server.text.chat_template_environment import Budget
from oracle_tokenizer import load_oracle
from tiny_tokenizers import write_byte_level

Conversation = list[dict[str, Any]]

SYSTEM = {"role": "system", "content": "Be brief. <b>&amp;</b>"}
USER = {"role": "user", "content": '  Hi, "naïve" 你好 😀 {{ 7 * 7 }}\n'}
ASSISTANT = {"role": "assistant", "content": " Hello <there> "}
CONVERSATIONS: Mapping[str, Conversation] = {
    "one turn": [USER],
    "system": [SYSTEM, USER],
    "two turns": [USER, ASSISTANT, {"role": "user", "content": "And?"}],
    "system and two turns": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT, USER],
}
TOOLS: Conversation = [
    {"type": "function", "function": {"name": "sum", "parameters": {"b": "é<>", "a": [1, None]}}}
]


def write(folder: Path, style: Style) -> Path:
    """A tokenizer folder of that style, without any token of its own choice."""
    config = {
        **style.special_tokens,
        "tokenizer_class": style.tokenizer_class,
        "chat_template": style.template,
        "added_tokens_decoder": {},
    }
    write_byte_level(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def template(folder: Path, source: str) -> ChatTemplate:
    loaded = ChatTemplate.from_folder(write(folder, Style(source, {"bos_token": "<s>"})))
    assert loaded is not None
    return loaded


@pytest.mark.parametrize("talk", CONVERSATIONS)
@pytest.mark.parametrize("name", STYLES)
def test_rendered_as_transformers_renders_it(tmp_path: Path, name: str, talk: str) -> None:
    style, messages = STYLES[name], CONVERSATIONS[talk]
    folder = write(tmp_path, style)
    ours, theirs = ChatTemplate.from_folder(folder), load_oracle(folder)
    assert ours is not None
    if SYSTEM in messages and not style.takes_system:
        with pytest.raises(ServeError, match="System role not supported"):
            ours.render(messages)
        return
    for prompt in (True, False):
        for tools in (None, TOOLS):
            expected = theirs.apply_chat_template(
                messages, tools=tools, add_generation_prompt=prompt, tokenize=False
            )
            assert ours.render(messages, tools=tools, add_generation_prompt=prompt) == expected
            assert USER["content"].strip() in expected


def test_extra_variables(tmp_path: Path) -> None:
    folder = write(tmp_path, STYLES["qwen"])
    ours, theirs = ChatTemplate.from_folder(folder), load_oracle(folder)
    assert ours is not None
    expected = theirs.apply_chat_template(
        [USER], add_generation_prompt=True, tokenize=False, enable_thinking=False
    )
    assert ours.render([USER], extra={"enable_thinking": False}) == expected
    assert "<think>" in expected and "<think>" not in ours.render([USER])


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token"])
def test_extra_variables_replace_none_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServeError, match=name) as refused:
        template(tmp_path, CHATML).render([USER], extra={name: "x"})
    assert refused.value.code is ErrorCode.INVALID_REQUEST


def named(**templates: str) -> list[dict[str, str]]:
    return [{"name": name, "template": text} for name, text in templates.items()]


def test_named_templates(tmp_path: Path) -> None:
    folder = write(tmp_path, Style(""))
    config = {"chat_template": named(default="plain", tool_use="tools", rag="rag")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ours = ChatTemplate.from_folder(folder)
    assert ours is not None
    assert (ours.render([USER]), ours.render([USER], tools=TOOLS)) == ("plain", "tools")


def test_template_files_go_first(tmp_path: Path) -> None:
    folder = write(tmp_path, Style("config", {"bos_token": "<s>"}))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}file\n")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    ours, theirs = ChatTemplate.from_folder(folder), load_oracle(folder)
    assert ours is not None
    for tools in (None, TOOLS):
        expected = theirs.apply_chat_template([USER], tools=tools, tokenize=False)
        assert ours.render([USER], tools=tools) == expected
    assert ours.render([USER]) == "<s>file"


def test_no_template(tmp_path: Path) -> None:
    assert ChatTemplate.from_folder(tmp_path) is None
    write_byte_level(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": null}')
    assert ChatTemplate.from_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{% for %}", "does not parse"),
        ("{% break %}", "does not parse"),
        (named(rag="x"), "none of them is named 'default'"),
        (7, "must be a text or named texts"),
        ([7], "must be a text or named texts"),
        ([{"name": "default"}], "must be a text or named texts"),
    ],
)
def test_a_template_that_cannot_be_used_ends_the_start(
    tmp_path: Path, value: object, words: str
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(StartError, match=words):
        ChatTemplate.from_folder(tmp_path)


def test_a_template_file_that_is_no_text_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match="cannot be read"):
        ChatTemplate.from_folder(tmp_path)


def test_the_templates_own_refusal_is_passed_on_bounded(tmp_path: Path) -> None:
    ours = template(tmp_path, "{{ raise_exception('no: ' + messages[0].content) }}")
    with pytest.raises(ServeError) as short:
        ours.render([{"role": "user", "content": "this"}])
    with pytest.raises(ServeError) as long:
        ours.render([{"role": "user", "content": "x" * 5000}])
    assert (short.value.message, short.value.param) == ("no: this", "messages")
    assert short.value.code is long.value.code is ErrorCode.INVALID_REQUEST
    assert len(long.value.message) < 320


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].absent.absent }}",
        "{{ 1 // 0 }}",
        "{{ undefined_function() }}",
        "{{ {}['a'] | tojson }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(200000) %}x{% endfor %}",
    ],
)
def test_any_other_failure_shows_nothing_of_itself(tmp_path: Path, source: str) -> None:
    with pytest.raises(ServeError) as failed:
        template(tmp_path, source).render([USER])
    assert failed.value.code is ErrorCode.INVALID_REQUEST
    assert failed.value.message == "The model's chat template cannot render these messages."


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{{ raise_exception.__globals__.items() }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ (messages | attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__[1].__subclasses__}'.format(messages) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ lipsum.__globals__['os'] }}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{% set _ = messages[0].update({'role': 'x'}) %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(tmp_path: Path, source: str) -> None:
    messages = [dict(USER)]
    with pytest.raises(ServeError, match="cannot render"):
        template(tmp_path, source).render(messages)
    assert messages == [USER]


SILENT = {
    "loops": "{% for a in range(9) %}{% for b in range(9) %}{% endfor %}{% endfor %}",
    "a macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(5) }}",
    "a call": "{% macro m(n) %}{{ caller() }}{% endmacro %}"
    "{% for a in range(20) %}{% call m(1) %}{% endcall %}{% endfor %}",
    "a filtered loop": "{% for a in range(30) if a > 1 %}{% endfor %}",
}


@pytest.mark.parametrize("name", SILENT)
def test_loops_and_macros_that_show_nothing_end_with_the_budget(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock ticks once for each look at it."""

    def budget(num_checks: int) -> Callable[[float], Budget]:
        ticks = itertools.count()
        return lambda _: Budget(num_checks, lambda: next(ticks))

    ours = template(tmp_path, SILENT[name])
    monkeypatch.setattr(chat_template, "Budget", budget(10))
    with pytest.raises(ServeError, match="takes too long") as ended:
        ours.render([USER])
    assert ended.value.code is ErrorCode.INVALID_REQUEST
    monkeypatch.setattr(chat_template, "Budget", budget(1000))
    assert ours.render([USER]) == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% set ns = namespace() %}{% for m in messages %}{{ loop.index }}{% break %}{% endfor %}",
        "{% for a in [] %}x{% else %}none{% endfor %}",
        "{% for a in [[1]] recursive %}{{ loop.depth }}{% endfor %}",
    ],
)
def test_what_is_checked_renders_as_ever(tmp_path: Path, source: str) -> None:
    text = template(tmp_path, source).render([USER])
    assert text == template_utils._compile_jinja_template(source).render(messages=[USER])


def test_what_the_template_would_leave_out_is_refused(tmp_path: Path) -> None:
    ours = template(tmp_path, "{# tool_calls documents #}{{ messages[0].content }}")
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    with pytest.raises(ServeError, match="does not read tool calls") as refused:
        ours.render([USER, {"role": "assistant", "content": "", "tool_calls": calls}])
    assert refused.value.param == "messages[1].tool_calls"
    with pytest.raises(ServeError, match="does not read documents") as refused:
        ours.render([USER], documents=[{"text": "x"}])
    assert refused.value.param == "documents"
    assert ours.render([USER], documents=[]) == USER["content"]


def test_a_template_says_what_it_reads(tmp_path: Path) -> None:
    folder = write(tmp_path, Style(""))
    both = named(default="{# tools #}{{ messages }}", tool_use="{{ tools }}{{ m['x'] }}{{ m.y }}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": both}))
    ours = ChatTemplate.from_folder(folder)
    assert ours is not None
    assert ours.reads("messages", with_tools=False) and not ours.reads("tools", with_tools=False)
    assert all(ours.reads(word, with_tools=True) for word in ("tools", "x", "y"))


@pytest.mark.parametrize(
    ("source", "words"),
    [("{{ messages[-1].role }}", "as it is"), ("{{ messages[-1].content | upper }}", "as it is")],
)
def test_a_message_that_is_not_shown_cannot_be_continued(
    tmp_path: Path, source: str, words: str
) -> None:
    with pytest.raises(ServeError, match=words) as refused:
        template(tmp_path, source).render(
            [USER], add_generation_prompt=False, continue_final_message=True
        )
    assert refused.value.param == "continue_final_message"


def test_messages_are_data_not_templates(tmp_path: Path) -> None:
    text = template(tmp_path, QWEN).render([{"role": "user", "content": "{{ bos_token }}"}])
    assert "{{ bos_token }}" in text


def test_the_output_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_RENDERED_CHARS", 100)
    ours = template(tmp_path, "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert len(ours.render([{"content": "x" * 50}] * 2)) == 100
    with pytest.raises(ServeError, match="longer than 100") as capped:
        ours.render([{"content": "x" * 50}] * 3)
    assert capped.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
