"""The bytes of a WAL file. Pure: bytes in, values out.

A segment `wal/<sequence>-<first index>.wal` is a 64-byte head and frames behind it, 8-byte aligned, in a file
preallocated with zeros.

    head   magic 8 | version u16 | pad 6 | cluster u64 | member u64 | store u64 | sequence u64 | chain u32 | crc u32
    frame  length u32 | chain u32 | crc u32 | pad 4 | payload | zeros to a multiple of 8

`chain` is the CRC of the frame before (for a head: of the last frame of the segment before), so frames of another
life of the file do not fit. `crc` is CRC-32C over length, chain and payload. A length of 0 ends a segment.
The payload is the msgpack of `[restart, hard_state or nil, mark or nil, [entry, ...]]`.
"""

import struct
from typing import Final, NamedTuple

import google_crc32c
import msgpack

from protocol.errors import Corruption
from protocol.types import Entry, HardState, LogMark

WAL_FORMAT_VERSION: Final = 1
FRAME_BYTES_MAX: Final = 256 * 1024 * 1024

_MAGIC: Final = b"actdwal\x01"
_HEAD: Final = struct.Struct(">8sH6xQQQQII")
_FRAME: Final = struct.Struct(">III4x")
_COVERED: Final = struct.Struct(">II")
HEAD_BYTES: Final = 64
FRAME_HEAD_BYTES: Final = _FRAME.size


class SegmentHead(NamedTuple):
    """Whose log this is, and where the segment stands in it."""

    cluster: int
    member: int
    store: int
    sequence: int
    chain: int


class Frame(NamedTuple):
    """One synced write."""

    restart: bool
    hard_state: HardState | None
    mark: LogMark | None
    entries: tuple[Entry, ...]


def _crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def pack_head(head: SegmentHead) -> bytes:
    """Return the bytes of a segment head."""
    fields = (_MAGIC, WAL_FORMAT_VERSION, head.cluster, head.member, head.store, head.sequence, head.chain)
    body = _HEAD.pack(*fields, 0)[:-4]
    return (body + struct.pack(">I", _crc(body))).ljust(HEAD_BYTES, b"\0")


def unpack_head(data: bytes) -> SegmentHead | None:
    """Return the head in `data`, or None if it was never written whole.

    Raises:
        Corruption: a head of a version this build does not know.
    """
    if len(data) < HEAD_BYTES:
        return None
    magic, version, cluster, member, store, sequence, chain, crc = _HEAD.unpack_from(data)
    if magic != _MAGIC or crc != _crc(data[: _HEAD.size - 4]):
        return None
    if version != WAL_FORMAT_VERSION:
        raise Corruption(f"WAL format {version}, this build knows {WAL_FORMAT_VERSION}")
    return SegmentHead(cluster, member, store, sequence, chain)


def pack_frame(frame: Frame, chain: int) -> tuple[bytes, int]:
    """Return the bytes of a frame behind one whose CRC is `chain`, and its own CRC."""
    payload: bytes = msgpack.packb(frame)
    covered = _COVERED.pack(len(payload), chain)
    crc = int(google_crc32c.extend(_crc(covered), payload))
    padding = -len(payload) % 8
    return b"".join((_FRAME.pack(len(payload), chain, crc), payload, b"\0" * padding)), crc


class RawFrame(NamedTuple):
    """A frame whose CRC is right."""

    chain: int
    crc: int
    payload: bytes
    end: int
    """Offset behind the frame and its padding."""


def read_frame(data: bytes | memoryview, offset: int) -> RawFrame | None:
    """Return the valid frame at `offset`, or None; whether it fits the chain is the caller's to check."""
    if offset + FRAME_HEAD_BYTES > len(data):
        return None
    length, chain, crc = _FRAME.unpack_from(data, offset)
    start = offset + FRAME_HEAD_BYTES
    if length == 0 or length > FRAME_BYTES_MAX or start + length > len(data):
        return None
    payload = bytes(data[start : start + length])
    if int(google_crc32c.extend(_crc(_COVERED.pack(length, chain)), payload)) != crc:
        return None
    return RawFrame(chain, crc, payload, start + length + (-length % 8))


def unpack_frame(payload: bytes) -> Frame:
    """Return the frame in a payload whose CRC was right.

    Raises:
        Corruption: it is no frame of this version.
    """
    try:
        restart, hard_state, mark, entries = msgpack.unpackb(payload, use_list=False)
        return Frame(
            restart,
            HardState(*hard_state) if hard_state is not None else None,
            LogMark(*mark) if mark is not None else None,
            tuple(Entry(*entry) for entry in entries),
        )
    except (ValueError, TypeError) as error:
        raise Corruption(f"a WAL frame with a right CRC does not decode: {error}") from error
