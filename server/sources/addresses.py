"""What an address says about the way to it, and about where it leads."""

import ipaddress
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

from yarl import URL

_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052, 2.1
_LOW_32_BITS: Final = 2**32 - 1


def keeps_secrets(url: str) -> bool:
    """Whether a credential may be sent there: by https, or by http that stays on this machine."""
    try:
        address = URL(url)
    except ValueError:
        return False
    host = address.host or ""
    return bool(host) and (
        address.scheme == "https" or (address.scheme == "http" and _is_loopback(host))
    )


def is_public(host: str) -> bool | None:
    """Whether an address belongs to the internet; None for a name.

    One that carries IPv4 addresses is where those are, whatever its own network: IPv4-mapped
    (RFC 4291), 6to4 (RFC 3056), NAT64 (RFC 6052) and Teredo (RFC 4380: a server's and a client's).
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return all(map(_is_public, _embedded(address) or (address,)))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: IPv4Address | IPv6Address) -> Sequence[IPv4Address]:
    """The IPv4 addresses that packets to this one reach or pass."""
    if isinstance(address, IPv4Address):
        return ()
    if address in _NAT64:
        return (IPv4Address(int(address) & _LOW_32_BITS),)
    if address.teredo is not None:
        return address.teredo
    carried = address.ipv4_mapped or address.sixtofour
    return () if carried is None else (carried,)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
