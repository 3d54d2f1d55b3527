"""etcd's messages in protobuf's wire format, as far as this client speaks them, in plain Python.

Owns field numbers and byte forms. Knows no socket and no call. Unknown fields are skipped, as protobuf wants it.
Worked example: `varint(300)` is `ac 02`; a PutRequest of key `k` and value `v` is `0a 01 6b 12 01 76`.
"""

from typing import Any, Final, NamedTuple

VARINT: Final = 0
FIXED64: Final = 1
LENGTH_DELIMITED: Final = 2
FIXED32: Final = 5
_WORD: Final = 1 << 64
_SIGN: Final = 1 << 63
DEPTH_MAX: Final = 100
"""Of messages in messages, as protobuf has it; transactions nest."""
_NUMBERS: Final = frozenset({"int", "uint", "bool"})


class WireFault(ValueError):
    """The bytes are no message of the expected kind."""


def varint(value: int) -> bytes:
    """Return the bytes of an integer; negative ones as 64-bit two's complement, as protobuf writes int64."""
    if 0 <= value < 128:
        return _ONE_BYTE[value]
    value &= _WORD - 1
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(128))
_BLOB_KEYS: Final = _ONE_BYTE[2::8]
"""The first byte of a length-delimited field, by field number below 16."""


def integer(number: int, value: int) -> bytes:
    """Return field `number` as a varint, or nothing for 0: proto3 leaves defaults out."""
    return varint(number << 3) + varint(value) if value else b""


def blob(number: int, value: bytes) -> bytes:
    """Return field `number` as bytes, or nothing for empty ones."""
    return message(number, value) if value else b""


def message(number: int, value: bytes) -> bytes:
    """Return field `number` as a message, which is there even when it is empty."""
    size = len(value)
    key = _BLOB_KEYS[number] if number < 16 else varint(number << 3 | 2)
    return key + (_ONE_BYTE[size] if size < 128 else varint(size)) + value


class Field(NamedTuple):
    """One field to be read: its name, and for a message what is in it."""

    name: str
    form: str
    """"int", "uint", "bool", "bytes", "text" or "message"."""
    repeated: bool = False
    inner: "Spec | None" = None


Spec = dict[int, Field]
"""A message's fields by number."""

HEADER: Final[Spec] = {3: Field("revision", "int")}
"""What of a header most results show; its other fields are skipped."""
STATUS_HEADER: Final[Spec] = {2: Field("member_id", "uint"), 3: Field("revision", "int")}
KEY_VALUE: Final[Spec] = {
    1: Field("key", "bytes"),
    2: Field("create_revision", "int"),
    3: Field("mod_revision", "int"),
    4: Field("version", "int"),
    5: Field("value", "bytes"),
    6: Field("lease", "int"),
}
_HEADER_FIELD: Final = Field("header", "message", inner=HEADER)
PUT: Final[Spec] = {1: _HEADER_FIELD, 2: Field("prev_kv", "message", inner=KEY_VALUE)}
RANGE: Final[Spec] = {
    1: _HEADER_FIELD,
    2: Field("kvs", "message", repeated=True, inner=KEY_VALUE),
    3: Field("more", "bool"),
    4: Field("count", "int"),
}
RANGE_STREAM: Final[Spec] = {1: Field("range", "message", inner=RANGE)}
DELETE: Final[Spec] = {
    1: _HEADER_FIELD,
    2: Field("deleted", "int"),
    3: Field("prev_kvs", "message", repeated=True, inner=KEY_VALUE),
}
RESPONSE_OPERATION: Final[Spec] = {
    1: Field("range", "message", inner=RANGE),
    2: Field("put", "message", inner=PUT),
    3: Field("delete", "message", inner=DELETE),
}
TXN: Final[Spec] = {
    1: _HEADER_FIELD,
    2: Field("succeeded", "bool"),
    3: Field("responses", "message", repeated=True, inner=RESPONSE_OPERATION),
}
RESPONSE_OPERATION[4] = Field("txn", "message", inner=TXN)
WATCH_EVENT: Final[Spec] = {
    1: Field("kind", "int"),
    2: Field("pair", "message", inner=KEY_VALUE),
    3: Field("previous", "message", inner=KEY_VALUE),
}
WATCH: Final[Spec] = {
    1: _HEADER_FIELD,
    3: Field("created", "bool"),
    4: Field("canceled", "bool"),
    5: Field("compact_revision", "int"),
    6: Field("cancel_reason", "text"),
    11: Field("events", "message", repeated=True, inner=WATCH_EVENT),
}
COMPACT: Final[Spec] = {1: _HEADER_FIELD}
AUTHENTICATED: Final[Spec] = {1: _HEADER_FIELD, 2: Field("token", "text")}
AUTH_STATUS: Final[Spec] = {1: _HEADER_FIELD, 2: Field("enabled", "bool"), 3: Field("auth_revision", "uint")}
NAMES: Final[Spec] = {1: _HEADER_FIELD, 2: Field("names", "text", repeated=True)}
"""Of users, of roles, and of the roles of a user alike."""
PERMISSION: Final[Spec] = {1: Field("kind", "int"), 2: Field("key", "bytes"), 3: Field("range_end", "bytes")}
ROLE: Final[Spec] = {1: _HEADER_FIELD, 2: Field("permissions", "message", repeated=True, inner=PERMISSION)}
LEASE: Final[Spec] = {1: _HEADER_FIELD, 2: Field("lease", "int"), 3: Field("ttl_s", "int")}
"""Of a grant and of a keep-alive alike."""
LEASE_TIME_TO_LIVE: Final[Spec] = {
    **LEASE,
    4: Field("granted_ttl_s", "int"),
    5: Field("keys", "bytes", repeated=True),
}
LEASES: Final[Spec] = {
    1: _HEADER_FIELD,
    2: Field("leases", "message", repeated=True, inner={1: Field("lease", "int")}),
}
STATUS: Final[Spec] = {
    1: Field("header", "message", inner=STATUS_HEADER),
    2: Field("version", "text"),
    3: Field("db_size_bytes", "int"),
    4: Field("leader", "uint"),
    5: Field("raft_index", "uint"),
    6: Field("raft_term", "uint"),
    7: Field("raft_applied_index", "uint"),
    8: Field("errors", "text", repeated=True),
    9: Field("db_size_in_use_bytes", "int"),
    10: Field("is_learner", "bool"),
    11: Field("storage_version", "text"),
    12: Field("db_size_quota_bytes", "int"),
    13: Field("downgrade", "message", inner={2: Field("target", "text")}),
}
MEMBER: Final[Spec] = {
    1: Field("id", "uint"),
    2: Field("name", "text"),
    3: Field("peer_urls", "text", repeated=True),
    4: Field("client_urls", "text", repeated=True),
    5: Field("is_learner", "bool"),
}
MEMBERS: Final[Spec] = {1: _HEADER_FIELD, 2: Field("members", "message", repeated=True, inner=MEMBER)}
MEMBER_ADDED: Final[Spec] = {1: _HEADER_FIELD, 2: Field("member", "message", inner=MEMBER)}
ALARMS: Final[Spec] = {
    1: _HEADER_FIELD,
    2: Field("alarms", "message", repeated=True, inner={1: Field("member_id", "uint"), 2: Field("kind", "int")}),
}
SNAPSHOT: Final[Spec] = {3: Field("blob", "bytes"), 4: Field("version", "text")}
DOWNGRADE: Final[Spec] = {1: _HEADER_FIELD, 2: Field("version", "text")}
HASH_KV: Final[Spec] = {
    1: _HEADER_FIELD,
    2: Field("hash", "uint"),
    3: Field("compact_revision", "int"),
    4: Field("hash_revision", "int"),
}


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (_WORD - 1), at
        shift += 7
        if shift > 63:
            break
    raise WireFault("unfinished or overlong varint")


def _skip_varint(data: bytes, at: int, end: int) -> int:
    """Return where the varint ends whose bytes go on at `at`."""
    last = min(end, at + 9)
    while at < last:
        if data[at] < 128:
            return at + 1
        at += 1
    raise WireFault("unfinished or overlong varint")


def decode(spec: Spec, data: bytes, at: int = 0, end: int | None = None, depth: int = 0) -> dict[str, Any]:
    """Return the fields of the message in `data[at:end]` that `spec` names; those that are absent are left out.

    Raises:
        WireFault: the bytes are no such message, or messages stand in it deeper than `DEPTH_MAX`.
    """
    if depth > DEPTH_MAX:
        raise WireFault(f"messages in messages, deeper than {DEPTH_MAX}")
    end = len(data) if end is None else end
    fields: dict[str, Any] = {}
    while at < end:
        # Most keys and lengths are one byte: they are read in place.
        key = data[at]
        at += 1
        if key > 127:
            key, at = _read_varint(data, at - 1, end)
        field = spec.get(key >> 3)
        wire_type = key & 7
        if wire_type in (FIXED64, FIXED32):
            at += 8 if wire_type == FIXED64 else 4
            if at > end:
                raise WireFault("a field ends behind its message")
            continue
        if wire_type not in (VARINT, LENGTH_DELIMITED) or at >= end:
            raise WireFault(f"wire type {wire_type}, {end - at} bytes left")
        number = data[at]
        at += 1
        if number > 127:
            if field is None and wire_type == VARINT:
                at = _skip_varint(data, at, end)
                continue
            number, at = _read_varint(data, at - 1, end)
        value: Any = number
        if wire_type == LENGTH_DELIMITED:
            start, at = at, at + number
            if at > end:
                raise WireFault("a field ends behind its message")
        if field is None:
            continue
        name, form, repeated, inner = field
        if wire_type == LENGTH_DELIMITED:
            value = data[start:at] if form == "bytes" else _decode_blob(field, data, start, at, depth + 1)
        elif form not in _NUMBERS:
            raise WireFault(f"field {key >> 3} is a number")
        elif form != "uint":
            value = bool(value) if form == "bool" else value - _WORD if value >= _SIGN else value
        if repeated:
            if name in fields:
                fields[name].append(value)
            else:
                fields[name] = [value]
        elif inner is not None and name in fields:
            fields[name].update(value)
        else:
            fields[name] = value
    return fields


def _decode_blob(field: Field, data: bytes, start: int, end: int, depth: int) -> Any:
    if field.inner is not None:
        return decode(field.inner, data, start, end, depth)
    if field.form != "text":
        raise WireFault(f"{field.name} is no blob")
    try:
        return data[start:end].decode()
    except UnicodeDecodeError as error:
        raise WireFault(f"{field.name} is no text") from error
