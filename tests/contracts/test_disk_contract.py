"""The contract of `storage.disk.Disk`: PosixDisk and SimDisk both keep it, and neither promises more."""

import random
from pathlib import Path

import pytest

from protocol.errors import DiskFailed
from sim.disk import SimDisk
from storage.disk import Disk
from storage.posix_disk import PosixDisk


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


def test_a_full_disk_refuses_writes() -> None:
    """A write beyond the capacity fails, as ENOSPC does."""
    disk = SimDisk(random.Random(1), capacity_bytes=1000)
    file = disk.open("f", create=True)
    file.write_at(0, b"x" * 900)
    with pytest.raises(DiskFailed, match="No space"):
        file.write_at(900, b"x" * 200)
