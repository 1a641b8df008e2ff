"""What names meant: kept over restarts, found by digest, written in the order of the changes."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorax_serve.server.store.names import MAX_NAMES_PER_ENTRY, MAX_REVISIONS_PER_ENTRY, KnownNames
from set_clock import Clock
from store_cases import remote

DIGESTS = [letter * 64 for letter in "abc"]


def files_in(folder: Path) -> int:
    return len(list(folder.iterdir()))


class NeverScanned(dict[object, object]):
    """Finds by key only."""

    def __iter__(self) -> Iterator[object]:
        raise AssertionError("all names were gone through")

    keys = values = items = __iter__  # type: ignore[assignment]


async def test_what_is_known_of_others_costs_nothing(tmp_path: Path) -> None:
    names = KnownNames(tmp_path, DIGESTS)
    names._by_name = NeverScanned()  # type: ignore[assignment]
    names._digests = NeverScanned()  # type: ignore[assignment]
    for number in range(2 * MAX_NAMES_PER_ENTRY):
        names.remember(f"a@{number}", remote("a", b"", revision=str(number)), DIGESTS[0])
        names.remember(f"b@{number}", remote("b", b""), DIGESTS[1])
    await names.save()
    assert files_in(tmp_path) == 2 * MAX_NAMES_PER_ENTRY
    names.forget_entry(DIGESTS[0])
    await names.save()
    assert files_in(tmp_path) == MAX_NAMES_PER_ENTRY
    assert names.digest(remote("a", b"", revision="31")) is None
    assert names.digest(remote("b", b"")) == DIGESTS[1]


async def test_revisions_of_the_same_bytes_do_not_pile_up(tmp_path: Path) -> None:
    """A name that moves with each commit of a repository, and one that stays at the first."""
    names = KnownNames(tmp_path, DIGESTS)
    revisions = [remote("a", b"", revision=str(number)) for number in range(1000)]
    names.remember("a@0", revisions[0], DIGESTS[0])
    for adapter in revisions:
        names.remember("a", adapter, DIGESTS[0])
    names.remember("a@0", revisions[0], DIGESTS[0])
    kept = [int(each.revision) for each in revisions if names.digest(each) == DIGESTS[0]]
    assert kept == [0, *range(1001 - MAX_REVISIONS_PER_ENTRY, 1000)]
    assert len(names._digests) == len(names._revisions_of[DIGESTS[0]]) == MAX_REVISIONS_PER_ENTRY
    names.forget_entry(DIGESTS[0])
    assert not names._digests


HOUR = 3600
ONE = remote("a", b"")


async def test_only_the_sources_word_renews_a_name_and_the_disk_keeps_when(tmp_path: Path) -> None:
    clock = Clock(1_700_000_000.0)

    def known(names: KnownNames) -> bool:
        return names.last_meaning("hub", "a", within=24 * HOUR) == ONE

    names = KnownNames(tmp_path, DIGESTS, clock)
    names.remember("a", ONE, DIGESTS[0])
    clock.now += 12 * HOUR
    names.confirm("a", ONE)
    await names.save()
    clock.now += 22 * HOUR
    names.remember("a", ONE, DIGESTS[0])  # was used, is no news
    names.confirm("a", remote("a", b"", revision="other"))
    names.confirm("b", ONE)
    assert known(names)
    assert known(KnownNames(tmp_path, DIGESTS, clock)), "it was written"
    clock.now += 2 * HOUR + 1
    assert not known(names)
    assert names.last_meaning("hub", "a") == ONE, "it is remembered all the same"
    assert names.last_meaning("hub", "b") is None
    clock.now -= 50 * HOUR
    assert not known(names), "a clock that was set back makes it no younger"


async def test_a_name_that_stays_the_same_is_written_once_an_hour(tmp_path: Path) -> None:
    clock = Clock(1_700_000_000.0)
    names = KnownNames(tmp_path, DIGESTS, clock)
    written = []
    for _ in range(180):
        names.remember("a", ONE, DIGESTS[0])
        names.confirm("a", ONE)
        await names.save()
        (path,) = tmp_path.iterdir()
        written.append(path.stat().st_mtime_ns)
        clock.now += 60
    assert 3 <= len(set(written)) <= 4


async def test_a_file_without_a_time_is_of_unknown_age(tmp_path: Path) -> None:
    clock = Clock(1_700_000_000.0)
    names = KnownNames(tmp_path, DIGESTS, clock)
    names.remember("a", ONE, DIGESTS[0])
    await names.save()
    (path,) = tmp_path.iterdir()
    content = msgspec.json.decode(path.read_bytes())
    del content["said_at"]
    path.write_bytes(msgspec.json.encode(content))
    again = KnownNames(tmp_path, DIGESTS, clock)
    assert again.last_meaning("hub", "a") == ONE
    assert again.last_meaning("hub", "a", within=24 * HOUR) is None


CHANGES = st.one_of(
    st.tuples(st.just("remember"), st.integers(0, 4), st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.just("forget"), st.integers(0, 4)),
    st.tuples(st.just("forget_entry"), st.integers(0, 2)),
    st.tuples(st.just("save")),
)


@settings(max_examples=60, deadline=None)
@example([("remember", 0, 0, 0), ("remember", 0, 0, 1), ("forget_entry", 0)])  # it moved
@example([("remember", 0, 0, 0), ("remember", 1, 0, 1), ("remember", 0, 0, 0)])  # and back
@given(st.lists(CHANGES, max_size=30))
def test_the_disk_follows_memory_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[Any, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    asyncio.run(play(folder, changes))


async def play(folder: Path, changes: list[tuple[Any, ...]]) -> None:
    names = KnownNames(folder, DIGESTS)
    expected: dict[str, tuple[object, str]] = {}  # by adapter id
    digests: dict[str, str] = {}  # by revision
    saves = []
    for change, *given_ in changes:
        if change == "remember":
            adapter_id, revision, digest = f"a@{given_[0]}", f"{given_[1]}", DIGESTS[given_[2]]
            adapter = replace(remote("a", b""), revision=revision)
            names.remember(adapter_id, adapter, digest)
            expected[adapter_id], digests[revision] = (adapter, digest), digest
        elif change == "forget":
            names.forget("hub", f"a@{given_[0]}")
            expected.pop(f"a@{given_[0]}", None)
        elif change == "forget_entry":
            gone = DIGESTS[given_[0]]
            names.forget_entry(gone)
            expected = {name: known for name, known in expected.items() if known[1] != gone}
            digests = {revision: digest for revision, digest in digests.items() if digest != gone}
        else:
            saves.append(asyncio.create_task(names.save()))
            await asyncio.sleep(0)
        for revision in "012":
            known_as = names.digest(replace(remote("a", b""), revision=revision))
            assert known_as == digests.get(revision)
    await names.save()
    await asyncio.gather(*saves)
    for known in (names, KnownNames(folder, DIGESTS)):
        assert {m.adapter_id: (m.adapter, m.digest) for m in known} == expected
