"""What `python -m tools.inspect wal` tells of a log: all of it, damage by place, and nothing is changed."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from protocol.types import Entry, HardState, Index, LogMark, MemberId, Term
from storage.posix_disk import PosixDisk
from storage.wal import Wal, WalOwner
from tools.inspect import app


def write_log(root: Path, entries: int = 60) -> Wal:
    """A log of several segments with a mark, on a real disk; it stays open, as a running node's is."""
    wal = Wal.open(PosixDisk(root), WalOwner(0xC, 0xA, 0x5), 4096)
    for index in range(1, entries + 1):
        kind = 0 if index == 1 else 2 if index == 2 else 1
        state = HardState(Term(3), MemberId(0xA), Index(index - 1))
        wal.append(state, (Entry(Term(3), Index(index), kind, b"d" * 200),))
    wal.set_mark(LogMark(Index(5), Term(3), b"configuration", ""))
    return wal


def inspect(root: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of the command, after checking that no file changed."""
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["wal", str(root), *options], terminal_width=200)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
    assert after == before, "inspection wrote"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def inspect_json(root: Path, *options: str) -> tuple[int, Any]:
    """The same for machines."""
    code, output = inspect(root, "--json", *options)
    return code, json.loads(output)


def segments(root: Path) -> list[Path]:
    """The log's files, oldest first."""
    return sorted((root / "wal").glob("*.wal"))


def test_a_running_nodes_log_is_told_whole(tmp_path: Path) -> None:
    """Segments, entries by kind, hard state and mark are told while the log is open."""
    write_log(tmp_path)
    code, told = inspect_json(tmp_path)
    assert code == 0
    log = told["log"]
    assert log["hard_state"] == {"term": 3, "voted_for": 0xA, "commit": 59}
    assert log["mark"] == {"index": 5, "term": 3, "stage": ""}
    assert (log["entries_behind_the_mark"], log["last_index"], log["damage"]) == (55, 60, [])
    assert len(told["segments"]) == len(segments(tmp_path)) > 2
    assert told["segments"][0]["entries"]["noop"] == told["segments"][0]["entries"]["configuration"] == 1
    assert sum(segment["entries"]["commands"] for segment in told["segments"]) == 58
    assert [segment["sealed"] for segment in told["segments"]] == [True] * (len(told["segments"]) - 1) + [False]
    assert {segment["store"] for segment in told["segments"]} == {"5"}


def test_people_can_read_it(tmp_path: Path) -> None:
    """The table names every segment, and the lines below it say where the log stands."""
    write_log(tmp_path)
    code, output = inspect(tmp_path)
    assert code == 0
    for text in ("hard state: term 3, voted for a, commit 59", "mark: index 5, term 3", "no damage found"):
        assert text in output
    for path in segments(tmp_path):
        assert path.name in output.replace("\n", "")


def test_frames_are_listed_when_asked_for(tmp_path: Path) -> None:
    """Each frame is told with its offset, its state and its entries."""
    write_log(tmp_path, 3)
    code, told = inspect_json(tmp_path, "--frames")
    frames = told["segments"][0]["frame_list"]
    assert code == 0
    assert frames[0]["offset"] == 64
    assert [entry["index"] for frame in frames for entry in frame["entries"]] == [1, 2, 3]
    assert frames[-1]["mark"]["index"] == 5
    assert "1/3 noop 200 B" in inspect(tmp_path, "--frames")[1]


def test_damage_is_told_with_file_and_offset(tmp_path: Path) -> None:
    """A rotten byte in the middle ends in exit status 1 and the place where it is."""
    write_log(tmp_path)
    path = segments(tmp_path)[1]
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    code, told = inspect_json(tmp_path)
    assert code == 1
    assert told["log"]["damage"][0].startswith(f"wal/{path.name}: offset ")
    code, output = inspect(tmp_path)
    assert code == 1
    assert f"damage: wal/{path.name}: offset " in output


@pytest.mark.parametrize("position", [0, 1, -1])
def test_a_missing_segment_is_told(tmp_path: Path, position: int) -> None:
    """A hole in the log is damage, at either end too."""
    write_log(tmp_path)
    wal_file = segments(tmp_path)[position]
    wal_file.unlink()
    code, told = inspect_json(tmp_path)
    assert code == 1
    assert "missing" in told["log"]["damage"][0]


def test_a_torn_tail_is_no_damage(tmp_path: Path) -> None:
    """What a power cut leaves, or a running node is just writing, is told and is all right."""
    write_log(tmp_path, 3)
    path = segments(tmp_path)[0]
    data = bytearray(path.read_bytes())
    end = -(-len(bytes(data).rstrip(b"\0")) // 8) * 8
    data[end : end + 30] = b"\7" * 30
    path.write_bytes(data)
    code, told = inspect_json(tmp_path)
    assert code == 0
    assert told["segments"][0]["note"] == f"offset {end}: 30 bytes of a frame that was not finished"


@pytest.mark.parametrize("size", [0, 30, 64, 5000])
def test_noise_in_place_of_a_segment_is_told(tmp_path: Path, size: int) -> None:
    """Whatever a file holds, the command says something about it instead of failing."""
    write_log(tmp_path)
    segments(tmp_path)[0].write_bytes(bytes(range(256)) * 20 if size == 5000 else bytes(size))
    code, told = inspect_json(tmp_path)
    assert code == 1
    assert told["log"]["damage"][0].startswith(f"wal/{segments(tmp_path)[0].name}: offset 0: ")


def test_a_directory_without_a_log_is_refused(tmp_path: Path) -> None:
    """The command says what to name instead."""
    code, output = inspect(tmp_path)
    assert code == 2
    assert "name a node's data directory" in output
