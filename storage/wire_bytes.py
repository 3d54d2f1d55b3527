r"""Protobuf bytes written by hand where a generated class would cost too much: varints, headers, KeyValue records.

Owns byte forms only; knows no store. Invariant: what is written here parses with the generated classes, and equals
byte for byte what they would write.
Worked example: `varint(300) == b"\xac\x02"`.
"""

import functools
from typing import Final

from protocol.types import ClusterId, MemberId, Revision, Term

_LAST: Final = tuple(bytes([value]) for value in range(128))
_MORE: Final = tuple(bytes([value | 0x80]) for value in range(128))
_TWO: Final = tuple(bytes([value & 127 | 0x80, value >> 7]) for value in range(128, 16384))
"""The two-byte varints, ready made: lengths and versions are nearly always one of them."""
HEADERS_KEPT: Final = 64
"""Headers that are not made anew: all watchers of a revision are told it under the same one."""


def varint(value: int) -> bytes:
    """Return `value` as protobuf writes a non-negative (or 64-bit two's complement) integer."""
    if value < 128:
        return _LAST[value] if value >= 0 else varint(value & 0xFFFFFFFFFFFFFFFF)
    if value < 16384:
        return _TWO[value - 128]
    if value < 2097152:
        return _MORE[value & 127] + _TWO[(value >> 7) - 128]
    low = _MORE[value & 127] + _MORE[value >> 7 & 127]
    value >>= 14
    while value >= 128:
        low += _MORE[value & 127]
        value >>= 7
    return low + _LAST[value]


@functools.lru_cache(maxsize=HEADERS_KEPT)
def header_bytes(cluster: ClusterId, member: MemberId, revision: Revision, term: Term) -> bytes:
    """Return a `ResponseHeader` framed as field 1 of a response."""
    body = header_prefix(cluster, member)
    if revision:
        body += b"\x18" + varint(revision)
    if term:
        body += b"\x20" + varint(term)
    return b"\x0a" + varint(len(body)) + body


def header_prefix(cluster: ClusterId, member: MemberId) -> bytes:
    """Return the part of a header that never changes in a process."""
    prefix = b""
    if cluster:
        prefix += b"\x08" + varint(cluster)
    if member:
        prefix += b"\x10" + varint(member)
    return prefix


def inner_header_bytes(revision: int) -> bytes:
    """Return the header of a response inside a txn: etcd fills in nothing but the revision."""
    body = b"\x18" + varint(revision)
    return b"\x0a" + _LAST[len(body)] + body


def plain_put(body: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Take a PutRequest of a short key and a value under 16 KiB apart without parsing it, or return None.

    Key and value stand in the request as they will stand in the KeyValue, so they are cut out with their lengths.

    Returns:
        The key, the key as field 1, and the value with its length in front; None if the request has anything else.
    """
    size = len(body)
    if size < 5 or body[0] != 0x0A:
        return None
    mark = body[1] + 2
    if mark > 129 or mark == 2 or size < mark + 3 or body[mark] != 0x12:
        return None
    length = body[mark + 1]
    if length > 127:
        high = body[mark + 2]
        if not 0 < high < 128:
            return None
        length = (length & 127 | high << 7) + 1
    if mark + 2 + length != size or not length:
        return None
    return body[2:mark], body[:mark], body[mark + 1 :]


def key_value_frame(key_field: bytes, create: bytes, mod_field: bytes, version: int, value_field: bytes) -> bytes:
    """Return an `mvccpb.KeyValue` framed as field 2, which is what Range, Put and Event answers carry.

    Args:
        key_field: the key as field 1.
        create: create revision, a varint.
        mod_field: `mod_revision_field` of the mod revision.
        version: at least 1.
        value_field: fields 5 and 6, each left out where empty or zero.
    """
    body = b"".join((key_field, b"\x10", create, mod_field, varint(version), value_field))
    return b"\x12" + varint(len(body)) + body


def mod_revision_field(mod: bytes) -> bytes:
    """Return field 3 for the varint `mod`, and the tag of field 4 behind it: they are always written together."""
    return b"\x18" + mod + b"\x20"


def value_and_lease_fields(value: bytes, lease: int) -> bytes:
    """Return fields 5 and 6 of a KeyValue."""
    field = b"\x2a" + varint(len(value)) + value if value else b""
    return field + b"\x30" + varint(lease) if lease else field


def tombstone_frame(key: bytes, mod: bytes) -> bytes:
    """Return the framed KeyValue of a deletion: key and mod revision only (etcd's rule 15)."""
    body = b"\x0a" + varint(len(key)) + key + b"\x18" + mod
    return b"\x12" + varint(len(body)) + body


def read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Return the varint at `offset` and the offset behind it."""
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, offset
        shift += 7
