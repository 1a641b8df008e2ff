"""A folder's tokenizer.json, brought into the state its Hugging Face class would leave it in."""

import json
from pathlib import Path
from typing import Protocol

import tokenizers

from lorax_serve.server.errors import StartError
from lorax_serve.server.text.tokenizer_config import TokenizerConfig, TokenSpec


class Component(Protocol):
    """A normalizer, pre-tokenizer, decoder or the like."""

    def __getstate__(self) -> bytes: ...


def load_fast_tokenizer(folder: Path, config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Raises StartError when tokenizer.json is absent, damaged or at odds with `config`."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise StartError(f"{folder} has no tokenizer.json: save the model's fast tokenizer there.")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
        _apply(config, tokenizer)
    except StartError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a bad file
        raise StartError(f"{path} cannot be loaded: {error}.") from error
    return tokenizer


def _apply(config: TokenizerConfig, tokenizer: tokenizers.Tokenizer) -> None:
    """Bring a tokenizer.json into the state its fast tokenizer class would leave it in."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = config.split_special_tokens
    _add_tokens(config, tokenizer)
    _set_prefix_space(config, tokenizer)
    if config.frames_text:
        _frame_text(config, tokenizer)


def _add_tokens(config: TokenizerConfig, tokenizer: tokenizers.Tokenizer) -> None:
    """Listed tokens override those of tokenizer.json; every named special token is special."""
    tokenizer.add_tokens([_added_token(token) for token in config.added_tokens])
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    named = [*config.special_tokens.values(), *config.additional_special_tokens]
    missing = [_added_token(token, special=True) for token in named if token.content not in special]
    tokenizer.add_tokens(missing)


def _added_token(token: TokenSpec, *, special: bool | None = None) -> tokenizers.AddedToken:
    flags = {
        "single_word": token.single_word,
        "lstrip": token.lstrip,
        "rstrip": token.rstrip,
        "normalized": token.normalized,
        "special": token.special if special is None else special,
    }
    given = {name: flag for name, flag in flags.items() if flag is not None}
    return tokenizers.AddedToken(token.content, **given)


def _set_prefix_space(config: TokenizerConfig, tokenizer: tokenizers.Tokenizer) -> None:
    """tokenizer_config.json decides whether byte-level text gets a space in front."""
    part = component_state(tokenizer.pre_tokenizer) or {}
    wanted = config.add_prefix_space
    if part.get("type") == "ByteLevel" and wanted is not None:
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=wanted,
            trim_offsets=part["trim_offsets"],
            use_regex=part["use_regex"],
        )


def _frame_text(config: TokenizerConfig, tokenizer: tokenizers.Tokenizer) -> None:
    """Put bos and eos around an encoded text, whatever tokenizer.json does."""
    single = ["$A:0"]
    special: list[tuple[str, int]] = []
    for name, wanted in (("bos", config.add_bos_token), ("eos", config.add_eos_token)):
        token = config.special_tokens.get(f"{name}_token")
        if not wanted:
            continue
        if token is None:
            raise StartError(
                f"tokenizer_config.json wants add_{name}_token but names no {name}_token."
            )
        single.insert(0 if name == "bos" else 1 + len(special), f"{token.content}:0")
        special.append((token.content, tokenizer.token_to_id(token.content)))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, special_tokens=special
    )


def component_state(component: Component | None) -> dict[str, object] | None:
    """A part of the tokenizer as tokenizer.json writes it; None for a part it lacks."""
    if component is None:
        return None
    state: dict[str, object] = json.loads(component.__getstate__())
    return state
