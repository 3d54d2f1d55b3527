"""What a LEASE_UPKEEP entry carries: leases that have run out, and what is left of others.

Owns its bytes and the bounds of a lease. The format outlives processes, so it carries a version.
Worked example: msgpack of `[1, term, [id, granted, id, granted, ...], [id, granted, remaining_ms, ...]]`.

Only a leader writes one, in its own term, and never hands it to another member: `term` says which leader's clock it
was. Apply ignores an entry whose own term is another, so no clock but the leader's can ever end a lease (etcd#15247).
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgpack

from protocol.errors import Corruption
from protocol.types import Index, LeaseId, Term

UPKEEP_FORMAT_VERSION: Final = 1
UPKEEP_ITEMS_MAX: Final = 500
"""Leases in one entry; what is over waits for the next one."""
LEASE_TTL_S_MAX: Final = 9_000_000_000
"""etcd's own limit."""


class LeaseName(NamedTuple):
    """One grant: an id may be granted again once it is free, `granted` is the index of the entry that did."""

    lease: LeaseId
    granted: Index


class Remaining(NamedTuple):
    """What is left of a lease: -1 takes back what was recorded, the lease has been kept alive since."""

    lease: LeaseId
    granted: Index
    remaining_ms: int


class LeaseUpkeep(NamedTuple):
    """The decoded entry."""

    term: Term
    expired: tuple[LeaseName, ...]
    recorded: tuple[Remaining, ...]


def encode_upkeep(upkeep: LeaseUpkeep) -> bytes:
    """Return the entry data."""
    items = len(upkeep.expired) + len(upkeep.recorded)
    assert items <= UPKEEP_ITEMS_MAX, f"{items} leases in one entry, the limit is {UPKEEP_ITEMS_MAX}"
    packed: bytes = msgpack.packb((UPKEEP_FORMAT_VERSION, upkeep.term, _flat(upkeep.expired), _flat(upkeep.recorded)))
    return packed


def decode_upkeep(data: bytes) -> LeaseUpkeep:
    """Return what `encode_upkeep` was given.

    Raises:
        Corruption: the bytes are no upkeep of a version this build knows; the node must halt, not skip.
    """
    try:
        version, term, expired, recorded = msgpack.unpackb(data)
        if version != UPKEEP_FORMAT_VERSION:
            raise Corruption(f"lease upkeep of format {version}, this build knows {UPKEEP_FORMAT_VERSION}")
        names = tuple(LeaseName(*expired[at : at + 2]) for at in range(0, len(expired), 2))
        left = tuple(Remaining(*recorded[at : at + 3]) for at in range(0, len(recorded), 3))
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Corruption(f"undecodable lease upkeep of {len(data)} bytes") from error
    return LeaseUpkeep(term, names, left)


def _flat(items: Iterable[tuple[int, ...]]) -> list[int]:
    return [number for item in items for number in item]
