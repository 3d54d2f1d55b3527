"""`Maintenance.Snapshot`: the store as one file, streamed in pieces, with its SHA-256 behind them.

Owns the streams and how far each is. Knows no disk: the applier has the file made and reads it. A piece is asked for
only when the client has room, so a slow client costs one piece of memory and holds nobody up.
Invariants: pieces leave in order and once; a file whose stream is gone is dropped.
"""

import hashlib
from typing import Final

from actors.effects import Effect, Send
from gateway.streams import Stream, StreamHandler
from protocol import exports, local
from protocol.errors import ErrorCode
from protocol.types import Incarnation, Millis
from protocol.wire import rpc_pb2 as rpc

STREAMS_MAX: Final = 4
"""Snapshots under way; each is a copy of the store on disk."""
PIECE_BYTES: Final = 256 * 1024
BLOB_BYTES: Final = 32 * 1024
"""What etcd puts into one message."""
STORAGE_VERSION: Final = "3.7.0"


class SnapshotService:
    """All snapshots of one gateway."""

    def __init__(self, incarnation: Incarnation) -> None:
        self.effects: list[Effect] = []
        """What the core sends at the end of the turn."""
        self._incarnation = incarnation
        self._streams: dict[int, _SnapshotStream] = {}
        self._last = 0

    def open(self, stream: Stream, _now: Millis) -> StreamHandler:
        """Serve one stream."""
        return _SnapshotStream(self, stream)

    def begin(self, stream: "_SnapshotStream") -> int:
        """Have the file made; return its number, or 0 if there are too many already."""
        if len(self._streams) >= STREAMS_MAX:
            return 0
        self._last += 1
        self._streams[self._last] = stream
        self.ask(exports.ExportSnapshot(incarnation=self._incarnation, sequence=self._last))
        return self._last

    def end(self, sequence: int) -> None:
        """Nobody reads the file any more."""
        if self._streams.pop(sequence, None) is not None:
            self.ask(exports.DropExport(sequence=sequence))

    def ask(self, message: local.LocalMessage) -> None:
        """Send something to the applier."""
        self.effects.append(Send("applier", message))

    def take(self) -> list[Effect]:
        """Return what is to be sent."""
        effects, self.effects = self.effects, []
        return effects

    def on_local(self, message: object) -> None:
        """The applier has something for a stream."""
        if isinstance(message, exports.SnapshotExported | exports.ExportPiece):
            stream = self._streams.get(message.sequence)
            if stream is None:
                return
            if isinstance(message, exports.ExportPiece):
                stream.on_piece(message)
            elif message.failure:
                stream.fail()
            else:
                stream.on_exported(message.size)

    def applier_started(self) -> None:
        """Its predecessor's files are gone."""
        for stream in list(self._streams.values()):
            stream.fail()


class _SnapshotStream:
    """One client's snapshot."""

    def __init__(self, service: SnapshotService, stream: Stream) -> None:
        self._service = service
        self._stream = stream
        self._sequence = 0
        self._size = 0
        self._sent = 0
        self._asked = False
        self._digest = hashlib.sha256()

    def on_message(self, body: bytes, now: Millis) -> None:
        """The client wants a snapshot; it can say nothing else."""
        if self._sequence:
            return
        self._sequence = self._service.begin(self)
        if not self._sequence:
            self._stream.end(ErrorCode.TOO_MANY_REQUESTS)

    def on_half_close(self, now: Millis) -> None:
        """The request was all the client had to say."""

    def on_room(self, now: Millis) -> None:
        """The client has taken what there was."""
        self._go_on()

    def on_cancel(self) -> None:
        """Nobody listens any more."""
        self._service.end(self._sequence)

    def on_exported(self, size: int) -> None:
        """The file is there."""
        self._size = size
        self._go_on()

    def on_piece(self, piece: exports.ExportPiece) -> None:
        """Send a piece in messages of etcd's size, then ask for the next or end."""
        assert piece.offset == self._sent, f"piece at {piece.offset}, {self._sent} bytes were sent"
        self._asked = False
        data = piece.data
        if not data:
            self.fail()
            return
        self._digest.update(data)
        for at in range(0, len(data), BLOB_BYTES):
            blob = data[at : at + BLOB_BYTES]
            self._sent += len(blob)
            self._send(blob, self._size - self._sent)
        if self._sent < self._size:
            self._go_on()
            return
        self._send(self._digest.digest(), 0)
        self._service.end(self._sequence)
        self._stream.end()

    def fail(self) -> None:
        """What was sent is worthless without its end: the client must see that it has not come."""
        self._service.end(self._sequence)
        self._stream.end(ErrorCode.STOPPED)

    def _go_on(self) -> None:
        if self._size and not self._asked and self._stream.may_send():
            self._asked = True
            wanted = min(PIECE_BYTES, self._size - self._sent)
            self._service.ask(exports.ReadExport(sequence=self._sequence, offset=self._sent, size=wanted))

    def _send(self, blob: bytes, remaining: int) -> None:
        response = rpc.SnapshotResponse(remaining_bytes=remaining, blob=blob, version=STORAGE_VERSION)
        self._stream.send(response.SerializeToString())
