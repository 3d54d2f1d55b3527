"""`Maintenance.Snapshot` at the gateway: pieces in order, a digest behind them, nothing held for a slow client."""

import hashlib

import pytest
from core_parts import LIFE, make_core

from actors.actor import Source
from actors.effects import Send
from gateway.core import GatewayCore
from gateway.methods import SNAPSHOT
from gateway.snapshots import BLOB_BYTES, PIECE_BYTES, STREAMS_MAX
from gateway.streams import ROOM_BYTES, StreamHead
from protocol import exports, local
from protocol.errors import ErrorCode
from protocol.types import Millis
from protocol.wire import rpc_pb2 as rpc

NOW = Millis(0)


class Saver:
    """A client that saves a snapshot, and the applier that has its file."""

    def __init__(self, gateway: GatewayCore, call_id: int, file: bytes, *, slow: bool = False) -> None:
        self.gateway = gateway
        self.call_id = call_id
        self.file = file
        self.slow = slow
        self.held = 0
        self.sequence = 0
        self.messages: list[rpc.SnapshotResponse] = []
        self.outcome: ErrorCode | None = None
        self.asked: list[str] = []
        gateway.streams.open(call_id, SNAPSHOT, StreamHead(), NOW)
        gateway.streams.message(call_id, b"", NOW)

    def run(self) -> "Saver":
        """Turn until nothing moves any more."""
        while True:
            effects = [effect for effect in self.gateway.end_turn(NOW) if isinstance(effect, Send)]
            for effect in effects:
                self._serve(effect.message)
            self._take()
            self.gateway.check_invariants()
            if not effects:
                return self

    def _serve(self, message: object) -> None:
        assert isinstance(message, local.LocalMessage)
        self.asked.append(message.kind)
        if isinstance(message, exports.ExportSnapshot):
            assert message.incarnation == LIFE
            self.sequence = message.sequence
            self._tell(exports.SnapshotExported(sequence=message.sequence, size=len(self.file), failure=""))
        elif isinstance(message, exports.ReadExport):
            data = self.file[message.offset : message.offset + message.size]
            self._tell(exports.ExportPiece(sequence=message.sequence, offset=message.offset, data=data))

    def _tell(self, message: local.LocalMessage) -> None:
        self.gateway.handle(message, Source("applier"), NOW)

    def _take(self) -> None:
        streams = self.gateway.streams
        dirty, streams.dirty = streams.dirty, []
        for stream in dirty:
            messages, self.outcome = streams.take(stream)
            taken = [b"".join(pieces) for pieces in messages]
            self.messages += [rpc.SnapshotResponse.FromString(message) for message in taken]
            if self.slow and self.outcome is None:
                self.held += sum(map(len, taken))
                streams.held(self.call_id, self.held, NOW)

    def catch_up(self) -> None:
        """Take everything at last."""
        self.held = 0
        self.gateway.streams.held(self.call_id, 0, NOW)


@pytest.fixture
def gateway() -> GatewayCore:
    """A gateway."""
    return make_core()


@pytest.mark.parametrize("size", [4096, BLOB_BYTES, PIECE_BYTES, PIECE_BYTES + 4096, 3 * ROOM_BYTES + 8192])
def test_the_file_arrives_with_its_digest_behind_it(gateway: GatewayCore, size: int) -> None:
    """In messages of 32 KiB that say how much is left; the file is dropped then."""
    file = bytes(range(256)) * (size // 256)
    saver = Saver(gateway, 1, file).run()
    blobs = [message.blob for message in saver.messages]
    assert b"".join(blobs[:-1]) == file
    assert blobs[-1] == hashlib.sha256(file).digest()
    left = [len(file) - BLOB_BYTES * number for number in range(1, len(blobs))]
    assert [message.remaining_bytes for message in saver.messages] == [max(0, each) for each in left] + [0]
    assert {message.version for message in saver.messages} == {"3.7.0"}
    assert (saver.outcome, saver.asked[-1]) == (ErrorCode.OK, "DropExport")


def test_a_client_that_does_not_read_holds_one_piece_only(gateway: GatewayCore) -> None:
    """The next one is asked for when it has taken what there was."""
    file = bytes(4 * ROOM_BYTES)
    saver = Saver(gateway, 1, file, slow=True).run()
    assert saver.outcome is None
    assert saver.held < ROOM_BYTES + 2 * PIECE_BYTES
    while saver.outcome is None:
        before = len(saver.messages)
        saver.catch_up()
        saver.run()
        assert len(saver.messages) > before
    assert sum(len(message.blob) for message in saver.messages) == len(file) + 32


def test_a_client_that_goes_away_frees_the_file(gateway: GatewayCore) -> None:
    """Whatever the applier had for it already."""
    saver = Saver(gateway, 1, bytes(4 * ROOM_BYTES), slow=True).run()
    gateway.streams.cancel(1)
    saver.run()
    assert saver.asked[-1] == "DropExport"
    gateway.handle(exports.ExportPiece(sequence=saver.sequence, offset=0, data=b"x"), Source("applier"), NOW)


def test_too_many_snapshots_are_refused(gateway: GatewayCore) -> None:
    """Each is a copy of the store on disk."""
    savers = [Saver(gateway, call_id, bytes(4 * ROOM_BYTES), slow=True).run() for call_id in range(STREAMS_MAX)]
    assert Saver(gateway, 99, b"").run().outcome == ErrorCode.TOO_MANY_REQUESTS
    gateway.streams.cancel(0)
    savers[0].run()
    assert Saver(gateway, 100, bytes(4096)).run().outcome == ErrorCode.OK


def test_a_snapshot_that_breaks_off_never_looks_complete(gateway: GatewayCore) -> None:
    """The applier starts anew, or has no room for the file: the stream fails, and no digest was sent."""
    saver = Saver(gateway, 1, bytes(4 * ROOM_BYTES), slow=True).run()
    gateway.handle(local.ActorStarted(actor="applier", incarnation=LIFE), Source("supervisor"), NOW)
    assert saver.run().outcome == ErrorCode.STOPPED
    again = Saver(gateway, 2, bytes(4 * ROOM_BYTES), slow=True).run()
    failed = exports.SnapshotExported(sequence=again.sequence, size=0, failure="the disk is full")
    gateway.handle(failed, Source("applier"), NOW)
    assert again.run().outcome == ErrorCode.STOPPED
    assert all(len(message.blob) != 32 for message in saver.messages + again.messages)
