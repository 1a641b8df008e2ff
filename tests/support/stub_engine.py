"""An engine without a model, as a process: it speaks the protocol and makes up tokens.

    python -P stub_engine.py [behaviour]

What it generates follows from the first prompt token: HANG gives one token and then nothing, FAIL
is refused, any other is followed by its successors until max_new_tokens.
"""

import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path

import msgspec

from lorax_serve.ipc.config import EngineConfig
from lorax_serve.ipc.link import EngineLink, FrontendId
from lorax_serve.ipc.messages import (
    EngineFailed,
    EngineReady,
    Generate,
    Hello,
    LoadProgress,
    Pool,
    PromptPooled,
    RequestFailed,
    StepEvents,
    TokensGenerated,
    protocol_hash,
)
from lorax_serve.ipc.types import EngineInfo, ErrorCode, FinishReason, Pooling, PromptStats

HANG = 1
FAIL = 2
VISIBLE = 40  # a token with text, in the tiny tokenizers

SERVES = "serves"
CRASHES = "crashes"  # before it has said anything
REFUSES = "refuses"  # the model, with a sentence
LOADS_FOREVER = "loads-forever"
OTHER_BUILD = "other-build"  # gets ready in another protocol
BABBLES = "babbles"  # gets ready, then answers a request with what is no message
DEAF = "deaf"  # serves, and neither SIGTERM nor the end of its input ends it

REFUSAL = "This model cannot be served: its heart is not in it."

INFO = EngineInfo(
    architecture="StubForCausalLM",
    device="cpu",
    dtype="float32",
    num_parameters=1_234_567,
    vocab_size=320,
    hidden_size=4,
    eos_token_ids=(0,),
    max_model_len=512,
    block_size=16,
    num_blocks=100,
    max_num_sequences=8,
    max_adapter_rank=64,
    adapter_pool_bytes=2**20,
    typical_adapter_bytes=2**16,
)


def command(behaviour: str = SERVES) -> tuple[str, ...]:
    """What runs this module as an engine."""
    return (sys.executable, "-P", str(Path(__file__).resolve()), behaviour)


def answers(request: Generate) -> list[TokensGenerated | RequestFailed]:
    """Every event of one request, in order."""
    first, *_ = request.prompt_token_ids
    if first == FAIL:
        return [RequestFailed(request.request_id, ErrorCode.ADAPTER_CORRUPT, "No such luck.")]
    stats = PromptStats(num_cached_tokens=0, queue_seconds=0.0)
    if first == HANG:
        return [TokensGenerated(request.request_id, [VISIBLE], prompt=stats)]
    last = request.stop.max_new_tokens
    return [
        TokensGenerated(
            request.request_id,
            [first + count],
            finish_reason=FinishReason.LENGTH if count == last else None,
            prompt=stats if count == 1 else None,
        )
        for count in range(1, last + 1)
    ]


def vector(request: Pool) -> PromptPooled | RequestFailed | None:
    """How it was to be pooled and its first id; no answer where that is HANG."""
    first, *_ = request.prompt_token_ids
    if first == HANG:
        return None
    if first == FAIL:
        return RequestFailed(request.request_id, ErrorCode.ADAPTER_CORRUPT, "No such luck.")
    stats = PromptStats(num_cached_tokens=0, queue_seconds=0.0)
    return PromptPooled(
        request.request_id, struct.pack("<4f", 1, 0, request.pooling is Pooling.MEAN, first), stats
    )


def main(behaviour: str) -> int:
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    if behaviour == CRASHES:
        return 3
    if behaviour == DEAF:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        threading.Thread(target=_exit_with_frontend, daemon=True).start()
    link = EngineLink(config.endpoint)
    try:
        frontend = _await_hello(link)
        link.send(frontend, LoadProgress("Loading weights", 0.5))
        if behaviour == REFUSES:
            link.send(frontend, EngineFailed(REFUSAL))
            return 1
        if behaviour == LOADS_FOREVER:
            time.sleep(600)
        protocol = "another" if behaviour == OTHER_BUILD else protocol_hash()
        pool_bytes = config.adapter_pool_bytes or INFO.adapter_pool_bytes
        info = msgspec.structs.replace(INFO, adapter_pool_bytes=pool_bytes)
        ready = EngineReady(protocol, info)
        link.send(frontend, ready)
        _serve(link, ready, babbles=behaviour == BABBLES)
    finally:
        link.close()
    return 0


def _await_hello(link: EngineLink) -> FrontendId:
    while True:
        for frontend, message in link.receive(None):
            if message == Hello(protocol_hash()):
                return frontend


def _serve(link: EngineLink, ready: EngineReady, *, babbles: bool) -> None:
    while True:
        for frontend, message in link.receive(None):
            if isinstance(message, Hello):
                link.send(frontend, ready)
            elif isinstance(message, Generate) and babbles:
                link._socket.send_multipart((frontend, b"babble"))
            elif isinstance(message, Generate):
                for event in answers(message):
                    link.send(frontend, StepEvents([event]))
            elif isinstance(message, Pool) and (answer := vector(message)):
                link.send(frontend, StepEvents([answer]))


def _exit_with_frontend() -> None:
    while sys.stdin.buffer.read(4096):
        continue
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
