"""HTTP/2 frames as bytes: numbers of RFC 9113 and the encoders of every frame a server sends.

Owns the wire form. Knows no connection, stream or window.
Worked example: the acknowledgement of SETTINGS is `00 00 00 | 04 | 01 | 00 00 00 00`
(length 0, kind SETTINGS, flag ACK, stream 0).
"""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What every HTTP/2 client sends first; no HTTP/1.1 request can begin so."""
FRAME_HEAD_BYTES: Final = 9
FRAME_BYTES_DEFAULT: Final = 16_384
"""The largest payload either side may send before it was told otherwise; we never tell otherwise."""
FRAME_BYTES_LIMIT: Final = (1 << 24) - 1
WINDOW_DEFAULT: Final = 65_535
WINDOW_LIMIT: Final = (1 << 31) - 1
STREAM_ID_MASK: Final = (1 << 31) - 1
HEADER_TABLE_DEFAULT: Final = 4096

# Kinds of frames. Plain integers: they are compared a hundred thousand times a second.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

# Settings.
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6


class H2Error(IntEnum):
    """Error codes of RST_STREAM and GOAWAY."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12


class ConnectionFault(Exception):
    """The client broke a rule that ends the connection; becomes GOAWAY and never leaves the core."""

    def __init__(self, code: H2Error, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamFault(Exception):
    """The client broke a rule that ends one stream; becomes RST_STREAM and never leaves the core."""

    def __init__(self, stream_id: int, code: H2Error) -> None:
        super().__init__(code.name)
        self.stream_id = stream_id
        self.code = code


FRAME_HEAD: Final = Struct(">IBI")
"""Length and kind as one word (length << 8 | kind), flags, stream id."""
SETTING: Final = Struct(">HI")
WORD: Final = Struct(">I")
_WORD_FRAME: Final = Struct(">IBII")
_GOAWAY_FRAME: Final = Struct(">IBIII")

SETTINGS_ACK: Final = FRAME_HEAD.pack(SETTINGS, ACK, 0)


def frame_head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine bytes that open a frame."""
    return FRAME_HEAD.pack(length << 8 | kind, flags, stream_id)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join([SETTING.pack(name, value) for name, value in values])
    return frame_head(len(payload), SETTINGS, 0, 0) + payload


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    assert 0 < increment <= WINDOW_LIMIT, f"no window update of {increment}"
    return _WORD_FRAME.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def rst_stream(stream_id: int, code: H2Error) -> bytes:
    """Return a RST_STREAM frame."""
    assert stream_id > 0, "the connection is ended by GOAWAY"
    return _WORD_FRAME.pack(4 << 8 | RST_STREAM, 0, stream_id, code)


def ping(payload: bytes, *, ack: bool) -> bytes:
    """Return a PING frame or the answer to one."""
    assert len(payload) == 8, "PING carries eight bytes"
    return frame_head(8, PING, ACK if ack else 0, 0) + payload


def goaway(last_stream_id: int, code: H2Error, text: str = "") -> bytes:
    """Return a GOAWAY frame; `text` is for whoever debugs the client."""
    debug = text.encode()[:256]
    return _GOAWAY_FRAME.pack((8 + len(debug)) << 8 | GOAWAY, 0, 0, last_stream_id, code) + debug


def header_frames(stream_id: int, block: bytes, *, end_stream: bool, frame_bytes_max: int) -> bytes:
    """Return HEADERS, followed by CONTINUATION frames where `block` is larger than one frame."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= frame_bytes_max:
        return frame_head(len(block), HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [frame_head(frame_bytes_max, HEADERS, flags, stream_id), block[:frame_bytes_max]]
    for start in range(frame_bytes_max, len(block), frame_bytes_max):
        piece = block[start : start + frame_bytes_max]
        last = start + frame_bytes_max >= len(block)
        parts += (frame_head(len(piece), CONTINUATION, END_HEADERS if last else 0, stream_id), piece)
    return b"".join(parts)
