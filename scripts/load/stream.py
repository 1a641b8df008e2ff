"""What a server streams: server-sent events, and the OpenAI chunks in them. Knows no HTTP."""

import json
from typing import Any

DETAIL_CHARACTERS = 200


class Failure(Exception):
    """Why a request has no usable answer. The report counts failures by `kind`.

    http_STATUS, timeout, connection; stream_error (an event that says so), malformed (an event
    that cannot be read), truncated (the stream ended before the answer did).
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = detail[:DETAIL_CHARACTERS]


class SseDecoder:
    """The data of the events of a text/event-stream that arrives cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


class Answer:
    """One request's answer so far. Times are the caller's, in seconds."""

    def __init__(self) -> None:
        self.text_times: list[float] = []  # of events that bring text
        self.finished = False
        self.ended = 0.0  # the last event
        self.prompt_tokens: int | None = None  # these three as the server counts them
        self.cached_tokens: int | None = None
        self.completion_tokens: int | None = None

    def take(self, data: bytes, at: float) -> None:
        """One event's data, read at `at`. Raises Failure."""
        self.ended = at
        if data == b"[DONE]":
            self.finished = True
            return
        try:
            self._take_event(json.loads(data), at)
        # What peers send is not ours to vouch for: whatever shape it has, the run goes on.
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Failure("malformed", f"{error!r} in {data!r}") from error

    def _take_event(self, event: dict[str, Any], at: float) -> None:
        if event.get("error") or event.get("object") == "error":
            raise Failure("stream_error", json.dumps(event.get("error") or event))
        for choice in event.get("choices") or ():
            if _text(choice):
                self.text_times.append(at)
            if choice.get("finish_reason"):
                self.finished = True
        if event.get("usage"):
            self._take_usage(event["usage"])

    def _take_usage(self, usage: dict[str, Any]) -> None:
        self.prompt_tokens = int(usage["prompt_tokens"])
        self.completion_tokens = int(usage["completion_tokens"])
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        self.cached_tokens = None if cached is None else int(cached)


def _text(choice: dict[str, Any]) -> str:
    """A chunk's text: a completion's, a chat answer's, or that of a model that reasons aloud."""
    if "text" in choice:
        return str(choice["text"] or "")
    delta = choice.get("delta") or {}
    text = delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")
    return str(text or "")
