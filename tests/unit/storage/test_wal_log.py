"""The write-ahead log: what it recovers, what it cuts, and what it refuses."""

import random

import pytest

from protocol.errors import Corruption, StartRefused
from protocol.types import Entry, HardState, Index, LogMark, MemberId, Term
from sim.disk import SimDisk
from storage.wal import Wal, WalOwner

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
    before = content(disk, last(disk))
    end = len(before.rstrip(b"\0"))
    wal.append(None, (entry(2, data=b"y" * 500),))
    torn = content(disk, last(disk))[: end + 100].ljust(SEGMENT_BYTES, b"\0")
    replace(disk, last(disk), torn)
    wal = reopen(disk)
    assert wal.torn_bytes > 90
    assert wal.torn_at.startswith(f"{last(disk)}: offset ")
    assert content(disk, last(disk)) == before
    wal.append(None, (entry(2),))
    assert [found.index for found in reopen(disk).recovered] == [1, 2]


def content(disk: SimDisk, path: str) -> bytes:
    """All bytes of a file."""
    file = disk.open(path)
    return file.read_at(0, file.size())


def replace(disk: SimDisk, path: str, data: bytes) -> None:
    """Put other bytes into a file, durably."""
    file = disk.open(path)
    file.write_at(0, data)
    file.truncate(len(data))
    file.sync()


def last(disk: SimDisk) -> str:
    """The newest segment's path."""
    return f"wal/{disk.list('wal')[-1]}"


def test_damage_before_a_good_frame_is_refused_with_file_and_offset() -> None:
    """A flipped bit in the middle is not a torn tail: the log refuses to open rather than lose what follows."""
    disk = fresh()
    wal = reopen(disk)
    offsets = []
    for index in range(1, 6):
        offsets.append(-(-len(content(disk, last(disk)).rstrip(b"\0")) // 8) * 8)
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
    with pytest.raises(Corruption, match=r"wal/0+2-0+\d+\.wal: offset"):
        reopen(disk)


@pytest.mark.parametrize("position", [0, 1, 2, -2, -1])
def test_any_missing_segment_is_noticed(position: int) -> None:
    """Whichever file is gone, the oldest, the newest or one between, the log says so and what it misses."""
    disk = fresh()
    wal = reopen(disk)
    for index in range(1, 160):
        wal.append(None, (entry(index),))
    names = disk.list("wal")
    assert len(names) >= 5
    disk.remove(f"wal/{names[position]}")
    said = f"the segments before {names[1]} are gone" if position == 0 else f"segment {names[position]} is missing"
    with pytest.raises(Corruption, match=said):
        reopen(disk)


def test_a_missing_oldest_segment_is_noticed_when_the_rest_holds_no_entries() -> None:
    """The newest segment may hold nothing but its head: what came before it is still known to have been."""
    disk = fresh()
    wal = reopen(disk)
    index = 0
    while len(disk.list("wal")) == 1:
        index += 1
        wal.append(None, (entry(index, data=b"x" * 900),))
    disk.remove(f"wal/{disk.list('wal')[0]}")
    with pytest.raises(Corruption, match=rf"entries 1\.\.{index - 1} are missing behind the mark at 0"):
        reopen(disk)


def test_a_log_without_any_segment_is_refused() -> None:
    """A directory that lost all its files is not taken for a new one: a vote could be given twice."""
    disk = fresh()
    reopen(disk).append(state(7, 9), ())
    disk.remove(last(disk))
    with pytest.raises(Corruption, match="wal/ is empty: every segment"):
        reopen(disk)


def test_a_log_that_is_gone_beside_a_store_is_refused() -> None:
    """The log is made before the store: a store without one has lost it."""
    disk = fresh()
    disk.make_dir("store")
    with pytest.raises(Corruption, match="wal/ is missing although store/ is there"):
        reopen(disk)


def test_a_cut_down_to_the_newest_segment_opens_again() -> None:
    """Segments that a cut gave back are not missed, whatever the newest one still holds."""
    disk = fresh()
    wal = reopen(disk)
    for index in range(1, 160):
        wal.append(state(index, 1, index - 1), (entry(index),))
    wal.set_mark(mark(159))
    assert len(disk.list("wal")) == 1
    again = reopen(disk)
    assert again.recovered == ()
    assert (again.mark, again.hard_state, again.last_index) == (mark(159), state(159, 1, 158), 159)
    again.append(None, (entry(160),))
    assert [one.index for one in reopen(disk).recovered] == [160]


def test_a_renamed_segment_is_noticed() -> None:
    """A file under another segment's name is damage, not data."""
    disk = fresh()
    wal = reopen(disk)
    for index in range(1, 100):
        wal.append(None, (entry(index),))
    names = disk.list("wal")
    disk.rename(f"wal/{names[1]}", f"wal/{names[1]}.old")
    disk.rename(f"wal/{names[2]}", f"wal/{names[1]}")
    with pytest.raises(Corruption, match=rf"wal/{names[1]}: offset 0: the head says it is segment 3"):
        reopen(disk)


def test_a_file_that_is_no_segment_is_named() -> None:
    """A stray file that looks like a part of the log is not skipped."""
    disk = fresh()
    reopen(disk)
    disk.open("wal/copy.wal", create=True)
    with pytest.raises(Corruption, match=r"wal/copy\.wal: not the name of a log segment"):
        reopen(disk)


def test_a_damaged_head_of_the_newest_segment_is_not_taken_for_one_that_never_came_to_be() -> None:
    """The seal of the segment before it says that it was in use."""
    disk = fresh()
    wal = reopen(disk)
    for index in range(1, 100):
        wal.append(None, (entry(index),))
    newest = last(disk)
    disk.flip_bit(newest, 20)
    with pytest.raises(Corruption, match=rf"{newest}: offset 0: the segment's head is damaged"):
        reopen(disk)


def test_two_damaged_frames_at_the_end_are_not_taken_for_a_torn_tail() -> None:
    """A frame that was begun behind a bad one proves that the bad one had been synced."""
    disk = fresh()
    wal = reopen(disk)
    ends = []
    for index in range(1, 6):
        wal.append(None, (entry(index),))
        ends.append(len(content(disk, last(disk)).rstrip(b"\0")))
    disk.flip_bit(last(disk), ends[3] - 20)
    disk.flip_bit(last(disk), ends[4] - 20)
    with pytest.raises(Corruption, match="is damaged; a valid frame follows"):
        reopen(disk)


def test_a_client_cannot_plant_a_frame() -> None:
    """The bytes of the log written as a value, and torn by a power cut, are not taken for frames of the log."""
    disk = fresh()
    wal = Wal.open(disk, OWNER, 1 << 16)
    wal.append(None, (entry(1),))
    wal.append(None, (entry(2),))
    copied = content(disk, last(disk)).rstrip(b"\0")
    begin = -(-len(copied) // 8) * 8
    wal.append(None, (entry(3, data=b"".join(b"." * shift + copied for shift in range(8))),))
    disk.flip_bit(last(disk), begin + 30)
    wal = Wal.open(disk, OWNER, 1 << 16)
    assert wal.torn_bytes > 8 * len(copied)
    assert [one.index for one in wal.recovered] == [1, 2]


def test_a_gap_is_never_written() -> None:
    """An entry that does not follow is a bug of the writer, caught where it is written."""
    wal = reopen(fresh())
    wal.append(None, (entry(1),))
    with pytest.raises(AssertionError, match="a gap between 1 and 3"):
        wal.append(None, (entry(3),))


def test_a_write_larger_than_a_segment_is_kept() -> None:
    """The size of a segment bounds no frame."""
    disk = fresh()
    wal = reopen(disk)
    large = b"z" * 3 * SEGMENT_BYTES
    for index in range(1, 5):
        wal.append(None, (entry(index, data=large if index % 2 else b"small"),))
    assert [len(one.data) for one in reopen(disk).recovered] == [len(large), 5, len(large), 5]


def test_a_log_of_somebody_else_is_refused() -> None:
    """The data of another cluster, member or store is not taken for ours."""
    disk = fresh()
    reopen(disk).append(None, (entry(1),))
    with pytest.raises(StartRefused, match="belongs to cluster 1"):
        reopen(disk, WalOwner(9, 2, 3))
