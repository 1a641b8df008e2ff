"""What the JSON files beside tokenizer.json say, in one value.

The rules are those of the Hugging Face "fast" tokenizer classes: tokenizer_config.json names a
class; the class has default special tokens, and some classes put the beginning- and end-of-text
tokens around an encoded text themselves, whatever tokenizer.json says. Where tokenizer_config.json
and tokenizer.json disagree about anything else, tokenizer.json is what is used.

Tolerated, without effect: `clean_up_tokenization_spaces` (it would change text already streamed),
padding and truncation settings, `model_max_length` (the model's own limit counts), `auto_map`
(no code of a model folder is ever run).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorax_serve.server.errors import StartError

JsonObject = Mapping[str, object]

SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
ADDITIONAL = "additional_special_tokens"


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """What a fast tokenizer class adds to the files it loads."""

    special_tokens: Mapping[str, str]
    frames_text: bool = False  # puts bos and eos around a text by add_bos_token, add_eos_token


_PLAIN = TokenizerClass(special_tokens={})
_SENTENCEPIECE = TokenizerClass(
    special_tokens={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    frames_text=True,
)
_ENDOFTEXT = "<|endoftext|>"
# Any other class loads as plain: tokenizer.json alone decides.
_CLASSES: Mapping[str, TokenizerClass] = {
    "LlamaTokenizer": _SENTENCEPIECE,
    "CodeLlamaTokenizer": _SENTENCEPIECE,
    "GPT2Tokenizer": TokenizerClass(
        special_tokens=dict.fromkeys(("bos_token", "eos_token", "unk_token"), _ENDOFTEXT)
    ),
    "Qwen2Tokenizer": TokenizerClass(
        special_tokens=dict.fromkeys(("eos_token", "unk_token", "pad_token"), _ENDOFTEXT)
    ),
}
# Used where no file names a tokenizer class.
_CLASS_OF_MODEL_TYPE: Mapping[str, str] = {
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
}


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """One added token; None: the folder does not say, the tokenizer's default holds."""

    content: str
    single_word: bool | None = None
    lstrip: bool | None = None
    rstrip: bool | None = None
    normalized: bool | None = None
    special: bool | None = None

    @classmethod
    def parse(cls, value: object) -> "TokenSpec":
        """Raises StartError unless `value` is a string or an added-token object."""
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("content"), str):
            names = ("single_word", "lstrip", "rstrip", "normalized", "special")
            flags = {name: bool(value[name]) for name in names if value.get(name) is not None}
            return cls(value["content"], **flags)
        raise StartError("A token in tokenizer_config.json is neither a string nor an object.")


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Everything the folder says about its tokenizer outside tokenizer.json."""

    special_tokens: Mapping[str, TokenSpec]  # bos_token, eos_token, …; only those that are set
    additional_special_tokens: tuple[TokenSpec, ...]
    added_tokens: tuple[TokenSpec, ...]  # in id order
    frames_text: bool
    add_bos_token: bool
    add_eos_token: bool
    add_prefix_space: bool | None
    split_special_tokens: bool
    chat_template: object  # as in the file: None, text, or named templates

    @classmethod
    def from_folder(cls, folder: Path) -> "TokenizerConfig":
        """Raises StartError when a file that exists cannot be read."""
        config = read_json_object(folder / "tokenizer_config.json")
        klass = _CLASSES.get(_class_name(folder, config), _PLAIN)
        values = config if "added_tokens_decoder" in config else _with_older_map(folder, config)
        added = _added_tokens(folder, config)
        prefix_space = config.get("add_prefix_space", False)
        return cls(
            special_tokens=_special_tokens(klass, values, added),
            additional_special_tokens=_token_list(values.get(ADDITIONAL)),
            added_tokens=added,
            frames_text=klass.frames_text,
            add_bos_token=bool(config.get("add_bos_token", klass.frames_text)),
            add_eos_token=bool(config.get("add_eos_token", False)),
            add_prefix_space=prefix_space if isinstance(prefix_space, bool) else None,
            split_special_tokens=bool(config.get("split_special_tokens", False)),
            chat_template=config.get("chat_template"),
        )

    def template_variables(self) -> dict[str, object]:
        """Special tokens under the names chat templates know them by; unset ones are absent."""
        named: dict[str, object] = {name: t.content for name, t in self.special_tokens.items()}
        if self.additional_special_tokens:
            named[ADDITIONAL] = [token.content for token in self.additional_special_tokens]
        return {name: value for name, value in named.items() if value}


def read_json_object(path: Path) -> JsonObject:
    """The object in a JSON file; empty when there is no file. Raises StartError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise StartError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise StartError(f"{path} must hold a JSON object.")
    return value


def _class_name(folder: Path, config: JsonObject) -> str:
    model = read_json_object(folder / "config.json")
    by_type = _CLASS_OF_MODEL_TYPE.get(str(model.get("model_type")))
    name = config.get("tokenizer_class") or model.get("tokenizer_class") or by_type
    return str(name).removesuffix("Fast")


def _with_older_map(folder: Path, config: JsonObject) -> JsonObject:
    """special_tokens_map.json counts only where tokenizer_config.json lists no added tokens."""
    older = read_json_object(folder / "special_tokens_map.json")
    ours, theirs = config.get(ADDITIONAL), older.get(ADDITIONAL)
    both = [
        *(ours if isinstance(ours, list) else []),
        *(theirs if isinstance(theirs, list) else []),
    ]
    return {**config, **older, ADDITIONAL: both}


def _special_tokens(
    klass: TokenizerClass, values: JsonObject, added: tuple[TokenSpec, ...]
) -> Mapping[str, TokenSpec]:
    known = {token.content: token for token in added}
    extra = values.get("extra_special_tokens")
    named = {**klass.special_tokens, **{k: values[k] for k in SPECIAL_NAMES if k in values}}
    if isinstance(extra, dict):
        named.update(extra)
    tokens = {name: TokenSpec.parse(value) for name, value in named.items() if value is not None}
    return {name: known.get(token.content, token) for name, token in tokens.items()}


def _added_tokens(folder: Path, config: JsonObject) -> tuple[TokenSpec, ...]:
    listed = config.get("added_tokens_decoder")
    if listed is None:
        older = read_json_object(folder / "added_tokens.json")
        return tuple(TokenSpec(content) for content, _ in sorted(older.items(), key=_by_id))
    if not isinstance(listed, dict) or not all(str(key).isdecimal() for key in listed):
        raise StartError("added_tokens_decoder in tokenizer_config.json must map ids to tokens.")
    return tuple(TokenSpec.parse(listed[key]) for key in sorted(listed, key=int))


def _by_id(item: tuple[str, object]) -> int:
    if not isinstance(item[1], int):
        raise StartError("added_tokens.json must map each token to its id.")
    return item[1]


def _token_list(value: object) -> tuple[TokenSpec, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise StartError(f"{ADDITIONAL} in tokenizer_config.json must be a list.")
    return tuple({token.content: token for token in map(TokenSpec.parse, value)}.values())
