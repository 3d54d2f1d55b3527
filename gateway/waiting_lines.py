"""Keys in a line under a prefix, the oldest first in it: what etcd's locks and elections are made of. Parts of flows.

Owns the layout `name/lease-in-hex`, sessions, and waiting for one's turn. Knows no service.
Invariants: a key's place in line is its create revision; each watches only the one before it, so that an end wakes one.
"""

from typing import Final

from gateway.conversations import Await, Refused, Steps, ask
from gateway.methods import METHODS
from gateway.watch_wire import NO_PUT
from protocol.errors import ErrorCode
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

SESSION_TTL_S: Final = 60
"""The life of a lease that the node grants because the client names none; nobody keeps it alive."""

TXN: Final = METHODS[b"/etcdserverpb.KV/Txn"]
RANGE: Final = METHODS[b"/etcdserverpb.KV/Range"]
DELETE: Final = METHODS[b"/etcdserverpb.KV/DeleteRange"]
_GRANT: Final = METHODS[b"/etcdserverpb.Lease/LeaseGrant"]
_REVOKE: Final = METHODS[b"/etcdserverpb.Lease/LeaseRevoke"]


def line_of(name: bytes) -> bytes:
    """Return the prefix under which those who want `name` stand in line."""
    return name + b"/"


def place_of(line: bytes, lease: int) -> bytes:
    """Return the key of a lease's holder in a line."""
    return line + f"{lease:x}".encode()


def end_of(line: bytes) -> bytes:
    """Return the range end of a line: its prefix ends with a slash."""
    return line[:-1] + b"0"


def first_in(line: bytes) -> rpc.RangeRequest:
    """Return the request for whose turn it is."""
    return rpc.RangeRequest(
        key=line,
        range_end=end_of(line),
        limit=1,
        sort_target=rpc.RangeRequest.CREATE,
        sort_order=rpc.RangeRequest.ASCEND,
    )


def created_at(key: bytes, revision: int) -> rpc.Compare:
    """Return the condition that `key` was created at `revision`, or, with 0, does not exist."""
    return rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=revision)


def session(lease: int) -> Steps[tuple[int, bool]]:
    """Return a lease to stand in line with, and whether it was granted here."""
    if lease:
        return lease, False
    # Asked once only: a grant of which nothing is heard ends by itself.
    granted = yield from ask(_GRANT, rpc.LeaseGrantRequest(TTL=SESSION_TTL_S), rpc.LeaseGrantResponse, repeatable=False)
    return granted.ID, True


def leave(key: bytes, created: int, lease: int, *, granted: bool) -> Steps[None]:
    """Give a place up that was taken at revision `created`; what cannot be done now, the end of the lease does."""
    try:
        if granted:
            yield from ask(_REVOKE, rpc.LeaseRevokeRequest(ID=lease), rpc.LeaseRevokeResponse, repeatable=True)
        elif created:
            gone = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
            request = rpc.TxnRequest(compare=[created_at(key, created)], success=[gone])
            yield from ask(TXN, request, rpc.TxnResponse, repeatable=True)
    except Refused:
        return


def await_turn(line: bytes, created: int) -> Steps[None]:
    """Wait until nobody who came before revision `created` is left in the line."""
    before_me = rpc.RangeRequest(
        key=line,
        range_end=end_of(line),
        limit=1,
        sort_target=rpc.RangeRequest.CREATE,
        sort_order=rpc.RangeRequest.DESCEND,
        max_create_revision=created - 1,
        keys_only=True,
    )
    while True:
        found = yield from ask(RANGE, before_me, rpc.RangeResponse, repeatable=True)
        if not found.kvs:
            return
        try:
            yield Await(found.kvs[0].key, b"", found.header.revision + 1, NO_PUT)
        except Refused as refused:
            # Whether the one before has left may be compacted away; then a look at the present tells.
            if refused.code != ErrorCode.COMPACTED:
                raise


def pair_at(key: bytes) -> Steps[tuple[mvcc.KeyValue | None, rpc.ResponseHeader]]:
    """Return a key's pair, or None, and the header it came with."""
    found = yield from ask(RANGE, rpc.RangeRequest(key=key), rpc.RangeResponse, repeatable=True)
    return (found.kvs[0] if found.kvs else None), found.header
