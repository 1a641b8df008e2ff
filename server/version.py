"""The version of this build, as its package metadata has it."""

from importlib import metadata


def version() -> str:
    """`unknown` when the code runs from a source folder that was never installed."""
    try:
        return metadata.version("lorax-serve")
    except metadata.PackageNotFoundError:
        return "unknown"
