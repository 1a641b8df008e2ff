"""The two typed ends of the engine socket: ZeroMQ over a private unix socket, msgspec in msgpack.

The engine binds a ROUTER and serves any number of frontends from a synchronous loop; a frontend
connects a DEALER and lives in asyncio. One message is one frame. Nothing here knows what a message
means.
"""

import asyncio
import contextlib
import socket
from typing import Final, TypeAlias

import msgspec
import zmq
import zmq.asyncio

from lorax_serve.ipc.messages import ToEngine, ToFrontend

FrontendId: TypeAlias = bytes  # a ROUTER routing id; another connection is another frontend

MAX_MESSAGE_BYTES: Final = 64 * 2**20
MAX_QUEUED_MESSAGES: Final = 8192  # per peer, on each side of the socket
# What an engine has to say is bounded by the requests it took, so a frontend that stalls for a
# minute loses nothing; one this many steps behind is as good as gone.
MAX_UNREAD_MESSAGES: Final = 1_000_000
_RECONNECT_MILLISECONDS: Final = 20  # the engine binds seconds after the frontend connects
# Nesting a thousand deep raises RecursionError, a string of bad UTF-8 UnicodeDecodeError.
_DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class LinkError(Exception):
    """The link cannot be used: its queue is full, or the other end does not speak the protocol."""


def _limit(end: "zmq.Socket[bytes] | zmq.asyncio.Socket") -> None:
    end.setsockopt(zmq.LINGER, 0)  # the default holds the process's exit up for ever
    end.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    end.setsockopt(zmq.SNDHWM, MAX_QUEUED_MESSAGES)
    end.setsockopt(zmq.RCVHWM, MAX_QUEUED_MESSAGES)


class EngineLink:
    """The engine's end. Every method belongs to one thread, save `wake`.

    `num_decode_errors` counts the frames that were dropped because they were no message. A frame
    over MAX_MESSAGE_BYTES costs its sender the connection, and is not counted.
    """

    def __init__(self, endpoint: str) -> None:
        """Binds `endpoint` ("ipc://<path>"); raises zmq.ZMQError when that cannot be done."""
        self.num_decode_errors = 0
        self._decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
        self._encoder = msgspec.msgpack.Encoder()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        _limit(self._socket)
        self._socket.setsockopt(zmq.SNDHWM, MAX_UNREAD_MESSAGES)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # else sending to the departed succeeds
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_receiver, zmq.POLLIN)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError:
            self.close()
            raise

    def receive(self, timeout_seconds: float | None) -> list[tuple[FrontendId, ToEngine]]:
        """Every message that is there, in order of arrival, at most MAX_QUEUED_MESSAGES.

        Waits for the first one at most `timeout_seconds` (None: for ever, 0: not at all); a `wake`
        ends the wait, so the list may be empty.
        """
        milliseconds = None if timeout_seconds is None else round(timeout_seconds * 1000)
        readable = dict(self._poller.poll(milliseconds))
        if self._wake_receiver.fileno() in readable:
            self._wake_receiver.recv(4096)
        messages: list[tuple[FrontendId, ToEngine]] = []
        while len(messages) < MAX_QUEUED_MESSAGES:
            try:
                frontend, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            message = self._decode(frames)
            if message is None:
                self.num_decode_errors += 1
            else:
                messages.append((frontend, message))
        return messages

    def send(self, frontend: FrontendId, message: ToFrontend) -> bool:
        """Hand `message` over without waiting.

        False: the frontend is gone, or MAX_UNREAD_MESSAGES behind; it does not get this one, and
        its requests are best dropped.
        """
        payload = self._encoder.encode(message)
        try:
            self._socket.send_multipart((frontend, payload), zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def wake(self) -> None:
        """Make a waiting or the next `receive` return. For any thread."""
        with contextlib.suppress(BlockingIOError):  # full: a wake-up is on its way already
            self._wake_sender.send(b"\0")

    def close(self, flush_seconds: float = 1.0) -> None:
        """Close the socket; unsent messages get at most `flush_seconds` to leave."""
        self._socket.close(linger=round(flush_seconds * 1000))
        self._context.term()
        self._wake_receiver.close()
        self._wake_sender.close()

    def _decode(self, frames: list[bytes]) -> ToEngine | None:
        if len(frames) != 1:
            return None
        try:
            return self._decoder.decode(frames[0])
        except _DECODE_ERRORS:
            return None


class FrontendLink:
    """A frontend's end, for one event loop."""

    def __init__(self, endpoint: str) -> None:
        """Connects to `endpoint`, which need not exist yet; messages wait until it does."""
        self._decoder: msgspec.msgpack.Decoder[ToFrontend] = msgspec.msgpack.Decoder(ToFrontend)
        self._encoder = msgspec.msgpack.Encoder()
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        _limit(self._socket)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MILLISECONDS)
        self._socket.connect(endpoint)

    def send(self, message: ToEngine) -> None:
        """Queue `message`, never waiting.

        Raises LinkError when it is over MAX_MESSAGE_BYTES, MAX_QUEUED_MESSAGES wait already, or
        the link is closed.
        """
        if self._socket.closed:
            raise LinkError("The link is closed.")
        payload = self._encoder.encode(message)
        if len(payload) > MAX_MESSAGE_BYTES:
            raise LinkError(f"A message has {len(payload)} bytes, over {MAX_MESSAGE_BYTES}.")
        sent = asyncio.ensure_future(self._socket.send(payload, zmq.NOBLOCK))
        try:
            sent.result()  # with NOBLOCK it is done, one way or the other
        except zmq.Again as error:
            raise LinkError("The engine does not read its messages.") from error

    async def receive(self) -> ToFrontend:
        """The engine's next message. Raises LinkError when it is none: such an engine is lost."""
        frames = await self._socket.recv_multipart()
        if len(frames) != 1:
            raise LinkError(f"The engine sent {len(frames)} frames in place of one.")
        try:
            return self._decoder.decode(frames[0])
        except _DECODE_ERRORS as error:
            raise LinkError(f"The engine sent something that is no message: {error}.") from error

    def close(self) -> None:
        """Drops what has not been sent. A waiting `receive` is cancelled."""
        self._socket.close()
        self._context.term()
