"""The write-ahead log: what a member has promised, in the order it promised it.

Owns the segments under `wal/`. Knows no raft rule and no message.
Invariants: a frame is written only after the sync of the one before has returned, so only the very last frame can
be torn; a segment begins with hard state and mark, so the ones before it can go; a sync that failed is never tried
again. Recovery cuts a torn tail and erases it before anything is written behind it; a bad frame that is followed
by a good one, a missing segment or a gap in the entries is damage, and the log refuses to open.
"""

from typing import NamedTuple

from protocol.errors import Corruption, StartRefused
from protocol.types import LOG_START, NOBODY, Entry, HardState, Index, LogMark, Term
from storage.disk import Disk, DiskFile
from storage.wal_format import (
    FRAME_HEAD_BYTES,
    HEAD_BYTES,
    Frame,
    RawFrame,
    SegmentHead,
    pack_frame,
    pack_head,
    read_frame,
    unpack_frame,
    unpack_head,
)

WAL_DIR = "wal"
EMPTY_STATE = HardState(Term(0), NOBODY, Index(0))
EMPTY_MARK = LogMark(LOG_START.index, LOG_START.term, b"", "")


class WalOwner(NamedTuple):
    """Whose log it is; a log of somebody else is refused."""

    cluster: int
    member: int
    store: int


class Segment(NamedTuple):
    """One file of the log; `last_index` is the largest entry index in it (0: none)."""

    sequence: int
    path: str
    last_index: Index


class Replay:
    """What the frames read so far add up to. Pure; also what `tools.inspect` shows."""

    def __init__(self) -> None:
        self.hard_state = EMPTY_STATE
        self.mark = EMPTY_MARK
        self.entries: list[Entry] = []

    def take(self, frame: Frame) -> None:
        """Add one frame."""
        if frame.hard_state is not None:
            self.hard_state = frame.hard_state
        if frame.mark is not None:
            self.mark = frame.mark
        if frame.restart:
            self.entries = []
        for entry in frame.entries:
            if self.entries and entry.index <= self.entries[-1].index:
                # A conflict was overwritten (Raft, section 5.3): what stood there is gone.
                keep = max(entry.index - self.entries[0].index, 0)
                del self.entries[keep:]
            if self.entries and entry.index != self.entries[-1].index + 1:
                # A gap is right where older segments are gone; `finish` checks that the mark covers it.
                self.entries = []
            self.entries.append(entry)

    def finish(self) -> tuple[Entry, ...]:
        """Return the entries behind the mark.

        Raises:
            Corruption: entries between the mark and the first one held are missing.
        """
        if self.entries and self.entries[0].index > self.mark.index + 1:
            missing = f"{self.mark.index + 1}..{self.entries[0].index - 1}"
            raise Corruption(f"{WAL_DIR}: entries {missing} are missing behind the mark at {self.mark.index}")
        return tuple(entry for entry in self.entries if entry.index > self.mark.index)


class Wal:
    """An open log. Make it with `Wal.open`."""

    def __init__(self, disk: Disk, owner: WalOwner, segment_bytes: int) -> None:
        self._disk = disk
        self._owner = owner
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        self._file: DiskFile | None = None
        self._offset = 0
        self._chain = 0
        self.hard_state = EMPTY_STATE
        self.mark = EMPTY_MARK
        self.recovered: tuple[Entry, ...] = ()
        self.torn_bytes = 0
        self.torn_at = ""

    @classmethod
    def open(cls, disk: Disk, owner: WalOwner, segment_bytes: int) -> "Wal":
        """Return the log on `disk`, recovered, or a new one.

        Raises:
            Corruption: it is damaged; the text names file and offset.
            StartRefused: it is the log of another cluster, member or data directory.
            DiskFailed: the disk does not do its work.
        """
        wal = cls(disk, owner, segment_bytes)
        wal._recover()
        return wal

    # --- writing -----------------------------------------------------------------------------------

    def append(self, hard_state: HardState | None, entries: tuple[Entry, ...]) -> int:
        """Write and sync one frame; return its size in bytes."""
        # Noted only once it is on disk: the head of a new segment must not promise what the frame still has to.
        size = self._write(Frame(False, hard_state, None, entries))
        if hard_state is not None:
            self.hard_state = hard_state
        return size

    def set_mark(self, mark: LogMark) -> int:
        """Make `mark` durable, then give back segments it makes needless.

        With `mark.stage` the log restarts empty behind it. Returns the size written in bytes.
        """
        restart = bool(mark.stage)
        size = self._write(Frame(restart, self.hard_state, mark, ()))
        self.mark = mark
        if restart:
            self._segments = [segment._replace(last_index=Index(0)) for segment in self._segments]
        self._drop_segments()
        return size

    def close(self) -> None:
        """Let go of the file; everything was synced when it was written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, frame: Frame) -> int:
        data, crc = pack_frame(frame, self._chain)
        if self._offset + len(data) + FRAME_HEAD_BYTES > self._segment_bytes and self._offset > HEAD_BYTES:
            self._next_segment()
            data, crc = pack_frame(frame, self._chain)
        file = self._file
        assert file is not None, "the log is open"
        file.write_at(self._offset, data)
        file.sync()
        self._offset += len(data)
        self._chain = crc
        if frame.entries:
            current = self._segments[-1]
            last = Index(max(current.last_index, *(entry.index for entry in frame.entries)))
            self._segments[-1] = current._replace(last_index=last)
        return len(data)

    def _next_segment(self) -> None:
        """Begin a new file; it carries hard state and mark, so that it can be the first one day."""
        sequence = self._segments[-1].sequence + 1 if self._segments else 1
        path = f"{WAL_DIR}/{sequence:016d}.wal"
        file = self._disk.open(path, create=True)
        file.allocate(self._segment_bytes)
        head = pack_head(SegmentHead(*self._owner, sequence, self._chain))
        first, crc = pack_frame(Frame(False, self.hard_state, self.mark, ()), self._chain)
        file.write_at(0, head + first)
        file.sync()
        self._disk.sync_dir(WAL_DIR)
        self.close()
        self._file = file
        self._offset = HEAD_BYTES + len(first)
        self._chain = crc
        self._segments.append(Segment(sequence, path, Index(0)))

    def _drop_segments(self) -> None:
        dropped = False
        while len(self._segments) > 1 and self._segments[0].last_index <= self.mark.index:
            self._disk.remove(self._segments[0].path)
            del self._segments[0]
            # One by one, so that a power cut never leaves a hole between older and newer files.
            self._disk.sync_dir(WAL_DIR)
            dropped = True
        assert self._segments or not dropped, "the current segment stays"

    # --- recovery ----------------------------------------------------------------------------------

    def _recover(self) -> None:
        self._disk.make_dir(WAL_DIR)
        self._disk.sync_dir("")
        names = [name for name in self._disk.list(WAL_DIR) if name.endswith(".wal")]
        replay = Replay()
        previous_sequence = 0
        for position, name in enumerate(names):
            last = position == len(names) - 1
            path = f"{WAL_DIR}/{name}"
            sequence = int(name.removesuffix(".wal"))
            if previous_sequence and sequence != previous_sequence + 1:
                raise Corruption(f"{WAL_DIR}: segment {previous_sequence + 1:016d}.wal is missing before {path}")
            previous_sequence = sequence
            self._recover_segment(path, sequence, replay, first=position == 0, last=last)
        self.recovered = replay.finish()
        self.hard_state = replay.hard_state
        self.mark = replay.mark
        if self._file is None:
            self._next_segment()

    def _recover_segment(self, path: str, sequence: int, replay: Replay, *, first: bool, last: bool) -> None:
        file = self._disk.open(path)
        data = file.read_at(0, file.size())
        head = unpack_head(data)
        if head is None or read_frame(data, HEAD_BYTES) is None:
            # A head is synced together with its first frame, and only then is the segment used.
            if not last or self._later_frame(data, HEAD_BYTES) is not None:
                raise Corruption(f"{path}: offset 0: the segment's head is damaged")
            file.close()
            self._disk.remove(path)
            self._disk.sync_dir(WAL_DIR)
            self._reopen_last()
            return
        self._check_owner(path, head)
        if not first and head.chain != self._chain:
            raise Corruption(f"{path}: offset 0: does not continue the segment before it")
        self._chain = head.chain
        offset, last_index = self._replay_frames(path, data, replay)
        self._segments.append(Segment(sequence, path, last_index))
        self._check_tail(path, file, data, offset, last=last)
        if last:
            self._file = file
            self._offset = offset
        else:
            file.close()

    def _replay_frames(self, path: str, data: bytes, replay: Replay) -> tuple[int, Index]:
        offset = HEAD_BYTES
        last_index = Index(0)
        while (raw := read_frame(data, offset)) is not None and raw.chain == self._chain:
            try:
                frame = unpack_frame(raw.payload)
            except Corruption as error:
                raise Corruption(f"{path}: offset {offset}: {error}") from error
            replay.take(frame)
            for entry in frame.entries:
                last_index = max(last_index, entry.index)
            if frame.restart:
                last_index = Index(0)
                self._segments = [segment._replace(last_index=Index(0)) for segment in self._segments]
            self._chain = raw.crc
            offset = raw.end
        return offset, last_index

    def _check_tail(self, path: str, file: DiskFile, data: bytes, offset: int, *, last: bool) -> None:
        """Nothing behind the last good frame: fine. Something torn: erase it. A good frame further on: damage."""
        tail = data[offset:]
        if not tail.strip(b"\0"):
            return
        later = self._later_frame(data, offset)
        if later is not None or not last:
            where = f"; a valid frame follows at offset {later}" if later is not None else "; segments follow"
            raise Corruption(f"{path}: offset {offset}: the frame here is damaged{where}")
        self.torn_bytes = len(tail.rstrip(b"\0"))
        self.torn_at = f"{path}: offset {offset}"
        file.write_at(offset, b"\0" * self.torn_bytes)
        file.sync()

    def _later_frame(self, data: bytes, offset: int) -> int | None:
        """Return where a valid frame stands behind `offset`, if any does."""
        view = memoryview(data)
        # Behind the last byte that is not zero there is no frame: the preallocated rest need not be looked at.
        end = min(len(data.rstrip(b"\0")), len(data) - FRAME_HEAD_BYTES)
        for candidate in range(offset + 8, end, 8):
            if data[candidate : candidate + 4] != b"\0\0\0\0" and read_frame(view, candidate) is not None:
                return candidate
        return None

    def _reopen_last(self) -> None:
        """Go on in the segment before one that was never finished."""
        if not self._segments:
            return
        segment = self._segments[-1]
        file = self._disk.open(segment.path)
        data = file.read_at(0, file.size())
        offset = HEAD_BYTES
        while (raw := read_frame(data, offset)) is not None:
            offset = raw.end
        self._file = file
        self._offset = offset

    def _check_owner(self, path: str, head: SegmentHead) -> None:
        found = WalOwner(head.cluster, head.member, head.store)
        if found != self._owner:
            raise StartRefused(
                f"{path} belongs to cluster {found.cluster:x}, member {found.member:x}, store {found.store:x}; this "
                f"node is cluster {self._owner.cluster:x}, member {self._owner.member:x}, store "
                f"{self._owner.store:x}. Point the node at its own data directory"
            )


def raw_frames(data: bytes) -> list[tuple[int, RawFrame]]:
    """Return the frames of a segment's bytes with their offsets, as far as they are whole; for people to read."""
    frames: list[tuple[int, RawFrame]] = []
    offset = HEAD_BYTES
    while (raw := read_frame(data, offset)) is not None:
        frames.append((offset, raw))
        offset = raw.end
    return frames
