"""How an adapter of the hub is named: `owner/name` or `owner/name@revision`, nothing else.

The grammar leaves no way to spell a host, a path upwards, a query or an encoding, so a name can
lead nowhere but into one repository of the operator's hub.
"""

import re
from dataclasses import dataclass
from typing import Final

from lorax_serve.ipc.types import ErrorCode
from lorax_serve.server.errors import ServeError

DEFAULT_ENDPOINT: Final = "https://huggingface.co"

_ID: Final = re.compile(
    r"(?P<repository>[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96})"
    r"(?:@(?P<revision>[A-Za-z0-9_./-]{1,64}))?"
)


@dataclass(frozen=True, slots=True)
class HubId:
    repository: str
    revision: str | None  # a branch, tag or commit; None: the hub's main branch


def parse_hub_id(adapter_id: str) -> HubId:
    """Raises ServeError (INVALID_REQUEST)."""
    found = _ID.fullmatch(adapter_id)
    if found is None or not _are_plain(found["repository"]) or not _are_plain(found["revision"]):
        raise ServeError(
            ErrorCode.INVALID_REQUEST,
            "An adapter of the hub is named owner/name or owner/name@revision.",
            param="adapter_id",
        )
    return HubId(found["repository"], found["revision"])


def _are_plain(path: str | None) -> bool:
    """Whether no component is empty or leads somewhere else."""
    return path is None or not {"", ".", ".."} & set(path.split("/"))
