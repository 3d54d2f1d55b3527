"""What members say to each other, through the log, about whether their stores are equal.

The leader's gateway proposes a check of so many revisions; every member hashes the same part of its history as of the
entry that asked, and proposes what it found. Both are commands of a node's own accord (`CommandKind.AS_NODE`).
Worked examples: a check is msgpack of `[1, revisions]`, a finding `[1, number, member, crc]`.
"""

from typing import Any, Final, NamedTuple

import msgpack

from protocol.errors import Corruption
from protocol.types import Index, MemberId

INTEGRITY_FORMAT_VERSION: Final = 1
UNSOUND: Final = -1
"""Instead of a hash: the member's own tables contradict each other."""


class Finding(NamedTuple):
    """What a member found in the check that entry `number` has asked for."""

    number: Index
    member: MemberId
    crc: int


def encode_check(revisions: int) -> bytes:
    """Return the body of a `HASH_CHECK`."""
    packed: bytes = msgpack.packb((INTEGRITY_FORMAT_VERSION, revisions))
    return packed


def decode_check(data: bytes) -> int:
    """Return how many revisions are to be checked.

    Raises:
        Corruption: no node of a version this build knows has written this; the node must halt, not skip.
    """
    (revisions,) = _fields(data, 1)
    return int(revisions)


def encode_finding(finding: Finding) -> bytes:
    """Return the body of a `HASH_FOUND`."""
    packed: bytes = msgpack.packb((INTEGRITY_FORMAT_VERSION, *finding))
    return packed


def decode_finding(data: bytes) -> Finding:
    """Return what a member has found.

    Raises:
        Corruption: as `decode_check`.
    """
    number, member, crc = _fields(data, 3)
    return Finding(Index(number), MemberId(member), crc)


def _fields(data: bytes, count: int) -> list[Any]:
    try:
        version, *fields = msgpack.unpackb(data)
        if version != INTEGRITY_FORMAT_VERSION or len(fields) != count:
            raise Corruption(f"integrity command of format {version} with {len(fields)} fields")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Corruption(f"undecodable integrity command of {len(data)} bytes") from error
    return list(fields)
