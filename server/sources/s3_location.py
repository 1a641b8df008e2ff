"""How an adapter in a bucket is named, and which of them the operator allows.

`s3://bucket/folder` or `bucket/folder`; where the operator set a default bucket, what does not
begin with s3:// is a folder there. The grammar is narrower than S3's: a folder is made of plain
components, so no name can lead upwards, be decoded twice, or carry a revision nobody reads.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError, StartError

MAX_ID_CHARS: Final = 512
_SCHEME: Final = "s3://"
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html, but for the names
# that look like an address.
_BUCKET: Final = re.compile(r"(?!.*\.\.)(?![0-9.]+\Z)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_COMPONENT: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.=+-]{1,255}")


@dataclass(frozen=True, slots=True)
class Location:
    """A folder of a bucket: `prefix` has neither a first nor a last slash; "" is the whole bucket,
    which only an allowed place can be.
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def below(self, folder: str) -> "Location":
        """`folder`, plain components with a last slash or "", of this one."""
        return Location(self.bucket, f"{self.prefix}/{folder}".removesuffix("/"))

    def contains(self, other: "Location") -> bool:
        """Whether `other` is this folder or one below it."""
        inside = other.prefix == self.prefix or other.prefix.startswith(f"{self.prefix}/")
        return self.bucket == other.bucket and (not self.prefix or inside)


def parse_location(adapter_id: str, default: Location | None = None) -> Location:
    """`default` is where names without s3:// lie. Raises ServeError (INVALID_REQUEST)."""
    if 0 < len(adapter_id) <= MAX_ID_CHARS:
        if default is not None and not adapter_id.startswith(_SCHEME):
            adapter_id = f"{default}/{adapter_id}"
        bucket, _, prefix = adapter_id.removeprefix(_SCHEME).partition("/")
        prefix = prefix.removesuffix("/")
        if _BUCKET.fullmatch(bucket) and _is_folder(prefix):
            return Location(bucket, prefix)
    raise ServeError(
        ErrorCode.INVALID_REQUEST,
        "An adapter in a bucket is named s3://bucket/folder, in letters, digits and _ . = + - /.",
        param="adapter_id",
    )


def parse_place(text: str) -> Location:
    """What an operator writes: `bucket` or `bucket/folder`, with or without s3://.

    Raises StartError.
    """
    bucket, _, prefix = text.removeprefix(_SCHEME).partition("/")
    prefix = prefix.removesuffix("/")
    if _BUCKET.fullmatch(bucket) and (not prefix or _is_folder(prefix)):
        return Location(bucket, prefix)
    raise StartError(f"{text!r} is neither a bucket nor bucket/folder.")


def is_allowed(location: Location, places: Iterable[Location]) -> bool:
    return any(place.contains(location) for place in places)


def _is_folder(prefix: str) -> bool:
    return all(map(_COMPONENT.fullmatch, prefix.split("/")))
