"""Where addresses lead, and which ways may see a credential."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_serve.server.sources.addresses import is_public, keeps_secrets


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::1", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("224.0.0.251", False),
        ("239.255.255.250", False),
        ("ff02::1", False),
        ("ff0e::1", False),
        ("::ffff:1.1.1.1", True),
        ("::ffff:10.0.0.1", False),
        ("::ffff:224.0.0.1", False),
        ("::ffff:169.254.169.254%eth0", False),
        ("2002:101:101::1", True),  # 6to4 of 1.1.1.1
        ("2002:a9fe:a9fe::1", False),  # of 169.254.169.254
        ("2002:7f00:1::", False),  # of 127.0.0.1
        ("64:ff9b::1.1.1.1", True),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::224.0.0.1", False),
        ("64:ff9b:1::1.1.1.1", False),  # a network's own NAT64, RFC 8215
        ("2001:0:101:101::f5ff:fffe", False),  # Teredo: client 10.0.0.1
        ("2001:0:a00:1::fefe:fefe", False),  # server 10.0.0.1
        ("::10.0.0.1", False),  # what RFC 4291 gave up
        ("::ffff:0:10.0.0.1", False),  # and RFC 2765
        ("hub.example", None),
    ],
)
def test_what_is_public(host: str, public: bool | None) -> None:
    assert is_public(host) is public


IPV4 = st.integers(0, 2**32 - 1) | st.sampled_from(
    [int(IPv4Address(a)) for a in ("10.0.0.1", "127.0.0.1", "192.168.1.1", "169.254.169.254")]
)


@given(IPV4, st.integers(0, 2**80 - 1))
def test_an_address_is_as_public_as_the_one_it_carries(number: int, rest: int) -> None:
    inner = is_public(str(IPv4Address(number)))
    mapped = IPv6Address(0xFFFF << 32 | number)
    nat64 = IPv6Address((0x64 << 112) | (0xFF9B << 96) | number)
    six_to_four = IPv6Address(0x2002 << 112 | number << 80 | rest)
    for outer in (mapped, nat64, six_to_four):
        assert is_public(str(outer)) is inner, outer


@pytest.mark.parametrize(
    ("url", "does"),
    [
        ("https://hub.example", True),
        ("https://hub.example:8443/mirror", True),
        ("https://10.0.0.1", True),
        ("http://127.0.0.1:8000/mirror", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8000", True),
        ("http://localhost:8000", True),
        ("http://LOCALHOST", True),
        ("http://hub.example", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://127.0.0.1.example", False),
        ("http://localhost.example", False),
        ("http://127.1", False),
        ("http://localhost@hub.example", False),
        ("http://[", False),
        ("ftp://127.0.0.1", False),
        ("https://", False),
        ("", False),
    ],
)
def test_which_ways_keep_a_secret(url: str, does: bool) -> None:
    assert keeps_secrets(url) is does
