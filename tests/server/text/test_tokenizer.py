import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.text.tokenizer import INLINE_BYTES, Tokenizer
from oracle_tokenizer import load_oracle
from tiny_tokenizers import WRITERS, write_byte_fallback, write_byte_level

TEXTS = (
    "",
    " ",
    "Hello, world!",
    "  two spaces  and\ttabs\n\nand lines\r\n",
    "naïve café 你好 😀 👩‍👩‍👧",
    "<s>inside</s> a <|im_start|>text<|im_end|> <unk>",
    "▁ is a character, <0x41> is text",
    "e\u0301 \u00a0 \u200b \ufffd \x00 \x7f",
    "12345 67",
    "a <s> inside </s> b <more> c <|im_end|> d",
)
KINDS = tuple(WRITERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, write in WRITERS.items()}


@pytest.fixture(scope="module")
def ours(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: Tokenizer.from_folder(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> dict[str, Any]:
    return {kind: load_oracle(folder) for kind, folder in folders.items()}


def edit(folder: Path, **changes: object) -> Path:
    """Change entries of tokenizer_config.json; `None` values are written as null."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def remove(folder: Path, *names: str) -> Path:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in names}))
    return folder


def assert_like_transformers(folder: Path) -> Tokenizer:
    """Same ids for `TEXTS`, same special tokens; returns ours."""
    ours, theirs = Tokenizer.from_folder(folder), load_oracle(folder)
    for text in TEXTS:
        for add in (True, False):
            assert ours.encode(text, add_special_tokens=add) == theirs.encode(
                text, add_special_tokens=add
            )
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)
    ids = list(range(ours.vocab_size))
    assert len(theirs) == ours.vocab_size
    assert [i for i in ids if ours.is_special(i)] == [
        i for i in ids if theirs.decode([i]) and not theirs.decode([i], skip_special_tokens=True)
    ]
    return ours


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_loads_as_transformers_loads_it(folders: dict[str, Path], kind: str) -> None:
    assert_like_transformers(folders[kind])


@given(kind=st.sampled_from(KINDS), text=st.text(max_size=40), add=st.booleans())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_encode_any_text(
    ours: dict[str, Tokenizer], theirs: dict[str, Any], kind: str, text: str, add: bool
) -> None:
    expected = theirs[kind].encode(text, add_special_tokens=add)
    assert ours[kind].encode(text, add_special_tokens=add) == expected


BYTE_FALLBACK_EDITS: dict[str, Callable[[Path], Path]] = {
    "no bos": lambda f: edit(f, add_bos_token=False),
    "eos": lambda f: edit(f, add_eos_token=True),
    "eos only": lambda f: edit(f, add_bos_token=False, add_eos_token=True),
    "null is false": lambda f: edit(f, add_bos_token=None),
    "fast class name": lambda f: edit(f, tokenizer_class="LlamaTokenizerFast"),
    "plain class ignores add_bos": lambda f: edit(
        f, tokenizer_class="PreTrainedTokenizerFast", add_bos_token=True
    ),
    "other bos": lambda f: edit(f, bos_token="</s>", add_eos_token=True),
    "token object": lambda f: edit(
        f, eos_token={"__type": "AddedToken", "content": "</s>", "lstrip": True, "special": True}
    ),
    "new special": lambda f: edit(f, pad_token="<pad>"),
    "word made special": lambda f: edit(f, additional_special_tokens=["▁the", "<more>"]),
    "flags overridden": lambda f: edit(
        f,
        added_tokens_decoder={
            "1": {"content": "<s>", "lstrip": True, "rstrip": True, "special": True},
            "2": {"content": "</s>", "special": False},
            "384": {"content": "inside", "special": False, "single_word": True},
        },
    ),
    "listed flags of a named token": lambda f: edit(
        f,
        pad_token="<more>",
        added_tokens_decoder={"384": {"content": "<more>", "lstrip": True, "special": False}},
    ),
    "special tokens as text": lambda f: edit(f, split_special_tokens=True),
}


@pytest.mark.parametrize("name", BYTE_FALLBACK_EDITS)
def test_tokenizer_config_is_honoured(tmp_path: Path, name: str) -> None:
    assert_like_transformers(BYTE_FALLBACK_EDITS[name](write_byte_fallback(tmp_path)))


BYTE_LEVEL_EDITS: dict[str, Callable[[Path], Path]] = {
    "class without framing": lambda f: edit(f, add_bos_token=True, add_eos_token=True),
    "class defaults": lambda f: remove(f, "bos_token", "eos_token", "pad_token", "unk_token"),
    "no bos": lambda f: edit(f, bos_token=None),
    "qwen": lambda f: remove(
        edit(f, tokenizer_class="Qwen2Tokenizer"), "bos_token", "eos_token", "add_prefix_space"
    ),
    "extra special": lambda f: edit(f, extra_special_tokens={"think_token": "<|im_end|>"}),
}


@pytest.mark.parametrize("name", BYTE_LEVEL_EDITS)
def test_tokenizer_config_of_byte_level(tmp_path: Path, name: str) -> None:
    assert_like_transformers(BYTE_LEVEL_EDITS[name](write_byte_level(tmp_path)))


@pytest.mark.parametrize("wanted", [True, False, None])
def test_prefix_space_comes_from_the_config(tmp_path: Path, wanted: bool | None) -> None:
    folder = WRITERS["framed_byte_level"](tmp_path)
    ours = assert_like_transformers(edit(folder, add_prefix_space=wanted))
    plain = ours.encode("fox", add_special_tokens=False)
    assert (ours.decode(plain, skip_special_tokens=True) == " fox") is (wanted is True)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_class_by_model_type(tmp_path: Path, model_type: str) -> None:
    folder = remove(write_byte_fallback(tmp_path), "tokenizer_class")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert_like_transformers(folder)


def test_older_files(tmp_path: Path) -> None:
    """special_tokens_map.json and added_tokens.json count when the config lists no tokens."""
    folder = remove(write_byte_fallback(tmp_path), "added_tokens_decoder")
    (folder / "added_tokens.json").write_text(json.dumps({"<image>": 385, "<tool>": 384}))
    special = {
        "bos_token": {"content": "<s>", "lstrip": True, "normalized": False},
        "pad_token": "<image>",
        "additional_special_tokens": ["<extra>"],
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    edit(folder, bos_token="</s>", additional_special_tokens=["<other>"])
    assert assert_like_transformers(folder).bos_token == "<s>"


def test_without_any_config(tmp_path: Path) -> None:
    folder = write_byte_level(tmp_path)
    (folder / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.bos_token is None
    assert tokenizer.encode("a fox", add_special_tokens=True)


def test_added_tokens_outside_the_byte_alphabet(tmp_path: Path) -> None:
    contents = ["<a b>", "<é>", "<\u00a0>", "<\u00ad>", "<\n>", "<ẞ>", "<Ġ>", "<你>"]
    folder = edit(write_byte_level(tmp_path), additional_special_tokens=contents)
    ours, theirs = Tokenizer.from_folder(folder), load_oracle(folder)
    ids = ours.encode("".join(contents), add_special_tokens=False)
    assert len(ids) == len(contents)
    assert [ours.decode([i], skip_special_tokens=False) for i in ids] == [
        theirs.decode([i]) for i in ids
    ]
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


def test_truncation_and_padding_do_not_apply(tmp_path: Path) -> None:
    folder = write_byte_level(tmp_path)
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.enable_truncation(3)
    rust.enable_padding(length=16)
    rust.save(str(folder / "tokenizer.json"))
    assert_like_transformers(folder)


def test_folders_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    folder = write_byte_fallback(tmp_path)
    with pytest.raises(StartError, match="names no bos_token"):
        Tokenizer.from_folder(edit(folder, bos_token=None))
    with pytest.raises(StartError, match="neither a string nor an object"):
        Tokenizer.from_folder(edit(folder, bos_token=7))
    with pytest.raises(StartError, match="must map ids to tokens"):
        Tokenizer.from_folder(edit(folder, bos_token="<s>", added_tokens_decoder=["<s>"]))
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(StartError, match="must hold a JSON object"):
        Tokenizer.from_folder(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(StartError, match="cannot be read as JSON"):
        Tokenizer.from_folder(folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(StartError, match="cannot be loaded"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("decoder", "shown"),
    [
        (None, "absent"),
        (decoders.WordPiece(), "WordPiece"),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]), "ByteFallback/Meta"),
        (decoders.Sequence([decoders.Strip(" ", 1, 0)]), "Strip"),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 1)]), "strips the end"),
    ],
)
def test_a_decoder_that_cannot_be_streamed_is_refused(
    tmp_path: Path, decoder: object, shown: str
) -> None:
    folder = write_byte_level(tmp_path)
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.decoder = decoder
    rust.save(str(folder / "tokenizer.json"))
    with pytest.raises(StartError, match=shown):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "x" * 2000 + "\ud83d"])
async def test_lone_surrogates_are_the_clients_fault(ours: dict[str, Tokenizer], text: str) -> None:
    for tokenizer in ours.values():
        with pytest.raises(ServeError) as sync:
            tokenizer.encode(text, add_special_tokens=True)
        with pytest.raises(ServeError) as bounded:
            await tokenizer.encode_bounded(text, add_special_tokens=True, max_tokens=9)
        assert sync.value.code is bounded.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("repeats", [1, INLINE_BYTES])
async def test_encode_bounded_draws_the_line_at_max_tokens(
    ours: dict[str, Tokenizer], repeats: int
) -> None:
    tokenizer = ours["byte_fallback"]
    text = "sea shells " * repeats
    expected = tokenizer.encode(text, add_special_tokens=True)
    exact = await tokenizer.encode_bounded(text, add_special_tokens=True, max_tokens=len(expected))
    assert exact == expected
    with pytest.raises(ServeError, match=f"is {len(expected)} tokens long") as refused:
        await tokenizer.encode_bounded(text, add_special_tokens=True, max_tokens=len(expected) - 1)
    assert refused.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


async def test_a_hopeless_text_is_refused_unread(
    ours: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = ours["byte_level"]
    longest = max(len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size))
    monkeypatch.setattr(tokenizer, "_encode", lambda *_: [0])
    assert await tokenizer.encode_bounded("x" * longest, add_special_tokens=False, max_tokens=1)
    with pytest.raises(ServeError, match="at least 2 tokens") as refused:
        await tokenizer.encode_bounded("x" * longest + "x", add_special_tokens=False, max_tokens=1)
    assert refused.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


async def test_the_loop_runs_on_while_a_long_text_is_encoded(ours: dict[str, Tokenizer]) -> None:
    text = "The quick brown fox. " * 5000
    encoding = asyncio.ensure_future(
        ours["byte_level"].encode_bounded(text, add_special_tokens=False, max_tokens=len(text))
    )
    num_turns = 0
    while not encoding.done():
        await asyncio.sleep(0)
        num_turns += 1
    assert num_turns > 3
    assert ours["byte_level"].decode(await encoding, skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", ["byte_level", "framed_byte_level"])
@given(text=st.text(max_size=30))
@settings(derandomize=True, deadline=None)
def test_token_bytes_spell_the_text(ours: dict[str, Tokenizer], kind: str, text: str) -> None:
    ids = ours[kind].encode(text, add_special_tokens=False)
    assert b"".join(map(ours[kind].token_bytes, ids)) == text.encode()


def test_single_tokens(ours: dict[str, Tokenizer]) -> None:
    level, fallback = ours["byte_level"], ours["byte_fallback"]
    (end,) = level.encode("<|im_end|>", add_special_tokens=False)
    (the,) = fallback.encode("the", add_special_tokens=False)
    (byte, *_) = fallback.encode("你", add_special_tokens=False)[1:]
    assert (level.token_text(end), level.token_bytes(end)) == ("<|im_end|>", b"<|im_end|>")
    assert level.is_special(end) and not fallback.is_special(the)
    assert fallback.token_text(the) == " the"
    assert fallback.token_bytes(byte) == b"\xe4"
    assert fallback.token_text(byte) == "\ufffd"


def test_ids_without_a_token_have_no_text(ours: dict[str, Tokenizer]) -> None:
    for tokenizer in ours.values():
        for token_id in (-1, tokenizer.vocab_size, 2**31 - 1):
            assert tokenizer.token_bytes(token_id) == tokenizer.first_token_bytes(token_id) == b""
            assert tokenizer.token_text(token_id) == ""
            assert not tokenizer.is_special(token_id)
            assert tokenizer.decode([token_id], skip_special_tokens=False) == ""


def test_closing_ends_the_encoding_threads(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_folder(folders["byte_level"])
    tokenizer.close()
    long_text = "x" * (INLINE_BYTES + 1)
    with pytest.raises(RuntimeError, match="after shutdown"):
        asyncio.run(
            tokenizer.encode_bounded(long_text, add_special_tokens=False, max_tokens=10_000)
        )


def test_the_text_modules_import_no_torch() -> None:
    code = (
        "import sys, lorax_serve.server.text.text_stream, lorax_serve.server.text.chat_template;"
        "import lorax_serve.server.sources.local;"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    source_root = Path(__file__).parents[3] / ".src"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(source_root)}, timeout=60
    )
