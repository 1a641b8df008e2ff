"""Folders that a tokenizer comes from: read as transformers reads them, or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders

from lorax_serve.server.errors import StartError
from lorax_serve.server.text.tokenizer import Tokenizer
from oracle_tokenizer import load_oracle
from tiny_tokenizers import KINDS, WRITERS, write_byte_fallback, write_byte_level

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
