"""Reading a log back: what its segments add up to, and whether anything is missing or damaged.

Pure: names and bytes in, values and complaints out; nothing is repaired here, so `tools.inspect` reads with it too.

How a power cut is told from damage. A frame is written only after the sync of the one before, so a cut can only spoil
the very last frame: a bad place with a frame begun anywhere behind it is damage. A segment is used only after its
head is durable and the one before is sealed: an unreadable head behind an unsealed segment is a segment that never
came to be, any other is damage, and so is a seal with no segment behind it. Where a log's beginning was cut away, its
mark covers everything before the oldest segment, or a segment is missing.
"""

from typing import Final, NamedTuple

from protocol.errors import Corruption
from protocol.types import LOG_START, NOBODY, Entry, HardState, Index, LogMark, Term
from storage.wal_format import (
    HEAD_BYTES,
    Frame,
    SegmentHead,
    find_frame,
    read_frame,
    segment_name,
    sequence_of,
    unpack_frame,
    unpack_head,
)

WAL_DIR: Final = "wal"
_ZERO_BLOCK: Final = bytes(64 * 1024)
EMPTY_STATE: Final = HardState(Term(0), NOBODY, Index(0))
EMPTY_MARK: Final = LogMark(LOG_START.index, LOG_START.term, b"", "")


class Replay:
    """What the frames read so far add up to."""

    def __init__(self) -> None:
        self.hard_state = EMPTY_STATE
        self.mark = EMPTY_MARK
        self.entries: list[Entry] = []
        self.restarted = False

    @property
    def last_index(self) -> Index:
        """Where the log ends."""
        return max(self.entries[-1].index, self.mark.index) if self.entries else self.mark.index

    def take(self, frame: Frame) -> None:
        """Add one frame."""
        if frame.hard_state is not None:
            self.hard_state = frame.hard_state
        if frame.mark is not None:
            self.mark = frame.mark
        if frame.restart:
            self.entries = []
            self.restarted = True
        for entry in frame.entries:
            if self.entries and entry.index <= self.entries[-1].index:
                # A conflict was overwritten (Raft, section 5.3): what stood there is gone.
                del self.entries[max(entry.index - self.entries[0].index, 0) :]
            if self.entries and entry.index != self.entries[-1].index + 1:
                # A gap is right where older segments are gone; `missing` checks that the mark covers it.
                self.entries = []
            self.entries.append(entry)

    def behind_mark(self) -> tuple[Entry, ...]:
        """Return the entries behind the mark."""
        return tuple(entry for entry in self.entries if entry.index > self.mark.index)

    def missing(self) -> str:
        """Return which entries between the mark and the first one held are missing, in words, or nothing."""
        if self.entries and self.entries[0].index > self.mark.index + 1:
            gap = f"{self.mark.index + 1}..{self.entries[0].index - 1}"
            return f"entries {gap} are missing behind the mark at {self.mark.index}"
        return ""


class SegmentScan(NamedTuple):
    """One segment, read up to its end or to the first place that makes no sense."""

    name: str
    head: SegmentHead | None
    """None: it was never written whole, or is damaged."""
    head_crc: int
    frames: tuple[tuple[int, Frame], ...]
    """Frames with their offsets, the seal left out."""
    end: int
    """Offset behind the last good frame, a seal not counted."""
    chain: int
    """CRC of the last good frame: what the next one goes on from."""
    sealed: bool
    stray_bytes: int
    """Length of what is behind `end` up to the last byte that is not zero; 0 behind a seal."""
    later_at: int | None
    """Where behind `end` another frame was begun, which makes what is at `end` damage."""
    bytes_allocated: int

    @property
    def path(self) -> str:
        """Path below the data directory."""
        return f"{WAL_DIR}/{self.name}"

    @property
    def last_index(self) -> Index:
        """The largest index of its entries (0: it has none)."""
        return Index(max((entry.index for _, frame in self.frames for entry in frame.entries), default=0))


def scan_segment(name: str, data: bytes) -> SegmentScan:
    """Return what stands in the segment's bytes.

    Raises:
        Corruption: a format this build does not know; the text begins with the offset.
    """
    found = unpack_head(data)
    if found is None:
        return SegmentScan(name, None, 0, (), 0, 0, False, _stray(data, 0), None, len(data))
    head, head_crc = found
    frames: list[tuple[int, Frame]] = []
    offset, chain, sealed = HEAD_BYTES, head.chain, False
    while (raw := read_frame(data, offset, head_crc)) is not None and raw.chain == chain:
        try:
            frame = unpack_frame(raw.payload)
        except Corruption as error:
            raise Corruption(f"offset {offset}: {error}") from error
        if frame.sealed:
            sealed = True
            break
        frames.append((offset, frame))
        offset, chain = raw.end, raw.crc
    stray = 0 if sealed else _stray(data, offset)
    later = find_frame(data, offset + 8, head_crc) if stray else None
    return SegmentScan(name, head, head_crc, tuple(frames), offset, chain, sealed, stray, later, len(data))


def _stray(data: bytes, offset: int) -> int:
    """Return the length of what is behind `offset` up to the last byte that is not zero.

    In blocks from the end: comparing zeros with zeros costs a hundredth of what looking at each byte does.
    """
    end = len(data)
    while end > offset:
        start = max(end - len(_ZERO_BLOCK), offset)
        block = data[start:end]
        if block != _ZERO_BLOCK[: end - start]:
            return start - offset + len(block.rstrip(b"\0"))
        end = start
    return 0


class LogReader:
    """Takes segments oldest first and says what the log is and what is wrong with it."""

    def __init__(self) -> None:
        self.replay = Replay()
        self.segments: list[SegmentScan] = []
        self.last_indexes: list[Index] = []
        """For each segment the largest index of an entry that still counts."""
        self.unfinished = ""
        """Name of a newest segment that never came to be."""
        self.problems: list[str] = []

    def take(self, name: str, data: bytes, *, last: bool) -> SegmentScan | None:
        """Read one more segment; `last`: it is the newest. What is wrong goes to `problems`."""
        sequence = sequence_of(name)
        if sequence is None:
            self._complain(name, "not the name of a log segment")
            return None
        try:
            scan = scan_segment(name, data)
        except Corruption as error:
            self._complain(name, str(error))
            return None
        before = self.segments[-1] if self.segments else None
        if scan.head is None or not scan.frames:
            if last and before is not None and not before.sealed and self._follows(before, sequence):
                self.unfinished = name
            else:
                self._complain(name, f"offset {scan.end}: the segment's head is damaged")
            return scan
        self._check_place(scan, scan.head, sequence, before)
        self._add(scan)
        if scan.later_at is not None:
            where = f"offset {scan.end}: the frame here is damaged; a valid frame follows at offset {scan.later_at}"
            self._complain(name, where)
        return scan

    def finish(self) -> None:
        """Look at the log as a whole, once all segments were taken."""
        if not self.segments:
            return
        newest, oldest, mark = self.segments[-1], self.segments[0], self.replay.mark
        if newest.sealed and newest.head is not None:
            following = segment_name(newest.head.sequence + 1, self.replay.last_index + 1)
            self.problems.append(f"{WAL_DIR}: segment {following} is missing behind {newest.path}")
        before = oldest.head.last_index if oldest.head is not None and not self.replay.restarted else 0
        if before > mark.index:
            gap = f"entries {mark.index + 1}..{before} are missing behind the mark at {mark.index}"
            self.problems.append(f"{WAL_DIR}: {gap}: the segments before {oldest.name} are gone")
        missing = self.replay.missing()
        if missing and not self.problems:
            self.problems.append(f"{WAL_DIR}: {missing}")

    def _complain(self, name: str, text: str) -> None:
        self.problems.append(f"{WAL_DIR}/{name}: {text}")

    def _follows(self, before: SegmentScan, sequence: int) -> bool:
        return before.head is not None and before.head.sequence + 1 == sequence

    def _check_place(self, scan: SegmentScan, head: SegmentHead, sequence: int, before: SegmentScan | None) -> None:
        """Complain unless the segment goes on where the one before it ended."""
        if head.sequence != sequence:
            self._complain(scan.name, f"offset 0: the head says it is segment {head.sequence}: a file was renamed")
        elif before is not None and not self._follows(before, sequence):
            assert before.head is not None, "only segments with a head are kept"
            missing = segment_name(before.head.sequence + 1, self.replay.last_index + 1)
            self.problems.append(f"{WAL_DIR}: segment {missing} is missing before {scan.path}")
        elif before is not None and head.chain != before.chain:
            # What followed the last good frame was more than a seal that was not finished.
            if before.stray_bytes:
                self._complain(before.name, f"offset {before.end}: the frame here is damaged; segments follow")
            else:
                self._complain(scan.name, "offset 0: does not continue the segment before it")

    def _add(self, scan: SegmentScan) -> None:
        self.segments.append(scan._replace(frames=scan.frames[-1:]))
        last_index = Index(0)
        for _, frame in scan.frames:
            self.replay.take(frame)
            if frame.restart:
                last_index = Index(0)
                self.last_indexes = [Index(0)] * len(self.last_indexes)
            for entry in frame.entries:
                last_index = max(last_index, entry.index)
        self.last_indexes.append(last_index)
