"""One function per call: arguments in, request bytes and a way to read the answer out. Pure."""

from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from actd import wire
from actd.results import (
    Alarm,
    CompactResult,
    DeleteResult,
    HashResult,
    KeyValue,
    LeaseResult,
    LeaseTimeResult,
    Member,
    PutResult,
    RangeResult,
    StatusResult,
    TxnResult,
    trusted,
)

Key = str | bytes
R = TypeVar("R")

FROM_KEY: Final = b"\0"
"""As `range_end`: everything from the key on."""
ORDERS: Final = {"none": 0, "ascend": 1, "descend": 2}
TARGETS: Final = {"key": 0, "version": 1, "create": 2, "mod": 3, "value": 4}
DOWNGRADE_ACTIONS: Final = {"validate": 0, "enable": 1, "cancel": 2}
DowngradeAction = Literal["validate", "enable", "cancel"]
Order = Literal["none", "ascend", "descend"]
Target = Literal["key", "version", "create", "mod", "value"]


class Call(NamedTuple, Generic[R]):
    """A request, and how to read its answer; `repeatable` ones may be sent again whatever became of the first."""

    method: int
    body: bytes
    read: Callable[[bytes], R]
    repeatable: bool


def raw(value: Key) -> bytes:
    """Return text as UTF-8 and bytes as they are."""
    return value.encode() if isinstance(value, str) else value


def prefix_end(prefix: bytes) -> bytes:
    """Return the range end that makes `prefix` a prefix range."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else FROM_KEY


# --- requests --------------------------------------------------------------------------------------


def put_body(key: Key, value: Key, lease: int, *, prev_kv: bool, ignore_value: bool, ignore_lease: bool) -> bytes:
    """Return a PutRequest."""
    body = wire.blob(1, raw(key)) + wire.blob(2, raw(value))
    if lease or prev_kv or ignore_value or ignore_lease:
        body += wire.integer(3, lease) + wire.integer(4, prev_kv)
        body += wire.integer(5, ignore_value) + wire.integer(6, ignore_lease)
    return body


def range_body(
    key: Key,
    range_end: Key = b"",
    *,
    limit: int = 0,
    revision: int = 0,
    order: Order = "none",
    sort_by: Target = "key",
    serializable: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
) -> bytes:
    """Return a RangeRequest."""
    numbers: tuple[int, ...] = (limit, revision, ORDERS[order], TARGETS[sort_by], serializable, keys_only, count_only)
    numbers += (min_mod_revision, max_mod_revision, min_create_revision, max_create_revision)
    body = wire.blob(1, raw(key)) + wire.blob(2, raw(range_end))
    return body + b"".join(wire.integer(number, value) for number, value in enumerate(numbers, 3) if value)


def delete_body(key: Key, range_end: Key = b"", *, prev_kv: bool = False) -> bytes:
    """Return a DeleteRangeRequest."""
    return wire.blob(1, raw(key)) + wire.blob(2, raw(range_end)) + wire.integer(3, prev_kv)


# --- answers ---------------------------------------------------------------------------------------


def _revision(fields: dict[str, Any]) -> int:
    header: dict[str, int] = fields.get("header", {})
    return header.get("revision", 0)


_NO_PAIR: Final = {name: field.default for name, field in KeyValue.model_fields.items()}


def _pair(fields: dict[str, Any]) -> KeyValue:
    return trusted(KeyValue, {**_NO_PAIR, **fields})


def _put(fields: dict[str, Any]) -> PutResult:
    previous = fields.get("prev_kv")
    pair = _pair(previous) if previous is not None else None
    return trusted(PutResult, {"revision": _revision(fields), "previous": pair})


def _range(fields: dict[str, Any]) -> RangeResult:
    pairs = tuple([_pair(pair) for pair in fields.get("kvs", ())])
    more, count = fields.get("more", False), fields.get("count", 0)
    return trusted(RangeResult, {"revision": _revision(fields), "pairs": pairs, "more": more, "count": count})


def _delete(fields: dict[str, Any]) -> DeleteResult:
    previous = tuple([_pair(pair) for pair in fields.get("prev_kvs", ())])
    deleted = fields.get("deleted", 0)
    return trusted(DeleteResult, {"revision": _revision(fields), "deleted": deleted, "previous": previous})


def _txn(fields: dict[str, Any]) -> TxnResult:
    results = tuple(
        [_READERS[name](inner) for operation in fields.get("responses", ()) for name, inner in operation.items()]
    )
    succeeded = fields.get("succeeded", False)
    return trusted(TxnResult, {"revision": _revision(fields), "succeeded": succeeded, "results": results})


_READERS: Final[dict[str, Callable[[dict[str, Any]], PutResult | RangeResult | DeleteResult | TxnResult]]] = {
    "put": _put,
    "range": _range,
    "delete": _delete,
    "txn": _txn,
}


def read_put(body: bytes) -> PutResult:
    """Read a PutResponse."""
    return _put(wire.decode(wire.PUT, body))


def read_range(body: bytes) -> RangeResult:
    """Read a RangeResponse."""
    return _range(wire.decode(wire.RANGE, body))


def read_first(body: bytes) -> KeyValue | None:
    """Read a RangeResponse of a single key."""
    pairs = read_range(body).pairs
    return pairs[0] if pairs else None


def read_delete(body: bytes) -> DeleteResult:
    """Read a DeleteRangeResponse."""
    return _delete(wire.decode(wire.DELETE, body))


def read_txn(body: bytes) -> TxnResult:
    """Read a TxnResponse."""
    return _txn(wire.decode(wire.TXN, body))


def _read_compact(body: bytes) -> CompactResult:
    return trusted(CompactResult, {"revision": _revision(wire.decode(wire.COMPACT, body))})


def _read_lease(body: bytes) -> LeaseResult:
    fields = wire.decode(wire.LEASE, body)
    return LeaseResult(revision=_revision(fields), **_headless(fields))


def _read_lease_time(body: bytes) -> LeaseTimeResult:
    fields = wire.decode(wire.LEASE_TIME_TO_LIVE, body)
    return LeaseTimeResult(revision=_revision(fields), **_headless(fields))


def _read_leases(body: bytes) -> tuple[int, ...]:
    return tuple(lease.get("lease", 0) for lease in wire.decode(wire.LEASES, body).get("leases", ()))


def _headless(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "header"}


def _read_status(body: bytes) -> StatusResult:
    fields = wire.decode(wire.STATUS, body)
    header = fields.pop("header", {})
    fields["errors"] = tuple(fields.get("errors", ()))
    fields["downgrade_target"] = fields.pop("downgrade", {}).get("target", "")
    return StatusResult(revision=header.get("revision", 0), member_id=header.get("member_id", 0), **fields)


def _read_members(body: bytes) -> tuple[Member, ...]:
    fields = wire.decode(wire.MEMBERS, body)
    return tuple(Member(**member) for member in fields.get("members", ()))


def _read_added(body: bytes) -> Member:
    return Member(**wire.decode(wire.MEMBER_ADDED, body).get("member", {}))


def _read_alarms(body: bytes) -> tuple[Alarm, ...]:
    return tuple(Alarm(**alarm) for alarm in wire.decode(wire.ALARMS, body).get("alarms", ()))


def _read_downgrade(body: bytes) -> str:
    version: str = wire.decode(wire.DOWNGRADE, body).get("version", "")
    return version


def _read_hash(body: bytes) -> HashResult:
    fields = wire.decode(wire.HASH_KV, body)
    header = fields.pop("header", {})
    return HashResult(revision=header.get("revision", 0), **fields)


# --- calls -----------------------------------------------------------------------------------------


def put(
    key: Key,
    value: Key = b"",
    *,
    lease: int = 0,
    prev_kv: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
) -> Call[PutResult]:
    """Store a pair."""
    if not (lease or prev_kv or ignore_value or ignore_lease):
        return Call(1, wire.blob(1, raw(key)) + wire.blob(2, raw(value)), read_put, False)
    body = put_body(key, value, lease, prev_kv=prev_kv, ignore_value=ignore_value, ignore_lease=ignore_lease)
    return Call(1, body, read_put, False)


def get(key: Key, *, revision: int = 0, serializable: bool = False) -> Call[KeyValue | None]:
    """Read one pair."""
    return Call(2, range_body(key, revision=revision, serializable=serializable), read_first, True)


def range_(key: Key, range_end: Key = b"", **options: Any) -> Call[RangeResult]:
    """Read a range; options as `range_body`'s."""
    return Call(2, range_body(key, range_end, **options), read_range, True)


def get_prefix(prefix: Key, **options: Any) -> Call[RangeResult]:
    """Read every pair whose key begins with `prefix`."""
    first = raw(prefix)
    return range_(first or FROM_KEY, prefix_end(first), **options)


def delete(key: Key, range_end: Key = b"", *, prev_kv: bool = False) -> Call[DeleteResult]:
    """Delete a key or a range."""
    return Call(3, delete_body(key, range_end, prev_kv=prev_kv), read_delete, False)


def delete_prefix(prefix: Key, *, prev_kv: bool = False) -> Call[DeleteResult]:
    """Delete every key that begins with `prefix`."""
    first = raw(prefix)
    return delete(first or FROM_KEY, prefix_end(first), prev_kv=prev_kv)


def compact(revision: int, *, physical: bool = False) -> Call[CompactResult]:
    """Give up history before `revision`."""
    return Call(5, wire.integer(1, revision) + wire.integer(2, physical), _read_compact, False)


def status() -> Call[StatusResult]:
    """Ask the member at the other end how it stands."""
    return Call(6, b"", _read_status, True)


def hash_kv(revision: int = 0) -> Call[HashResult]:
    """Ask the member at the other end for its hash."""
    return Call(7, wire.integer(1, revision), _read_hash, True)


def alarms() -> Call[tuple[Alarm, ...]]:
    """List the alarms."""
    return Call(60, b"", _read_alarms, repeatable=True)


def disarm(alarm: Alarm) -> Call[tuple[Alarm, ...]]:
    """Take an alarm back; the answer names it if it was there."""
    body = wire.integer(1, 2) + wire.integer(2, alarm.member_id) + wire.integer(3, alarm.kind)
    return Call(60, body, _read_alarms, repeatable=True)


def arm(alarm: Alarm) -> Call[tuple[Alarm, ...]]:
    """Raise an alarm, as a member does by itself."""
    body = wire.integer(1, 1) + wire.integer(2, alarm.member_id) + wire.integer(3, alarm.kind)
    return Call(60, body, _read_alarms, repeatable=True)


def downgrade(action: DowngradeAction, version: str = "") -> Call[str]:
    """Have etcd's rules for downgrades say something; the answer is the version of the cluster."""
    body = wire.integer(1, DOWNGRADE_ACTIONS[action]) + wire.blob(2, version.encode())
    return Call(63, body, _read_downgrade, repeatable=action == "validate")


def defragment() -> Call[None]:
    """Have the member at the other end give back space."""
    return Call(61, b"", lambda _body: None, repeatable=True)


def hash_all() -> Call[int]:
    """Ask the member at the other end for the hash of all that members have in common."""
    return Call(62, b"", lambda body: _read_hash(body).hash, repeatable=True)


def members(*, linearizable: bool = True) -> Call[tuple[Member, ...]]:
    """List the members."""
    return Call(8, wire.integer(1, linearizable), _read_members, True)


def member_add(peer_urls: Iterable[str], *, learner: bool = False) -> Call[Member]:
    """Add a member that will listen for its peers at these URLs."""
    return Call(41, _texts(1, peer_urls) + wire.integer(2, learner), _read_added, repeatable=False)


def member_remove(member: int) -> Call[tuple[Member, ...]]:
    """Remove a member for ever."""
    return Call(42, wire.integer(1, member), _read_members, repeatable=False)


def member_update(member: int, peer_urls: Iterable[str]) -> Call[tuple[Member, ...]]:
    """Say where a member listens for its peers from now on."""
    return Call(43, wire.integer(1, member) + _texts(2, peer_urls), _read_members, repeatable=False)


def member_promote(member: int) -> Call[tuple[Member, ...]]:
    """Give a learner its vote."""
    return Call(44, wire.integer(1, member), _read_members, repeatable=False)


def move_leader(member: int) -> Call[None]:
    """Have the member at the other end, which must lead, hand leadership over."""
    return Call(45, wire.integer(1, member), lambda _body: None, repeatable=False)


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(wire.message(number, value.encode()) for value in values)


def lease_grant(ttl_s: int, lease: int = 0) -> Call[LeaseResult]:
    """Grant a lease; without an id the server chooses one."""
    return Call(9, wire.integer(1, ttl_s) + wire.integer(2, lease), _read_lease, repeatable=False)


def lease_revoke(lease: int) -> Call[int]:
    """End a lease and delete its keys; the answer is the revision."""
    read = lambda body: _revision(wire.decode(wire.COMPACT, body))  # noqa: E731 - a header is all there is
    return Call(10, wire.integer(1, lease), read, repeatable=False)


def lease_keep_alive(lease: int) -> Call[LeaseResult]:
    """Give a lease its whole time again."""
    return Call(11, wire.integer(1, lease), _read_lease, repeatable=True)


def lease_time_to_live(lease: int, *, keys: bool = False) -> Call[LeaseTimeResult]:
    """Ask what is left of a lease."""
    return Call(12, wire.integer(1, lease) + wire.integer(2, keys), _read_lease_time, repeatable=True)


def leases() -> Call[tuple[int, ...]]:
    """List the ids of all leases."""
    return Call(13, b"", _read_leases, repeatable=True)
