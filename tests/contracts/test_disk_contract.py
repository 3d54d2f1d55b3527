"""The contract of `storage.disk.Disk`: PosixDisk and SimDisk both keep it, and neither promises more."""

import os
import random
from pathlib import Path

import pytest

from protocol.errors import DiskFailed
from sim.disk import SimDisk
from storage.disk import Disk
from storage.posix_disk import PosixDisk, PosixFile


@pytest.fixture(params=["posix", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """Both implementations, empty."""
    return PosixDisk(tmp_path) if request.param == "posix" else SimDisk(random.Random(1))


def test_a_file_reads_back_what_was_written(disk: Disk) -> None:
    """Writes land where they were asked to, and reading past the end is short, not wrong."""
    file = disk.open("f", create=True)
    file.write_at(0, b"hello")
    file.write_at(8, b"world")
    assert file.size() == 13
    assert file.read_at(0, 100) == b"hello\0\0\0world"
    assert file.read_at(13, 5) == b""
    file.close()


def test_opening_what_is_not_there_fails_with_its_path(disk: Disk) -> None:
    """A missing file is an error that names it."""
    with pytest.raises(DiskFailed, match="nowhere"):
        disk.open("nowhere")


def test_allocation_extends_with_zeros_and_keeps_content(disk: Disk) -> None:
    """Reserved space reads as zeros."""
    file = disk.open("f", create=True)
    file.write_at(0, b"abc")
    file.allocate(4096)
    assert file.size() == 4096
    assert file.read_at(0, 4) == b"abc\0"
    file.close()


def test_truncation_cuts(disk: Disk) -> None:
    """What is behind the cut is gone, and stays gone when the file grows again."""
    file = disk.open("f", create=True)
    file.write_at(0, b"abcdef")
    file.truncate(3)
    file.truncate(6)
    assert file.read_at(0, 6) == b"abc\0\0\0"
    file.close()


def test_names_are_listed_sorted_and_renamed_with_all_in_them(disk: Disk) -> None:
    """A renamed directory takes its files along."""
    disk.make_dir("a/b")
    for name in ("2", "1"):
        disk.open(f"a/b/{name}", create=True).close()
    assert disk.list("a/b") == ["1", "2"]
    disk.rename("a/b", "c")
    assert disk.list("c") == ["1", "2"]
    assert not disk.exists("a/b")
    disk.remove("c/1")
    assert disk.list("c") == ["2"]
    disk.remove_tree("c")
    assert disk.list("c") == []
    disk.remove_tree("c")


def test_a_directory_with_content_is_not_overwritten_by_a_rename(disk: Disk) -> None:
    """Renaming onto a directory that holds something is refused."""
    disk.make_dir("old")
    disk.make_dir("new")
    disk.open("new/keep", create=True).close()
    with pytest.raises(DiskFailed):
        disk.rename("old", "new")
    assert disk.exists("new/keep")


def test_what_is_not_there_is_an_error_that_names_it(disk: Disk) -> None:
    """Every action on a missing thing says which; listing and removing a tree do not mind."""
    disk.make_dir("d")
    for act in (
        lambda: disk.remove("d/nothing"),
        lambda: disk.rename("d/nothing", "d/other"),
        lambda: disk.open("d/nothing/file", create=True),
        lambda: disk.sync_dir("d/nothing"),
    ):
        with pytest.raises(DiskFailed, match="d/nothing"):
            act()
    with pytest.raises(DiskFailed, match="d: Is a directory"):
        disk.open("d")
    assert disk.list("d/nothing") == []
    assert not disk.exists("d/nothing")
    disk.remove_tree("d/nothing")


def test_directories_are_made_with_their_parents_and_may_be_there(disk: Disk) -> None:
    """Making a directory twice changes nothing."""
    disk.make_dir("a/b/c")
    disk.open("a/b/c/f", create=True).close()
    disk.make_dir("a/b/c")
    assert disk.list("a/b/c") == ["f"]
    assert disk.exists("a/b")
    assert disk.list("") == ["a"]
    for path in ("", "a", "a/b", "a/b/c"):
        disk.sync_dir(path)


def test_a_file_is_opened_as_it_is(disk: Disk) -> None:
    """Opening with `create` keeps what is there, and two who have it open see the same."""
    first = disk.open("f", create=True)
    first.write_at(0, b"abc")
    second = disk.open("f", create=True)
    assert second.read_at(0, 3) == b"abc"
    second.write_at(1, b"B")
    assert first.read_at(0, 3) == b"aBc"
    first.close()
    second.close()


def test_a_renamed_file_takes_the_place_of_another_and_stays_open(disk: Disk) -> None:
    """A rename replaces a file at once, and whoever has it open goes on with it."""
    for name in ("old", "new"):
        file = disk.open(name, create=True)
        file.write_at(0, name.encode())
        file.close()
    file = disk.open("old")
    disk.rename("old", "new")
    file.write_at(3, b"!")
    file.sync()
    file.close()
    assert disk.list("") == ["new"]
    moved = disk.open("new")
    assert moved.read_at(0, 10) == b"old!"
    moved.close()


def test_large_writes_and_reads_are_whole(disk: Disk) -> None:
    """Nothing is cut short, whatever its size."""
    data = random.Random(3).randbytes(3_000_001)
    file = disk.open("f", create=True)
    file.write_at(7, data)
    file.sync()
    assert file.read_at(7, 10_000_000) == data
    assert file.size() == len(data) + 7
    file.close()


def test_each_file_sync_is_measured(tmp_path: Path) -> None:
    """Whoever asked is told the seconds each sync took."""
    seconds: list[float] = []
    file = PosixDisk(tmp_path, seconds.append).open("f", create=True)
    file.write_at(0, b"x")
    file.sync()
    file.sync()
    file.close()
    assert len(seconds) == 2
    assert all(0 < one < 60 for one in seconds)


def test_a_full_real_disk_is_named_and_called_full() -> None:
    """The error of the kernel's full device names the path and says what to do."""
    file = PosixDisk(Path("/dev")).open("full")
    with pytest.raises(DiskFailed, match=r"write /dev/full: No space left on device \(the disk is full: make room"):
        file.write_at(0, b"x")
    file.close()


def test_a_failed_sync_is_never_tried_again() -> None:
    """A file whose sync failed takes neither another sync nor another write: the page cache may lie about it."""
    read_end, write_end = os.pipe()
    file = PosixFile(Path("wal/1"), write_end, None)
    with pytest.raises(DiskFailed, match="sync wal/1: Invalid argument"):
        file.sync()
    for act in (file.sync, lambda: file.write_at(0, b"x")):
        with pytest.raises(DiskFailed, match="wal/1: failed before"):
            act()
    file.close()
    os.close(read_end)


def test_a_crash_keeps_what_was_synced_and_only_that_surely() -> None:
    """Whatever chance decides, synced content under a synced name is there; unsynced content may be lost."""
    lost = 0
    for seed in range(60):
        disk = SimDisk(random.Random(seed))
        file = disk.open("f", create=True)
        file.write_at(0, b"a" * 600)
        file.sync()
        disk.sync_dir("")
        file.write_at(600, b"b" * 600)
        disk.open("g", create=True)
        disk.crash()
        content = disk.open("f").read_at(0, 2000)
        assert content[:600] == b"a" * 600
        lost += content != b"a" * 600 + b"b" * 600
    assert 0 < lost < 60


def test_unsynced_writes_are_torn_at_sectors_in_some_crash() -> None:
    """Of a long write any sectors may survive, each whole; of two writes the later one may survive alone."""
    torn = reordered = 0
    for seed in range(80):
        disk = SimDisk(random.Random(seed))
        file = disk.open("f", create=True)
        file.allocate(4096)
        file.sync()
        disk.sync_dir("")
        file.write_at(0, b"a" * 2048)
        file.write_at(2048, b"b" * 100)
        disk.crash()
        found = disk.open("f").read_at(0, 4096)
        sectors = [found[place : place + 512] for place in range(0, 2048, 512)]
        assert all(sector in (b"a" * 512, bytes(512)) for sector in sectors)
        torn += 0 < sectors.count(b"a" * 512) < 4
        reordered += found[2048:2148] == b"b" * 100 and found[:2048] == bytes(2048)
    assert torn > 10
    assert reordered > 5


def test_unsynced_names_are_lost_in_some_crash_and_synced_ones_in_none() -> None:
    """A created, renamed or removed name lasts once its directory was synced, and not surely before."""
    outcomes: set[tuple[str, ...]] = set()
    for seed in range(60):
        disk = SimDisk(random.Random(seed))
        disk.make_dir("d")
        for name in ("d/kept", "d/removed", "d/old"):
            disk.open(name, create=True)
        disk.sync_dir("d")
        disk.sync_dir("")
        disk.remove("d/removed")
        disk.rename("d/old", "d/new")
        disk.crash()
        names = tuple(disk.list("d"))
        assert "kept" in names
        assert ("old" in names) != ("new" in names), "a rename is atomic"
        outcomes.add(names)
    assert outcomes == {("kept", "old", "removed"), ("kept", "old"), ("kept", "new")}


def test_a_crash_is_decided_by_the_generator_alone() -> None:
    """The same generator leaves the same disk."""

    def left(seed: int) -> list[tuple[str, bytes]]:
        disk = SimDisk(random.Random(seed))
        for number in range(20):
            file = disk.open(f"f{number}", create=True)
            file.write_at(0, bytes([number]) * 3000)
            if number % 3 == 0:
                disk.sync_dir("")
        disk.crash()
        return [(name, disk.open(name).read_at(0, 9999)) for name in disk.list("")]

    assert left(5) == left(5)
    assert left(5) != left(6)


def test_a_full_disk_refuses_writes() -> None:
    """A write beyond the capacity fails, as ENOSPC does."""
    disk = SimDisk(random.Random(1), capacity_bytes=1000)
    file = disk.open("f", create=True)
    file.write_at(0, b"x" * 900)
    with pytest.raises(DiskFailed, match="f: No space"):
        file.write_at(900, b"x" * 200)
    with pytest.raises(DiskFailed, match="g: No space"):
        disk.open("g", create=True).allocate(101)
    file.write_at(0, b"y" * 900)


def test_a_full_disk_has_room_again_when_something_is_removed() -> None:
    """Removing, cutting and replacing files gives their space back."""
    disk = SimDisk(random.Random(1), capacity_bytes=1000)
    disk.make_dir("d")
    for take, give in (
        ("d/f", lambda: disk.remove("d/f")),
        ("d/f", lambda: disk.remove_tree("d")),
        ("f", lambda: disk.open("f").truncate(0)),
    ):
        disk.open(take, create=True).write_at(0, b"x" * 900)
        with pytest.raises(DiskFailed):
            disk.open("g", create=True).write_at(0, b"x" * 900)
        give()
        disk.open("g", create=True).write_at(0, b"x" * 900)
        disk.remove("g")
        disk.make_dir("d")
