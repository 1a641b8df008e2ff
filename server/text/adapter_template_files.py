"""The chat templates that came with an adapter, as texts: nobody vouches for them.

They lie where PEFT's trainers leave the tokenizer: chat_template.jinja, else `chat_template` of
tokenizer_config.json. Nothing else of that file counts: the tokens are the served tokenizer's.
"""

import os
import stat
from pathlib import Path

import msgspec
from msgspec import Struct

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError
from lorax_serve.server.store.content import TEMPLATE_FILE, TEMPLATE_FILES, TOKENIZER_FILE
from lorax_serve.server.text.chat_template_files import DEFAULT, configured_sources


class _TokenizerConfig(Struct, frozen=True):
    chat_template: object = None


def adapter_template_sources(folder: Path) -> dict[str, str]:
    """By name, the default among them; empty where the adapter has none. Reads the disk.

    Raises:
        ServeError: INVALID_REQUEST where they cannot be read.
    """
    try:
        single = _read(folder, TEMPLATE_FILE)
        if single is not None:
            return {DEFAULT: single.decode()}
        config = _read(folder, TOKENIZER_FILE)
        if config is None:
            return {}
        listed = msgspec.json.decode(config, type=_TokenizerConfig).chat_template
        sources = configured_sources(listed)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError, StartError):
        raise _refused("cannot be read") from None
    if sources and DEFAULT not in sources:
        raise _refused(f"has no part named {DEFAULT!r}")
    return sources


def _read(folder: Path, name: str) -> bytes | None:
    """None where there is no such file. Raises OSError, and ValueError for what is no such file."""
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer for ever.
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        content = file.read(TEMPLATE_FILES[name] + 1)
    if len(content) > TEMPLATE_FILES[name]:
        raise ValueError("too large")
    return content


def _refused(what: str) -> ServeError:
    return ServeError(
        ErrorCode.INVALID_REQUEST, f"The adapter's chat template {what}.", param="model"
    )
