"""Who runs in the next step.

There is no prefill phase and no decode phase: a sequence has tokens whose keys are computed and
tokens whose keys are not, and a step computes some of the latter under one token budget. Running
sequences come first, those with a single token to compute (decodes) before longer ones (prompt
chunks), then waiting ones are admitted: preempted ones first, then in the order of the fair queue.
A waiting sequence whose adapter is not on the device steps aside and others pass it; the exchange
sees to it that it is not passed for ever. When KV blocks run out, the youngest running sequence is
preempted: it gives everything back and is computed again later, mostly from the prefix cache. One
of a tenant that holds more than its share of the places is parked, with its blocks, when one of a
tenant that holds less can run in its place (`place_shares.py`).

A step may be planned while the one before it still runs. A sequence that samples there has a
pending token, which counts like any other but for its id. Its blocks may be given back as soon as
it is found to have ended: what the step in flight still writes, it writes before any later step.
"""

import time
from itertools import islice

from lorax_serve.engine.adapter_source import AdapterSource
from lorax_serve.engine.errors import RequestError
from lorax_serve.engine.fair_queue import FairQueue
from lorax_serve.engine.place_shares import giver_for
from lorax_serve.engine.places import Places
from lorax_serve.engine.prompt_followers import PromptFollowers
from lorax_serve.engine.schedule import Rejection, Schedule
from lorax_serve.engine.sequence import Sequence, SequenceId, SequenceStatus
from lorax_serve.engine.sequence_blocks import SequenceBlocks
from lorax_serve.engine.step import ScheduledSequence, Step
from lorax_serve.engine.step_chunks import StepChunks
from lorax_serve.ipc.types import AnyAdapterRef, ErrorCode

# Adapters that are brought to the device before their sequences can run.
_NUM_STAGED = 16
# Waiting sequences that are asked for one after another, before only those are that may be settled
# at once: with thousands of adapters, each of them alike, most of the others are far from a place.
_NUM_CONSIDERED = 64
# Sequences that give their places to other tenants' in one step.
_MAX_PARKED = 4


class Scheduler:
    """Owns every sequence from arrival to its end."""

    def __init__(
        self,
        blocks: SequenceBlocks,
        adapters: AdapterSource,
        *,
        max_num_sequences: int,
        max_batch_tokens: int,
    ) -> None:
        self._blocks = blocks
        self._adapters = adapters
        self._max_batch_tokens = max_batch_tokens
        self._sequences: dict[SequenceId, Sequence] = {}
        self._waiting = FairQueue()
        self._followers = PromptFollowers()
        self._places = Places(blocks, adapters, max_num_sequences=max_num_sequences)
        self._num_changes = 0  # of who waits and what is free
        self._at_rest: tuple[int, int] | None = None  # nobody can be admitted while this holds

    @property
    def num_waiting(self) -> int:
        return len(self._waiting) + len(self._followers)

    @property
    def num_running(self) -> int:
        return len(self._places.running)

    def __contains__(self, sequence_id: SequenceId) -> bool:
        return sequence_id in self._sequences

    def add(self, sequence: Sequence, *, after: SequenceId | None = None) -> None:
        """`after` has the same prompt: until that one's is computed, this one does not run."""
        assert sequence.id not in self._sequences, f"{sequence.id} is already here"
        self._num_changes += 1
        leader = None if after is None else self._sequences.get(after)
        self._sequences[sequence.id] = sequence
        if leader is not None and not leader.output_token_ids:
            self._followers.hold(sequence, leader.id)
        else:
            self._waiting.push(sequence)
        if sequence.adapter is not None:
            self._adapters.prefetch(sequence.adapter)

    def remove(self, sequence_id: SequenceId) -> bool:
        """End a sequence, wherever it stands, and free what it holds; False if unknown."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return False
        self._num_changes += 1
        self._release_followers(sequence)
        is_follower = self._followers.discard(sequence)
        if sequence.status is SequenceStatus.RUNNING:
            self._places.stop(sequence)
        elif not is_follower:
            self._places.give_back(sequence)
            self._waiting.remove(sequence)
            self._lose_interest(sequence.adapter)
        if not is_follower:
            self._waiting.ended(sequence)
        sequence.status = SequenceStatus.FINISHED
        return True

    def _release_followers(self, leader: Sequence) -> None:
        for follower in self._followers.release(leader.id):
            self._num_changes += 1
            self._waiting.push(follower)

    def remove_all_of(self, frontend: bytes) -> int:
        """End every sequence of a frontend that is gone; how many there were."""
        orphans = [known for known in self._sequences if known.frontend == frontend]
        for orphan in orphans:
            self.remove(orphan)
        return len(orphans)

    def schedule(self) -> Schedule:
        """Plan one step. Blocks are allocated and adapters pinned for it; the plan may be empty."""
        num_running = len(self._places.running)
        chunks = StepChunks(self._places, self._max_batch_tokens, self._preempt)
        chunks.go_on(self._waiting.tenants)
        rejections: list[Rejection] = []
        if len(self._places.running) == num_running:  # nobody was preempted
            rejections = self._admit_if_possible(chunks)
        chunks.give_the_rest()
        items = [ScheduledSequence.next_of(*each) for each in chunks.num_tokens.items()]
        items.sort(key=lambda item: (item.num_tokens > 1, item.adapter_slot))
        return Schedule(Step(tuple(items)), tuple(rejections))

    def launched(self, step: Step) -> None:
        """The step will run before any that is planned from now on."""
        for item in step.scheduled:
            item.sequence.num_computed = item.start + item.num_tokens
            item.sequence.num_pending += item.samples

    def withdraw(self, step: Step) -> None:
        """The newest launched step came to nothing: its tokens are to be computed again."""
        for item in step.scheduled:
            item.sequence.num_computed = item.start
            item.sequence.num_pending -= item.samples

    def finished(self, step: Step) -> None:
        """The step has run: its keys and values are in the cache, its tokens about to be known."""
        for item in step.scheduled:
            item.sequence.num_pending -= item.samples
            if item.sequence.status is SequenceStatus.RUNNING:
                self._blocks.register_computed(item.sequence)
            if item.samples:
                self._release_followers(item.sequence)
            if not item.sequence.is_finished:
                self._waiting.generated(item.sequence, int(item.samples))

    def check_integrity(self) -> None:
        """Assert that the ledgers add up; with no sequence, that every block is free."""
        self._blocks.allocator.check_integrity()
        if not self._sequences:
            assert self._blocks.allocator.num_used == 0, "blocks leaked"

    # -- running sequences

    def _preempt(self, sequence: Sequence) -> None:
        self._num_changes += 1
        self._places.preempt(sequence)
        self._waiting.put_back(sequence)

    # -- waiting sequences

    def _admit_if_possible(self, chunks: StepChunks) -> list[Rejection]:
        """Leave those that wait alone while nothing has changed for them since the last time."""
        before = self._changes
        if self._places.running and before == self._at_rest:
            return []
        # Whether these give places changes with what they were served.
        above = self._places.shares.above_share(self._waiting.tenants)
        rejections = self._admit(chunks, above)
        budget = chunks.budget
        is_at_rest = self._changes == before and budget.is_whole and budget.left > 0 and not above
        self._at_rest = before if is_at_rest else None
        return rejections

    @property
    def _changes(self) -> tuple[int, int]:
        return self._num_changes, self._adapters.num_changes

    def _admit(self, chunks: StepChunks, above: frozenset[str]) -> list[Rejection]:
        """Move waiting sequences into the step while budget, places and blocks last.

        The adapters of the first ones that have to wait are brought nearer meanwhile. `above` are
        the tenants above their share.
        """
        rejections: list[Rejection] = []
        upcoming: dict[AnyAdapterRef, str] = {}  # and for which tenant
        parked: list[Sequence] = []
        budget, givers = chunks.budget, list[Sequence]()
        has_room = budget.left > 0 and self._places.num_free > 0
        may_run = has_room or bool(above)
        self._adapters.expect(self._waiting.adapters(besides=above) if may_run else ())
        if above:
            givers = self._places.shares.givers(chunks.num_tokens)
        for sequence in self._waiting.candidates():
            has_room = has_room and budget.left > 0 and self._places.num_free > 0
            if not has_room and len(upcoming) >= _NUM_STAGED:
                break
            giver = giver_for(sequence.tenant, givers, self._waiting.was_served_less)
            ref = sequence.adapter
            if len(upcoming) >= _NUM_CONSIDERED and not self._is_settled(ref):
                continue
            if giver is None and has_room and not budget.most(sequence.tenant):
                continue  # its tenant's other prompts have had their part of this step
            may_run = (has_room or giver is not None) and ref not in upcoming
            try:
                admissible = may_run and self._pin_adapter(sequence)
            except RequestError as error:
                rejections.append(Rejection(sequence, error))
                self.remove(sequence.id)
                continue
            if admissible:
                has_begun = has_room and chunks.begin(sequence)
                if not has_begun and giver is not None and chunks.begin(sequence, giver):
                    has_begun = True
                    parked.append(giver)
                    may_go_on = len(parked) < _MAX_PARKED
                    givers = self._places.shares.givers(chunks.num_tokens) if may_go_on else []
                if has_begun:
                    self._began(sequence)
                    continue
                self._places.unpin_adapter(sequence)
                has_room = False  # blocks are short; passing it by would starve long prompts
            if ref is not None:
                upcoming.setdefault(ref, sequence.tenant)
        for giver in parked:  # not before, or one would be offered the place that it gave
            self._waiting.made_room(giver)
        self._adapters.stage(dict(islice(upcoming.items(), _NUM_STAGED)))
        return rejections

    def _began(self, sequence: Sequence) -> None:
        self._num_changes += 1
        self._waiting.remove(sequence)
        if sequence.first_scheduled_time is not None:
            self._waiting.admitted(sequence, 0)
            return
        sequence.first_scheduled_time = time.monotonic()
        sequence.num_cached_tokens = sequence.num_computed
        self._waiting.admitted(sequence, sequence.num_prompt_tokens - sequence.num_computed)

    def _pin_adapter(self, sequence: Sequence) -> bool:
        """Pin the sequence's adapter if it is on the device. Raises RequestError."""
        # A schedule that preempts admits nobody, and the step in flight is applied before the next
        # one: its tokens are known by then.
        assert sequence.num_pending == 0, "a waiting sequence has a token in flight"
        if sequence.adapter is None:
            return True
        # Where nothing else runs, nobody is kept waiting by a step that waits for a copy.
        slot = self._adapters.acquire(
            sequence.adapter, tenant=sequence.tenant, even_arriving=not self._places.running
        )
        if slot is None:
            return False
        if sequence.adapter_digest not in (None, slot.digest):
            self._adapters.release(slot)
            raise RequestError(
                ErrorCode.ADAPTER_CHANGED,
                f"The files of adapter {sequence.adapter.name!r} changed during the request.",
            )
        problem = sequence.problem_with(slot.head)
        if problem is not None:
            self._adapters.release(slot)
            raise RequestError(ErrorCode.ADAPTER_INCOMPATIBLE, problem)
        sequence.slot, sequence.adapter_digest = slot, slot.digest
        return True

    def _is_settled(self, ref: AnyAdapterRef | None) -> bool:
        return ref is None or self._adapters.is_settled(ref)

    def _lose_interest(self, ref: AnyAdapterRef | None) -> None:
        """Stop loading an adapter that nobody waits for any more."""
        if ref is not None and all(sequence.adapter != ref for sequence in self._waiting):
            self._adapters.cancel(ref)
