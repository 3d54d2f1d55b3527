"""The bytes of a WAL file. Pure: bytes in, values out.

A segment `wal/<sequence>-<first index>.wal` is a 64-byte head and frames behind it, 8-byte aligned, in a file
preallocated with zeros. All integers are big-endian.

    head   magic 8 | version u16 | pad 6 | cluster u64 | member u64 | store u64 | sequence u64 | last index u64 |
           chain u32 | crc u32
    frame  length u32 | chain u32 | crc u32 | check u32 | payload | zeros to a multiple of 8

`chain` is the CRC of the frame before (for a head: of the last frame of the segment before), and `crc` is the
CRC-32C of the payload that goes on from there, so frames of another life of the file do not fit. `check` is the
CRC-32C of offset, length, chain and crc that goes on from the CRC of the segment's head: bytes that a client wrote
cannot pass for a frame, because they would have to know store, segment and place; and a search for frames
behind damage looks at 16 bytes a place and not at a payload. `last index` is where the log ended when the segment
began. A place whose 16 bytes do not check ends a segment.

The payload is the msgpack of `[restart, hard_state or nil, mark or nil, [entry, ...], sealed]`. A frame with
`sealed` says that the next segment is there; it is no link of the chain, because it may be written again.
"""

import re
import struct
from typing import Final, NamedTuple

import google_crc32c
import msgpack

from protocol.errors import Corruption
from protocol.types import Entry, HardState, Index, LogMark

WAL_FORMAT_VERSION: Final = 2
FRAME_BYTES_MAX: Final = 256 * 1024 * 1024

_MAGIC: Final = b"actdwal\x01"
_HEAD: Final = struct.Struct(">8sH6xQQQQQII")
_HEAD_CRC: Final = struct.Struct(">I")
_FRAME: Final = struct.Struct(">IIII")
_CHECKED: Final = struct.Struct(">QIII")
_NOT_ZERO: Final = re.compile(rb"[^\0]")
_NAME: Final = re.compile(r"(\d{16})-(\d{16})\.wal")
HEAD_BYTES: Final = _HEAD.size
FRAME_HEAD_BYTES: Final = _FRAME.size


class SegmentHead(NamedTuple):
    """Whose log this is, and where the segment stands in it."""

    cluster: int
    member: int
    store: int
    sequence: int
    last_index: int
    """Index of the last entry (or of the mark) before the segment."""
    chain: int


class Frame(NamedTuple):
    """One synced write."""

    restart: bool
    hard_state: HardState | None
    mark: LogMark | None
    entries: tuple[Entry, ...]
    sealed: bool = False


SEAL: Final = Frame(False, None, None, (), sealed=True)


class RawFrame(NamedTuple):
    """A frame whose check and CRC are right."""

    chain: int
    crc: int
    payload: bytes
    end: int
    """Offset behind the frame and its padding."""


_crc: Final = google_crc32c.value
_crc_onwards: Final = google_crc32c.extend


def segment_name(sequence: int, first_index: int) -> str:
    """Return the file name of a segment."""
    return f"{sequence:016d}-{first_index:016d}.wal"


def sequence_of(name: str) -> int | None:
    """Return the sequence in a segment's file name, or None if it is no such name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match is not None else None


def pack_head(head: SegmentHead) -> tuple[bytes, int]:
    """Return the bytes of a segment head and its CRC, from which the checks of its frames go on."""
    body = _HEAD.pack(_MAGIC, WAL_FORMAT_VERSION, *head, 0)[: -_HEAD_CRC.size]
    crc = int(_crc(body))
    return body + _HEAD_CRC.pack(crc), crc


def unpack_head(data: bytes) -> tuple[SegmentHead, int] | None:
    """Return the head in `data` and its CRC, or None if it was never written whole.

    Raises:
        Corruption: a head of a version this build does not know.
    """
    if len(data) < HEAD_BYTES:
        return None
    magic, version, cluster, member, store, sequence, last_index, chain, crc = _HEAD.unpack_from(data)
    if magic != _MAGIC or int(_crc(data[: HEAD_BYTES - _HEAD_CRC.size])) != crc:
        return None
    if version != WAL_FORMAT_VERSION:
        raise Corruption(f"offset 8: WAL format {version}, this build knows {WAL_FORMAT_VERSION}")
    return SegmentHead(cluster, member, store, sequence, Index(last_index), chain), crc


def pack_frame(frame: Frame, chain: int, head_crc: int, offset: int) -> tuple[bytes, int]:
    """Return the bytes of a frame at `offset` behind one whose CRC is `chain`, and its own CRC.

    Args:
        frame: at most `FRAME_BYTES_MAX` bytes when packed.
        chain: CRC of the frame before.
        head_crc: CRC of the segment's head.
        offset: where in the segment the frame will stand; a multiple of 8.
    """
    payload: bytes = msgpack.packb(frame)
    length = len(payload)
    assert length <= FRAME_BYTES_MAX, f"a frame of {length} bytes could not be read back"
    crc = _crc_onwards(chain, payload)
    check = _crc_onwards(head_crc, _CHECKED.pack(offset, length, chain, crc))
    return b"".join((_FRAME.pack(length, chain, crc, check), payload, bytes(-length % 8))), crc


def frame_head(data: bytes, offset: int, head_crc: int) -> tuple[int, int, int] | None:
    """Return length, chain and CRC of the frame that was begun at `offset`, or None if none was."""
    if offset + FRAME_HEAD_BYTES > len(data):
        return None
    length, chain, crc, check = _FRAME.unpack_from(data, offset)
    if length == 0 or length > FRAME_BYTES_MAX:
        return None
    if _crc_onwards(head_crc, _CHECKED.pack(offset, length, chain, crc)) != check:
        return None
    return length, chain, crc


def read_frame(data: bytes, offset: int, head_crc: int) -> RawFrame | None:
    """Return the valid frame at `offset`, or None; whether it fits the chain is the caller's to check."""
    found = frame_head(data, offset, head_crc)
    if found is None:
        return None
    length, chain, crc = found
    start = offset + FRAME_HEAD_BYTES
    payload = data[start : start + length]
    if len(payload) < length or _crc_onwards(chain, payload) != crc:
        return None
    return RawFrame(chain, crc, payload, start + length + (-length % 8))


def find_frame(data: bytes, offset: int, head_crc: int) -> int | None:
    """Return where the first frame at or behind `offset` was begun, if one was; its payload may be damaged.

    Preallocated zeros cost nothing: a frame begins with a length, and a length is not zero.
    """
    place = offset
    while (match := _NOT_ZERO.search(data, place)) is not None:
        place = max(place, match.start() & ~7)
        if frame_head(data, place, head_crc) is not None:
            return place
        place += 8
    return None


def unpack_frame(payload: bytes) -> Frame:
    """Return the frame in a payload whose CRC was right.

    Raises:
        Corruption: it is no frame of this version.
    """
    try:
        restart, hard_state, mark, entries, sealed = msgpack.unpackb(payload, use_list=False)
        return Frame(
            restart,
            HardState(*hard_state) if hard_state is not None else None,
            LogMark(*mark) if mark is not None else None,
            tuple(Entry(*entry) for entry in entries),
            sealed,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Corruption(f"a WAL frame with a right CRC does not decode: {error}") from error
