"""Turns a checkpoint of the store into one file as etcd's clients save it.

Short-lived, a process of its own, so that neither the applier nor anybody's request waits for it. Memory is bounded:
one slice of rows and one piece of the file at a time. Nobody but this node reads the file, so nothing is synced.
"""

from collections.abc import Callable, Iterator
from typing import Final

from actors.actor import Source
from actors.effects import Effect, Halt, Log, Send
from actors.metrics import ActorMetrics
from protocol import exports, local
from protocol.errors import Corruption, DiskFailed
from protocol.message import Message
from protocol.types import Millis
from storage.bolt import BoltWriter
from storage.disk import Disk, DiskFile
from storage.engine import Engine
from storage.etcd_file import etcd_buckets
from storage.staging import export_path, snapshot_path

ROWS_PER_SLICE: Final = 2000
PIECE_BYTES: Final = 1024 * 1024
"""Written at once."""


class SnapshotExporter:
    """One export."""

    name = "snapshot_exporter"

    def __init__(self, disk: Disk, open_engine: Callable[[str], Engine], arguments: dict[str, object]) -> None:
        self.metrics = ActorMetrics()
        self.deadline: Millis | None = None
        self._disk = disk
        self._open_engine = open_engine
        self._name = str(arguments["name"])
        self._work: Iterator[int] = iter(())

    def start(self, now: Millis) -> list[Effect]:
        """Begin with the first wake."""
        self._work = self._export()
        self.deadline = now
        return []

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """Nothing but a wish to stop is said to it."""
        return [Halt("stopped")] if isinstance(message, local.StopActor) else []

    def wake(self, now: Millis) -> list[Effect]:
        """Write one slice."""
        if self.deadline is None or now < self.deadline:
            return []
        self.deadline = now
        try:
            size = next(self._work)
        except (DiskFailed, Corruption) as error:
            return self._end(0, str(error))
        return self._end(size, "") if size else []

    def end_turn(self, now: Millis) -> list[Effect]:
        """Nothing is batched here."""
        return []

    def measure(self) -> None:
        """Nothing here is a gauge."""

    def check_invariants(self) -> None:
        """Nothing here could be inconsistent."""

    def _export(self) -> Iterator[int]:
        """Yield 0 after each slice, and the size of the file at the end."""
        engine = self._open_engine(snapshot_path(self._name))
        file = self._disk.open(export_path(self._name), create=True)
        try:
            pieces = _Pieces(file)
            writer = BoltWriter(pieces.write_at)
            for bucket, pairs in etcd_buckets(engine):
                writer.begin(bucket)
                for walked, (key, value) in enumerate(pairs, start=1):
                    writer.put(key, value)
                    if walked % ROWS_PER_SLICE == 0:
                        yield 0
                writer.end()
            size = writer.finish()
            pieces.flush()
        finally:
            engine.close()
            file.close()
        yield size

    def _end(self, size: int, failure: str) -> list[Effect]:
        self.deadline = None
        written = exports.ExportWritten(name=self._name, size=size, failure=failure)
        log = Log("info", "snapshot_exported", {"name": self._name, "size": size, "failure": failure})
        return [log, Send("applier", written), Halt("done")]


class _Pieces:
    """Gathers what is written in order into larger writes."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self._at = 0
        self._piece = bytearray()

    def write_at(self, at: int, data: bytes) -> None:
        if at != self._at + len(self._piece) or len(self._piece) >= PIECE_BYTES:
            self.flush()
            self._at = at
        self._piece += data

    def flush(self) -> None:
        if self._piece:
            self._file.write_at(self._at, bytes(self._piece))
            self._at += len(self._piece)
            self._piece.clear()
