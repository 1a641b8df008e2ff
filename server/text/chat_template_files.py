"""Where a folder keeps its chat templates: files of their own, or tokenizer_config.json.

Layout: https://huggingface.co/docs/transformers/chat_templating_writing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lorax_serve.server.errors import StartError

DEFAULT: Final = "default"


def template_sources(folder: Path, configured: object) -> dict[str, str]:
    """By name; empty where there is none. `configured` is `chat_template` of tokenizer_config.json.

    chat_template.jinja and additional_chat_templates/ go before it.

    Raises:
        StartError: they cannot be read, or none of them is the default.
    """
    sources = _template_files(folder) or configured_sources(configured)
    if sources and DEFAULT not in sources:
        raise StartError(f"{folder} has chat templates, but none of them is named {DEFAULT!r}.")
    return sources


def _template_files(folder: Path) -> dict[str, str]:
    single = folder / "chat_template.jinja"
    files = {DEFAULT: single} if single.is_file() else {}
    files.update({p.stem: p for p in (folder / "additional_chat_templates").glob("*.jinja")})
    try:
        return {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    except (OSError, ValueError) as error:
        raise StartError(f"A chat template of {folder} cannot be read: {error}.") from error


def configured_sources(value: object) -> dict[str, str]:
    """`chat_template` of tokenizer_config.json: one text, a list of named ones, or an object.

    Raises StartError for anything else.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        value = {item.get("name"): item.get("template") for item in value}
    if isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(text, str) for name, text in value.items()
    ):
        return value
    raise StartError("chat_template in tokenizer_config.json must be a text or named texts.")
