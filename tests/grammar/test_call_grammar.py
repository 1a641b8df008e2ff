"""Whatever the grammar of calls lets through: every call that the server's reader finds in it is of
a function that was offered, and its arguments fit the schema, as jsonschema says."""

import json
import random

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from call_texts import (
    CITY,
    CONTROL,
    FUNCTIONS,
    MARKS,
    call_text,
    marked_tokenizer,
    read_calls,
    whole_call,
)
from calling_model import Model
from grammar_tokenizers import EOS_TOKEN_IDS, VOCAB_SIZE, byte_level_tokenizer, saved
from grammar_walks import allowed_ids
from lorax_serve.grammar.call_grammar import tool_call_grammar
from lorax_serve.grammar.call_rules import CallFamily
from lorax_serve.grammar.errors import GrammarTooComplex, GuideRejected, InvalidGrammar
from lorax_serve.grammar.guide import Guide

FAMILIES = list(CallFamily)
BAD_CALLS = (("weather", {"city": "Paris"}), ("weather", {}), ("other", {"city": "Rome"}))


@pytest.fixture(scope="module", params=["marks are tokens", "marks are spelled"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    made = marked_tokenizer() if request.param == "marks are tokens" else byte_level_tokenizer()
    return Model(saved(made, tmp_path_factory.mktemp("model")))


def accepted(guide: Guide, ids: list[int]) -> bool:
    try:
        for token_id in ids:
            guide.advance(token_id)
    except GuideRejected:
        return False
    return guide.accepts_eos


def check_calls(family: CallFamily, text: str, *, parallel: bool) -> int:
    calls = read_calls(family, [text])
    assert parallel or len(calls) <= 1, text
    for name, arguments in calls:
        assert name in FUNCTIONS, text
        jsonschema.validate(json.loads(arguments), FUNCTIONS[name])
    return len(calls)


def fragments(family: CallFamily, model: Model) -> list[str]:
    good = call_text(family, "weather", {"city": "Rome"})
    calls = [good, call_text(family, "clock", {"a": [{}]}, gap="\n  ")]
    calls += [call_text(family, name, arguments) for name, arguments in BAD_CALLS]
    mark = MARKS[family]
    texts = ["", " ", "\n", "ok.", "a < b [x] {y}", ";", "日本", "{", "}", mark, mark[:5], mark[5:]]
    texts += [*calls, *(whole_call(family, call) for call in calls)]
    if family is CallFamily.HERMES:
        texts += ["</tool_call>", '{"arguments": {"city": "Rome"}, "name": "weather"}']
    if family is CallFamily.MISTRAL:
        texts += ["[", "]", 'weather{"city": "Rome"}', 'weather[ARGS]{"city": "Paris"}', "other{}"]
    return texts + [f"\0{content}" for content in model.ids]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_put_together_of_calls_and_text(
    model: Model, family: CallFamily, parallel: bool
) -> None:
    """Right or wrong pieces in any order: what passes holds right calls, and text without a mark
    passes."""
    parts, rng = fragments(family, model), random.Random(5)
    num_passed = num_calls = 0
    for _ in range(400):
        chosen = rng.choices(parts, k=rng.randint(1, 6))
        ids = [token_id for part in chosen for token_id in model.spell(part)]
        text = model.text(family, ids)
        passed = accepted(model.guide(family, parallel=parallel), ids)
        if passed:
            num_passed += 1
            num_calls += check_calls(family, text, parallel=parallel)
    assert num_passed > 50
    assert num_calls > 10


def spelled(model: Model, *parts: str) -> list[int]:
    return [token_id for part in parts for token_id in model.spell(part)]


def own_forms(family: CallFamily) -> list[tuple[list[str], int]]:
    """Texts as published models of the family write them, and how many calls they hold."""
    rome = call_text(family, "weather", {"city": "Rome", "days": 2})
    clock = call_text(family, "clock", {})
    match family:
        case CallFamily.HERMES:
            arguments_first = '{"arguments": {"city": "Rome"}, "name": "weather"}'
            return [
                ([f"I look.\n<tool_call>\n{rome}\n</tool_call>"], 1),
                ([f"<tool_call>\n{rome}\n</tool_call>\n<tool_call>\n{clock}\n</tool_call> Yes"], 2),
                ([f"<tool_call>\n{arguments_first}\n</tool_call>"], 1),
                (["<think> < tool_call</think>", f"<tool_call>{clock}</tool_call>"], 1),
            ]
        case CallFamily.LLAMA3_JSON:
            with_type = rome.replace("{", '{"type": "function", ', 1)
            return [
                ([rome], 1),
                ([with_type], 1),
                ([f"<|python_tag|>{rome}; {clock}"], 2),
                ([f"{rome}\n{clock} Then {{and}} so on"], 2),
            ]
        case CallFamily.MISTRAL:
            with_id = rome.removesuffix("}") + ', "id": "abc123def"}'
            return [
                ([f"[TOOL_CALLS] [{rome}]"], 1),
                ([f"[TOOL_CALLS][{with_id}, {clock}]"], 2),
                (['[TOOL_CALLS]weather{"city": "Oslo"}'], 1),
                (["[TOOL_CALLS]clock[CALL_ID]abc123def[ARGS]{}[TOOL_CALLS]clock[ARGS]{}"], 2),
            ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_own_forms_pass(model: Model, family: CallFamily) -> None:
    for parts, num_calls in own_forms(family):
        text = "".join(parts)
        assert accepted(model.guide(family), spelled(model, *parts)), text
        one = accepted(model.guide(family, parallel=False), spelled(model, *parts))
        assert one is (num_calls == 1), text
        assert check_calls(family, text, parallel=True) == num_calls


@pytest.mark.parametrize("family", FAMILIES)
def test_marks_pass_as_tokens_where_there_are_any(model: Model, family: CallFamily) -> None:
    marks = [name for name, _ in CONTROL if name in model.ids and name not in ("<|hidden|>", "{{")]
    for parts, num_calls in own_forms(family):
        text = "".join(parts)
        for mark in marks:
            text = text.replace(mark, f"\1\0{mark}\1")
        ids = spelled(model, *filter(None, text.split("\1")))
        assert accepted(model.guide(family), ids), text
        assert check_calls(family, model.text(family, ids), parallel=True) == num_calls


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_text_without_a_call_passes_whatever_it_is(
    model: Model, family: CallFamily, data: st.DataObject
) -> None:
    mark = MARKS[family]
    pieces = st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.sampled_from(
            [mark[:-1], mark[1:], "<", "[", "\n", ";", " {", '{"name":', "</tool_call>"]
        ),
    )
    text = "".join(data.draw(st.lists(pieces, max_size=6)))
    if mark in text or (family is CallFamily.LLAMA3_JSON and text.lstrip(" \t\r\n;")[:1] == "{"):
        return
    guide = model.guide(family)
    for token_id in spelled(model, text):
        assert token_id in allowed_ids(guide, VOCAB_SIZE) if len(text) < 20 else True
        guide.advance(token_id)
    assert guide.accepts_eos


@pytest.mark.parametrize("family", FAMILIES)
def test_text_may_hold_any_token_that_is_no_mark(model: Model, family: CallFamily) -> None:
    """But those of the mark, and of what would be read as a part of a call."""
    allowed = set(allowed_ids(model.guide(family), VOCAB_SIZE))
    barred = {"{{"} if family is not CallFamily.HERMES else set()
    free = {token.id for token in model.control if token.content not in barred}
    assert free <= allowed
    assert {*EOS_TOKEN_IDS} <= allowed
    whole = {b for b in model.bytes if is_text(b)}
    brace = family is CallFamily.LLAMA3_JSON
    begins_call = {b for b in whole if brace and b.lstrip(b" \t\r\n;")[:1] == b"{"}
    assert {model.bytes[b] for b in whole - begins_call} <= allowed


def is_text(piece: bytes) -> bool:
    """Whether the bytes are whole characters."""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_token_that_leaves_no_trace_does_not_hide_a_mark(model: Model) -> None:
    if "<|hidden|>" not in model.ids:
        return
    parts = ["<tool_", "\0<|hidden|>", 'call>{"name": "other", "arguments": {}}']
    ids = spelled(model, *parts)
    assert read_calls(CallFamily.HERMES, [model.text(CallFamily.HERMES, ids)])
    assert not accepted(model.guide(CallFamily.HERMES), ids)
    for shown in ("<|hidden|>", "<think>"):
        ids = spelled(model, "a ", f"\0{shown}", " b")
        assert accepted(model.guide(CallFamily.HERMES), ids)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_walks_end_in_calls_that_fit(
    model: Model, family: CallFamily, parallel: bool
) -> None:
    num_calls = 0
    for seed in range(6):
        ids = walk(model, model.guide(family, parallel=parallel), MARKS[family], seed)
        num_calls += check_calls(family, model.text(family, ids), parallel=parallel)
    assert num_calls >= 5


def walk(model: Model, guide: Guide, mark: str, seed: int) -> list[int]:
    """Any tokens that are allowed: the mark's where it can, then what ends things soonest."""
    rng, ids = random.Random(seed), []
    for token_id in spelled(model, rng.choice(["", "a", " <"]), mark):
        ids.append(token_id)
        guide.advance(token_id)
    while not guide.finished and len(ids) < 600:
        allowed = allowed_ids(guide, VOCAB_SIZE)
        assert allowed, model.text(CallFamily.MISTRAL, ids)
        closing = [i for b in (b'"', b"}", b"]", b",", b">") if (i := model.bytes[b]) in allowed]
        ending = [i for i in allowed if i in EOS_TOKEN_IDS]
        if ending and rng.random() < 0.7:
            return ids
        if closing and rng.random() < 0.5:
            choice = rng.choice(closing)
        else:
            choice = rng.choice([i for i in allowed if i not in ending] or ending)
        ids.append(choice)
        guide.advance(choice)
    return ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ({"type": "object", "not": {}}, InvalidGrammar),
        ({"type": "object", "minProperties": 3}, InvalidGrammar),
        ({"type": "string"}, InvalidGrammar),
        ({"$ref": "file:///etc/passwd"}, InvalidGrammar),
        ({"properties": {f"p{i}": {} for i in range(1001)}}, GrammarTooComplex),
        (
            {"properties": {"a": {"type": "string", "pattern": "^(x{1000}){1000}$"}}},
            GrammarTooComplex,
        ),
    ],
    ids=str,
)
def test_what_cannot_be_enforced_is_refused(
    family: CallFamily, schema: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        tool_call_grammar(family, {"f": schema}, parallel=True, control_tokens=())


def test_options_of_the_library_in_a_schema_have_no_effect() -> None:
    options = {"lenient": True, "whitespace_flexible": True}
    for family in FAMILIES:
        plain, with_options = (
            tool_call_grammar(family, {"f": schema}, parallel=True, control_tokens=())
            for schema in (CITY, {**CITY, "x-guidance": options})
        )
        assert plain == with_options
