"""Leases as every member holds them: grants, what is attached to them, and how they end.

Owns the lease and attachment tables' meaning. Knows no clock: an expiry is a fact that an entry states. When a lease
runs out, and who may say so, is the leader's lessor's business (`actors/lessor.py`).

Invariants: a key that is attached to a lease names it in its own record, and the other way round; a lease ends in one
main revision that deletes its keys in their order, or in none if it has no keys.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from protocol.errors import ClientError, ErrorCode
from protocol.lease import LEASE_TTL_S_MAX, LeaseName
from protocol.types import Index, LeaseId
from storage.layout import (
    LEASE,
    LEASE_END,
    LeaseRecord,
    attachment_bounds,
    lease_key,
    pack_lease,
    parse_lease_key,
    unpack_lease,
)
from storage.mvcc_write import KeyWriter
from storage.overlay import Reader

LEASE_COST_BYTES: Final = 64
"""What etcd's quota counts for a lease (feature map, rule 52)."""
_ATTACHMENT_KEY_AT: Final = 9
"""Table prefix and lease id come before the key."""


class LeaseChange(NamedTuple):
    """What an entry did to a lease; `record` is None where it ended."""

    lease: LeaseId
    record: LeaseRecord | None


def lease_record(reader: Reader, lease: int) -> LeaseRecord | None:
    """Return a lease, or None if there is none of this id."""
    data = reader.get(lease_key(lease))
    return None if data is None else unpack_lease(data)


def attached_keys(reader: Reader, lease: int) -> list[bytes]:
    """Return the keys attached to `lease`, in their order."""
    return [key[_ATTACHMENT_KEY_AT:] for key in reader.scan_keys(*attachment_bounds(lease))]


def attached_count(reader: Reader, lease: int, at_most: int) -> int:
    """Return how many keys are attached to `lease`, without looking at more than `at_most`."""
    count = 0
    for _ in reader.scan_keys(*attachment_bounds(lease)):
        if count >= at_most:
            break
        count += 1
    return count


def leases_from(reader: Reader, after: bytes, at_most: int) -> tuple[list[tuple[LeaseId, LeaseRecord]], bytes]:
    """Return up to `at_most` leases behind the table key `after`, and the key to go on behind (b"": that was all).

    Args:
        reader: the store.
        after: b"" to begin, else what the last call returned.
        at_most: how many.
    """
    found: list[tuple[LeaseId, LeaseRecord]] = []
    for key, data in reader.scan(after + b"\x00" if after else LEASE, LEASE_END):
        if len(found) >= at_most:
            return found, lease_key(found[-1][0])
        found.append((parse_lease_key(key), unpack_lease(data)))
    return found, b""


class LeaseBook:
    """The leases of a store that is being written. Like the writer it works in the changes of the running entry."""

    def __init__(self, writer: KeyWriter) -> None:
        self._writer = writer
        self._changes: list[LeaseChange] = []
        self._ttls: list[int] = []
        self.followed = False
        """Whether somebody takes the changes."""
        self.order: Callable[[LeaseId], int] = int
        """What a list of leases is sorted by: the id, unless somebody knows when each runs out."""
        self.counters = {"granted": 0, "revoked": 0, "expired": 0}

    def take_changes(self) -> list[LeaseChange]:
        """Return what has changed since the last call, in order; nothing unless the book is `followed`."""
        changes, self._changes = self._changes, []
        return changes

    def take_ttls(self) -> list[int]:
        """Return the times, in seconds, of the leases granted since the last call."""
        ttls, self._ttls = self._ttls, []
        return ttls

    def grant(self, lease: int, ttl_s: int, granted: Index) -> None:
        """Begin a lease.

        Raises:
            ClientError: it has no id, there is one of this id already, or its time is over etcd's limit.
        """
        if not lease:
            raise ClientError(ErrorCode.LEASE_NOT_FOUND)
        if ttl_s > LEASE_TTL_S_MAX:
            raise ClientError(ErrorCode.LEASE_TTL_TOO_LARGE)
        if self._writer.lease_exists(lease):
            raise ClientError(ErrorCode.LEASE_EXISTS)
        self._write(LeaseId(lease), LeaseRecord(ttl_s, granted))
        self._writer.size_in_use += LEASE_COST_BYTES
        self.counters["granted"] += 1
        self._ttls.append(ttl_s)

    def revoke(self, lease: int) -> None:
        """End a lease at its owner's wish, in the writer's open main revision.

        Raises:
            ClientError: there is none of this id.
        """
        if not self._writer.lease_exists(lease):
            raise ClientError(ErrorCode.LEASE_NOT_FOUND)
        self._end(lease, attached_keys(self._writer.overlay, lease))

    def expire(self, names: Sequence[LeaseName], revision: int) -> int:
        """End leases that have run out, each in a main revision of its own; return the last revision.

        One that was granted anew since, or is gone already, is left alone.
        """
        overlay = self._writer.overlay
        doomed: dict[LeaseId, list[bytes]] = {}
        for lease, granted in names:
            record = lease_record(overlay, lease)
            if record is not None and record.granted == granted:
                # All are looked up before anything is changed: scans over many pending changes are dear.
                doomed[lease] = attached_keys(overlay, lease)
        for lease, keys in doomed.items():
            self._writer.begin(revision + 1)
            self._end(lease, keys)
            revision += self._writer.sub > 0
        self.counters["expired"] += len(doomed)
        return revision

    def record_remaining(self, lease: int, granted: Index, remaining_ms: int) -> None:
        """Note what is left of a lease, for the leader that comes next."""
        record = lease_record(self._writer.overlay, lease)
        if record is not None and record.granted == granted:
            self._write(LeaseId(lease), record._replace(remaining_ms=remaining_ms))

    def _end(self, lease: int, keys: list[bytes]) -> None:
        writer = self._writer
        for key in keys:
            record = writer.record(key)
            assert record is not None, f"{key!r} is attached to lease {lease:x} and does not exist"
            writer.delete(key, record)
        writer.overlay.changes[lease_key(lease)] = None
        writer.give_back(LEASE_COST_BYTES)
        self.counters["revoked"] += 1
        if self.followed:
            self._changes.append(LeaseChange(LeaseId(lease), None))

    def _write(self, lease: LeaseId, record: LeaseRecord) -> None:
        self._writer.overlay.changes[lease_key(lease)] = pack_lease(record)
        if self.followed:
            self._changes.append(LeaseChange(lease, record))
