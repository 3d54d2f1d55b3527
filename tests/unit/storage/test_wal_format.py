"""The bytes of a WAL file: what is read back, and what no other bytes can pass for."""

import struct

import pytest

from protocol.errors import Corruption
from protocol.types import Entry, HardState, Index, LogMark, MemberId, Term
from storage.wal_format import (
    FRAME_HEAD_BYTES,
    HEAD_BYTES,
    SEAL,
    Frame,
    SegmentHead,
    find_frame,
    pack_frame,
    pack_head,
    read_frame,
    segment_name,
    sequence_of,
    unpack_frame,
    unpack_head,
)

HEAD = SegmentHead(2**64 - 1, 2, 3, 4, 5, 6)
FULL = Frame(
    True,
    HardState(Term(7), MemberId(2**64 - 1), Index(9)),
    LogMark(Index(3), Term(2), b"\0configuration", "stage"),
    (Entry(Term(7), Index(4), 1, b"\0data"), Entry(Term(7), Index(5), 2, b"")),
)


def test_a_head_is_read_back() -> None:
    """All its fields survive, in 64 bytes."""
    data, crc = pack_head(HEAD)
    assert len(data) == HEAD_BYTES == 64
    assert unpack_head(data) == (HEAD, crc)


def test_a_head_of_another_version_is_refused() -> None:
    """A newer format is neither guessed at nor taken for damage."""
    data = bytearray(pack_head(HEAD)[0])
    data[8:10] = struct.pack(">H", 77)
    import google_crc32c

    data[60:64] = struct.pack(">I", google_crc32c.value(bytes(data[:60])))
    with pytest.raises(Corruption, match="WAL format 77"):
        unpack_head(bytes(data))


@pytest.mark.parametrize("offset", range(HEAD_BYTES))
def test_a_head_with_any_byte_wrong_is_none(offset: int) -> None:
    """The CRC covers the whole head, padding included."""
    data = bytearray(pack_head(HEAD)[0])
    data[offset] ^= 0x40
    assert unpack_head(bytes(data)) is None


@pytest.mark.parametrize("frame", [FULL, SEAL, Frame(False, None, None, ())])
def test_a_frame_is_read_back(frame: Frame) -> None:
    """Every part of a frame survives, and it ends at a multiple of 8."""
    data, crc = pack_frame(frame, 11, 22, 64)
    raw = read_frame(bytes(64) + data, 64, 22)
    assert raw is not None
    assert unpack_frame(raw.payload) == frame
    assert (raw.chain, raw.crc, raw.end) == (11, crc, 64 + len(data))
    assert len(data) % 8 == 0


def test_a_frame_fits_its_place_its_segment_and_its_chain_only() -> None:
    """The same bytes elsewhere, or behind another head, are no frame; each frame's CRC depends on the one before."""
    data, crc = pack_frame(FULL, 11, 22, 64)
    assert read_frame(bytes(72) + data, 72, 22) is None
    assert read_frame(bytes(64) + data, 64, 23) is None
    assert pack_frame(FULL, 12, 22, 64)[1] != crc


def test_a_frame_with_any_byte_wrong_is_none() -> None:
    """Head, payload and nothing else: the padding behind a frame carries no meaning."""
    data, _ = pack_frame(FULL, 11, 22, 0)
    (length,) = struct.unpack_from(">I", data)
    for offset in range(FRAME_HEAD_BYTES + length):
        broken = bytearray(data)
        broken[offset] ^= 0x08
        assert read_frame(bytes(broken), 0, 22) is None, f"byte {offset}"
    assert read_frame(data[: FRAME_HEAD_BYTES + length - 1], 0, 22) is None


def test_a_search_finds_a_frame_whose_payload_is_damaged() -> None:
    """That a frame was begun is enough to know that the one before it had been synced."""
    data, _ = pack_frame(FULL, 11, 22, 4096)
    file = bytearray(b"\0" * 100 + b"noise" * 20).ljust(4096, b"\0") + data
    file[-20] ^= 1
    assert find_frame(bytes(file), 0, 22) == 4096
    assert find_frame(bytes(file), 4104, 22) is None


def test_a_payload_that_does_not_decode_is_damage() -> None:
    """A right CRC over nonsense is said to be that."""
    for payload in (b"\xc1", b"\x93\x01\x02\x03", b"", b"\x95\xc2\xc0\xc0\x05\xc2"):
        with pytest.raises(Corruption, match="does not decode"):
            unpack_frame(payload)


def test_a_segments_name_tells_its_sequence() -> None:
    """Names sort in order of their sequence, and other names are none."""
    assert sequence_of(segment_name(12, 345)) == 12
    assert segment_name(9, 10**9) < segment_name(10, 1)
    for name in ("0000000000000001.wal", "x.wal", segment_name(1, 1) + ".old", ""):
        assert sequence_of(name) is None
