"""Streaming clients, all in this process: what arrives, and how long after its step was sent.

    python -P client.py SETTINGS

Each stream asks again as soon as its answer is complete. Prints "started" once every stream has had
a token, "middle" half-way, then one JSON line.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frontend_bench.bodies import STREAMS
from frontend_bench.ticks import Ticks

TOKEN = re.compile(rb'"(?:text|content)":" w(\d{4})"')  # not that of generated_text
HEAD_END = b"\r\n\r\n"
BODY_END = b"\r\n0\r\n\r\n"


class Settings(msgspec.Struct, frozen=True):
    port: int
    api: str  # of bodies.STREAMS
    num_streams: int
    num_tokens: int  # of an answer
    seconds: float
    ticks_file: str


@dataclass
class Tally:
    """Of all streams, since `started`."""

    ticks: Ticks
    num_waiting: int  # streams without a token yet
    started: asyncio.Event
    num_tokens: int = 0
    latencies: list[float] | None = None  # None: not begun
    is_over: bool = False

    def add(self, numbers: list[bytes]) -> None:
        if self.latencies is None:
            return
        now = time.monotonic()
        self.num_tokens += len(numbers)
        self.latencies += [now - self.ticks.time_of(int(number)) for number in numbers]

    def first_token(self) -> None:
        self.num_waiting -= 1
        if not self.num_waiting:
            self.started.set()


class Stream(asyncio.Protocol):
    """One connection. Anything but whole answers ends the process: such figures mean nothing."""

    def __init__(self, request: bytes, num_tokens: int, tally: Tally) -> None:
        self._request = request
        self._num_tokens = num_tokens
        self._tally = tally
        self._is_new = True
        self._unread = b""
        self._num_left = num_tokens

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        cut = self._unread.rfind(b"\n\n") + 2
        if cut > 1:
            self._read(self._unread[:cut])
            self._unread = self._unread[cut:]
        if self._unread.endswith(BODY_END):
            if self._num_left:
                raise SystemExit(f"an answer lacks {self._num_left} tokens")
            self._unread, self._num_left = b"", self._num_tokens
            self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._tally.is_over:
            raise SystemExit(f"a stream broke off: {self._unread!r}")

    def _read(self, events: bytes) -> None:
        numbers = TOKEN.findall(events)
        if numbers and self._is_new:
            self._is_new = False
            self._tally.first_token()
        self._num_left -= len(numbers)
        self._tally.add(numbers)


async def measure(settings: Settings, ticks: Ticks) -> dict[str, object]:
    call = STREAMS[settings.api]("Say something.", settings.num_tokens)
    head = (
        f"POST {call.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(call.body)}\r\n\r\n"
    )
    request = head.encode() + call.body
    loop = asyncio.get_running_loop()
    tally = Tally(ticks, settings.num_streams, asyncio.Event())
    streams = [
        await loop.create_connection(
            lambda: Stream(request, settings.num_tokens, tally), "127.0.0.1", settings.port
        )
        for _ in range(settings.num_streams)
    ]
    await tally.started.wait()
    await asyncio.sleep(min(settings.seconds / 4, 2))
    tally.latencies = latencies = []
    began, cpu = time.monotonic(), time.process_time()
    print("started", flush=True)
    await asyncio.sleep(settings.seconds / 2)
    print("middle", flush=True)
    await asyncio.sleep(settings.seconds / 2)
    wall, num_tokens = time.monotonic() - began, tally.num_tokens
    figures = {
        "wall_s": wall,
        "num_tokens": num_tokens,
        "client_cpu_s": time.process_time() - cpu,
        "latencies": sorted(latencies[:num_tokens]),
    }
    tally.is_over = True
    for transport, _ in streams:
        transport.abort()
    return figures


if __name__ == "__main__":
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    with Ticks(Path(settings.ticks_file)) as ticks:
        print(json.dumps(asyncio.run(measure(settings, ticks))))
