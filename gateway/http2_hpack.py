"""Header blocks: decoding behind a cache, validation of requests, and blocks encoded without a table.

Owns the HPACK state of one connection and the rules of RFC 9113 section 8 on header fields. Knows no frames.
Invariants:
* a cached block decodes now to what it decoded to then: a block is kept only if decoding it left the dynamic table
  alone, and everything kept is forgotten as soon as any other block adds to the table or resizes it;
* what we send never uses the dynamic table, so our blocks are constants.
"""

import re
from collections.abc import Iterable
from typing import Final

from hpack import Decoder, HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from gateway.http2_frames import ConnectionFault, H2Error

CACHED_BLOCKS_MAX: Final = 64
"""Blocks kept per connection; a client that needs more gains nothing from a cache."""
CACHED_BLOCK_BYTES_MAX: Final = 1024
PROPER_FIELDS_MAX: Final = 64
"""Fields remembered as in order, so that a client whose blocks always differ has only the new ones checked."""
PROPER_VALUE_BYTES_MAX: Final = 256
FIELDS_MAX: Final = 256
"""Fields in one header list; more is refused with 431 whatever their size."""

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"(?:[^\x00\r\n\t ](?:[^\x00\r\n]*[^\x00\r\n\t ])?)?")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_PSEUDO: Final = (b":method", b":scheme", b":authority", b":path")
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)

Fields = tuple[tuple[bytes, bytes], ...]


class RequestHead:
    """The header list of a request, checked once and shared by every request that repeats the same block.

    `fault` says why the request is malformed (RFC 9113, section 8.1.1), or is empty. `content_length` is -1 where
    there is none. `route` belongs to the door: what it worked out from the other fields.
    """

    __slots__ = ("authority", "content_length", "fault", "fields", "method", "oversized", "path", "route", "scheme")

    def __init__(self) -> None:
        self.method = b""
        self.scheme = b""
        self.authority = b""
        self.path = b""
        self.fields: Fields = ()
        self.content_length = -1
        self.oversized = False
        self.fault = ""
        self.route: object = None

    def field(self, name: bytes) -> bytes | None:
        """Return the first value of the field `name` (lower case), or None."""
        for key, value in self.fields:
            if key == name:
                return value
        return None


class _WatchedTable(HeaderTable):
    """hpack's table, counting the calls that may change it."""

    def __init__(self) -> None:
        self.changes = 0
        super().__init__()

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]


class HeaderDecoder:
    """Decodes the header blocks of one connection, in the order in which they arrive.

    `cache` is public so that the frame loop can look a block up without a call; only this class writes to it.
    """

    __slots__ = ("_decoder", "_expanded_bytes_max", "_list_bytes_max", "_proper", "_table", "cache")

    def __init__(self, list_bytes_max: int) -> None:
        self.cache: dict[bytes, RequestHead] = {}
        self._list_bytes_max = list_bytes_max
        # hpack's own limit leaves the table unusable, so it ends the connection; ours below ends one request.
        self._expanded_bytes_max = 4 * list_bytes_max
        self._decoder = Decoder(max_header_list_size=self._expanded_bytes_max)
        self._proper: set[tuple[bytes, bytes]] = set()
        """Regular fields that were checked and found in order; forgotten now and then."""
        self._table = _WatchedTable()
        self._decoder.header_table = self._table

    def request(self, block: bytes) -> RequestHead:
        """Return the request that `block` opens.

        Raises:
            ConnectionFault: the block cannot be decoded, so no later block can.
        """
        head = self.cache.get(block)
        if head is not None:
            return head
        changes = self._table.changes
        fields = self._decode(block)
        if len(self._proper) > PROPER_FIELDS_MAX:
            self._proper.clear()
        head = request_head(fields, self._list_bytes_max, self._proper)
        if self._table.changes == changes and len(block) <= CACHED_BLOCK_BYTES_MAX:
            if len(self.cache) >= CACHED_BLOCKS_MAX:
                self.cache.clear()
            self.cache[block] = head
        return head

    def trailers(self, block: bytes) -> str:
        """Decode the block that ends a request; return why it is malformed, or nothing.

        Raises:
            ConnectionFault: the block cannot be decoded, so no later block can.
        """
        for name, value in self._decode(block):
            if name[:1] == b":":
                return "pseudo-header field in trailers"
            fault = _field_fault(name, value)
            if fault:
                return fault
        return ""

    def _decode(self, block: bytes) -> Fields:
        changes = self._table.changes
        fields: list[tuple[bytes, bytes]] = []
        try:
            position = self._decode_short_forms(block, fields)
            if position < len(block):
                if position and block[position] & 0xE0 == 0x20:
                    raise HPACKError("table size update behind a field")
                fields += [(name, value) for name, value in self._decoder.decode(block[position:], raw=True)]
        except (HPACKError, ValueError, IndexError) as error:
            raise ConnectionFault(H2Error.COMPRESSION_ERROR, f"header block: {error}") from error
        if self._table.changes != changes:
            self.cache.clear()
        return tuple(fields)

    def _decode_short_forms(self, block: bytes, fields: list[tuple[bytes, bytes]]) -> int:
        """Decode from the front what clients send most; return where the library is to go on.

        A block is a sequence of representations with no state but the table, so it can change hands anywhere. What
        is taken here is an index of one byte, and a new entry whose name is an index and whose value is short: a
        client with deadlines sends a new grpc-timeout with every call, and would miss the cache every time.
        """
        table = self._table
        size = len(block)
        room = self._expanded_bytes_max
        position = 0
        while position < size:
            first = block[position]
            if 0x80 < first < 0xFF:
                entry = table.get_by_index(first & 0x7F)
                position += 1
            elif 0x40 < first < 0x7F:
                if position + 1 >= size:
                    return position
                length = block[position + 1]
                start = position + 2
                end = start + (length & 0x7F)
                if length & 0x7F == 0x7F or end > size:
                    return position
                value = block[start:end]
                entry = (table.get_by_index(first & 0x3F)[0], decode_huffman(value) if length & 0x80 else value)
                table.add(*entry)
                position = end
            else:
                return position
            room -= len(entry[0]) + len(entry[1]) + 32
            if room < 0:
                raise HPACKError("header list expands without end")
            fields.append(entry)
        return position


def _field_fault(name: bytes, value: bytes) -> str:
    """Say what RFC 9113, section 8.2, forbids about a regular field, or nothing."""
    if _NAME.fullmatch(name) is None:
        return "invalid field name"
    if _VALUE.fullmatch(value) is None:
        return "invalid field value"
    if name in _CONNECTION_FIELDS:
        return "connection-specific field"
    if name == b"te" and value != b"trailers":
        return "te other than trailers"
    return ""


def _content_length(head: RequestHead, value: bytes) -> str:
    if _DIGITS.fullmatch(value) is None:
        return "invalid content-length"
    length = int(value)
    if head.content_length not in (-1, length):
        return "two different content-lengths"
    head.content_length = length
    return ""


def _pseudo_fault(head: RequestHead, seen: dict[bytes, bytes]) -> str:
    """Take over the pseudo-header fields; say what is wrong with them, or nothing."""
    head.method = seen.get(b":method", b"")
    head.scheme = seen.get(b":scheme", b"")
    head.authority = seen.get(b":authority", b"")
    head.path = seen.get(b":path", b"")
    if not head.method:
        return "no :method"
    if head.method == b"CONNECT":
        return ":scheme or :path in CONNECT" if head.scheme or head.path else ""
    if not head.scheme:
        return "no :scheme"
    if head.path[:1] != b"/" and not (head.path == b"*" and head.method == b"OPTIONS"):
        return "no usable :path"
    return ""


def request_head(fields: Fields, list_bytes_max: int, proper: set[tuple[bytes, bytes]]) -> RequestHead:
    """Return the checked form of a request's header list; never raises, faults are in the result.

    `proper` holds fields known to be in order, and is added to.
    """
    head = RequestHead()
    seen: dict[bytes, bytes] = {}
    regular: list[tuple[bytes, bytes]] = []
    size = 0
    fault = ""
    for field in fields:
        name, value = field
        size += len(name) + len(value) + 32  # as RFC 9113, section 10.5.1, counts
        if name[:1] == b":":
            if regular:
                fault = fault or "pseudo-header field after regular field"
            elif name not in _PSEUDO:
                fault = fault or "unknown pseudo-header field"
            elif name in seen:
                fault = fault or "repeated pseudo-header field"
            elif _VALUE.fullmatch(value) is None:
                fault = fault or "invalid field value"
            seen[name] = value
            continue
        if field not in proper:
            broken = _field_fault(name, value)
            fault = fault or broken
            if not broken and len(value) <= PROPER_VALUE_BYTES_MAX:
                proper.add(field)
        if name == b"content-length":
            fault = fault or _content_length(head, value)
        regular.append(field)
    head.fields = tuple(regular)
    head.fault = fault or _pseudo_fault(head, seen)
    head.oversized = size > list_bytes_max or len(fields) > FIELDS_MAX
    return head


def _integer(value: int, prefix_bits: int, first: int) -> bytes:
    """Return an HPACK integer whose first byte also carries `first`."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((first | value,))
    out = bytearray((first | limit,))
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_STATIC_PAIRS: Final = {pair: at for at, pair in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
_STATIC_NAMES: Final = {pair[0]: at for at, pair in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
TABLE_SIZE_ZERO: Final = b"\x20"
"""Opens the first block after the client lowered its table size: our encoder's table has no entries, ever."""


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a header block that any decoder in any state reads as `fields` and that changes no table."""
    parts: list[bytes] = []
    for name, value in fields:
        pair = _STATIC_PAIRS.get((name, value))
        if pair is not None:
            parts.append(_integer(pair, 7, 0x80))
            continue
        static = _STATIC_NAMES.get(name)
        if static is None:
            parts += (b"\x00", _integer(len(name), 7, 0), name)
        else:
            parts.append(_integer(static, 4, 0))
        parts += (_integer(len(value), 7, 0), value)
    return b"".join(parts)
