"""One request over HTTP, timed. Whatever goes wrong is an outcome, never an exception."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import aiohttp

from load.case import PATHS, Case
from load.plan import PlannedRequest
from load.stream import Answer, Failure, SseDecoder

# Servers close idle connections after a few seconds; one closed just as it is used again would
# count as the request's failure.
KEEPALIVE_SECONDS = 2


@dataclass(frozen=True)
class Outcome:
    """Times in seconds of `perf_counter`."""

    request: PlannedRequest
    due: float  # when it had to be sent: latencies count from here
    sent: float
    answer: Answer
    failure: Failure | None

    @property
    def num_tokens(self) -> int:
        """The server's count, or that of the events with text where it gives none."""
        counted = self.answer.completion_tokens
        return len(self.answer.text_times) if counted is None else counted


def open_session(case: Case) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=case.timeout),
        # A server that compresses its stream gathers several tokens before it sends them.
        headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
    )


class Client:
    def __init__(self, session: aiohttp.ClientSession, case: Case) -> None:
        self._session = session
        self._url = case.url
        self._path = PATHS[case.endpoint]

    async def send(self, request: PlannedRequest, due: float | None = None) -> Outcome:
        """`due` None: now."""
        answer, failure = Answer(), None
        sent = perf_counter()
        try:
            await self._stream(request.body, answer)
        except Failure as error:
            failure = error
        except TimeoutError:
            failure = Failure("timeout", "no answer in time")
        except (aiohttp.ClientError, OSError) as error:
            failure = Failure("connection", repr(error))
        return Outcome(request, sent if due is None else due, sent, answer, failure)

    async def server(self) -> dict[str, Any]:
        """Who answers: the Server header, and who /v1/models says owns its first model."""
        try:
            async with self._session.get(f"{self._url}/v1/models") as reply:
                header = reply.headers.get("Server")
                models = (await reply.json(content_type=None))["data"] if reply.ok else []
                return {"header": header, "owned_by": models[0]["owned_by"] if models else None}
        except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
            return {"unknown": repr(error)}

    async def _stream(self, body: bytes, answer: Answer) -> None:
        """Raises Failure, and what aiohttp raises."""
        decoder = SseDecoder()
        async with self._session.post(self._url + self._path, data=body) as reply:
            if reply.status != 200:
                raise Failure(f"http_{reply.status}", await reply.text(errors="replace"))
            async for chunk in reply.content.iter_any():
                at = perf_counter()
                for data in decoder.feed(chunk):
                    answer.take(data, at)
        if not answer.finished:
            raise Failure("truncated", f"{len(answer.text_times)} events with text")
