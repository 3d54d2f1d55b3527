"""etcd's election service: candidates stand in a line of keys, the oldest leads, its value is what it proclaims.

Owns what Campaign, Proclaim, Leader, Observe and Resign do, step by step. Knows no stream and no store.
Invariants: a Campaign that is answered with success had won when it was; what a leader's key guards is guarded by the
revision at which it was created, so that a former leader changes nothing; Observe tells of every leader and every value
of a leader in the order of their revisions, while they lead.
"""

from typing import Final

from gateway.conversations import Await, Flow, Gone, Refused, Say, Service, Steps, ask
from gateway.waiting_lines import (
    RANGE,
    TXN,
    await_turn,
    created_at,
    end_of,
    first_in,
    leave,
    line_of,
    pair_at,
    place_of,
    session,
)
from gateway.watch_wire import NO_DELETE
from protocol.errors import ErrorCode
from protocol.wire import election_pb2 as election
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc


def _campaign(request: election.CampaignRequest, say: Say) -> Flow:
    line = line_of(request.name)
    lease, granted = yield from session(request.lease)
    key = place_of(line, lease)
    created = 0
    try:
        created, header, is_new = yield from _stand(key, lease, request.value)
        if not is_new:
            header = yield from _proclaim_unless_equal(key, created, lease, request.value, header)
        yield from await_turn(line, created)
        pair, _ = yield from pair_at(key)
        # The lease may have ended while it waited; who has no place in the line cannot have won.
        if pair is None or pair.create_revision != created:
            raise Refused(ErrorCode.NOT_ELECTED)
    except (Refused, Gone):
        yield from leave(key, created, lease, granted=granted)
        raise
    won = election.LeaderKey(name=request.name, key=key, rev=created, lease=lease)
    if not say(election.CampaignResponse(header=header, leader=won)):
        yield from leave(key, created, lease, granted=granted)


def _stand(key: bytes, lease: int, value: bytes) -> Steps[tuple[int, rpc.ResponseHeader, bool]]:
    """Return the revision since which `key` is a candidate, the answer's header, and whether it has just become one."""
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
    get = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
    request = rpc.TxnRequest(compare=[created_at(key, 0)], success=[put], failure=[get])
    answer = yield from ask(TXN, request, rpc.TxnResponse, repeatable=True)
    if answer.succeeded:
        return answer.header.revision, answer.header, True
    return answer.responses[0].response_range.kvs[0].create_revision, answer.header, False


def _proclaim_unless_equal(
    key: bytes, created: int, lease: int, value: bytes, header: rpc.ResponseHeader
) -> Steps[rpc.ResponseHeader]:
    """A candidate that stands already has its value changed, if it is another."""
    pair, _ = yield from pair_at(key)
    if pair is None or pair.value != value:
        yield from _proclaim_value(key, created, lease, value)
    return header


def _proclaim_value(key: bytes, created: int, lease: int, value: bytes) -> Steps[rpc.ResponseHeader]:
    """Change a candidate's value.

    Raises:
        Refused: `key` is not the one that was created at `created`.
    """
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
    request = rpc.TxnRequest(compare=[created_at(key, created)], success=[put])
    answer = yield from ask(TXN, request, rpc.TxnResponse, repeatable=True)
    if not answer.succeeded:
        raise Refused(ErrorCode.NOT_ELECTED)
    return answer.header


def _proclaim(request: election.ProclaimRequest, say: Say) -> Flow:
    if not request.HasField("leader"):
        raise Refused(ErrorCode.LEADER_KEY_MISSING)
    leader = request.leader
    lease, _ = yield from session(leader.lease)
    header = yield from _proclaim_value(leader.key, leader.rev, lease, request.value)
    say(election.ProclaimResponse(header=header))


def _resign(request: election.ResignRequest, say: Say) -> Flow:
    if not request.HasField("leader"):
        raise Refused(ErrorCode.LEADER_KEY_MISSING)
    leader = request.leader
    delete = rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=leader.key))
    txn = rpc.TxnRequest(compare=[created_at(leader.key, leader.rev)], success=[delete])
    answer = yield from ask(TXN, txn, rpc.TxnResponse, repeatable=True)
    say(election.ResignResponse(header=answer.header))


def _leader(request: election.LeaderRequest, say: Say) -> Flow:
    found = yield from ask(RANGE, first_in(line_of(request.name)), rpc.RangeResponse, repeatable=True)
    if not found.kvs:
        raise Refused(ErrorCode.NOBODY_ELECTED)
    say(election.LeaderResponse(header=found.header, kv=found.kvs[0]))


def _observe(request: election.LeaderRequest, say: Say) -> Flow:
    line = line_of(request.name)
    while True:
        try:
            yield from _observe_one(line, say)
        except Refused as refused:
            # What happened meanwhile may be compacted; the present is not.
            if refused.code != ErrorCode.COMPACTED:
                raise


def _observe_one(line: bytes, say: Say) -> Steps[None]:
    """Tell of whoever leads, or is the first to, until that one leads no more."""
    found = yield from ask(RANGE, first_in(line), rpc.RangeResponse, repeatable=True)
    header = found.header
    if found.kvs:
        pair = found.kvs[0]
    else:
        events: list[mvcc.Event] = yield Await(line, end_of(line), header.revision + 1, NO_DELETE)
        pair = events[0].kv
        header.revision = pair.mod_revision
    say(election.LeaderResponse(header=header, kv=pair))
    seen = header.revision
    while True:
        events = yield Await(pair.key, b"", seen + 1)
        for event in events:
            if event.type == mvcc.Event.DELETE:
                return
            seen = header.revision = event.kv.mod_revision
            say(election.LeaderResponse(header=header, kv=event.kv))


CAMPAIGN: Final = Service(election.CampaignRequest, _campaign)
PROCLAIM: Final = Service(election.ProclaimRequest, _proclaim)
LEADER: Final = Service(election.LeaderRequest, _leader)
OBSERVE: Final = Service(election.LeaderRequest, _observe)
RESIGN: Final = Service(election.ResignRequest, _resign)
