"""Options that are each right, and cannot work together."""

from collections.abc import Iterator
from typing import Final

from lorax_serve.server.config import AdapterSource, ServerConfig

# What begins with one of these says itself where it comes from, unless a source was given.
_SAYS_WHERE: Final = ("hf://", "s3://", "/")


def check_options(config: ServerConfig) -> None:
    """Raises ValueError with a sentence."""
    for flag, given in (("--preload", config.preload), ("--pin", config.pin)):
        for name in names(given):
            if _is_predibase(name, config):
                raise ValueError(
                    f"{flag} {name}: a Predibase adapter is opened by its caller's own token, and "
                    "at start there is no caller"
                )


def names(given: str | None) -> Iterator[str]:
    """Of a list with commas between; blanks around them do not count."""
    for name in (given or "").split(","):
        if name.strip():
            yield name.strip()


def _is_predibase(name: str, config: ServerConfig) -> bool:
    if config.preload_source is not None:
        return config.preload_source.lower() == AdapterSource.PBASE.value
    return config.adapter_source is AdapterSource.PBASE and not name.startswith(_SAYS_WHERE)
