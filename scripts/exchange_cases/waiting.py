"""What planning a step costs while requests wait for thousands of adapters and room is scarce."""

import statistics
import time
from collections.abc import Callable

import torch

from exchange_cases.figures import milliseconds, report
from exchange_cases.sizes import DEVICE_SLOTS
from lorax_serve.engine.adapters.exchange import AdapterExchange
from lorax_serve.engine.adapters.slab import plan_slab
from lorax_serve.engine.adapters.slab_memory import TorchSlabs
from lorax_serve.engine.adapters.slab_tier import aligned
from lorax_serve.engine.block_allocator import BlockAllocator
from lorax_serve.engine.scheduler import Scheduler
from lorax_serve.engine.sequence import Sequence, SequenceId
from lorax_serve.engine.sequence_blocks import SequenceBlocks
from lorax_serve.ipc.types import AdapterRef, RequestId, SamplingParams, StopConditions
from lorax_serve.kernels.lora import LoraSite, LoraTarget

SITES = (LoraSite(0, 16, (LoraTarget("linear", 0, 16),)),)
LAYOUT = plan_slab(SITES, {"linear": 1}, transposed_a=True)
NUM_BYTES = aligned(LAYOUT.num_elements * 4)
NUM_STEPS = 50


def waiting(scale: float) -> None:
    for number in (250, 1000, 4000):
        crowd = Crowd(int(number * scale))
        for _ in range(NUM_STEPS):
            crowd.step()
        quiet = crowd.median_seconds(lambda: None)
        changed = crowd.median_seconds(crowd.replace_one)
        report(
            case="waiting",
            adapters_waited_for=int(number * scale),
            running=crowd.scheduler.num_running,
            plan_ms={
                "nothing_changed": milliseconds(quiet),
                "one_ended_one_came": milliseconds(changed),
            },
        )
        crowd.exchange.close()


class Crowd:
    """Two requests for each adapter; all adapters are on the host, few have room on the device."""

    def __init__(self, num_adapters: int) -> None:
        self.exchange = AdapterExchange(
            TorchSlabs(
                SITES,
                capacity_bytes=DEVICE_SLOTS * NUM_BYTES,
                dtype=torch.float32,
                device=torch.device("cpu"),
            ),
            torch.zeros(num_adapters * NUM_BYTES // 4),
            SITES,
            max_rank=1,
            max_loading=1,
            on_loaded=lambda: None,
        )
        self.scheduler = Scheduler(
            SequenceBlocks(BlockAllocator(20_000), block_size=16, prefix_cache=False),
            self.exchange,
            max_num_sequences=4 * DEVICE_SLOTS,
            max_batch_tokens=8192,
        )
        self._refs = [self._on_host(index) for index in range(num_adapters)]
        self._num_added = 0
        self._running: list[Sequence] = []  # of the step that was planned last
        for ref in (*self._refs, *self._refs):
            self._add(ref)

    def median_seconds(self, before: Callable[[], None]) -> float:
        seconds = []
        for _ in range(NUM_STEPS):
            before()
            seconds.append(self.step())
        return statistics.median(seconds)

    def step(self) -> float:
        """Seconds that planning it took."""
        self.exchange.poll()
        started = time.perf_counter()
        step = self.scheduler.schedule().step
        seconds = time.perf_counter() - started
        self.scheduler.launched(step)
        for item in step.sampling:
            item.sequence.output_token_ids.append(1)
        self.scheduler.finished(step)
        self._running = [item.sequence for item in step.scheduled]
        return seconds

    def replace_one(self) -> None:
        self.scheduler.remove(self._running[0].id)
        self._add(self._refs[self._num_added % len(self._refs)])

    def _on_host(self, index: int) -> AdapterRef:
        ref = AdapterRef(name=f"adapter-{index}", path=f"/{index}", revision="1")
        place = self.exchange.store.reserve(ref.name, LAYOUT, read_seconds=0.0)
        assert place is not None, "the host has room for all"
        self.exchange.store.publish(place)
        self.exchange.store.unpin(place)
        self.exchange.know(ref, ref.name)
        return ref

    def _add(self, ref: AdapterRef) -> None:
        self._num_added += 1
        self.scheduler.add(
            Sequence(
                id=SequenceId(b"bench", RequestId(str(self._num_added))),
                arrival=self._num_added,
                arrival_time=0.0,
                prompt_token_ids=[1] * 16,
                sampling=SamplingParams(),
                stop=StopConditions(max_new_tokens=10_000, ignore_eos=True),
                eos_token_ids=frozenset(),
                adapter=ref,
            )
        )
