"""An engine without a model: every step gives each running request one token, in one message.
Logprobs of a prompt come before, those of MAX_PROMPT_TOKENS at a step.

    python -P stub_engine.py TICKS_FILE STEP_SECONDS

With 0 seconds between steps it makes them as fast as it can send. A request runs from its arrival
until it has all its tokens; there is neither queue nor bound.
"""

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frontend_bench.ticks import FIRST_ID, NUM_TICKS, Ticks
from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.link import EngineLink, FrontendId
from lorax_serve.ipc.messages import (
    Abort,
    EngineReady,
    Generate,
    Hello,
    StepEvents,
    ToEngine,
    TokensGenerated,
    protocol_hash,
)
from lorax_serve.ipc.types import EngineInfo, FinishReason, PromptStats, RequestId, TokenLogprob

INFO = EngineInfo(
    architecture="StubForCausalLM",
    device="none",
    dtype="float32",
    num_parameters=0,
    vocab_size=FIRST_ID + NUM_TICKS,
    hidden_size=64,
    eos_token_ids=(0,),
    max_model_len=2**21,
    block_size=16,
    num_blocks=2**20,
    max_num_sequences=4096,
    max_adapter_rank=64,
    adapter_pool_bytes=2**20,
    typical_adapter_bytes=2**16,
)
MAX_PROMPT_TOKENS = 8192  # as the engine has it on a GPU
LOGPROB = TokenLogprob(-0.6931471805599453)
STATS = PromptStats(num_cached_tokens=0, queue_seconds=0.0)


@dataclass(slots=True)
class Running:
    frontend: FrontendId
    num_left: int
    with_logprobs: bool
    num_prompt_logprobs: int  # still to be told
    is_new: bool = True  # and has not been told of its prompt


class StubEngine:
    def __init__(self, link: EngineLink, ticks: Ticks) -> None:
        self._link = link
        self._ticks = ticks
        self._running: dict[RequestId, Running] = {}

    def serve(self, step_seconds: float) -> None:
        """Until its frontend ends the process."""
        due, number = 0.0, 0
        while True:
            wait = max(due - time.monotonic(), 0) if self._running else None
            for frontend, message in self._link.receive(wait):
                self._take(frontend, message)
            now = time.monotonic()
            if self._running and now >= due:
                due = max(due + step_seconds, now)
                self._step(number)
                number = (number + 1) % NUM_TICKS

    def _take(self, frontend: FrontendId, message: ToEngine) -> None:
        match message:
            case Hello():
                self._link.send(frontend, EngineReady(protocol_hash(), INFO))
            case Generate():
                told = message.num_prompt_logprobs is not None
                self._running[message.request_id] = Running(
                    frontend,
                    message.stop.max_new_tokens,
                    message.sampling.num_logprobs is not None,
                    len(message.prompt_token_ids) - 1 if told else 0,
                )
            case Abort():
                self._running.pop(message.request_id, None)

    def _step(self, number: int) -> None:
        events: dict[FrontendId, list[TokensGenerated]] = defaultdict(list)
        for request_id, running in list(self._running.items()):
            events[running.frontend].append(_event(request_id, running, FIRST_ID + number))
            if not running.num_left:
                del self._running[request_id]
        self._ticks.stamp(number)
        for frontend, each in events.items():
            self._link.send(frontend, StepEvents(each))


def _event(request_id: RequestId, running: Running, token_id: int) -> TokensGenerated:
    num_told = min(running.num_prompt_logprobs, MAX_PROMPT_TOKENS)
    running.num_prompt_logprobs -= num_told
    prompt_logprobs = [LOGPROB] * num_told or None
    if running.num_prompt_logprobs:
        return TokensGenerated(request_id, [], prompt_logprobs=prompt_logprobs)
    is_first, running.is_new = running.is_new, False
    running.num_left -= 1
    return TokensGenerated(
        request_id,
        [token_id],
        finish_reason=None if running.num_left else FinishReason.LENGTH,
        logprobs=[LOGPROB] if running.with_logprobs else None,
        prompt=STATS if is_first else None,
        prompt_logprobs=prompt_logprobs,
    )


def main(ticks_file: str, step_seconds: float) -> None:
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    link = EngineLink(config.endpoint)
    with Ticks(Path(ticks_file)) as ticks:
        StubEngine(link, ticks).serve(step_seconds)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
