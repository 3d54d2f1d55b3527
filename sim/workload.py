"""What simulated clients ask for: small key space, every KV request, sizes and shapes by seed.

Owns request generation; knows protobuf requests, no gateway. Invariant: no two writes of a run have the same bytes, so
that a command found in the log can be told whose it is.
"""

import random
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message as ProtoMessage

from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    MemberAddResponse,
    MemberListResponse,
    MemberPromoteResponse,
    MemberRemoveResponse,
    MemberUpdateResponse,
    MoveLeaderResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)

RESPONSES: Final[dict[str, type[ProtoMessage]]] = {
    "range": RangeResponse,
    "put": PutResponse,
    "delete": DeleteRangeResponse,
    "txn": TxnResponse,
    "compact": CompactionResponse,
    "grant": LeaseGrantResponse,
    "revoke": LeaseRevokeResponse,
    "keep_alive": LeaseKeepAliveResponse,
    "time_to_live": LeaseTimeToLiveResponse,
    "member_list": MemberListResponse,
    "member_add": MemberAddResponse,
    "member_remove": MemberRemoveResponse,
    "member_update": MemberUpdateResponse,
    "member_promote": MemberPromoteResponse,
    "move_leader": MoveLeaderResponse,
}
"""Method name to the class of its answer."""
OF_THE_LESSOR: Final = ("keep_alive", "time_to_live")
"""Methods whose answers are about time, which no log knows."""
PREFIX: Final = b"k/"
PREFIX_END: Final = b"k0"
_MARK_TAG: Final = b"\xc2\x3e"
"""Field 1000, length-delimited: etcd's messages do not know it and parsers skip it."""


@dataclass(frozen=True)
class Request:
    """One request: the method's name, the parsed message, the bytes a client would send."""

    method: str
    message: ProtoMessage
    body: bytes
    writes: bool
    serializable: bool = False


@dataclass
class Seen:
    """What a client has learnt from answers; old revisions and compares are made of it."""

    revision: int = 1
    mod_revisions: dict[bytes, int] | None = None


def written(method: str, message: ProtoMessage, mark: bytes = b"") -> Request:
    """Return a request that writes; `mark` makes its bytes differ from those of any other."""
    body = message.SerializeToString()
    if mark:
        body += _MARK_TAG + bytes([len(mark)]) + mark
    return Request(method, message, body, writes=True)


class Workload:
    """Makes the requests of one client."""

    def __init__(self, rng: random.Random, client: int) -> None:
        self._rng = rng
        self._client = client
        self._made = 0
        self._keys = [PREFIX + b"%d" % number for number in range(rng.choice((1, 3, 10)))]
        self._value_size = rng.choice((0, 10, 200, 2000))
        weights = {"put": 10, "range": 10, "delete": 2, "txn": 6, "compact": 1}
        self._weights = {name: weight * rng.choice((0, 1, 1, 3)) for name, weight in weights.items()}
        self._weights["put"] += 1

    def next(self, seen: Seen) -> Request:
        """Return the next request."""
        self._made += 1
        method = self._rng.choices(list(self._weights), list(self._weights.values()))[0]
        if method == "put":
            return self._request("put", self._put())
        if method == "range":
            request = self._range(seen)
            return Request(
                "range", request, request.SerializeToString(), writes=False, serializable=request.serializable
            )
        if method == "delete":
            return self._request("delete", self._delete(), marked=True)
        if method == "compact":
            revision = max(0, seen.revision - self._rng.randrange(12))
            return self._request(
                "compact", CompactionRequest(revision=revision, physical=self._rng.random() < 0.5), marked=True
            )
        return self._txn(seen)

    def probe(self) -> Request:
        """Return a plain put: what must succeed once everything has healed."""
        self._made += 1
        return self._request("put", PutRequest(key=PREFIX + b"probe", value=self._unique()))

    # --- shapes ----------------------------------------------------------------------------------

    def _request(self, method: str, message: ProtoMessage, *, marked: bool = False) -> Request:
        return written(method, message, self._unique()[:20] if marked else b"")

    def _unique(self) -> bytes:
        return b"c%d.%d" % (self._client, self._made)

    def _key(self) -> bytes:
        return self._rng.choice(self._keys)

    def _span(self) -> tuple[bytes, bytes]:
        """A key and range end: one key, some keys, the prefix, or everything."""
        shape = self._rng.randrange(6)
        if shape < 3:
            return self._key(), b""
        if shape == 3:
            return self._key(), self._key() + b"\xff"
        return (PREFIX, PREFIX_END) if shape == 4 else (b"\x00", b"\x00")

    def _put(self) -> PutRequest:
        rng = self._rng
        request = PutRequest(key=self._key(), value=self._unique() + b"." * rng.randint(0, self._value_size))
        request.prev_kv = rng.random() < 0.3
        request.ignore_lease = rng.random() < 0.05
        if rng.random() < 0.03:
            request.lease = 77
        return request

    def _delete(self) -> DeleteRangeRequest:
        key, range_end = self._span()
        return DeleteRangeRequest(key=key, range_end=range_end, prev_kv=self._rng.random() < 0.5)

    def _range(self, seen: Seen) -> RangeRequest:
        rng = self._rng
        if rng.random() < 0.4:
            return RangeRequest(key=self._key(), serializable=rng.random() < 0.4)
        key, range_end = self._span()
        request = RangeRequest(key=key, range_end=range_end, serializable=rng.random() < 0.4)
        if rng.random() < 0.3:
            request.limit = rng.randint(1, 3)
        if rng.random() < 0.3:
            request.revision = max(1, seen.revision - rng.randrange(-2, 12))
        request.keys_only = rng.random() < 0.1
        request.count_only = rng.random() < 0.1
        if rng.random() < 0.1:
            request.sort_order = RangeRequest.DESCEND
        if rng.random() < 0.1:
            request.min_mod_revision = rng.randint(1, seen.revision)
        return request

    def _txn(self, seen: Seen) -> Request:
        rng = self._rng
        key = self._key()
        known = (seen.mod_revisions or {}).get(key, 0)
        txn = TxnRequest()
        if rng.random() < 0.7:
            revision = max(0, known - rng.choice((0, 0, 0, 1)))
            txn.compare.append(Compare(key=key, target=Compare.MOD, result=Compare.EQUAL, mod_revision=revision))
        if rng.random() < 0.2:
            txn.compare.append(Compare(key=PREFIX, range_end=PREFIX_END, target=Compare.VERSION, version=0))
        serializable = rng.random() < 0.2
        if rng.random() < 0.2:
            for branch in (txn.success, txn.failure):
                branch.append(RequestOp(request_range=RangeRequest(key=key, serializable=serializable)))
            return Request("txn", txn, txn.SerializeToString(), writes=False, serializable=serializable)
        value = self._unique()
        txn.success.append(RequestOp(request_put=PutRequest(key=key, value=value, prev_kv=rng.random() < 0.3)))
        listing = RangeRequest(key=PREFIX, range_end=PREFIX_END)
        if rng.random() < 0.2:
            # Compacted here and not there, or not there yet: the whole txn must be refused, by every member.
            listing.revision = max(1, seen.revision - rng.randrange(-2, 12))
        txn.success.append(RequestOp(request_range=listing))
        other = self._key()
        if other != key:
            txn.success.append(RequestOp(request_delete_range=DeleteRangeRequest(key=other, prev_kv=True)))
        if rng.random() < 0.3:
            inner = TxnRequest(success=[RequestOp(request_put=PutRequest(key=PREFIX + b"inner", value=value))])
            txn.failure.append(RequestOp(request_txn=inner))
        txn.failure.append(RequestOp(request_range=RangeRequest(key=key)))
        return self._request("txn", txn, marked=True)
