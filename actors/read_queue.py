"""Reads that are not answered at once: long ones go on in slices, large ones leave in pieces, the rest wait their turn.

Owns the reads in progress, the reads that wait, and the bytes on their way to the gateway; knows a store, no engine
and no consensus. Its owner calls `advance` between other work.
Invariants: at most `JOBS_MAX` reads are in progress, since each may hold as many bytes as an answer may have; while
`UNTAKEN_BYTES_MAX` or more are on their way, nothing is read that would add to them; every read is answered once.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from actors.effects import Effect, Send
from protocol.errors import ErrorCode
from protocol.local import AnswerPiece, ReadsServed
from protocol.types import Incarnation, Revision
from storage.mvcc import MvccStore, Result
from storage.range_read import PIECE_BYTES
from storage.reads import ReadJob, StatusFields, advance_read, plain_key, reader_of

JOBS_MAX: Final = 8
"""Long reads in progress at once."""
MESSAGE_ANSWERS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Answers that leave in one message; what is over it waits, or goes ahead in pieces."""
UNTAKEN_BYTES_MAX: Final = 32 * 1024 * 1024
"""Pieces the gateway has not taken yet."""
SMALL_BYTES_MAX: Final = 64 * 1024
"""Answers up to this size never need to go ahead of their message."""
IN_VAIN_MAX: Final = 16
"""Long reads of one batch that may be begun in vain while there is no room for them, for the sake of short ones."""

Batch = tuple[Incarnation, int]
"""Incarnation and sequence of the reads the gateway sent together."""


class _Waiting(NamedTuple):
    batch: Batch
    position: int
    kind: int
    body: bytes


class _Job(NamedTuple):
    batch: Batch
    position: int
    read: ReadJob


class ReadQueue:
    """The reads of one open store."""

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._untaken_bytes = 0
        self.deferred: list[tuple[Batch, int]] = []
        """What the store's owner is to do and to answer: batch and position."""

    @property
    def has_work(self) -> bool:
        """Whether `advance` would get on."""
        return bool(self._jobs or self._waiting) and self._untaken_bytes < UNTAKEN_BYTES_MAX

    def allows_compaction(self, compacted: int) -> bool:
        """Whether no read in progress needs what a compaction to `compacted` gives back."""
        return all(compacted <= job.read.compaction_max for job in self._jobs)

    def serve(
        self, store: MvccStore, batch: Batch, commands: Sequence[tuple[int, bytes]], status: StatusFields
    ) -> list[Effect]:
        """Answer what can be answered at once, and remember the rest."""
        effects: list[Effect] = []
        results: list[tuple[int, int, bytes]] = []
        header = store.header(store.revision)
        size = in_vain = 0
        full = len(self._jobs) >= JOBS_MAX
        begin = reader_of(store, quarantined=store.quarantined)
        for position, (kind, body) in enumerate(commands):
            if size > MESSAGE_ANSWERS_BYTES_MAX or (full and in_vain >= IN_VAIN_MAX and not plain_key(body)):
                self._waiting.append(_Waiting(batch, position, kind, body))
                continue
            result = begin(store, kind, body, header, status)
            if not isinstance(result, ReadJob):
                size += len(result[1])
                results.append((position, *result))
            elif result.deferred:
                self.deferred.append((batch, position))
            elif full:
                # A short read would have been answered whatever goes on; this one is long.
                result.slices.close()
                in_vain += 1
                self._waiting.append(_Waiting(batch, position, kind, body))
            else:
                self._begin(effects, batch, position, result)
                full = len(self._jobs) >= JOBS_MAX
        if results:
            effects.append(_served(store, batch, results))
        return effects

    def advance(self, store: MvccStore, status: StatusFields) -> list[Effect]:
        """Begin a read that waits, and go on with one that has begun; only where `has_work` says so."""
        effects: list[Effect] = []
        if self._waiting and len(self._jobs) < JOBS_MAX:
            batch, position, kind, body = self._waiting.popleft()
            begin = reader_of(store, quarantined=store.quarantined)
            result = begin(store, kind, body, store.header(store.revision), status)
            if isinstance(result, ReadJob) and result.deferred:
                self.deferred.append((batch, position))
            elif isinstance(result, ReadJob):
                self._begin(effects, batch, position, result)
            else:
                self._answer(effects, store, batch, position, result)
        if self._jobs:
            job = self._jobs.popleft()
            step = advance_read(job.read)
            if isinstance(step, tuple):
                self._answer(effects, store, job.batch, job.position, step)
            else:
                self._jobs.append(job)
                if step is not None:
                    self._send_piece(effects, job.batch, job.position, step)
        return effects

    def end(self, code: ErrorCode, store: MvccStore) -> list[Effect]:
        """Answer every read there is with `code`: what it would read is about to go."""
        effects: list[Effect] = []
        for job in self._jobs:
            job.read.slices.close()
            effects.append(_served(store, job.batch, [(job.position, int(code), b"")]))
        effects += [_served(store, each.batch, [(each.position, int(code), b"")]) for each in self._waiting]
        self._jobs.clear()
        self._waiting.clear()
        effects += self.answer_deferred(store, code)
        return effects

    def answer_deferred(self, store: MvccStore, code: ErrorCode) -> list[Effect]:
        """Answer all that was deferred, with no body."""
        deferred, self.deferred = self.deferred, []
        return [_served(store, batch, [(position, int(code), b"")]) for batch, position in deferred]

    def in_pieces(self, batch: Batch, results: tuple[Result, ...]) -> tuple[list[Effect], tuple[Result, ...]]:
        """Send the large answers to commands ahead in pieces; return them and what is left of the results."""
        effects: list[Effect] = []
        left: list[Result] = []
        for position, (code, body) in enumerate(results):
            if len(body) > SMALL_BYTES_MAX:
                self._send_pieces(effects, batch, position, body)
                left.append((code, b""))
            else:
                left.append((code, body))
        return effects, tuple(left)

    def taken(self, size: int) -> None:
        """The gateway has taken so many bytes of pieces."""
        self._untaken_bytes = max(0, self._untaken_bytes - size)

    def gateway_started(self) -> None:
        """Nobody will take what an earlier gateway was sent."""
        self._untaken_bytes = 0

    def _begin(self, effects: list[Effect], batch: Batch, position: int, read: ReadJob) -> None:
        self._jobs.append(_Job(batch, position, read))
        if read.piece is not None:
            self._send_piece(effects, batch, position, read.piece)

    def _answer(self, effects: list[Effect], store: MvccStore, batch: Batch, position: int, result: Result) -> None:
        code, body = result
        if len(body) > SMALL_BYTES_MAX:
            self._send_pieces(effects, batch, position, body)
            body = b""
        effects.append(_served(store, batch, [(position, code, body)]))

    def _send_pieces(self, effects: list[Effect], batch: Batch, position: int, body: bytes) -> None:
        for at in range(0, len(body), PIECE_BYTES):
            self._send_piece(effects, batch, position, body[at : at + PIECE_BYTES])

    def _send_piece(self, effects: list[Effect], batch: Batch, position: int, piece: bytes) -> None:
        self._untaken_bytes += len(piece)
        incarnation, sequence = batch
        message = AnswerPiece.make(incarnation=incarnation, sequence=sequence, position=position, piece=piece)
        effects.append(Send("gateway", message))


def _served(store: MvccStore, batch: Batch, results: list[tuple[int, int, bytes]]) -> Send:
    incarnation, sequence = batch
    return Send(
        "gateway",
        ReadsServed.make(
            incarnation=incarnation,
            sequence=sequence,
            results=tuple(results),
            applied=store.applied,
            revision=Revision(store.revision),
        ),
    )
