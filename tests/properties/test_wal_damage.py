"""Damage to a log on disk: told from a torn tail, or harmless, but never a silently shorter log."""

import random
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Corruption
from protocol.types import Entry, HardState, Index, MemberId, Term
from sim.disk import SimDisk
from storage.wal import Wal, WalOwner
from storage.wal_recovery import scan_segment

OWNER = WalOwner(1, 2, 3)
SEGMENT_BYTES = 4096
ENTRIES = 70


def entry(index: int) -> Entry:
    """An entry whose data is its own."""
    return Entry(Term(1), Index(index), 1, random.Random(index).randbytes(20 + index))


def write_log(count: int) -> SimDisk:
    """A disk with a log of so many entries, one a frame."""
    disk = SimDisk(random.Random(count))
    wal = Wal.open(disk, OWNER, SEGMENT_BYTES)
    for index in range(1, count + 1):
        wal.append(HardState(Term(1), MemberId(9), Index(index - 1)), (entry(index),))
    wal.close()
    return disk


@cache
def log_files(count: int) -> tuple[tuple[str, bytes], ...]:
    """The segments of such a log."""
    disk = write_log(count)
    paths = [f"wal/{name}" for name in disk.list("wal")]
    return tuple((path, disk.open(path).read_at(0, 1 << 20)) for path in paths)


def disk_with(files: dict[str, bytes]) -> SimDisk:
    """A disk that holds these files, durably."""
    disk = SimDisk(random.Random(0))
    disk.make_dir("wal")
    for path, data in files.items():
        file = disk.open(path, create=True)
        file.write_at(0, data)
        file.sync()
    disk.sync_dir("wal")
    disk.sync_dir("")
    return disk


def last_frame_of(path: str, data: bytes) -> tuple[int, int]:
    """Where the last frame of a segment begins and ends."""
    scan = scan_segment(path, data)
    return scan.frames[-1][0], scan.end


@settings(max_examples=300, deadline=None)
@given(st.integers(5, ENTRIES), st.data())
def test_any_flipped_bits_are_refused_or_cost_at_most_the_last_frame(count: int, data: st.DataObject) -> None:
    """Rotten bytes in one place are named with file and offset, or were in the very last frame, or mean nothing."""
    files = dict(log_files(count))
    newest = max(files)
    path = data.draw(st.sampled_from(sorted(files)))
    used = len(files[path].rstrip(b"\0"))
    offset = data.draw(st.integers(0, used - 1))
    rotten = bytearray(files[path])
    for place in range(offset, min(used, offset + data.draw(st.integers(1, 9)))):
        rotten[place] ^= data.draw(st.integers(1, 255))
    files[path] = bytes(rotten)
    try:
        wal = Wal.open(disk_with(files), OWNER, SEGMENT_BYTES)
    except Corruption as error:
        message = str(error)
        assert message.startswith(f"{path}: offset "), f"{path} was damaged at {offset}, not: {message}"
        return
    found = wal.recovered
    assert found == tuple(entry(index) for index in range(1, len(found) + 1))
    if len(found) < count:
        assert path == newest, "a bit in an older segment cost an entry"
        begin, _ = last_frame_of(path, dict(log_files(count))[path])
        assert offset + 9 > begin, "a bit before the last frame cost an entry"
        assert len(found) == count - 1, "one damaged frame cost more than itself"


@settings(max_examples=200, deadline=None)
@given(st.integers(1, ENTRIES), st.integers(0, 2**32), st.booleans())
def test_a_torn_last_frame_costs_itself_only(count: int, seed: int, noise: bool) -> None:
    """Whatever part of the last write reached the disk, all before it is there and the log can be gone on with."""
    files = dict(log_files(count))
    path = max(files)
    begin, end = last_frame_of(path, files[path])
    scan = scan_segment(path, files[path])
    if not scan.frames[-1][1].entries:
        return  # a head frame: it is durable before the segment is used
    rng = random.Random(seed)
    torn = bytearray(files[path])
    for place in range(begin, end):
        if rng.random() < 0.3:
            torn[place] = rng.randrange(256) if noise else 0
    files[path] = bytes(torn)
    disk = disk_with(files)
    wal = Wal.open(disk, OWNER, SEGMENT_BYTES)
    assert len(wal.recovered) in (count - 1, count)
    assert wal.recovered == tuple(entry(index) for index in range(1, len(wal.recovered) + 1))
    following = len(wal.recovered) + 1
    wal.append(None, (entry(following),))
    disk.crash()
    again = Wal.open(disk, OWNER, SEGMENT_BYTES).recovered
    assert again == tuple(entry(index) for index in range(1, following + 1))


@pytest.mark.parametrize("count", [1, 30, ENTRIES])
def test_what_was_cut_never_comes_back(count: int) -> None:
    """Shorter frames written where a torn longer one stood do not bring its rest back to life."""
    disk = write_log(count)
    path = f"wal/{disk.list('wal')[-1]}"
    file = disk.open(path)
    whole = file.read_at(0, file.size())
    begin, end = last_frame_of(path, whole)
    ghost = whole[begin:end]
    file.write_at(begin, ghost[:20] + bytes(8) + ghost[28:] + ghost)
    file.sync()
    wal = Wal.open(disk, OWNER, SEGMENT_BYTES)
    assert len(wal.recovered) == count - 1
    for index in range(count, count + 8):
        wal.append(None, (Entry(Term(2), Index(index), 1, b""),))
    terms = [one.term for one in Wal.open(disk, OWNER, SEGMENT_BYTES).recovered]
    assert terms == [1] * (count - 1) + [2] * 8
