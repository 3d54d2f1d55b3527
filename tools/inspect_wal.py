"""What stands in a write-ahead log, for people. Opens read-only; never repairs, cuts or writes.

A running node may be looked at: a segment that it drops meanwhile is left out, and a frame that is being written looks
like one that a power cut tore, which is no damage.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from protocol.types import EntryKind
from storage.wal_format import Frame
from storage.wal_recovery import WAL_DIR, LogReader, SegmentScan, scan_segment

LOOKS_MAX = 10
KNOWN_KINDS = {kind.value: kind.name.lower() for kind in EntryKind}


def kind_name(kind: int) -> str:
    """Return what people call a kind of entry."""
    return KNOWN_KINDS.get(kind, f"kind {kind}")


def segment_names(directory: Path) -> list[str]:
    """Return the names of the log's segments, oldest first."""
    return sorted(path.name for path in (directory / WAL_DIR).glob("*.wal"))


def read_log(directory: Path) -> tuple[LogReader, list[tuple[str, SegmentScan | None]]]:
    """Return what the log in a data directory adds up to, and its segments in order.

    A node may be writing: what looks like damage only counts if it looks the same a second time, and a list of
    files that changed while they were read is read again.
    """
    seen: list[str] = []
    for _ in range(LOOKS_MAX):
        names = segment_names(directory)
        try:
            reader, scans = _read_once(directory, names)
        except FileNotFoundError:
            continue  # the node has just cut its log
        if names == segment_names(directory) and reader.problems == seen:
            break
        seen = reader.problems
    else:
        raise typer.BadParameter(f"{directory}: the log changes faster than it can be read; try again")
    return reader, scans


def _read_once(directory: Path, names: list[str]) -> tuple[LogReader, list[tuple[str, SegmentScan | None]]]:
    reader = LogReader()
    scans: list[tuple[str, SegmentScan | None]] = []
    for name in names:
        data = (directory / WAL_DIR / name).read_bytes()
        taken = reader.take(name, data, last=name == names[-1])
        # The reader keeps no frames; they are read again for those who want to see them.
        scans.append((name, scan_segment(name, data) if taken is not None else None))
    reader.finish()
    return reader, scans


def describe_frame(offset: int, frame: Frame) -> dict[str, Any]:
    """Return one frame as plain values."""
    entries = frame.entries
    return {
        "offset": offset,
        "restart": frame.restart,
        "hard_state": frame.hard_state._asdict() if frame.hard_state else None,
        "mark": _mark(frame) if frame.mark else None,
        "entries": [
            {"index": one.index, "term": one.term, "kind": kind_name(one.kind), "bytes": len(one.data)}
            for one in entries
        ],
    }


def _mark(frame: Frame) -> dict[str, Any]:
    assert frame.mark is not None, "asked for frames with a mark only"
    return {"index": frame.mark.index, "term": frame.mark.term, "stage": frame.mark.stage}


def describe_segment(name: str, scan: SegmentScan | None, *, unfinished: bool, frames: bool) -> dict[str, Any]:
    """Return one segment as plain values."""
    if scan is None or scan.head is None:
        note = "begun, never used" if unfinished else "unreadable"
        return {"segment": name, "frames": 0, "entries": {}, "bytes_used": 0, "note": note}
    kinds = Counter(kind_name(entry.kind) for _, frame in scan.frames for entry in frame.entries)
    indexes = [entry.index for _, frame in scan.frames for entry in frame.entries]
    torn = scan.stray_bytes > 0 and scan.later_at is None
    note = f"offset {scan.end}: {scan.stray_bytes} bytes of a frame that was not finished" if torn else ""
    described: dict[str, Any] = {
        "segment": name,
        "cluster": f"{scan.head.cluster:x}",
        "member": f"{scan.head.member:x}",
        "store": f"{scan.head.store:x}",
        "frames": len(scan.frames),
        "entries": dict(sorted(kinds.items())),
        "first_index": min(indexes, default=0),
        "last_index": max(indexes, default=0),
        "bytes_used": scan.end,
        "bytes_allocated": scan.bytes_allocated,
        "sealed": scan.sealed,
        "note": "begun, never used" if unfinished else note,
    }
    if frames:
        described["frame_list"] = [describe_frame(offset, frame) for offset, frame in scan.frames]
    return described


def describe_log(reader: LogReader) -> dict[str, Any]:
    """Return what the whole log adds up to, as plain values."""
    replay = reader.replay
    return {
        "hard_state": replay.hard_state._asdict(),
        "mark": {"index": replay.mark.index, "term": replay.mark.term, "stage": replay.mark.stage},
        "entries_behind_the_mark": len(replay.behind_mark()),
        "last_index": replay.last_index,
        "damage": reader.problems,
    }


def wal(
    directory: Annotated[Path, typer.Argument(help="a node's data directory")],
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    frames: Annotated[bool, typer.Option("--frames", help="every frame with its entries")] = False,
) -> None:
    """Show segments, entries, hard state and mark of the log in DIRECTORY; exit 1 if something is damaged."""
    reader, scans = read_log(directory)
    if not scans:
        typer.secho(f"{directory}: holds no {WAL_DIR}/*.wal; name a node's data directory", fg="red", err=True)
        raise typer.Exit(2)
    segments = [
        describe_segment(name, scan, unfinished=name == reader.unfinished, frames=frames) for name, scan in scans
    ]
    log = describe_log(reader)
    if as_json:
        print(json.dumps({"segments": segments, "log": log}, indent=2))
    else:
        _print(segments, log)
    if reader.problems:
        raise typer.Exit(1)


def _print(segments: list[dict[str, Any]], log: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("segment", "frames", "entries", "indexes", "bytes", "note"):
        table.add_column(column, no_wrap=column == "segment", overflow="fold")
    for segment in segments:
        entries = ", ".join(f"{count} {kind}" for kind, count in segment["entries"].items())
        indexes = f"{segment['first_index']}..{segment['last_index']}" if entries else ""
        note = segment["note"]
        table.add_row(segment["segment"], str(segment["frames"]), entries, indexes, str(segment["bytes_used"]), note)
    console.print(table)
    for segment in segments:
        for frame in segment.get("frame_list", []):
            console.print(
                f"{segment['segment']} {frame['offset']:>9}  {_frame_line(frame)}", markup=False, soft_wrap=True
            )
    state, mark = log["hard_state"], log["mark"]
    console.print(f"hard state: term {state['term']}, voted for {state['voted_for']:x}, commit {state['commit']}")
    staged = f", a staged snapshot {mark['stage']}" if mark["stage"] else ""
    console.print(f"mark: index {mark['index']}, term {mark['term']}{staged}", markup=False)
    console.print(f"behind the mark: {log['entries_behind_the_mark']} entries, the last is {log['last_index']}")
    for problem in log["damage"]:
        console.print(f"damage: {problem}", style="red", markup=False, soft_wrap=True)
    if not log["damage"]:
        console.print("no damage found")


def _frame_line(frame: dict[str, Any]) -> str:
    parts = ["restart"] if frame["restart"] else []
    if frame["hard_state"]:
        state = frame["hard_state"]
        parts.append(f"state(term {state['term']}, vote {state['voted_for']:x}, commit {state['commit']})")
    if frame["mark"]:
        parts.append(f"mark({frame['mark']['index']}, term {frame['mark']['term']})")
    parts += [f"{one['index']}/{one['term']} {one['kind']} {one['bytes']} B" for one in frame["entries"]]
    return "  ".join(parts)
