"""An EngineCore whose link, adapters and model are fakes, driven step by step."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from fake_runner import HIDDEN_SIZE, VOCAB_SIZE, FakeRunner, next_token
from lorax_serve.engine.block_allocator import BlockAllocator
from lorax_serve.engine.core import EngineCore
from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.intake import Intake
from lorax_serve.engine.lull import Lull
from lorax_serve.engine.scheduler import Scheduler
from lorax_serve.engine.sequence_blocks import SequenceBlocks
from lorax_serve.ipc.messages import (
    Abort,
    EngineReady,
    Generate,
    Pool,
    RequestEvent,
    StepEvents,
    ToEngine,
    ToFrontend,
    TokensGenerated,
)
from lorax_serve.ipc.types import (
    AdapterRef,
    EngineInfo,
    ErrorCode,
    Pooling,
    RequestId,
    SamplingParams,
    StopConditions,
)

FRONTEND = b"frontend"
BLOCK_SIZE = 4
PROMPT = list(range(10))

each_way = pytest.mark.parametrize("overlaps", [False, True], ids=["at_once", "overlapped"])


class FakeLink:
    def __init__(self) -> None:
        self.inbox: list[tuple[bytes, ToEngine]] = []
        self.events: list[RequestEvent] = []
        self.others: list[ToFrontend] = []  # what is no event of a step
        self.reachable = True

    def receive(self, timeout_seconds: float | None) -> list[tuple[bytes, ToEngine]]:
        messages, self.inbox = self.inbox, []
        return messages

    def send(self, frontend: bytes, message: ToFrontend) -> bool:
        if isinstance(message, StepEvents):
            self.events.extend(message.events)
        else:
            self.others.append(message)
        return self.reachable


@dataclass(eq=False)
class FakeSlot:
    index: int
    digest: str
    num_pins: int = 0
    head: None = None


@dataclass
class FakeKept:
    digests: Counter[str] = field(default_factory=Counter)

    def keep(self, digest: str) -> None:
        self.digests[digest] += 1

    def let_go(self, digest: str) -> None:
        assert self.digests[digest] > 0
        self.digests[digest] -= 1


@dataclass
class FakeAdapters:
    """`capacity` slots; an adapter becomes resident `delay` polls after it is asked for.

    Like the exchange, it drains a slot for the first adapter that finds no room.
    """

    capacity: int = 2
    delay: int = 2
    broken: frozenset[str] = frozenset()
    resident: dict[AdapterRef, FakeSlot] = field(default_factory=dict)
    loading: dict[AdapterRef, int] = field(default_factory=dict)
    num_arriving: int = 0
    draining: FakeSlot | None = None
    staged: list[AdapterRef] = field(default_factory=list)
    expected: set[AdapterRef] = field(default_factory=set)
    asked_even_arriving: list[tuple[str, bool]] = field(default_factory=list)
    num_changes: int = 0
    kept: FakeKept = field(default_factory=FakeKept)

    @property
    def num_loading(self) -> int:
        return len(self.loading)

    def is_settled(self, ref: AdapterRef) -> bool:
        return ref in self.resident or (ref.name in self.broken and self.loading.get(ref) == 0)

    def prefetch(self, ref: AdapterRef) -> None:
        if ref not in self.resident:
            self.loading.setdefault(ref, self.delay)

    def poll(self) -> None:
        for ref, left in tuple(self.loading.items()):
            self.loading[ref] = max(0, left - 1)
            self.num_changes += left == 1
            if left <= 1 and ref.name not in self.broken and self._has_room():
                del self.loading[ref]
                used = {slot.index for slot in self.resident.values()}
                index = min(set(range(self.capacity)) - used)
                self.resident[ref] = FakeSlot(index, f"digest of {ref.name}")
                self.draining = None
                self.num_changes += 1

    def _has_room(self) -> bool:
        if len(self.resident) < self.capacity:
            return True
        for ref, slot in self.resident.items():
            if slot.num_pins == 0:
                del self.resident[ref]
                return True
        if self.draining not in self.resident.values():
            self.draining = min(self.resident.values(), key=lambda slot: slot.num_pins)
        return False

    def acquire(self, ref: AdapterRef, *, tenant: str, even_arriving: bool) -> FakeSlot | None:
        self.asked_even_arriving.append((ref.name, even_arriving))
        if ref.name in self.broken and self.loading.get(ref) == 0:
            raise RequestError(ErrorCode.ADAPTER_CORRUPT, f"Adapter {ref.name!r} is broken.")
        slot = self.resident.get(ref)
        if slot is None:
            self.prefetch(ref)
        if slot is None or slot is self.draining:
            return None
        slot.num_pins += 1
        return slot

    def release(self, slot: FakeSlot) -> None:
        assert slot.num_pins > 0
        slot.num_pins -= 1
        self.num_changes += 1

    def cancel(self, ref: AdapterRef) -> None:
        self.num_changes += 1
        if self.loading.pop(ref, None) == 0:
            self.draining = None

    def stage(self, refs: Mapping[AdapterRef, str]) -> None:
        self.staged = list(refs)

    def expect(self, refs: Iterable[AdapterRef]) -> None:
        self.expected = set(refs)


class Harness:
    def __init__(
        self,
        *,
        num_blocks: int = 64,
        max_num_sequences: int = 8,
        max_batch_tokens: int = 16,
        prefix_cache: bool = True,
        adapters: FakeAdapters | None = None,
        eos_token_ids: tuple[int, ...] = (),
        overlaps: bool = False,
    ) -> None:
        self.info = EngineInfo(
            architecture="fake",
            device="cpu",
            dtype="float32",
            num_parameters=0,
            vocab_size=VOCAB_SIZE,
            hidden_size=HIDDEN_SIZE,
            eos_token_ids=eos_token_ids,
            max_model_len=num_blocks * BLOCK_SIZE,
            block_size=BLOCK_SIZE,
            num_blocks=num_blocks,
            max_num_sequences=max_num_sequences,
            max_adapter_rank=8,
            adapter_pool_bytes=1,
            typical_adapter_bytes=1,
        )
        self.link = FakeLink()
        self.adapters = adapters or FakeAdapters()
        self.allocator = BlockAllocator(num_blocks)
        self.scheduler = Scheduler(
            SequenceBlocks(self.allocator, block_size=BLOCK_SIZE, prefix_cache=prefix_cache),
            self.adapters,
            max_num_sequences=max_num_sequences,
            max_batch_tokens=max_batch_tokens,
        )
        self.runner = FakeRunner(num_blocks=num_blocks, block_size=BLOCK_SIZE, overlaps=overlaps)
        self.lull = Lull()
        self.core = EngineCore(
            link=self.link,
            ready=EngineReady("", self.info),
            intake=Intake(self.info, guides=None, max_queued=1000),
            scheduler=self.scheduler,
            exchange=self.adapters,
            runner=self.runner,
            lull=self.lull,
        )

    def generate(self, request: Generate | Pool) -> None:
        self.link.inbox.append((FRONTEND, request))

    def abort(self, request_id: str) -> None:
        self.link.inbox.append((FRONTEND, Abort(RequestId(request_id))))

    def step(self) -> bool:
        self.core._receive(0)
        return self.core.step()

    def run_until_idle(self, limit: int = 5000) -> None:
        for _ in range(limit):
            busy = self.step()
            if not busy and not self.scheduler.num_waiting and not self.link.inbox:
                assert not any(self.adapters.kept.digests.values()), "nobody waits halfway"
                return
        raise AssertionError(f"still busy after {limit} steps")

    def tokens(self, request_id: str) -> list[int]:
        return [
            token
            for event in self.link.events
            if isinstance(event, TokensGenerated) and event.request_id == request_id
            for token in event.token_ids
        ]

    def terminal_events(self, request_id: str) -> list[RequestEvent]:
        return [
            event
            for event in self.link.events
            if event.request_id == request_id and is_terminal(event)
        ]


def is_terminal(event: RequestEvent) -> bool:
    return not isinstance(event, TokensGenerated) or event.finish_reason is not None


def adapter_ref(name: str) -> AdapterRef:
    return AdapterRef(name=name, path=f"/adapters/{name}", revision="1", is_writable=True)


def request(
    request_id: str,
    prompt: list[int],
    *,
    max_new_tokens: int = 4,
    adapter: str | None = None,
    tenant: str = "",
    **stop: object,
) -> Generate:
    return Generate(
        request_id=RequestId(request_id),
        prompt_token_ids=prompt,
        sampling=SamplingParams(),
        stop=StopConditions(max_new_tokens=max_new_tokens, **stop),
        adapter=None if adapter is None else adapter_ref(adapter),
        tenant=tenant,
    )


def pooling_request(
    request_id: str, prompt: list[int], *, pooling: Pooling, adapter: str | None = None
) -> Pool:
    return Pool(
        request_id=RequestId(request_id),
        prompt_token_ids=prompt,
        pooling=pooling,
        adapter=None if adapter is None else adapter_ref(adapter),
    )


def expected_tokens(prompt: list[int], num_tokens: int, adapter: str | None = None) -> list[int]:
    """What the fake model generates when it is alone."""
    digest = "" if adapter is None else f"digest of {adapter}"
    context = tuple(prompt)
    for _ in range(num_tokens):
        context += (next_token(context, digest),)
    return list(context[len(prompt) :])
