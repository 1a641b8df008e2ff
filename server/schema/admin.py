"""Bodies of the operator's routes, and what they answer."""

from typing import Annotated

from msgspec import Meta, Struct

from lorax_serve.server.schema.common import AdapterToken

Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class LoadBody(Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's fields, and where the adapter comes from."""

    lora_name: Text
    lora_path: Text  # a name or a path in the adapter directory, or an id of `source`
    source: Text | None = None
    api_token: AdapterToken | None = None
    pin: bool | None = None
    load_inplace: bool | None = None  # give a name that is loaded another meaning


class UnloadBody(Struct, frozen=True, forbid_unknown_fields=True):
    lora_name: Text
    lora_int_id: int | None = None  # vLLM's, of no account there either


class AdapterBody(Struct, frozen=True, forbid_unknown_fields=True):
    """For an adapter whose name is in the address."""

    source: Text | None = None
    api_token: AdapterToken | None = None


class Pinned(Struct, frozen=True, kw_only=True):
    name: str
    source: str
    revision: str
    pinned: bool = True


class Unpinned(Struct, frozen=True, kw_only=True):
    name: str
    source: str
    pinned: bool = False
    was_pinned: bool


class Refreshed(Struct, frozen=True, kw_only=True):
    name: str
    source: str
    revision: str
    changed: bool | None  # None: nobody had asked for it before


class Bytes(Struct, frozen=True):
    device: int
    host: int


class AdapterStatus(Struct, frozen=True, kw_only=True):
    name: str
    source: str
    alias_of: str | None  # `source:id`
    revision: str | None  # the beginning of a digest; None while nobody has asked for it
    digest: str | None  # the beginning of what the engine's log calls it; None: it has not read it
    tier: str  # the fastest one that has it: device, host or disk; source when none has
    bytes: Bytes
    rank: int | None  # None while the engine has not read it
    pinned: bool
    requests: int
    requests_in_flight: int
    last_use_seconds: float | None  # ago; None: never
    loads: int  # from disk to the host
    load_seconds: float
    errors: dict[str, int]  # by code


class Tier(Struct, frozen=True):
    used_bytes: int
    capacity_bytes: int


class Fetch(Struct, frozen=True, kw_only=True):
    """A download under way."""

    name: str  # the adapter's id, as the request that began it named it
    source: str
    bytes: int  # that are here
    total_bytes: int
    seconds: float  # since it began


class AdapterList(Struct, frozen=True, kw_only=True):
    object: str = "list"
    data: list[AdapterStatus]
    fetches: list[Fetch]
    tiers: dict[str, Tier]
