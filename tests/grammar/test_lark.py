"""Grammars of clients: against the package `lark`, and against those who mean harm."""

import contextlib
import random
from collections.abc import Iterator

import lark
import pytest

from grammar_tokenizers import EOS_TOKEN_IDS, VOCAB_SIZE
from grammar_walks import BytesMatcher, allowed_ids
from lorax_serve.grammar import lark as lark_module
from lorax_serve.grammar.compiled import LARK, lark_grammar
from lorax_serve.grammar.compiled import LLGUIDANCE as OURS
from lorax_serve.grammar.errors import (
    GrammarError,
    GrammarTooComplex,
    GuideRejected,
    InvalidGrammar,
)
from lorax_serve.grammar.guide import GuideFactory
from lorax_serve.grammar.lark import LarkCompiler
from lorax_serve.grammar.lark_child import findings
from lorax_serve.grammar.vocabulary import TokenVocabulary

# Each is Lark's own syntax too, with the characters its texts are made of.
GRAMMARS = {
    "sums": (
        'start: start "+" term | term\nterm: NUMBER | "(" start ")"\nNUMBER: /[0-9]+/',
        "0123456789+()",
    ),
    "lists": ('start: "[" (item ("," item)*)? "]"\nitem: "a" | start', "[],a"),
    "palindromes": ('start: "a" start "a" | "b" start "b" | "c"', "abc"),
    "query": (
        'start: "SELECT " cols " FROM " NAME (" WHERE " NAME "=" NAME)?\n'
        'cols: "*" | NAME ("," NAME)*\nNAME: /[a-z]+/',
        ["SELECT ", " FROM ", " WHERE ", "*", ",", "=", "ab", "c"],
    ),
    "imported": ('%import common.INT\nstart: INT ("," INT)*', "0123,"),
    "repeated": ('start: "x"~2..4 WORD?\nWORD: "y" "z"+', "xyz"),
}
HOSTILE = {
    "deep rules": "start: r0\n"
    + "\n".join(f'r{i}: "(" r{i + 1} ")"' for i in range(3000))
    + '\nr3000: "x"',
    "deep terminals": "start: T0\n"
    + "\n".join(f'T{i}: "a" T{i + 1}' for i in range(3000))
    + '\nT3000: "x"',
    "deep groups": f'start: {"(" * 5000}"a"{")" * 5000}',
    "doubled terminals": "start: R0\n"
    + "\n".join(f"R{i}: R{i + 1} R{i + 1}" for i in range(40))
    + '\nR40: "x"',
    "doubled rules": "start: r0\n"
    + "\n".join(f"r{i}: r{i + 1} r{i + 1}" for i in range(40))
    + '\nr40: "x"',
    "repetition squared": "start: A\nA: /(x{1000}){1000}/",
    "repetition within JSON": 'start: %json {"type":"string","pattern":"^(x{1000}){1000}$"}',
    "repeated rules": 'start: "a"{1000000}',
    "intersections": "start: A\nA: " + " & ".join(f"/(.*a.{{{i}}}b.*)/" for i in range(1, 12)),
    "substrings": f'start: A\nA: %regex {{"substring_chars": "{"ab" * 20000}"}}',
    "megabyte": "start: A\n" + "// x\n" * 20_000,
}
REFUSED = {
    "nothing": "\n",
    "no start": 'a: "b"',
    "unknown rule": "start: a",
    "circular terminal": 'start: A\nA: A "a"',
    "only itself": "start: start",
    "another grammar": "start: @other",
    "a file": "%import /etc/passwd\nstart: INT",
    "a module": "%import .python.NAME\nstart: NAME",
    "a schema elsewhere": 'start: %json {"$ref": "file:///etc/passwd"}',
    "a schema in the net": 'start: %json {"$ref": "http://127.0.0.1:1/a.json"}',
    "a control token": 'start: "a" <|im_end|>',
    "a token by its id": "start: <[2]>",
    "any token": "start: <[*]>",
    "a stop": 'start: a\na[stop="x"]: /.*/',
    "a temperature": "start: a\na[temperature=0.5]: /x/",
    "look-ahead": "start: /(?=a)b/",
    "GBNF": 'root ::= "a" | "b"',
    "a lone surrogate": 'start: "\ud800"',
}


@pytest.fixture(scope="module")
def compiler() -> LarkCompiler:
    return LarkCompiler(wall_seconds=30)


def texts(alphabet: str | list[str], seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(400):
        yield "".join(rng.choices(list(alphabet), k=rng.randint(0, 9)))


@pytest.mark.parametrize("name", GRAMMARS)
async def test_accepts_what_the_package_lark_parses(compiler: LarkCompiler, name: str) -> None:
    grammar, alphabet = GRAMMARS[name]
    matcher = BytesMatcher(await compiler.lark(grammar))
    parser = lark.Lark(grammar, parser="earley", lexer="dynamic_complete")
    num_accepted = 0
    for text in {*texts(alphabet, 3), *EXAMPLES[name]}:
        accepted = matcher.accepts(text.encode())
        assert accepted == parses(parser, text), text
        num_accepted += accepted
    assert num_accepted >= 2


EXAMPLES = {
    "sums": ["1+(2+33)", "((1))"],
    "lists": ["[a,[a,[]],[]]", "[]"],
    "palindromes": ["abcba", "c"],
    "query": ["SELECT a,b FROM c WHERE ab=c", "SELECT * FROM ab"],
    "imported": ["1,02,3", "0"],
    "repeated": ["xxyzz", "xxxx"],
}


def parses(parser: lark.Lark, text: str) -> bool:
    try:
        parser.parse(text)
    except lark.exceptions.LarkError:
        return False
    return True


@pytest.mark.parametrize("name", GRAMMARS)
async def test_walks_through_the_mask_are_texts_that_lark_parses(
    compiler: LarkCompiler, factory: GuideFactory, vocabulary: TokenVocabulary, name: str
) -> None:
    compiled, rng = await compiler.lark(GRAMMARS[name][0]), random.Random(7)
    parser = lark.Lark(GRAMMARS[name][0], parser="earley", lexer="dynamic_complete")
    num_ended = 0
    for _ in range(8):
        guide = factory.create(compiled.kind, compiled.payload, compiled.digest)
        text = b""
        while len(text) < 200:
            allowed = allowed_ids(guide, VOCAB_SIZE)
            ending = [i for i in allowed if i in EOS_TOKEN_IDS]
            token_id = rng.choice(ending if ending and rng.random() < 0.5 else allowed)
            guide.advance(token_id)
            text += vocabulary.tokens[token_id] or b""
            if token_id in EOS_TOKEN_IDS:
                assert parses(parser, text.decode()), text
                num_ended += 1
                break
    assert num_ended


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_grammar_of_text_is_refused_in_a_sentence(
    compiler: LarkCompiler, name: str
) -> None:
    with pytest.raises(InvalidGrammar) as caught:
        await compiler.lark(REFUSED[name])
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message and len(message) < 300


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_costs_too_much_is_refused(compiler: LarkCompiler, name: str) -> None:
    with pytest.raises(GrammarError) as caught:
        await compiler.lark(HOSTILE[name])
    assert isinstance(caught.value, GrammarTooComplex) or name == "deep groups"


async def test_marks_within_strings_patterns_and_comments_are_text(compiler: LarkCompiler) -> None:
    grammar = await compiler.lark(
        'start: "<b>" A "::=" /<i>\\/[0-9]+/ "stop=" // <|im_end|> ::= stop=\nA: "\\"<[2]>" # <x>'
    )
    assert BytesMatcher(grammar).accepts(b'<b>"<[2]>::=<i>/12stop=')


async def test_what_a_schema_within_leaves_out_is_a_warning(compiler: LarkCompiler) -> None:
    schema = '{"x-guidance": {"lenient": true}, "type": "integer", "not": {"const": 1}}'
    assert "'not'" in " ".join((await compiler.lark(f"start: %json {schema}")).warnings)


async def test_a_grammar_over_the_limits_of_a_step_is_a_dead_end(
    compiler: LarkCompiler, factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    """It says so before it costs others time: no row of it takes more than its limit of items."""
    compiled = await compiler.lark('start: s\ns: s s | "a" | "b"')
    guide = factory.create(compiled.kind, compiled.payload, compiled.digest)
    a = vocabulary.ids_by_bytes()[b"a"][0]
    with pytest.raises(GuideRejected):
        for _ in range(3000):
            guide.advance(a)
    assert allowed_ids(guide, VOCAB_SIZE) == []


def test_malformed_grammars_are_found_to_be_so(factory: GuideFactory) -> None:
    """What the child says of a few hundred; what it lets pass, the engine takes."""
    rng = random.Random(11)
    sources = [grammar for grammar, _ in GRAMMARS.values()] + list(REFUSED.values())[:-1]
    num_refused = 0
    for _ in range(400):
        text = mangled(rng, rng.choice(sources))
        found = findings(text)
        num_refused += found.error is not None
        if found.error is None and not found.warnings:  # those are about control tokens
            guide = factory.create(LARK, lark_grammar(text).encode(), text)
            allowed_ids(guide, VOCAB_SIZE)
    assert 100 < num_refused < 400


def mangled(rng: random.Random, text: str) -> str:
    """Pieces of it doubled, left out, exchanged or put where they do not belong."""
    for _ in range(rng.randint(1, 4)):
        first, second = sorted(rng.choices(range(len(text) + 1), k=2))
        piece = rng.choice([text[first:second], rng.choice('"/|()[]{}~&%@:\\\n<>*+?x9é\0'), ""])
        place = rng.randrange(len(text) + 1)
        text = text[:place] + piece + text[place + rng.randint(0, 3) :]
    return text


async def test_the_child_answers_for_grammars_one_by_one(compiler: LarkCompiler) -> None:
    rng = random.Random(4)
    for _ in range(12):
        with contextlib.suppress(GrammarError):
            assert (await compiler.lark(mangled(rng, GRAMMARS["query"][0]))).kind == LARK


async def test_a_child_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lark_module, "CHILD", ("/bin/sleep", "60"))
    with pytest.raises(GrammarTooComplex, match=r"over 0\.2 s"):
        await LarkCompiler(wall_seconds=0.2).lark('start: "a"')


async def test_a_child_that_cannot_run_is_not_the_clients_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lark_module, "CHILD", ("/bin/false",))
    with pytest.raises(RuntimeError, match="exited with 1"):
        await LarkCompiler(wall_seconds=30).lark('start: "a"')


async def test_the_same_grammar_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = LarkCompiler(wall_seconds=30)
    grammar = await compiler.lark('start: "a"')
    monkeypatch.setattr(lark_module, "CHILD", ("/bin/false",))
    assert await compiler.lark('start: "a"') is grammar


def test_grammars_of_clients_have_less_room_in_a_step(
    factory: GuideFactory, vocabulary: TokenVocabulary
) -> None:
    """There are 1,200 ways to go on."""
    names = [f"r{i}" for i in range(1200)]
    rules = "\n".join(f'{name}: /[a-z]+/ "{i}"' for i, name in enumerate(names))
    payload = lark_grammar(f"start: ({' | '.join(names)})*\n{rules}").encode()
    a, one = (vocabulary.ids_by_bytes()[text][0] for text in (b"a", b"1"))
    taken = {}
    for kind in (LARK, OURS):
        guide = factory.create(kind, payload, kind)
        taken[kind] = 0
        with contextlib.suppress(GuideRejected):
            for token_id in (a, one, a, one):
                guide.advance(token_id)
                taken[kind] += 1
    assert taken[LARK] < taken[OURS] == 4
