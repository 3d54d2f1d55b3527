"""The write-ahead log: what a member has promised, in the order it promised it.

Owns the segments under `wal/`. Knows no raft rule and no message.
Invariants: a frame is written only after the sync of the one before has returned, so only the very last frame can
be torn; a segment begins with hard state and mark, so the ones before it can go; a segment is used only when its name
is durable and the one before says that it is there; a sync that failed is never tried again.

Opening. `wal/` appears whole, with its first segment in it, so an empty one is damage. A torn tail is erased before
anything is written behind it. The last frame may be there only in the kernel's memory, if the process that wrote it was
killed before its sync: it is written and synced once more before anybody hears of it.

Writing. Blocks that were preallocated but never written cost the file system a journal commit with the first sync
that touches them (measured on ext4, syncs of 40 kB frames: p10 331 us, against 130 us where zeros had been written
before). So zeros are written ahead of the log in larger pieces, together with a frame and under its sync.
"""

from typing import Final, NamedTuple

from protocol.errors import Corruption, StartRefused
from protocol.types import Entry, HardState, Index, LogMark
from storage.disk import Disk, DiskFile
from storage.staging import STORE_DIR
from storage.wal_format import (
    HEAD_BYTES,
    SEAL,
    Frame,
    SegmentHead,
    pack_frame,
    pack_head,
    segment_name,
)
from storage.wal_recovery import EMPTY_MARK, EMPTY_STATE, WAL_DIR, LogReader, SegmentScan

PARTIAL_DIR: Final = "wal.partial"
"""Where the first segment is made; renamed to `wal/` when it is durable."""
ZEROS_AHEAD_BYTES: Final = 256 * 1024
_ZEROS: Final = bytes(ZEROS_AHEAD_BYTES)
_SEAL_BYTES: Final = len(pack_frame(SEAL, 0, 0, 0)[0])


class WalOwner(NamedTuple):
    """Whose log it is; a log of somebody else is refused."""

    cluster: int
    member: int
    store: int


class Segment(NamedTuple):
    """One file of the log; `last_index` is the largest entry index in it that counts (0: none)."""

    sequence: int
    path: str
    last_index: Index


class Wal:
    """An open log. Make it with `Wal.open`."""

    def __init__(self, disk: Disk, owner: WalOwner, segment_bytes: int) -> None:
        self._disk = disk
        self._owner = owner
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        self._file: DiskFile | None = None
        self._offset = 0
        self._zeros_to = 0
        """Up to here the current segment's blocks have been written, if only with zeros."""
        self._chain = 0
        self._head_crc = 0
        self.hard_state = EMPTY_STATE
        self.mark = EMPTY_MARK
        self.last_index = Index(0)
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
        disk.remove_tree(PARTIAL_DIR)
        if disk.exists(WAL_DIR):
            wal._recover()
        elif disk.exists(STORE_DIR):
            raise Corruption(
                f"{WAL_DIR}/ is missing although {STORE_DIR}/ is there: what this member has promised is gone. Restore "
                "the directory, or remove the member and let it join again with an empty one"
            )
        else:
            wal._create()
        return wal

    # --- writing -----------------------------------------------------------------------------------

    def append(self, hard_state: HardState | None, entries: tuple[Entry, ...]) -> int:
        """Write and sync one frame; return its size in bytes."""
        if entries:
            first = entries[0].index
            assert first <= self.last_index + 1, f"a gap between {self.last_index} and {first}"
        # Noted only once it is on disk: the head of a new segment must not promise what the frame still has to.
        size = self._write(Frame(False, hard_state, None, entries))
        if hard_state is not None:
            self.hard_state = hard_state
        if entries:
            last = entries[-1].index
            current = self._segments[-1]
            # Indexes rise within a request but not from one to the next: a conflict goes back.
            highest = last if len(entries) == 1 else max(entry.index for entry in entries)
            if highest > current.last_index:
                self._segments[-1] = current._replace(last_index=highest)
            self.last_index = last
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
            self.last_index = mark.index
        self.last_index = max(self.last_index, mark.index)
        self._drop_segments()
        return size

    def close(self) -> None:
        """Let go of the file; everything was synced when it was written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, frame: Frame) -> int:
        data, crc = pack_frame(frame, self._chain, self._head_crc, self._offset)
        if self._offset + len(data) + _SEAL_BYTES > self._segment_bytes:
            self._next_segment()
            data, crc = pack_frame(frame, self._chain, self._head_crc, self._offset)
        file = self._file
        assert file is not None, "the log is open"
        size = len(data)
        end = self._offset + size
        if end > self._zeros_to:
            self._zeros_to = max(end, min(end + ZEROS_AHEAD_BYTES, self._segment_bytes))
            data += _ZEROS[: self._zeros_to - end]
        file.write_at(self._offset, data)
        file.sync()
        self._offset = end
        self._chain = crc
        return size

    def _next_segment(self) -> None:
        """Go on in a new file, and say so in the old one."""
        old, old_offset, old_chain, old_head_crc = self._file, self._offset, self._chain, self._head_crc
        assert old is not None, "there is a segment to go on from"
        self._begin_segment(WAL_DIR, self._segments[-1].sequence + 1)
        self._disk.sync_dir(WAL_DIR)
        old.write_at(old_offset, pack_frame(SEAL, old_chain, old_head_crc, old_offset)[0])
        old.sync()
        old.close()

    def _begin_segment(self, directory: str, sequence: int) -> None:
        """Make a file whose content is durable and whose name is not yet.

        It carries hard state and mark, so that it can be the first one day.
        """
        name = segment_name(sequence, self.last_index + 1)
        file = self._disk.open(f"{directory}/{name}", create=True)
        file.allocate(self._segment_bytes)
        head, self._head_crc = pack_head(SegmentHead(*self._owner, sequence, self.last_index, self._chain))
        frame = Frame(False, self.hard_state, self.mark, ())
        first, self._chain = pack_frame(frame, self._chain, self._head_crc, HEAD_BYTES)
        file.write_at(0, head + first)
        file.sync()
        self._file = file
        self._offset = self._zeros_to = HEAD_BYTES + len(first)
        self._segments.append(Segment(sequence, f"{WAL_DIR}/{name}", Index(0)))

    def _drop_segments(self) -> None:
        while len(self._segments) > 1 and self._segments[0].last_index <= self.mark.index:
            self._disk.remove(self._segments[0].path)
            del self._segments[0]
            # One by one, so that a power cut never leaves a hole between older and newer files.
            self._disk.sync_dir(WAL_DIR)

    # --- opening -----------------------------------------------------------------------------------

    def _create(self) -> None:
        self._disk.make_dir(PARTIAL_DIR)
        self._begin_segment(PARTIAL_DIR, 1)
        self._disk.sync_dir(PARTIAL_DIR)
        self._disk.rename(PARTIAL_DIR, WAL_DIR)
        self._disk.sync_dir("")

    def _recover(self) -> None:
        reader = LogReader()
        names = [name for name in self._disk.list(WAL_DIR) if name.endswith(".wal")]
        if not names:
            raise Corruption(
                f"{WAL_DIR}/ is empty: every segment of the log is gone, and with them what this member has promised. "
                "Restore them, or remove the member and let it join again with an empty directory"
            )
        for name in names:
            scan = reader.take(name, self._content(f"{WAL_DIR}/{name}"), last=name == names[-1])
            if scan is not None and scan.head is not None:
                self._check_owner(scan.path, scan.head)
            self._refuse(reader)
        reader.finish()
        self._refuse(reader)
        self.hard_state = reader.replay.hard_state
        self.mark = reader.replay.mark
        self.last_index = reader.replay.last_index
        self.recovered = reader.replay.behind_mark()
        self._repair(reader)

    def _content(self, path: str) -> bytes:
        file = self._disk.open(path)
        data = file.read_at(0, file.size())
        file.close()
        return data

    def _refuse(self, reader: LogReader) -> None:
        if reader.problems:
            raise Corruption(reader.problems[0])

    def _repair(self, reader: LogReader) -> None:
        """Bring the disk to where what was read is durable and the next frame can be written."""
        if reader.unfinished:
            self._disk.remove(f"{WAL_DIR}/{reader.unfinished}")
        self._disk.sync_dir("")
        self._disk.sync_dir(WAL_DIR)
        for scan, last_index in zip(reader.segments, reader.last_indexes, strict=True):
            assert scan.head is not None, "only segments with a head are kept"
            self._segments.append(Segment(scan.head.sequence, scan.path, last_index))
        for scan in reader.segments[:-1]:
            if not scan.sealed:
                self._seal_again(scan)
        newest = reader.segments[-1]
        file = self._disk.open(newest.path)
        self._erase(file, newest)
        self._write_again(file, newest)
        file.sync()
        if newest.stray_bytes:
            self.torn_bytes = newest.stray_bytes
            self.torn_at = f"{newest.path}: offset {newest.end}"
        self._file = file
        self._offset = self._zeros_to = newest.end
        self._chain = newest.chain
        self._head_crc = newest.head_crc

    def _seal_again(self, scan: SegmentScan) -> None:
        """The power went after the next segment had become durable and before this one said so."""
        file = self._disk.open(scan.path)
        self._erase(file, scan)
        file.write_at(scan.end, pack_frame(SEAL, scan.chain, scan.head_crc, scan.end)[0])
        file.sync()
        file.close()

    def _erase(self, file: DiskFile, scan: SegmentScan) -> None:
        if scan.stray_bytes:
            file.write_at(scan.end, bytes(scan.stray_bytes))

    def _write_again(self, file: DiskFile, scan: SegmentScan) -> None:
        """Dirty the pages of the last frame: a sync alone does nothing for pages whose write had failed."""
        begin = scan.frames[-1][0]
        if begin == HEAD_BYTES:
            begin = 0
        file.write_at(begin, file.read_at(begin, scan.end - begin))

    def _check_owner(self, path: str, head: SegmentHead) -> None:
        found = WalOwner(head.cluster, head.member, head.store)
        if found != self._owner:
            raise StartRefused(
                f"{path} belongs to cluster {found.cluster:x}, member {found.member:x}, store {found.store:x}; this "
                f"node is cluster {self._owner.cluster:x}, member {self._owner.member:x}, store "
                f"{self._owner.store:x}. Point the node at its own data directory"
            )
