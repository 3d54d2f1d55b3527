"""The log alone, cut or killed at every disk operation: what comes back is exactly what was there after some write."""

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from protocol.types import Entry, HardState, Index, LogMark, MemberId, Term
from sim.disk import SimDisk
from sim.faulty_disk import FaultyDisk
from sim.trouble import PowerCut
from storage.wal import Wal, WalOwner

OWNER = WalOwner(1, 2, 3)
SEGMENT_BYTES = 1024
WRITES = 36


class Image(NamedTuple):
    """All a log says."""

    hard_state: HardState
    mark: LogMark
    entries: tuple[Entry, ...]


Write = Callable[[Wal], object]


def image_of(wal: Wal) -> Image:
    """What a freshly opened log says."""
    return Image(wal.hard_state, wal.mark, wal.recovered)


def script(rng: random.Random, writes: int) -> tuple[list[Write], list[Image]]:
    """Random writes, and what the log must say before the first and after each of them."""
    state, mark, log = HardState(Term(0), MemberId(0), Index(0)), LogMark(Index(0), Term(0), b"", ""), {}
    done: list[Write] = []
    images = [Image(state, mark, ())]
    for number in range(1, writes + 1):
        last = max(log, default=mark.index)
        chance = rng.random()
        if chance < 0.08 and last > mark.index + 4:
            mark = LogMark(Index(last - rng.randint(0, 3)), Term(number), b"conf%d" % number, "")
            log = {index: entry for index, entry in log.items() if index > mark.index}
            done.append(lambda wal, mark=mark: wal.set_mark(mark))  # type: ignore[misc]
        elif chance < 0.12:
            # Behind or in the middle of what is there: the log restarts empty either way.
            index = rng.randint(mark.index + 1, last + 10)
            mark = LogMark(Index(index), Term(number), b"conf%d" % number, f"stage{number}")
            log = {}
            done.append(lambda wal, mark=mark: wal.set_mark(mark))  # type: ignore[misc]
        else:
            first = rng.randint(max(mark.index + 1, last - 2), last + 1) if chance < 0.4 else last + 1
            count = rng.choice((0, 1, 1, 1, 3))
            size = rng.choice((0, 10, 100, 700, 2000))
            entries = tuple(Entry(Term(number), Index(first + place), 1, rng.randbytes(size)) for place in range(count))
            changed = rng.random() < 0.5 or not entries
            state = HardState(Term(number), MemberId(number), Index(last)) if changed else state
            if entries:
                log = {index: entry for index, entry in log.items() if index < first}
                log.update({entry.index: entry for entry in entries})
            told = state if changed else None
            done.append(lambda wal, told=told, entries=entries: wal.append(told, entries))  # type: ignore[misc]
        images.append(Image(state, mark, tuple(log[index] for index in sorted(log))))
    return done, images


def run_until_cut(disk: SimDisk, writes: list[Write], operations: int) -> int:
    """Write until the disk has done so many operations; return how many writes were acknowledged."""
    fuse = FaultyDisk(disk, lambda: 0)
    fuse.light_fuse(operations)
    acknowledged = 0
    try:
        wal = Wal.open(fuse, OWNER, SEGMENT_BYTES)
        for write in writes:
            write(wal)
            acknowledged += 1
    except PowerCut:
        pass
    return acknowledged


def reopened(disk: SimDisk) -> Image:
    """What the log says after a restart."""
    return image_of(Wal.open(disk, OWNER, SEGMENT_BYTES))


def operations_of(writes: list[Write]) -> int:
    """How many times the disk is changed when nothing goes wrong."""
    disk = FaultyDisk(SimDisk(random.Random(0)), lambda: 0)
    disk.light_fuse(1_000_000)
    wal = Wal.open(disk, OWNER, SEGMENT_BYTES)
    for write in writes:
        write(wal)
    assert disk._fuse is not None
    return 1_000_000 - disk._fuse


@pytest.mark.parametrize("seed", range(12))
def test_after_a_power_cut_the_log_is_what_it_was_after_some_write(seed: int) -> None:
    """The last acknowledged write is there whole, the one under way wholly or not at all, and it stays that way."""
    writes, images = script(random.Random(seed), WRITES)
    for cut_at in range(operations_of(writes)):
        disk = SimDisk(random.Random(f"{seed} {cut_at}"))
        acknowledged = run_until_cut(disk, writes, cut_at)
        disk.crash()
        found = reopened(disk)
        assert found in images[acknowledged : acknowledged + 2], f"cut at {cut_at}, {acknowledged} acknowledged"
        disk.crash()
        assert reopened(disk) == found, f"cut at {cut_at}: what one start found, the next one did not"


@pytest.mark.parametrize("seed", range(12))
def test_what_a_killed_process_left_is_durable_before_anybody_hears_of_it(seed: int) -> None:
    """After a kill the kernel may hold a frame that no sync covered; what a start reports survives the next cut."""
    writes, images = script(random.Random(seed), WRITES)
    for kill_at in range(operations_of(writes)):
        disk = SimDisk(random.Random(f"{seed} {kill_at}"))
        acknowledged = run_until_cut(disk, writes, kill_at)
        found = reopened(disk)
        assert found in images[acknowledged : acknowledged + 2], f"killed at {kill_at}, {acknowledged} acknowledged"
        disk.crash()
        assert reopened(disk) == found, f"killed at {kill_at}: what one start found, the next one did not"


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_at_every_step_of_recovery_loses_nothing(seed: int) -> None:
    """Recovery repairs in an order that may be cut anywhere, twice, and writing goes on behind it."""
    writes, images = script(random.Random(seed), WRITES)
    for cut_at in range(0, operations_of(writes), 2):
        for again in range(10):
            disk = SimDisk(random.Random(f"{seed} {cut_at} {again}"))
            acknowledged = run_until_cut(disk, writes, cut_at)
            disk.crash()
            run_until_cut(disk, [], again)
            disk.crash()
            wal = Wal.open(disk, OWNER, SEGMENT_BYTES)
            found = image_of(wal)
            assert found in images[acknowledged : acknowledged + 2], f"cuts at {cut_at} and {again}"
            following = Entry(Term(99), Index(wal.last_index + 1), 1, b"behind")
            wal.append(None, (following,))
            disk.crash()
            assert reopened(disk).entries == (*found.entries, following), f"cuts at {cut_at} and {again}"
