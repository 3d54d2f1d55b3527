"""The applier's part in snapshots that clients save: it makes checkpoints, has them exported, and hands out the files.

Owns the exports of the running gateway. Knows no format: a helper writes the file, the gateway carries it to clients.
Invariants: one export is made at a time; an export that nobody will read any more is deleted.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from actors.effects import Effect, Send, SpawnHelper
from protocol.errors import DiskFailed
from protocol.exports import DropExport, ExportPiece, ExportSnapshot, ExportWritten, ReadExport, SnapshotExported
from protocol.local import HelperEnded
from protocol.types import Incarnation
from storage.disk import Disk
from storage.staging import export_dir, export_path, snapshot_path

HELPER: Final = "snapshot_exporter"
EXPORT_KINDS: Final = ("ExportSnapshot", "ReadExport", "DropExport", "ExportWritten", "HelperEnded")
"""What the desk is to be told."""
PREFIX: Final = "export-"


class ExportDesk:
    """Where each export stands. A name holds the gateway's incarnation and its number there."""

    def __init__(self, disk: Disk, checkpoint: Callable[[str], list[Effect]]) -> None:
        """`checkpoint` has a checkpoint made under a name; `checkpointed` tells that it is there."""
        self._disk = disk
        self._checkpoint = checkpoint
        self._waiting: deque[tuple[str, int]] = deque()
        self._making: tuple[str, int] | None = None
        self._dropped = False
        """What is being made will not be read."""
        self._made: dict[int, str] = {}
        self._gateway = Incarnation(0)

    def handle(self, message: object) -> list[Effect]:
        """React to one message about exports."""
        if isinstance(message, ExportSnapshot):
            self._gateway = message.incarnation
            self._waiting.append((f"{PREFIX}{message.incarnation}-{message.sequence}", message.sequence))
            return self._begin()
        if isinstance(message, ReadExport):
            return self._read(message)
        if isinstance(message, DropExport):
            return self._drop(message.sequence)
        if isinstance(message, ExportWritten) and self._making is not None and message.name == self._making[0]:
            return self._end(message.size, message.failure)
        if (
            isinstance(message, HelperEnded)
            and message.helper == HELPER
            and self._making is not None
            and message.failure
        ):
            return self._end(0, message.failure)
        return []

    def checkpointed(self, name: str, failure: str) -> list[Effect]:
        """The checkpoint is there, or is not: have it written as one file."""
        if failure:
            return self._end(0, failure)
        self._disk.make_dir(export_dir(name))
        return [SpawnHelper(HELPER, {"name": name})]

    def gateway_started(self) -> None:
        """Nobody waits for what an earlier gateway has asked for."""
        self._waiting.clear()
        self._dropped = self._making is not None
        for name in self._made.values():
            self._disk.remove_tree(export_dir(name))
        self._made.clear()

    def _begin(self) -> list[Effect]:
        if self._making is not None or not self._waiting:
            return []
        self._making = self._waiting.popleft()
        self._dropped = False
        return self._checkpoint(self._making[0])

    def _end(self, size: int, failure: str) -> list[Effect]:
        assert self._making is not None, "something is being made"
        name, sequence = self._making
        self._making = None
        self._disk.remove_tree(snapshot_path(name))
        effects: list[Effect] = []
        if failure or self._dropped:
            self._disk.remove_tree(export_dir(name))
        else:
            self._made[sequence] = name
        if not self._dropped:
            effects.append(Send("gateway", SnapshotExported(sequence=sequence, size=size, failure=failure)))
        return effects + self._begin()

    def _read(self, message: ReadExport) -> list[Effect]:
        name = self._made.get(message.sequence)
        if name is None:
            return []
        try:
            file = self._disk.open(export_path(name))
            data = file.read_at(message.offset, message.size)
            file.close()
        except DiskFailed as error:
            return [Send("gateway", SnapshotExported(sequence=message.sequence, size=0, failure=str(error)))]
        return [Send("gateway", ExportPiece(sequence=message.sequence, offset=message.offset, data=data))]

    def _drop(self, sequence: int) -> list[Effect]:
        if self._making is not None and self._making[1] == sequence:
            self._dropped = True
        self._waiting = deque(waiting for waiting in self._waiting if waiting[1] != sequence)
        name = self._made.pop(sequence, None)
        if name is not None:
            self._disk.remove_tree(export_dir(name))
        return []


def is_export(name: str) -> bool:
    """Whether a checkpoint is made for an export."""
    return name.startswith(PREFIX)
