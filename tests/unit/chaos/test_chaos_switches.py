"""The switches of a node, and what a disk and a clock do under them."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import storage.posix_disk
from actors.process import ProcessContext
from chaos.roles import DisturbedContext, FaultyOs, JumpingClock
from chaos.switchboard import Switchboard
from protocol.errors import DiskFailed
from storage.posix_disk import PosixDisk


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Switchboard]:
    """Switches, all off."""
    made = Switchboard(tmp_path / "switches")
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path, board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> PosixDisk:
    """The production disk over the faulty `os`."""
    monkeypatch.setattr(storage.posix_disk, "os", FaultyOs(board))
    return PosixDisk(tmp_path)


def test_a_switch_is_seen_through_another_map(tmp_path: Path, board: Switchboard) -> None:
    """The conductor's switch reaches the actor; clearing leaves the clock where it is."""
    other = Switchboard(tmp_path / "switches")
    board.set("disk_full", 1)
    board.set("clock_ahead_ms", -500)
    assert (other.get("disk_full"), other.get("clock_ahead_ms"), other.get("fsync_fails")) == (1, -500, 0)
    board.clear()
    assert (other.get("disk_full"), other.get("clock_ahead_ms")) == (0, -500)
    other.close()


def test_nothing_fails_while_all_is_off(disk: PosixDisk) -> None:
    """The wrapped calls do what they always did."""
    file = disk.open("f", create=True)
    file.allocate(8192)
    file.write_at(0, b"abc")
    file.sync()
    disk.sync_dir(".")
    assert file.read_at(0, 3) == b"abc"
    file.close()


def test_sync_fails(disk: PosixDisk, board: Switchboard) -> None:
    """A failing sync is the disk port's own failure, and the file takes no further write."""
    file = disk.open("f", create=True)
    board.set("fsync_fails", 1)
    with pytest.raises(DiskFailed, match=os.strerror(errno.EIO)):
        file.sync()
    board.clear()
    with pytest.raises(DiskFailed, match="failed before"):
        file.write_at(0, b"x")
    file.close()


def test_a_full_disk_takes_what_needs_no_room(disk: PosixDisk, board: Switchboard) -> None:
    """Reserved blocks can be written, new ones cannot."""
    file = disk.open("f", create=True)
    file.allocate(8192)
    board.set("disk_full", 1)
    file.write_at(4096, bytes(4096))
    with pytest.raises(DiskFailed, match="make room"):
        file.write_at(8192, b"x")
    with pytest.raises(DiskFailed, match="make room"):
        file.allocate(1 << 20)
    file.close()


def test_the_clock_jumps_ahead_and_stands_still_rather_than_go_back(board: Switchboard) -> None:
    """What an actor is handed never decreases."""
    clock = JumpingClock(board)
    before = clock()
    board.set("clock_ahead_ms", 60_000)
    ahead = clock()
    assert ahead - before >= 60_000
    board.set("clock_ahead_ms", 0)
    assert clock() == clock() == ahead


def test_a_process_goes_by_the_clock_of_its_context(board: Switchboard) -> None:
    """The clock that the shell is handed jumps with the switch; production's context has the kernel's."""
    context = DisturbedContext.__new__(DisturbedContext)
    object.__setattr__(context, "jumping_clock", JumpingClock(board))
    board.set("clock_ahead_ms", 5_000_000)
    assert context.clock() - ProcessContext.clock(context) >= 4_000_000
