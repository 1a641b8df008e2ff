"""The description of this server's API that it gives itself: for programs, and for people."""

from dataclasses import dataclass
from importlib import resources

import msgspec

from lorax_serve.server.openapi.page import page
from lorax_serve.server.openapi.published import published


@dataclass(frozen=True, slots=True)
class Documentation:
    document: bytes  # OpenAPI, as JSON
    page: bytes  # the same as HTML


def documentation(*, has_operator: bool) -> Documentation:
    """`has_operator`: the operator's routes are served, and so described."""
    document = published(packaged_document(), has_operator=has_operator)
    return Documentation(msgspec.json.encode(document), page(document).encode())


def packaged_document() -> bytes:
    """What `scripts/make_openapi.py` wrote: every route there can be."""
    return resources.files("lorax_serve.server.openapi").joinpath("openapi.json").read_bytes()
