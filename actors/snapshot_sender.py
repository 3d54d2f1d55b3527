"""Carries one snapshot to one follower: hash, offer, stream within a window, resend what is lost.

Short-lived, a process of its own, so that neither raft nor the applier ever waits for a file.
Invariants: no more than `WINDOW_CHUNKS` chunks are unacknowledged; without progress for `PATIENCE_MS` it gives up.
"""

from bisect import bisect_right
from typing import Final, cast

import google_crc32c

from actors.actor import Source
from actors.effects import Effect, Halt, Log, Send, SendPeer
from actors.metrics import ActorMetrics
from protocol import codec, local, peer
from protocol.errors import DiskFailed
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import Index, MemberId, Millis, Term
from storage.disk import Disk
from storage.staging import snapshot_path

CHUNK_BYTES: Final = 256 * 1024
WINDOW_CHUNKS: Final = 16
RESEND_MS: Final = 500
REOFFER_MS: Final = 1_500
"""Silence after which the receiver is thought gone, and the follower is asked again."""
PATIENCE_MS: Final = 15_000


class SnapshotSender:
    """One transfer, from the sending side."""

    name = "snapshot_sender"

    def __init__(self, identity: NodeIdentity, disk: Disk, arguments: dict[str, object]) -> None:
        self.metrics = ActorMetrics()
        self.deadline: Millis | None = None
        self._disk = disk
        self._to = cast("MemberId", arguments["to"])
        self._snapshot = str(arguments["name"])
        self._index = cast("Index", arguments["index"])
        self._term = cast("Term", arguments["term"])
        self._configuration = cast("bytes", arguments["configuration"])
        self._transfer = (identity.incarnation << 20) | (self._index & 0xFFFFF)
        self._to_hash: list[str] = []
        self._files: list[tuple[str, int, int]] = []
        self._starts: list[int] = []
        self._chunks = 0
        self._acknowledged = 0
        self._sent = 0
        self._accepted = False
        self._progress_at = Millis(0)
        self._heard_at = Millis(0)
        self._ended = False

    def start(self, now: Millis) -> list[Effect]:
        """See what there is to send."""
        self._to_hash = self._disk.list(snapshot_path(self._snapshot))
        self._progress_at = now
        self.deadline = now
        return []

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """Follow the receiver's progress."""
        if isinstance(message, local.StopActor):
            return [Halt("stopped")]
        if not isinstance(message, peer.SnapshotProgress) or message.transfer != self._transfer:
            return []
        if message.state == "staged":
            return self._end(delivered=True, reason="staged")
        if message.state == "refused":
            return self._end(delivered=False, reason="refused")
        self._heard_at = now
        received = min(message.next_sequence, self._chunks)
        if not self._accepted:
            # The first word of this receiver, which may be a new one that has nothing yet.
            self._accepted = True
            self._progress_at = now
            self._acknowledged = self._sent = received
        elif received > self._acknowledged:
            self._progress_at = now
            self._acknowledged = received
            self._sent = max(self._sent, received)
        self.deadline = Millis(now + RESEND_MS)
        return self._guarded_stream()

    def wake(self, now: Millis) -> list[Effect]:
        """Hash a file, offer, or send again what was not acknowledged."""
        if self._ended or self.deadline is None or now < self.deadline:
            return []
        if self._to_hash:
            try:
                self._hash_one()
            except DiskFailed as error:
                return self._end(delivered=False, reason=str(error))
            self._progress_at = now
            self.deadline = now
            return []
        if now - self._progress_at >= PATIENCE_MS:
            return self._end(delivered=False, reason="no progress")
        self.deadline = Millis(now + RESEND_MS)
        if now - self._heard_at >= REOFFER_MS:
            self._accepted = False
        if not self._accepted:
            return [self._offer()]
        self._sent = self._acknowledged
        return self._guarded_stream()

    def end_turn(self, now: Millis) -> list[Effect]:
        """Nothing is batched here."""
        return []

    def measure(self) -> None:
        """Nothing here is a gauge."""

    def check_invariants(self) -> None:
        """The window holds."""
        assert self._acknowledged <= self._sent <= self._acknowledged + WINDOW_CHUNKS, "window overrun"

    def _hash_one(self) -> None:
        name = self._to_hash.pop(0)
        file = self._disk.open(f"{snapshot_path(self._snapshot)}/{name}")
        size = file.size()
        crc = 0
        for offset in range(0, size, CHUNK_BYTES):
            crc = int(google_crc32c.extend(crc, file.read_at(offset, min(CHUNK_BYTES, size - offset))))
        file.close()
        self._starts.append(self._chunks)
        self._files.append((name, size, crc))
        self._chunks += max(1, -(-size // CHUNK_BYTES))

    def _offer(self) -> Effect:
        offer = peer.OfferSnapshot(
            transfer=self._transfer,
            name=self._snapshot,
            index=self._index,
            term=self._term,
            configuration=self._configuration,
            files=tuple(self._files),
        )
        return SendPeer(self._to, codec.encode(offer), bulk=True)

    def _guarded_stream(self) -> list[Effect]:
        """The snapshot may be dropped under our hands, when raft has given the transfer up: then so do we."""
        try:
            return self._stream()
        except DiskFailed as error:
            return self._end(delivered=False, reason=str(error))

    def _stream(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._sent < min(self._chunks, self._acknowledged + WINDOW_CHUNKS):
            effects.append(self._chunk(self._sent))
            self._sent += 1
        return effects

    def _chunk(self, sequence: int) -> Effect:
        number = bisect_right(self._starts, sequence) - 1
        name, size, _ = self._files[number]
        offset = (sequence - self._starts[number]) * CHUNK_BYTES
        file = self._disk.open(f"{snapshot_path(self._snapshot)}/{name}")
        data = file.read_at(offset, min(CHUNK_BYTES, size - offset))
        file.close()
        chunk = peer.SnapshotChunk(transfer=self._transfer, sequence=sequence, file=number, offset=offset, data=data)
        return SendPeer(self._to, codec.encode(chunk), bulk=True, actor="snapshot_receiver")

    def _end(self, *, delivered: bool, reason: str) -> list[Effect]:
        if self._ended:
            return []
        self._ended = True
        self.deadline = None
        ended = local.SnapshotSendEnded(to=self._to, name=self._snapshot, delivered=delivered)
        return [Log("info", "snapshot_send_ended", {"reason": reason}), Send("raft", ended), Halt("done")]
