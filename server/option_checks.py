"""Options that are each right, and cannot work together."""

from collections.abc import Iterator
from typing import Final

from lorax_serve.server.config import AdapterSource, ServerConfig

# What begins with one of these says itself where it comes from, unless a source was given.
_SAYS_WHERE: Final = ("hf://", "s3://", "/")


def check_options(config: ServerConfig) -> None:
    """Raises ValueError with a sentence."""
    if config.frontends > 1:
        _check_frontends(config)
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


def _check_frontends(config: ServerConfig) -> None:
    """Raises ValueError for what cannot be spread over several processes."""
    asked = f"--frontends {config.frontends}"
    of_one = (
        ("--admin-key", config.admin_key, "names, pins and counts are kept by one frontend"),
        ("--preload", config.preload, "what it loads is known to one frontend"),
        ("--pin", config.pin, "pins are kept by one frontend"),
        ("--adapter-cache-dir", config.adapter_cache_dir, "every frontend keeps its own folder"),
    )
    for flag, given, reason in of_one:
        if given is not None:
            raise ValueError(f"{flag} does not go with {asked}: {reason}")
    for flag, number in (
        ("--max-concurrent-requests", config.max_concurrent_requests),
        ("--max-waiting-requests", config.max_waiting_requests),
    ):
        if number < config.frontends:
            raise ValueError(f"{flag} {number} leaves nothing for some of {asked}")


def _is_predibase(name: str, config: ServerConfig) -> bool:
    if config.preload_source is not None:
        return config.preload_source.lower() == AdapterSource.PBASE.value
    return config.adapter_source is AdapterSource.PBASE and not name.startswith(_SAYS_WHERE)
