"""What refs were found to mean: the digest of the files that each names."""

from collections.abc import Iterator

from lorax_serve.ipc.types import AnyAdapterRef

# Forgetting one costs no more than reading it again.
_MAX_KNOWN_REFS = 16384


class KnownDigests:
    """The refs that were read last, with the content their files had."""

    def __init__(self) -> None:
        self._digests: dict[AnyAdapterRef, str] = {}  # oldest first

    def __iter__(self) -> Iterator[tuple[AnyAdapterRef, str]]:
        return iter(self._digests.items())

    def get(self, ref: AnyAdapterRef) -> str:
        """Empty, and nobody's digest, when it was never read or is forgotten."""
        return self._digests.get(ref, "")

    def know(self, ref: AnyAdapterRef, digest: str) -> None:
        """The ref's files have this content."""
        self._digests.pop(ref, None)
        self._digests[ref] = digest
        if len(self._digests) > _MAX_KNOWN_REFS:
            del self._digests[next(iter(self._digests))]
