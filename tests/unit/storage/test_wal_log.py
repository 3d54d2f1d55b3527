"""The write-ahead log: what it recovers, what it cuts, and what it refuses."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Corruption, StartRefused
from protocol.types import Entry, HardState, Index, LogMark, MemberId, Term
from sim.disk import SimDisk
from storage.wal import Wal, WalOwner
from storage.wal_format import HEAD_BYTES, pack_frame, read_frame, unpack_frame

OWNER = WalOwner(1, 2, 3)
SEGMENT_BYTES = 4096


def entry(index: int, term: int = 1, data: bytes = b"x" * 100) -> Entry:
    """An entry of commands."""
    return Entry(Term(term), Index(index), 1, data)


def mark(index: int, term: int = 1, stage: str = "") -> LogMark:
    """A mark with a recognisable configuration."""
    return LogMark(Index(index), Term(term), b"conf%d" % index, stage)


def state(term: int, vote: int = 0, commit: int = 0) -> HardState:
    """A hard state."""
    return HardState(Term(term), MemberId(vote), Index(commit))


def fresh() -> SimDisk:
    """An empty disk."""
    return SimDisk(random.Random(7))


def reopen(disk: SimDisk, owner: WalOwner = OWNER) -> Wal:
    """The log as a restarted process finds it."""
    return Wal.open(disk, owner, SEGMENT_BYTES)


def test_a_new_log_is_empty() -> None:
    """Nothing was promised yet."""
    wal = reopen(fresh())
    assert wal.recovered == ()
    assert wal.mark.index == 0
    assert wal.hard_state == state(0)


def test_entries_and_hard_state_come_back_over_many_segments() -> None:
    """What was appended is recovered in order, however often the log is reopened."""
    disk = fresh()
    for start in range(1, 200, 20):
        wal = reopen(disk)
        for index in range(start, start + 20):
            wal.append(state(index, 5, index - 1), (entry(index),))
        wal.close()
    wal = reopen(disk)
    assert [found.index for found in wal.recovered] == list(range(1, 201))
    assert wal.hard_state == state(200, 5, 199)
    assert len(disk.list("wal")) > 3


def test_a_conflict_suffix_is_replaced() -> None:
    """Entries written again from some index on take the place of what stood there (Raft, section 5.3)."""
    disk = fresh()
    wal = reopen(disk)
    wal.append(None, tuple(entry(index) for index in range(1, 6)))
    wal.append(None, (entry(3, term=2),))
    found = reopen(disk).recovered
    assert [(one.term, one.index) for one in found] == [(1, 1), (1, 2), (2, 3)]


def test_a_cut_gives_segments_back_and_keeps_what_is_behind_the_mark() -> None:
    """Segments that hold nothing behind the mark are deleted; hard state and the rest survive."""
    disk = fresh()
    wal = reopen(disk)
    wal.append(state(3, 9), ())
    for index in range(1, 121):
        wal.append(None, (entry(index),))
    before = len(disk.list("wal"))
    wal.set_mark(mark(100))
    assert len(disk.list("wal")) < before
    again = reopen(disk)
    assert [found.index for found in again.recovered] == list(range(101, 121))
    assert again.mark == mark(100)
    assert again.hard_state == state(3, 9)


def test_a_mark_with_a_stage_restarts_the_log() -> None:
    """What was in the log gives way to the snapshot; entries continue behind it."""
    disk = fresh()
    wal = reopen(disk)
    wal.append(None, tuple(entry(index) for index in range(1, 10)))
    wal.set_mark(mark(50, 4, "stage-1"))
    assert reopen(disk).recovered == ()
    wal = reopen(disk)
    wal.append(None, (entry(51, 4),))
    again = reopen(disk)
    assert again.mark == mark(50, 4, "stage-1")
    assert [found.index for found in again.recovered] == [51]


def test_a_torn_tail_is_cut_and_erased() -> None:
    """Half a frame at the very end is what a power cut leaves: it goes, and what follows is written over it."""
    disk = fresh()
    wal = reopen(disk)
    wal.append(None, (entry(1),))
    offset = wal._offset
    data, _ = pack_frame(unpack_frame(read_frame(bytes(disk.open(last(disk)).read_at(0, 4096)), HEAD_BYTES).payload), 1)  # type: ignore[union-attr]
    file = disk.open(last(disk))
    file.write_at(offset, data[: len(data) // 2])
    file.sync()
    wal = reopen(disk)
    assert wal.torn_bytes > 0
    wal.append(None, (entry(2),))
    assert [found.index for found in reopen(disk).recovered] == [1, 2]


def last(disk: SimDisk) -> str:
    """The newest segment's path."""
    return f"wal/{disk.list('wal')[-1]}"


def test_damage_before_a_good_frame_is_refused_with_file_and_offset() -> None:
    """A flipped bit in the middle is not a torn tail: the log refuses to open rather than lose what follows."""
    disk = fresh()
    wal = reopen(disk)
    offsets = []
    for index in range(1, 6):
        offsets.append(wal._offset)
        wal.append(None, (entry(index),))
    disk.flip_bit(last(disk), offsets[2] + 20)
    with pytest.raises(Corruption, match=rf"{last(disk)}: offset {offsets[2]}: .* valid frame follows at offset"):
        reopen(disk)


def test_damage_in_an_older_segment_is_refused() -> None:
    """Only the newest segment can end in a torn frame."""
    disk = fresh()
    wal = reopen(disk)
    for index in range(1, 120):
        wal.append(None, (entry(index),))
    disk.flip_bit(f"wal/{disk.list('wal')[1]}", 700)
    with pytest.raises(Corruption, match=r"wal/0+2\.wal: offset"):
        reopen(disk)


def test_a_missing_segment_is_named() -> None:
    """A hole between segments is damage."""
    disk = fresh()
    wal = reopen(disk)
    for index in range(1, 160):
        wal.append(None, (entry(index),))
    disk.remove(f"wal/{disk.list('wal')[2]}")
    with pytest.raises(Corruption, match=r"segment 0+3\.wal is missing"):
        reopen(disk)


def test_missing_first_segments_are_noticed() -> None:
    """Entries between the mark and the first one held cannot just be absent."""
    disk = fresh()
    wal = reopen(disk)
    for index in range(1, 160):
        wal.append(None, (entry(index),))
    disk.remove(f"wal/{disk.list('wal')[0]}")
    with pytest.raises(Corruption, match="are missing behind the mark"):
        reopen(disk)


def test_a_log_of_somebody_else_is_refused() -> None:
    """The data of another cluster, member or store is not taken for ours."""
    disk = fresh()
    reopen(disk).append(None, (entry(1),))
    with pytest.raises(StartRefused, match="belongs to cluster 1"):
        reopen(disk, WalOwner(9, 2, 3))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.data())
def test_any_flipped_bit_is_refused_or_only_costs_the_last_frame(seed: int, count: int, data: st.DataObject) -> None:
    """No single rotten bit makes the log silently shorter than all but its last write."""
    disk = SimDisk(random.Random(seed))
    wal = reopen(disk)
    for index in range(1, count + 1):
        wal.append(None, (entry(index),))
    path = f"wal/{data.draw(st.sampled_from(disk.list('wal')))}"
    offset = data.draw(st.integers(HEAD_BYTES, disk.open(path).size() - 1))
    disk.flip_bit(path, offset)
    try:
        found = reopen(disk).recovered
    except Corruption as error:
        message = str(error)
        assert ".wal: offset" in message
        return
    assert len(found) >= count - 1
    assert [one.index for one in found] == list(range(1, len(found) + 1))
