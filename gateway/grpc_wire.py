"""gRPC over HTTP/2 as bytes: message prefixes, timeouts, statuses and their header blocks.

Owns the wire form and the texts clients know from grpc-go. Knows no connection and no method.
Worked example: the message `0a 01` travels as `00 | 00 00 00 02 | 0a 01` (not compressed, length 2).
"""

import functools
import zlib
from struct import Struct
from typing import Final

from gateway.http2_hpack import encode_fields
from protocol.errors import WIRE_ERRORS, ErrorCode, GrpcCode

PREFIX_BYTES: Final = 5
PREFIX: Final = Struct(">BI")
RECEIVE_OVERHEAD_BYTES: Final = 512 * 1024
"""What etcd lets a message exceed max-request-bytes by before the transport refuses it."""

CONTENT_TYPE: Final = b"application/grpc"
RESPONSE_BLOCK: Final = encode_fields([(b":status", b"200"), (b"content-type", CONTENT_TYPE)])
"""The head of every answer that carries a message."""
OK_TRAILERS: Final = encode_fields([(b"grpc-status", b"0"), (b"grpc-message", b"")])
"""grpc-go sends an empty grpc-message as well, and some clients count on the field."""

_UNIT_MS: Final[dict[int, float]] = {
    ord("H"): 3_600_000.0,
    ord("M"): 60_000.0,
    ord("S"): 1_000.0,
    ord("m"): 1.0,
    ord("u"): 0.001,
    ord("n"): 0.000_001,
}
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}


class GrpcFault(Exception):
    """A request that is answered with this status instead of being handed on."""

    def __init__(self, code: GrpcCode, text: str, http_status: int = 200) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.http_status = http_status


def parse_timeout(value: bytes) -> int:
    """Return a `grpc-timeout` in whole milliseconds, rounded up, so that a deadline never passes early.

    Raises:
        GrpcFault: it is not one to eight digits and a unit.
    """
    digits, unit = value[:-1], _UNIT_MS.get(value[-1]) if value else None
    if unit is None or not 1 <= len(digits) <= 8 or not digits.isdigit():
        text = f"malformed grpc-timeout: {value.decode('latin-1')!r}"
        raise GrpcFault(GrpcCode.INTERNAL, text, 400)
    return -int(-int(digits) * unit // 1)


def percent_encode(text: str) -> bytes:
    """Return `text` as the value of `grpc-message`: printable ASCII as it is, all else as %XX of its UTF-8."""
    raw = text.encode()
    if all(byte in _PLAIN for byte in raw):
        return raw
    return b"".join([bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in raw])


def trailers_block(code: GrpcCode, text: str) -> bytes:
    """Return the trailers that end an answer with a status."""
    return encode_fields([(b"grpc-status", b"%d" % code), (b"grpc-message", percent_encode(text))])


def trailers_only_block(code: GrpcCode, text: str, http_status: int = 200) -> bytes:
    """Return head and trailers in one: an answer that is nothing but a status."""
    return encode_fields(
        [
            (b":status", b"%d" % http_status),
            (b"content-type", CONTENT_TYPE),
            (b"grpc-status", b"%d" % code),
            (b"grpc-message", percent_encode(text)),
            (b"grpc-accept-encoding", b"identity,gzip"),
        ]
    )


@functools.cache
def error_block(code: int) -> bytes:
    """Return the whole answer for one of our error codes; there are few, so each is encoded once."""
    error = WIRE_ERRORS[ErrorCode(code)]
    return trailers_only_block(error.grpc_code, error.text)


def frame_message(message: bytes) -> bytes:
    """Return `message` behind its prefix, not compressed."""
    return PREFIX.pack(0, len(message)) + message


def _inflate(data: bytes, bytes_max: int) -> bytes:
    """Return what gzip `data` holds, without ever holding much more than `bytes_max` of it."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        message = inflater.decompress(data, bytes_max + 1)
    except zlib.error as error:
        raise GrpcFault(GrpcCode.INTERNAL, f"grpc: failed to decompress the received message: {error}") from error
    if len(message) > bytes_max:
        text = f"grpc: received message after decompression larger than max {bytes_max}"
        raise GrpcFault(GrpcCode.RESOURCE_EXHAUSTED, text)
    if not inflater.eof:
        raise GrpcFault(GrpcCode.INTERNAL, "grpc: failed to decompress the received message: unexpected EOF")
    return message


def too_large(size: int, bytes_max: int) -> GrpcFault:
    """Return the status for a message over the receive limit."""
    text = f"grpc: received message larger than max ({size} vs. {bytes_max})"
    return GrpcFault(GrpcCode.RESOURCE_EXHAUSTED, text)


def open_message(flag: int, data: bytes, encoding: bytes, bytes_max: int) -> bytes:
    """Return a message as it was before the client compressed it.

    Raises:
        GrpcFault: compressed in a way we do not know, or not as announced, or too large when inflated.
    """
    if flag == 0:
        return data
    if flag != 1:
        raise GrpcFault(GrpcCode.INTERNAL, f"grpc: received unexpected payload format {flag}")
    if encoding in (b"", b"identity"):
        raise GrpcFault(GrpcCode.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
    return _inflate(data, bytes_max)


class MessageReader:
    """Puts length-prefixed messages together from pieces of any size."""

    __slots__ = ("_bytes_max", "_data", "_encoding")

    def __init__(self, encoding: bytes, bytes_max: int) -> None:
        self._encoding = encoding
        self._bytes_max = bytes_max
        self._data = bytearray()

    @property
    def held_bytes(self) -> int:
        """Bytes waiting for the rest of their message."""
        return len(self._data)

    def feed(self, data: bytes) -> bytes | None:
        """Take a piece; return the next message once it is whole. What follows it waits for `feed(b"")`.

        Raises:
            GrpcFault: the message is too large or cannot be opened.
        """
        held = self._data
        held += data
        if len(held) < PREFIX_BYTES:
            return None
        flag, length = PREFIX.unpack_from(held)
        if length > self._bytes_max:
            raise too_large(length, self._bytes_max)
        end = PREFIX_BYTES + length
        if len(held) < end:
            return None
        message = open_message(flag, bytes(memoryview(held)[PREFIX_BYTES:end]), self._encoding, self._bytes_max)
        del held[:end]
        return message
