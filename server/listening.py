"""The HTTP port, taken before the model loads: a busy one is reported within a second.

Bound sockets do not answer yet. Until the server is ready a client's connection is refused.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, TypeAlias

from lorax_serve.server.errors import StartError

_Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextmanager
def bound_sockets(host: str, port: int) -> Iterator[list[socket.socket]]:
    """A socket for each address of `host` that this machine has; with port 0, one for the first.

    Raises StartError when there is none, or the port cannot be had.
    """
    with ExitStack() as stack:
        bound = []
        for family, address in _addresses(host, port):
            try:
                bound.append(stack.enter_context(_bind(family, address)))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise port_refused(error, host, port) from error
            if bound and port == 0:
                break  # the next address would get another port
        if not bound:
            raise StartError(f"--host {host!r} is no address of this machine.")
        yield bound


def port_refused(error: OSError, host: str, port: int) -> StartError:
    """Why `port` of `host` cannot be served."""
    if error.errno == errno.EADDRINUSE:
        return StartError(f"Port {port} of {host} is in use; choose another with --port.")
    return StartError(f"Port {port} of {host} cannot be had: {error.strerror}.")


def url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def _addresses(host: str, port: int) -> list[tuple[int, _Address]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise StartError(f"--host {host!r} is no known name or address.") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind(family: int, address: _Address) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of the last run that are still closing must not keep the port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound
