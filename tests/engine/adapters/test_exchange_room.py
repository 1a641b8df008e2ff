"""Who gets a place where places are few: reservations, what is staged, what is expected."""

from pathlib import Path

import pytest

from exchange_bench import NAMES, PATIENCE_SECONDS, Bench, GatedReader, adapter_bytes, assert_holds
from lorax_serve.engine.adapters.device_pool import AdapterSlot
from lorax_serve.ipc.types import AdapterRef, ErrorCode
from peft_adapters import adapter_ref
from read_adapters import digest_of


def test_pinned_adapters_are_waited_for(bench: Bench, folders: Path) -> None:
    held = [bench.acquired(adapter_ref(folders / name)) for name in ("a", "b")]
    ref = adapter_ref(folders / "c")
    assert bench.exchange.acquire(ref) is None
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    assert bench.exchange.acquire(ref) is None
    bench.exchange.release(held[0])
    slot = bench.exchange.acquire(ref)
    assert slot is not None and bench.exchange.num_waiting_for_room == 0
    assert_holds(bench.memory, slot, folders / "c")
    assert_holds(bench.memory, held[1], folders / "b")


def test_users_of_resident_adapters_pass_but_cannot_keep_another_out(
    bench: Bench, folders: Path
) -> None:
    """Somebody uses a, and somebody b, at any time: no slot is ever unpinned by itself."""
    a, b, c = (adapter_ref(folders / name) for name in "abc")
    held = [bench.acquired(a), bench.acquired(b)]
    bench.exchange.prefetch(c)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    passed: list[AdapterRef] = []
    for _ in range(200):
        bench.exchange.poll()
        slot = bench.exchange.acquire(c)
        if slot is not None:
            break
        for ref in (a, b):
            newcomer = bench.exchange.acquire(ref)
            if newcomer is not None:
                held.append(newcomer)
                passed.append(ref)
        bench.exchange.release(held.pop(0))
    assert slot is not None and slot.digest == digest_of(folders / "c")
    # Both for as long as either place may come free, then those of the one that is not to go.
    assert {a, b} == set(passed[:16]) and len(set(passed[17:])) == 1
    bench.exchange.release(slot)
    for each in held:
        bench.exchange.release(each)
    bench.assert_nothing_held()


def test_the_next_ones_are_placed_ahead_but_never_at_the_cost_of_sooner_ones(
    bench: Bench, folders: Path
) -> None:
    refs = [adapter_ref(folders / name) for name in "abcd"]
    for ref in refs:
        bench.use(ref)
    bench.exchange.stage(dict.fromkeys(refs))
    bench.exchange.stage(dict.fromkeys(refs))
    resident = [bench.pool.find(digest_of(folders / name)) is not None for name in "abcd"]
    assert resident == [True, True, False, False]
    held = bench.acquired(refs[2])
    bench.exchange.stage(dict.fromkeys(refs))
    assert held.num_pins == 1 and bench.pool.find(held.digest) is held
    bench.exchange.release(held)
    bench.assert_nothing_held()


def test_an_expected_adapter_stays_while_there_is_other_room(bench: Bench, folders: Path) -> None:
    a, b, c, d = (adapter_ref(folders / name) for name in "abcd")
    for ref in (b, b, a, c, d):  # by its use alone, a would go before b
        bench.use(ref)
    bench.use(b)
    bench.use(a)
    bench.exchange.expect([a])
    bench.use(c)
    assert bench.pool.find(digest_of(folders / "a")) and not bench.pool.find(
        digest_of(folders / "b")
    )
    bench.exchange.expect([a, c])
    assert bench.exchange.acquire(b) is None and bench.exchange.num_arriving == 0
    bench.exchange.expect([])
    bench.use(b)


def hold_two_and_reserve(
    bench: Bench, pair: tuple[AdapterRef, AdapterRef], third: AdapterRef
) -> list[AdapterSlot]:
    """Let the first's users pass until a place is reserved: the second's, which has fewer pins."""
    held = [bench.acquired(ref) for ref in pair]
    bench.exchange.prefetch(third)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 1)
    assert bench.exchange.acquire(third) is None
    for _ in range(16):
        assert bench.exchange.acquire(pair[0]) is held[0]
    assert bench.exchange.acquire(third) is None
    return held


def test_a_cancelled_reservation_gives_the_place_back(bench: Bench, folders: Path) -> None:
    a, b, c = (adapter_ref(folders / name) for name in "abc")
    held = hold_two_and_reserve(bench, (a, b), c)
    assert bench.exchange.acquire(b) is None, "its place, with a single pin, is reserved for c"
    assert bench.exchange.acquire(a) is held[0]
    bench.exchange.cancel(c)
    assert bench.exchange.acquire(b) is held[1]


def test_a_place_is_given_back_though_its_refs_content_is_forgotten(
    bench: Bench, folders: Path
) -> None:
    a, b, c = (adapter_ref(folders / name) for name in "abc")
    hold_two_and_reserve(bench, (a, b), c)
    digest = digest_of(folders / "c")
    assert bench.pool.has_reserved(digest)
    for number in range(16384):
        bench.exchange.know(AdapterRef(str(number), "/", str(number)), "another's")
    bench.exchange.cancel(c)
    assert not bench.pool.has_reserved(digest)


@pytest.mark.parametrize("tier", ["device", "host"])
def test_an_adapter_larger_than_a_tier_is_refused(folders: Path, tier: str) -> None:
    bench = Bench(
        capacity_bytes=4096 if tier == "device" else 1 << 20,
        host_bytes=4096 if tier == "host" else 1 << 20,
    )
    error = bench.failure(adapter_ref(folders / "a"))
    assert error.code is ErrorCode.ADAPTER_TOO_LARGE and f"{tier} memory" in error.message
    option = "--adapter-memory" if tier == "device" else "--host-adapter-memory"
    assert "4 KiB" in error.message and f" {option}" in error.message
    bench.exchange.cancel(adapter_ref(folders / "a"))
    bench.assert_nothing_held()
    bench.exchange.close()


def test_adapters_without_room_do_not_pile_up_on_the_host(
    folders: Path, originals: Path, reader: GatedReader
) -> None:
    """Of a host tier of four, two may be taken ahead of time; the rest waits in its files."""
    reader.gate.set()
    size = adapter_bytes(originals)
    bench = Bench(capacity_bytes=size, host_bytes=4 * size, max_loading=1)
    held = bench.acquired(adapter_ref(folders / "a"))
    refs = [adapter_ref(folders / name) for name in NAMES[1:]]
    for ref in refs:
        bench.exchange.prefetch(ref)
    bench.until(lambda: bench.exchange.num_waiting_for_room == 3)
    for _ in range(4):
        assert reader.started.acquire(timeout=PATIENCE_SECONDS)
    assert not reader.started.acquire(timeout=0.2), "a fifth adapter is being read"
    assert bench.exchange.num_loading == len(refs) - 3
    bench.exchange.release(held)
    for ref in refs:
        bench.use(ref)
    assert sum(reader.counts.values()) == len(NAMES)
    bench.assert_nothing_held()
    bench.exchange.close()
