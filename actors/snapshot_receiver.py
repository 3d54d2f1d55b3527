"""Receives one snapshot: writes chunks in order, checks every file, syncs, and stages the whole.

Short-lived, a process of its own. Invariants: nothing outside its own stage is written; the stage gets its name
only when all of it is checked and on disk; what arrives twice or out of order does no harm.
"""

from typing import Final, cast

import google_crc32c

from actors.actor import Source
from actors.effects import Effect, Halt, Log, Send, SendPeer
from actors.metrics import ActorMetrics
from protocol import codec, local, peer
from protocol.errors import DiskFailed, PeerFault
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import Index, MemberId, Millis, Term
from storage.disk import Disk, DiskFile
from storage.staging import STAGE_DIR, partial_path, safe_name, stage_path

SILENCE_MS: Final = 15_000
LINGER_MS: Final = 2_000
HELD_CHUNKS_MAX: Final = 32


class SnapshotReceiver:
    """One transfer, from the receiving side."""

    name = "snapshot_receiver"

    def __init__(self, identity: NodeIdentity, disk: Disk, arguments: dict[str, object]) -> None:
        self.metrics = ActorMetrics()
        self.deadline: Millis | None = None
        self._disk = disk
        self._sender = cast("MemberId", arguments["sender"])
        self._transfer = cast("int", arguments["transfer"])
        self._snapshot = str(arguments["name"])
        self._index = cast("Index", arguments["index"])
        self._term = cast("Term", arguments["term"])
        self._configuration = cast("bytes", arguments["configuration"])
        files = cast("tuple[tuple[str, int, int], ...]", arguments["files"])
        self._files = [(str(name), int(size), int(crc)) for name, size, crc in files]
        self._next = 0
        self._file = 0
        self._written = 0
        self._crc = 0
        self._open_file: DiskFile | None = None
        self._held: dict[int, peer.SnapshotChunk] = {}
        self._staged = False

    def start(self, now: Millis) -> list[Effect]:
        """Make room and say that we listen."""
        try:
            for name, _, _ in self._files:
                safe_name(name)
            self._disk.remove_tree(partial_path(self._snapshot))
            self._disk.remove_tree(stage_path(self._snapshot))
            self._disk.make_dir(partial_path(self._snapshot))
        except (PeerFault, DiskFailed) as error:
            return self._fail(str(error))
        self.deadline = Millis(now + SILENCE_MS)
        return [self._progress("receiving")]

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """Take chunks in."""
        if isinstance(message, local.StopActor):
            return [Halt("stopped")]
        if isinstance(message, peer.OfferSnapshot) and message.transfer == self._transfer:
            return [self._progress("staged" if self._staged else "receiving")]
        if not isinstance(message, peer.SnapshotChunk) or message.transfer != self._transfer:
            return []
        if self._staged:
            return [self._progress("staged")]
        self.deadline = Millis(now + SILENCE_MS)
        if message.sequence >= self._next and len(self._held) < HELD_CHUNKS_MAX:
            self._held[message.sequence] = message
        try:
            while (chunk := self._held.pop(self._next, None)) is not None:
                self._write(chunk)
                self._next += 1
            if self._file == len(self._files):
                return self._finish(now)
        except (PeerFault, DiskFailed) as error:
            return self._fail(str(error))
        return [self._progress("receiving")]

    def wake(self, now: Millis) -> list[Effect]:
        """Give up on a silent sender; end after the last answers."""
        if self.deadline is None or now < self.deadline:
            return []
        if self._staged:
            return [Halt("done")]
        return self._fail("the sender is silent")

    def end_turn(self, now: Millis) -> list[Effect]:
        """Nothing is batched here."""
        return []

    def measure(self) -> None:
        """Nothing here is a gauge."""

    def check_invariants(self) -> None:
        """What is held lies ahead."""
        assert all(sequence >= self._next for sequence in self._held), "a chunk of the past is held"

    def _write(self, chunk: peer.SnapshotChunk) -> None:
        name, size, crc = self._files[self._file]
        if chunk.file != self._file or chunk.offset != self._written or chunk.offset + len(chunk.data) > size:
            raise PeerFault(f"chunk {chunk.sequence} does not fit {name} at {self._written}")
        if self._open_file is None:
            self._open_file = self._disk.open(f"{partial_path(self._snapshot)}/{name}", create=True)
        self._open_file.write_at(chunk.offset, chunk.data)
        self._crc = int(google_crc32c.extend(self._crc, chunk.data))
        self._written += len(chunk.data)
        if self._written < size:
            if not chunk.data:
                raise PeerFault(f"empty chunk in {name}")
            return
        if self._crc != crc:
            raise PeerFault(f"{name} arrived damaged: CRC {self._crc:08x}, offered {crc:08x}")
        self._open_file.sync()
        self._open_file.close()
        self._open_file = None
        self._file += 1
        self._written = 0
        self._crc = 0

    def _finish(self, now: Millis) -> list[Effect]:
        partial = partial_path(self._snapshot)
        self._disk.sync_dir(partial)
        self._disk.rename(partial, stage_path(self._snapshot))
        self._disk.sync_dir(STAGE_DIR)
        self._disk.sync_dir("")
        self._staged = True
        self.deadline = Millis(now + LINGER_MS)
        staged = local.SnapshotStaged(
            stage=self._snapshot,
            index=self._index,
            term=self._term,
            configuration=self._configuration,
            sender=self._sender,
        )
        return [Send("raft", staged), self._progress("staged")]

    def _progress(self, state: str) -> Effect:
        progress = peer.SnapshotProgress(transfer=self._transfer, next_sequence=self._next, state=state)
        return SendPeer(self._sender, codec.encode(progress), actor="snapshot_sender")

    def _fail(self, reason: str) -> list[Effect]:
        self.deadline = None
        return [Log("warning", "snapshot_receive_failed", {"reason": reason}), self._progress("refused"), Halt(reason)]
