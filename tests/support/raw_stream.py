"""A streamed completion of the stand-in engine, as bytes on a connection."""

import asyncio
from urllib.parse import urlsplit

import stub_engine


class RawStream:
    """A streamed completion that has had its first token and waits for the next.

    Read as bytes: clients drop what came before a torn end.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def begin(cls, url: str) -> "RawStream":
        parts = urlsplit(url)
        stream = cls(*await asyncio.open_connection(parts.hostname, parts.port))
        body = b'{"model": "", "prompt": [%d], "max_tokens": 5, "stream": true}' % stub_engine.HANG
        stream.writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert b" 200 " in await stream.reader.readuntil(b"\r\n\r\n")
        await stream.reader.readuntil(b"\n\n")
        return stream

    async def rest(self) -> bytes:
        said = await self.reader.read()
        await self.close()
        return said

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def is_torn(said: bytes) -> bool:
    """Whether a chunked body lacks its end."""
    return not said.endswith(b"0\r\n\r\n")
