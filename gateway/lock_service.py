"""etcd's lock service: a lock is a line of keys, and the oldest has it.

Owns what Lock and Unlock do, step by step. Knows no stream and no store.
Invariants: a Lock that is answered with success held the lock when it was; one that fails, or whose client is gone,
leaves no key behind unless the store cannot be asked any more, and then the lease ends the key.
"""

from typing import Final

from gateway.conversations import Flow, Gone, Refused, Say, Service, Steps, ask
from gateway.waiting_lines import (
    DELETE,
    TXN,
    await_turn,
    created_at,
    first_in,
    leave,
    line_of,
    pair_at,
    place_of,
    session,
)
from protocol.errors import ErrorCode
from protocol.wire import lock_pb2 as lock
from protocol.wire import rpc_pb2 as rpc


def _lock(request: lock.LockRequest, say: Say) -> Flow:
    line = line_of(request.name)
    lease, granted = yield from session(request.lease)
    key = place_of(line, lease)
    created = 0
    try:
        created, header, mine = yield from _stand_in_line(line, key, lease)
        if not mine:
            yield from await_turn(line, created)
            pair, header = yield from pair_at(key)
            # The lease may have ended while it waited: the turn that has come is then somebody else's.
            if pair is None or pair.create_revision != created:
                raise Refused(ErrorCode.SESSION_EXPIRED)
    except (Refused, Gone):
        yield from leave(key, created, lease, granted=granted)
        raise
    if not say(lock.LockResponse(header=header, key=key)):
        yield from leave(key, created, lease, granted=granted)


def _stand_in_line(line: bytes, key: bytes, lease: int) -> Steps[tuple[int, rpc.ResponseHeader, bool]]:
    """Return the revision since which `key` stands in line, the answer's header, and whether it is first."""
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, lease=lease))
    get = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
    first = rpc.RequestOp(request_range=first_in(line))
    request = rpc.TxnRequest(compare=[created_at(key, 0)], success=[put, first], failure=[get, first])
    answer = yield from ask(TXN, request, rpc.TxnResponse, repeatable=True)
    created: int = answer.header.revision
    if not answer.succeeded:
        created = answer.responses[0].response_range.kvs[0].create_revision
    owners = answer.responses[1].response_range.kvs
    return created, answer.header, not owners or owners[0].create_revision == created


def _unlock(request: lock.UnlockRequest, say: Say) -> Flow:
    answer = yield from ask(DELETE, rpc.DeleteRangeRequest(key=request.key), rpc.DeleteRangeResponse, repeatable=True)
    say(lock.UnlockResponse(header=answer.header))


LOCK: Final = Service(lock.LockRequest, _lock)
UNLOCK: Final = Service(lock.UnlockRequest, _unlock)
