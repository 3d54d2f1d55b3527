"""What stands in a write-ahead log, for people. Opens read-only; never repairs, cuts or writes."""

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from protocol.errors import Corruption
from protocol.types import EntryKind
from storage.wal import WAL_DIR, Replay
from storage.wal_format import HEAD_BYTES, read_frame, unpack_frame, unpack_head


def read_segment(path: Path, replay: Replay) -> dict[str, Any]:
    """Return what one segment holds, and add its frames to `replay`."""
    with path.open("rb") as file:
        data = file.read()
    head = unpack_head(data)
    if head is None:
        return {"segment": path.name, "problem": "the head is damaged or was never written whole"}
    kinds: Counter[str] = Counter()
    indexes: list[int] = []
    frames = 0
    offset = HEAD_BYTES
    chain = head.chain
    while (raw := read_frame(data, offset)) is not None and raw.chain == chain:
        frame = unpack_frame(raw.payload)
        replay.take(frame)
        frames += 1
        for entry in frame.entries:
            known = entry.kind in EntryKind.__members__.values()
            kinds[EntryKind(entry.kind).name.lower() if known else f"kind {entry.kind}"] += 1
            indexes.append(entry.index)
        chain = raw.crc
        offset = raw.end
    problem = "" if not data[offset:].strip(b"\0") else f"offset {offset}: a torn or damaged frame"
    return {
        "segment": path.name,
        "cluster": f"{head.cluster:x}",
        "member": f"{head.member:x}",
        "store": f"{head.store:x}",
        "frames": frames,
        "entries": dict(kinds),
        "first_index": min(indexes, default=0),
        "last_index": max(indexes, default=0),
        "bytes_used": offset,
        "problem": problem,
    }


def wal(
    directory: Annotated[Path, typer.Argument(help="a node's data directory")],
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Show segments, entries, hard state and mark of the log in DIRECTORY; exit 1 if something is damaged."""
    paths = sorted((directory / WAL_DIR).glob("*.wal"))
    if not paths:
        typer.secho(f"{directory}: holds no {WAL_DIR}/*.wal; name a node's data directory", fg="red", err=True)
        raise typer.Exit(2)
    replay = Replay()
    segments = [read_segment(path, replay) for path in paths]
    summary: dict[str, Any] = {"hard_state": replay.hard_state._asdict(), "mark_index": replay.mark.index}
    summary["mark_term"] = replay.mark.term
    summary["mark_stage"] = replay.mark.stage
    try:
        entries = replay.finish()
        summary["entries_behind_the_mark"] = len(entries)
        summary["last_index"] = entries[-1].index if entries else replay.mark.index
    except Corruption as error:
        summary["problem"] = str(error)
    if as_json:
        print(json.dumps({"segments": segments, "log": summary}, indent=2))
    else:
        _print(segments, summary)
    if "problem" in summary or any(segment["problem"] for segment in segments):
        raise typer.Exit(1)


def _print(segments: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False)
    for column in ("segment", "frames", "entries", "indexes", "bytes", "problem"):
        table.add_column(column)
    for segment in segments:
        entries = ", ".join(f"{count} {kind}" for kind, count in segment.get("entries", {}).items())
        indexes = f"{segment.get('first_index', 0)}..{segment.get('last_index', 0)}"
        used = str(segment.get("bytes_used", ""))
        frames = str(segment.get("frames", ""))
        table.add_row(segment["segment"], frames, entries, indexes, used, segment["problem"])
    console.print(table)
    for name, value in summary.items():
        console.print(f"{name}: {value}", highlight=False)
