"""`db DIR`: what a store holds, for a human. Opens read-only and writes nothing.

Owns the presentation; knows the layout through `storage.layout` only. `DIR` is a node's data directory, or the
`store` directory (or a checkpoint) itself.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from protocol.config import StorageConfig
from protocol.errors import ActdError, StartRefused
from protocol.wire.mvcc_pb2 import KeyValue
from storage.dedupe import Window
from storage.engine import Engine
from storage.layout import (
    ATTACHMENT,
    COUNTS_KEY,
    KV,
    LEASE,
    LOG,
    META,
    OLD,
    ROLE,
    STATE_KEY,
    TOMBSTONE,
    USER,
    WINDOW_END,
    WINDOW_PREFIX,
    key_value_bytes,
    log_key,
    parse_log_key,
    record_key,
    trailer,
    unpack_state,
)
from storage.rocks import RocksEngine

app = typer.Typer(add_completion=False)

_TABLES = {
    KV: "live keys",
    LOG: "revisions",
    OLD: "old versions",
    ATTACHMENT: "lease attachments",
    LEASE: "leases",
    USER: "users",
    ROLE: "roles",
}
_SHOWN_BYTES_MAX = 40

Rows = Annotated[int, typer.Option(min=0, help="How many keys and revisions to list.")]


@app.command()
def db(
    directory: Annotated[Path, typer.Argument(help="A node's data directory, or its store directory.")],
    keys: Rows = 20,
    revisions: Rows = 20,
    start_key: Annotated[str, typer.Option(help="List keys from this one on.")] = "",
    start_revision: Annotated[int, typer.Option(min=0, help="List revisions from this one on.")] = 0,
) -> None:
    """Print what the store in DIRECTORY holds; the store is opened read-only."""
    console = Console(highlight=False)
    try:
        engine = open_read_only(directory)
    except ActdError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    try:
        console.print(summary(engine))
        console.print(key_table(engine, start_key.encode(), keys))
        console.print(revision_table(engine, start_revision, revisions))
    except ActdError as error:
        console.print(f"[red]damaged: {error}[/red]")
        raise typer.Exit(1) from error
    finally:
        engine.close()


def open_read_only(directory: Path) -> Engine:
    """Open the store in or at `directory` without the right to change it.

    Raises:
        StartRefused: there is no store.
    """
    for root, path in ((directory, "store"), (directory.parent, directory.name)):
        if (root / path / "CURRENT").is_file():
            return RocksEngine(root, path, StorageConfig(), read_only=True)
    raise StartRefused(f"{directory}: no store here; give a node's data directory or its store directory")


def summary(engine: Engine) -> Table:
    """The bookkeeping record, the dedupe windows and how much each table holds."""
    state = unpack_state(engine.get(STATE_KEY))
    table = Table("what", "value", title="store")
    for name, value in state._asdict().items():
        table.add_row(name, str(value))
    rows: Counter[bytes] = Counter()
    for key in engine.scan_keys(b"", b"\xff"):
        rows[key[:1]] += 1
    for prefix, name in _TABLES.items():
        table.add_row(name, str(rows.pop(prefix, 0)))
    rows.pop(META, None)
    for prefix, count in sorted(rows.items()):
        table.add_row(f"unknown table {prefix!r}", str(count))
    table.add_row("saved key counts", f"{len(engine.get(COUNTS_KEY) or b'')} bytes")
    for key, data in engine.scan(WINDOW_PREFIX, WINDOW_END):
        window = Window.unpack(data)
        member = key[len(WINDOW_PREFIX) :].hex()
        table.add_row(f"batches of {member}", f"incarnation {window.incarnation}, up to {window.highest}")
    table.add_row("bytes on disk", str(engine.disk_bytes()))
    return table


def key_table(engine: Engine, start: bytes, rows: int) -> Table:
    """Live keys with their newest version."""
    table = Table("key", "create", "mod", "version", "lease", "value", title="live keys")
    for (_, record), _ in zip(engine.scan(KV + start, KV + b"\xff" * 64), range(rows), strict=False):
        pair = KeyValue.FromString(key_value_bytes(record))
        table.add_row(
            shown(pair.key),
            str(pair.create_revision),
            str(pair.mod_revision),
            str(pair.version),
            f"{pair.lease:x}",
            shown(pair.value),
        )
    return table


def revision_table(engine: Engine, start: int, rows: int) -> Table:
    """The history in order: what happened at each revision and what it replaced."""
    table = Table("revision", "what", "key", "replaces", "value", title="revisions")
    for (row_key, record), _ in zip(engine.scan(log_key(start, 0), b"s"), range(rows), strict=False):
        main, sub = parse_log_key(row_key)
        place = trailer(record)
        value = KeyValue.FromString(key_value_bytes(record)).value
        table.add_row(
            f"{main}/{sub}",
            "delete" if place.kind == TOMBSTONE else "put",
            shown(record_key(record)),
            f"{place.previous_main}/{place.previous_sub}" if place.previous_main else "-",
            shown(value),
        )
    return table


def shown(data: bytes) -> str:
    """Bytes for a terminal: printable ones as they are, the rest escaped, long ones cut."""
    text = repr(data[:_SHOWN_BYTES_MAX])[2:-1]
    return f"{text}… ({len(data)} bytes)" if len(data) > _SHOWN_BYTES_MAX else text
