import socket

import pytest

from lorax_serve.server.errors import StartError
from lorax_serve.server.listening import bound_sockets, port_refused, url


def test_bound_sockets_refuse_connections_until_they_listen() -> None:
    with bound_sockets("127.0.0.1", 0) as [bound]:
        address = bound.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        bound.listen()
        socket.create_connection(address).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_port_that_somebody_listens_on_is_busy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with (
            pytest.raises(StartError, match=f"Port {port} .* in use"),
            bound_sockets("127.0.0.1", port),
        ):
            pytest.fail("the port is busy")


def test_a_port_is_free_again_at_once_although_connections_linger() -> None:
    with bound_sockets("127.0.0.1", 0) as [bound]:
        bound.listen()
        host, port = bound.getsockname()
        client = socket.create_connection((host, port))
        accepted, _ = bound.accept()
        accepted.close()  # first to close: this side keeps the connection in TIME_WAIT
        client.close()
    with bound_sockets(host, port) as [again]:
        again.listen()


@pytest.mark.parametrize("host", ["no.such.host.invalid", "999.1.1.1", "a" * 64, "\udcff"])
def test_an_unknown_name_is_a_start_error(host: str) -> None:
    with pytest.raises(StartError, match="no known name"), bound_sockets(host, 0):
        pytest.fail("there is no such host")


def test_an_address_of_another_machine_is_a_start_error() -> None:
    # 192.0.2.0/24 is set aside for documentation (RFC 5737).
    with (
        pytest.raises(StartError, match="no address of this machine"),
        bound_sockets("192.0.2.1", 0),
    ):
        pytest.fail("the address is not ours")


def test_a_port_for_the_privileged_is_a_sentence() -> None:
    error = port_refused(PermissionError(13, "Permission denied"), "127.0.0.1", 80)
    assert str(error) == "Port 80 of 127.0.0.1 cannot be had: Permission denied."


def test_urls() -> None:
    with bound_sockets("127.0.0.1", 0) as [bound]:
        assert url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_urls_of_ipv6_have_brackets() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as unbound:
        assert url(unbound) == "http://[::]:0"
