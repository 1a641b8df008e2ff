"""llguidance's own view of a tokenizer, made to agree with ours or refused.

llguidance reads tokenizer.json itself, because where text is forced it allows only the tokens the
tokenizer would use. It is given a copy in which nothing but text can come out: where a schema
forces a string such as "<|im_end|>", the library would otherwise force the control token of that
name. Then every token is compared.
"""

import json
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from lorax_serve.grammar.errors import UnsupportedTokenizer
from lorax_serve.grammar.vocabulary import TokenVocabulary, is_byte_level

UNWRITTEN = "\U0010ffff"  # a noncharacter: begins names that no text holds

BYTE_LEVEL_DECODER = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}

# llguidance keeps this byte for itself; no grammar over text can allow it, whoever reads it how.
NEVER_IN_UTF8 = b"\xff"


def load_llguidance_tokenizer(
    tokenizer_json: Path, vocabulary: TokenVocabulary, *, vocab_size: int
) -> LLTokenizer:
    """A tokenizer of at least `vocab_size` ids. Raises UnsupportedTokenizer if it disagrees."""
    spec = json.loads(tokenizer_json.read_bytes())
    try:
        tokenizer = LLTokenizer(
            json.dumps(_plain_spec(spec)),
            n_vocab=max(vocab_size, vocabulary.num_tokens),
            eos_token=list(vocabulary.eos_token_ids),
            slices=LLTokenizer.json_slices(),
        )
    except ValueError as error:
        first_line = str(error).splitlines()[0]
        raise UnsupportedTokenizer(
            f"llguidance cannot read tokenizer.json: {first_line}"
        ) from error
    _check_agreement(tokenizer, vocabulary)
    return tokenizer


def _plain_spec(spec: dict[str, Any]) -> dict[str, Any]:
    added = spec.get("added_tokens") or ()
    unwritten = {token["content"]: f"{UNWRITTEN}{token['id']}" for token in added}
    plain = dict(spec)
    plain["truncation"] = plain["padding"] = plain["post_processor"] = None
    plain["added_tokens"] = [
        {**token, "content": unwritten[token["content"]], "special": True, "normalized": False}
        for token in added
    ]
    plain["model"] = _renamed(spec["model"], unwritten)
    if is_byte_level(spec):
        # Converters leave steps of other tokenizers in the decoder, which llguidance then believes.
        plain["decoder"] = BYTE_LEVEL_DECODER
    return plain


def _renamed(model: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The model with those of its pieces renamed that are added tokens as well."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        return {**model, "vocab": [[names.get(piece, piece), score] for piece, score in vocab]}
    renamed = {**model, "vocab": {names.get(piece, piece): i for piece, i in vocab.items()}}
    if "merges" in model:
        renamed["merges"] = [merge for merge in model["merges"] if not _merges(merge, names)]
    if model.get("unk_token") is not None:
        renamed["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return renamed


def _merges(merge: str | list[str], names: dict[str, str]) -> bool:
    """Whether one of `names` goes into the merge or comes out of it."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in names or right in names or left + right in names


def _check_agreement(tokenizer: LLTokenizer, vocabulary: TokenVocabulary) -> None:
    for token_id, text in enumerate(vocabulary.tokens):
        if text is None or NEVER_IN_UTF8 in text:
            continue
        if tokenizer.decode_bytes([token_id]) != text:
            raise UnsupportedTokenizer(
                f"llguidance reads token {token_id} of tokenizer.json as other bytes than {text!r}."
            )
