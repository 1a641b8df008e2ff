"""Texts of each model family -> content and calls, however the text is cut up."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_serve.server.text.tool_calls.events import (
    Arguments,
    CallBegun,
    Content,
    ToolEvent,
    ToolReader,
    joined,
)
from lorax_serve.server.text.tool_calls.formats import (
    FORCED_CALLS,
    FORMATS,
    CallFormat,
    ToolCallParser,
    format_taught_by,
)
from lorax_serve.server.text.tool_calls.readers import CallReader, NamedCallReader

HERMES = FORMATS[ToolCallParser.HERMES]
LLAMA = FORMATS[ToolCallParser.LLAMA3_JSON]
MISTRAL = FORMATS[ToolCallParser.MISTRAL]


def read(reader: ToolReader, *chunks: str) -> list[ToolEvent]:
    events = [event for chunk in chunks for event in reader.push(chunk)]
    return joined(events + reader.finish())


def call(name: str, arguments: str) -> list[ToolEvent]:
    return [CallBegun(name), Arguments(arguments)]


ONE = '{"city": "Köln", "n": [1, {"a": "}"}]}'
CASES: list[tuple[str, CallFormat, str, list[ToolEvent]]] = [
    (
        "hermes, one",
        HERMES,
        f'<tool_call>\n{{"name": "f", "arguments": {ONE}}}\n</tool_call>',
        call("f", ONE),
    ),
    (
        "hermes, content and two",
        HERMES,
        'I look.\n\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n'
        '<tool_call>{"arguments": {"a": 1}, "name": "g"}</tool_call>\n',
        [Content("I look."), *call("f", "{}"), *call("g", '{"a": 1}')],
    ),
    (
        "hermes, content behind",
        HERMES,
        '<tool_call>{"name": "f", "arguments": {}}</tool_call>\nDone. ',
        [*call("f", "{}"), Content("Done.")],
    ),
    (
        "arguments as a string",
        HERMES,
        r'<tool_call>{"name": "f", "arguments": "{\"a\": 1}"}</tool_call>',
        call("f", '{"a": 1}'),
    ),
    ("no arguments", HERMES, '<tool_call>{"name": "f"}</tool_call>', call("f", "{}")),
    (
        "null arguments",
        HERMES,
        '<tool_call>{"name": "f", "arguments": null}</tool_call>',
        call("f", "{}"),
    ),
    (
        "cut in the arguments",
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"a',
        call("f", '{"a'),
    ),
    (
        "cut in the closing",
        HERMES,
        '<tool_call>{"name": "f", "arguments": {}}</tool_',
        call("f", "{}"),
    ),
    ("no call at all", HERMES, " Hello, <b>you</b> \n", [Content(" Hello, <b>you</b> \n")]),
    ("not JSON", HERMES, "<tool_call>f(1)</tool_call>", [Content("<tool_call>f(1)</tool_call>")]),
    (
        "no name",
        HERMES,
        '<tool_call>{"arguments": {}}</tool_call>',
        [Content('<tool_call>{"arguments": {}}</tool_call>')],
    ),
    ("only the opening", HERMES, "a <tool_call>", [Content("a <tool_call>")]),
    ("half an opening", HERMES, "a <tool", [Content("a <tool")]),
    ("llama", LLAMA, f'{{"name": "f", "parameters": {ONE}}}', call("f", ONE)),
    (
        "llama, tagged, two",
        LLAMA,
        '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"a": null}}',
        [*call("f", "{}"), *call("g", '{"a": null}')],
    ),
    (
        "llama, type and function",
        LLAMA,
        '{"type": "function", "name": "f", "parameters": {}}',
        call("f", "{}"),
    ),
    ("llama, prose", LLAMA, 'Use {"name": 1}', [Content('Use {"name": 1}')]),
    ("llama, other JSON", LLAMA, '{"city": "Rome"}', [Content('{"city": "Rome"}')]),
    (
        "mistral",
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "f", "arguments": {ONE}}}, {{"name": "g", "arguments": {{}}}}]',
        [*call("f", ONE), *call("g", "{}")],
    ),
    (
        "mistral, newer",
        MISTRAL,
        f'Well.[TOOL_CALLS]f{ONE}[TOOL_CALLS]g[ARGS]{{"a": 1}}',
        [Content("Well."), *call("f", ONE), *call("g", '{"a": 1}')],
    ),
    (
        "mistral, no name is that long",
        MISTRAL,
        f"[TOOL_CALLS]{'f' * 300}[TOOL_CALLS]g{{}}",
        [Content(f"[TOOL_CALLS]{'f' * 300}"), *call("g", "{}")],
    ),
    ("mistral, a name alone", MISTRAL, "[TOOL_CALLS]f", [Content("[TOOL_CALLS]f")]),
    (
        "forced",
        FORCED_CALLS,
        f'[{{"name": "f", "parameters": {ONE}}},{{"name":"g","parameters":{{}}}}]',
        [*call("f", ONE), *call("g", "{}")],
    ),
]


@pytest.mark.parametrize(
    ("form", "text", "expected"), [each[1:] for each in CASES], ids=[each[0] for each in CASES]
)
def test_what_a_text_holds(form: CallFormat, text: str, expected: list[ToolEvent]) -> None:
    assert read(CallReader(form), text) == expected
    assert read(CallReader(form), *text) == expected


def test_a_named_call_is_all_arguments() -> None:
    assert read(NamedCallReader("f"), '{"a"', ": 1}") == call("f", '{"a": 1}')
    assert read(NamedCallReader("f")) == [CallBegun("f")]


def test_calls_and_arguments_are_told_as_they_come() -> None:
    reader = CallReader(HERMES)
    assert reader.push('Hm.\n<tool_call>{"name": "f", "arg') == [Content("Hm."), CallBegun("f")]
    assert reader.push('uments": {"a": ') == [Arguments('{"a": ')]
    assert reader.push('"b"}') == [Arguments('"b"}')]


OBJECT_PARTS = ('{"name": "f"', ', "arguments": ', '{"a": "x"}', "}", "{", '"', "\\")
MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[", "]", ",", ";", "<")
PARTS = st.sampled_from([*OBJECT_PARTS, *MARKS, " ", "\n", "text", "f"])


@settings(derandomize=True, max_examples=250)
@given(
    st.sampled_from([HERMES, LLAMA, MISTRAL, FORCED_CALLS]),
    st.lists(PARTS, max_size=20).map("".join),
    st.data(),
)
def test_any_cutting_of_any_text_gives_the_same(
    form: CallFormat, text: str, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    edges = [0, *cuts, len(text)]
    chunks = [text[a:b] for a, b in itertools.pairwise(edges)]
    whole = read(CallReader(form), text)
    assert read(CallReader(form), *chunks) == whole
    if not any(isinstance(event, CallBegun) for event in whole):
        assert whole == joined([Content(text)]), "nothing is lost"


@settings(derandomize=True, max_examples=100)
@given(
    st.dictionaries(st.text(max_size=5), st.recursive(st.text() | st.none(), st.lists)),
    st.sampled_from([HERMES, LLAMA, MISTRAL]),
)
def test_arguments_are_what_was_written(arguments: dict[str, object], form: CallFormat) -> None:
    written = json.dumps(arguments)
    text = f'{form.opening}{{"name": "f", "arguments": {written}}}{form.closing}'
    assert read(CallReader(form), text) == call("f", written)


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("… <tool_call>{{ call }}</tool_call>", HERMES),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS]", MISTRAL),
        ("Environment: ipython", LLAMA),
        ("{{ messages }}", None),
    ],
)
def test_the_format_that_a_template_teaches(template: str, form: CallFormat | None) -> None:
    assert format_taught_by(template) == form
