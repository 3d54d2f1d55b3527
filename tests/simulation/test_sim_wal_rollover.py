"""Regression, simulator seed 25: a power cut between the head of a new WAL segment and the frame it was made for."""

import random

from protocol.types import NOBODY, Entry, EntryKind, HardState, Index, LogMark, MemberId, Term
from sim.disk import SimDisk
from sim.faulty_disk import FaultyDisk
from sim.trouble import PowerCut
from storage.wal import Wal, WalOwner

OWNER = WalOwner(1, 2, 3)
SEGMENT_BYTES = 4096


def _entry(index: int, size: int) -> Entry:
    return Entry(Term(1), Index(index), EntryKind.COMMANDS, b"x" * size)


def _state(term: int, commit: int) -> HardState:
    return HardState(Term(term), MemberId(NOBODY), Index(commit))


def test_hard_state_never_comes_back_without_its_entries() -> None:
    """Cut at every disk operation of a write that rolls over: recovery gives all of the write, or none of it."""
    outcomes = set()
    for operations in range(12):
        disk = SimDisk(random.Random(operations))
        port = FaultyDisk(disk, lambda: 0)
        wal = Wal.open(port, OWNER, SEGMENT_BYTES)
        wal.append(_state(1, 0), (_entry(1, 3000),))
        port.light_fuse(operations)
        try:
            wal.append(_state(2, 1), (_entry(2, 3000),))
        except PowerCut:
            disk.crash()
        again = Wal.open(disk, OWNER, SEGMENT_BYTES)
        outcome = (again.hard_state, len(again.recovered))
        assert outcome in [(_state(1, 0), 1), (_state(2, 1), 2)], f"cut after {operations} operations: {outcome}"
        outcomes.add(outcome)
    assert len(outcomes) == 2, "the cuts were all on one side of the write"


def test_a_mark_never_comes_back_without_its_restart() -> None:
    """The same for the mark of a snapshot's installation: without its frame the log is the old one."""
    outcomes = set()
    mark = LogMark(Index(9), Term(1), b"c" * 600, "stage")
    for operations in range(12):
        disk = SimDisk(random.Random(operations))
        port = FaultyDisk(disk, lambda: 0)
        wal = Wal.open(port, OWNER, SEGMENT_BYTES)
        wal.append(_state(1, 0), tuple(_entry(index, 290) for index in range(1, 13)))
        port.light_fuse(operations)
        try:
            wal.set_mark(mark)
        except PowerCut:
            disk.crash()
        again = Wal.open(disk, OWNER, SEGMENT_BYTES)
        outcome = (again.mark.index, len(again.recovered))
        assert outcome in [(0, 12), (9, 0)], f"cut after {operations} operations: {outcome}"
        outcomes.add(outcome)
    assert len(outcomes) == 2, "the cuts were all on one side of the write"
