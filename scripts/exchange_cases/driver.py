"""The real engine on a CPU, in this process, with a clock on everything it says."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine_bench.bench import NoGuides

from lorax_serve.engine.assembly import assemble_model
from lorax_serve.engine.models.decoder import Decoder
from lorax_serve.ipc.config import Device, EngineConfig
from lorax_serve.ipc.messages import (
    EngineReady,
    Generate,
    RequestFailed,
    StepEvents,
    ToEngine,
    ToFrontend,
)
from lorax_serve.ipc.types import AdapterRef, RequestId, SamplingParams, StopConditions


@dataclass(slots=True)
class Trip:
    """One request, from its arrival to its end; times in seconds, and in steps of the loop."""

    arrived: float
    arrived_step: int
    token_ids: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    first_step: int = 0
    has_ended: bool = False

    @property
    def first_token_seconds(self) -> float:
        return self.token_times[0] - self.arrived

    @property
    def first_token_steps(self) -> int:
        return self.first_step - self.arrived_step


class LocalEngine:
    """Submit requests, step, and read their trips. Close it to end its threads."""

    def __init__(self, model: Decoder, **config: Any) -> None:
        self._inbox: list[tuple[bytes, ToEngine]] = []
        self._loaded = threading.Event()
        self.trips: dict[str, Trip] = {}
        self.num_steps = 0
        settings = {"kv_cache_bytes": 32 * 2**20, "max_queued": 100_000, **config}
        self.parts = assemble_model(
            EngineConfig(endpoint="", model_path="", device=Device.CPU, **settings),
            model,
            (0,),
            NoGuides(),
            report=lambda *_: None,
            on_loaded=self._loaded.set,
        )
        self.core = self.parts.core(self, EngineReady("", self.parts.info))

    def __enter__(self) -> "LocalEngine":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.parts.exchange.close()

    def receive(self, timeout_seconds: float | None) -> list[tuple[bytes, ToEngine]]:
        messages, self._inbox = self._inbox, []
        return messages

    def send(self, frontend: bytes, message: ToFrontend) -> bool:
        if not isinstance(message, StepEvents):
            return True
        now = time.perf_counter()
        for event in message.events:
            trip = self.trips[event.request_id]
            if isinstance(event, RequestFailed):
                raise SystemExit(f"a request failed: {event.message}")
            if not trip.token_ids:
                trip.first_step = self.num_steps
            trip.token_ids += event.token_ids
            trip.token_times += [now] * len(event.token_ids)
            trip.has_ended = event.finish_reason is not None
        return True

    def submit(
        self,
        name: str,
        prompt: list[int],
        adapter: AdapterRef | None,
        *,
        num_tokens: int,
        tenant: str = "",
    ) -> None:
        self.trips[name] = Trip(time.perf_counter(), self.num_steps)
        request = Generate(
            request_id=RequestId(name),
            prompt_token_ids=prompt,
            sampling=SamplingParams(temperature=0.0),
            stop=StopConditions(max_new_tokens=num_tokens, ignore_eos=True),
            adapter=adapter,
            tenant=tenant,
        )
        self._inbox.append((b"bench", request))

    def step(self) -> bool:
        """One turn of the loop; False when there was nothing to run."""
        self._loaded.clear()
        for frontend, message in self.receive(0):
            self.core._accept(frontend, message)
        was_busy = self.core.step()
        self.num_steps += was_busy
        return was_busy

    def wait(self, seconds: float) -> None:
        """For a load to end, or for so long."""
        self._loaded.wait(seconds)

    def run(self, feed: Callable[[], bool]) -> None:
        """Step until `feed`, called before each step, says that no more will come and all ended."""
        while feed() or not all(trip.has_ended for trip in self.trips.values()):
            if not self.step():
                self.wait(0.001)
