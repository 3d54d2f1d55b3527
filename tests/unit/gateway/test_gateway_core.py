"""The gateway's core: every call gets exactly one answer, and never one that says too much."""

from collections.abc import Iterator

import pytest

from actors.actor import Source
from actors.effects import Send
from gateway.core import GatewayCore
from gateway.methods import METHODS, Method
from protocol import local
from protocol.command import decode_batch
from protocol.config import ClusterConfig, LimitsConfig, NodeConfig, StorageConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.types import ClusterId, Incarnation, Index, MemberId, Millis, Revision, StoreId, Term
from protocol.wire import rpc_pb2 as rpc

ME = MemberId(2)
LIFE = Incarnation(4)


def core(**limits: int) -> GatewayCore:
    """A gateway that knows no leader yet."""
    node = NodeConfig(name="n", client="127.0.0.1:1", peer="127.0.0.1:2", zmq="127.0.0.1:3")
    config = ClusterConfig(nodes=(node,), limits=LimitsConfig(**limits), storage=StorageConfig(quota_bytes=4096))
    return GatewayCore(NodeIdentity(ClusterId(1), ME, "n", StoreId(3), LIFE, ()), config)


@pytest.fixture
def gateway() -> Iterator[GatewayCore]:
    """A gateway with a leader; its invariants hold when the test ends."""
    made = core()
    lead(made, 1)
    yield made
    made.check_invariants()


def lead(gateway: GatewayCore, term: int, leader: int = 2) -> None:
    """Tell who leads."""
    message = local.LeadershipChanged(term=Term(term), leader=MemberId(leader), members=())
    gateway.handle(message, Source("raft"), Millis(0))


def method(name: str) -> Method:
    """A method of KV."""
    return METHODS[f"/etcdserverpb.KV/{name}".encode()]


def put(key: bytes = b"k", value: bytes = b"v", **more: object) -> bytes:
    """A PutRequest."""
    return rpc.PutRequest(key=key, value=value, **more).SerializeToString()  # type: ignore[arg-type]


def turn(gateway: GatewayCore, now: int = 0) -> list[local.LocalMessage]:
    """End a turn; what leaves it, but for the word to raft that clients are here."""
    messages = [effect.message for effect in gateway.end_turn(Millis(now)) if isinstance(effect, Send)]
    return [message for message in messages if not isinstance(message, local.ClientsAttended)]  # type: ignore[misc]


def applied(sequence: int, *codes: int) -> local.CommandsApplied:
    """The applier's answers to a batch."""
    results = tuple((code, b"" if code else b"response") for code in codes)
    return local.CommandsApplied(
        incarnation=LIFE, sequence=sequence, results=results, applied=Index(9), revision=Revision(5)
    )


def test_calls_of_one_turn_travel_in_one_batch_and_are_answered_in_place(gateway: GatewayCore) -> None:
    """One entry carries all of them; each gets its own result."""
    for call_id in (10, 11, 12):
        gateway.submit(call_id, method("Put"), put(b"k%d" % call_id), Millis(0), None)
    (message,) = turn(gateway)
    assert isinstance(message, local.ProposeBatch)
    batch = decode_batch(message.payload)
    assert (batch.origin.member, batch.origin.incarnation) == (ME, LIFE)
    assert [command.body for command in batch.commands] == [put(b"k10"), put(b"k11"), put(b"k12")]
    gateway.handle(applied(message.sequence, 0, ErrorCode.LEASE_NOT_FOUND, 0), Source("applier"), Millis(1))
    assert gateway.answers == [(10, 0, b"response"), (11, ErrorCode.LEASE_NOT_FOUND, b""), (12, 0, b"response")]


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("Put", put(b""), ErrorCode.EMPTY_KEY),
        ("Put", put(ignore_value=True), ErrorCode.VALUE_PROVIDED),
        ("Put", put(lease=3, ignore_lease=True), ErrorCode.LEASE_PROVIDED),
        ("Put", b"\xff\xff", ErrorCode.MALFORMED),
        ("Put", put(value=b"x" * 2_000_000), ErrorCode.REQUEST_TOO_LARGE),
        ("Range", b"", ErrorCode.EMPTY_KEY),
        ("Range", rpc.RangeRequest(key=b"k", sort_order=7).SerializeToString(), ErrorCode.INVALID_SORT_OPTION),  # type: ignore[arg-type]
        ("DeleteRange", b"", ErrorCode.EMPTY_KEY),
    ],
)
def test_what_etcd_refuses_at_the_door_is_refused_at_once(
    gateway: GatewayCore, name: str, body: bytes, code: ErrorCode
) -> None:
    """A bad request never reaches the log (feature map, rules 5, 9, 14)."""
    gateway.submit(1, method(name), body, Millis(0), None)
    assert gateway.answers == [(1, code, b"")]
    assert turn(gateway) == []


def operation(**fields: object) -> rpc.RequestOp:
    """One operation of a txn."""
    return rpc.RequestOp(**fields)  # type: ignore[arg-type]


def put_op(key: bytes) -> rpc.RequestOp:
    """A put in a txn."""
    return operation(request_put=rpc.PutRequest(key=key))


def delete_op(key: bytes, end: bytes = b"") -> rpc.RequestOp:
    """A delete in a txn."""
    return operation(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=end))


def nested(success: list[rpc.RequestOp], failure: list[rpc.RequestOp]) -> rpc.RequestOp:
    """A txn in a txn."""
    return operation(request_txn=rpc.TxnRequest(success=success, failure=failure))


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ([put_op(b"a"), put_op(b"a")], ErrorCode.DUPLICATE_KEY),
        ([put_op(b"b"), delete_op(b"a", b"c")], ErrorCode.DUPLICATE_KEY),
        ([delete_op(b"a", b"\0"), put_op(b"z")], 0),
        ([delete_op(b"a", b"c"), delete_op(b"b")], 0),
        ([nested([put_op(b"a")], [put_op(b"a")])], 0),
        ([nested([put_op(b"a")], []), put_op(b"a")], ErrorCode.DUPLICATE_KEY),
        ([nested([delete_op(b"a", b"c")], []), put_op(b"b")], ErrorCode.DUPLICATE_KEY),
        ([nested([delete_op(b"a")], [put_op(b"a")])], 0),
        ([operation()], ErrorCode.KEY_NOT_FOUND),
        ([put_op(b"%d" % number) for number in range(129)], ErrorCode.TOO_MANY_OPERATIONS),
        ([nested([put_op(b"%d" % number) for number in range(128)], [])], ErrorCode.TOO_MANY_OPERATIONS),
        ([nested([put_op(b"%d" % number) for number in range(127)], [])], 0),
    ],
)
def test_txn_shape_rules_hold_for_both_branches(
    gateway: GatewayCore, operations: list[rpc.RequestOp], code: ErrorCode
) -> None:
    """Duplicate keys and too many operations are refused wherever they stand (rules 21, 22)."""
    for branch in ({"success": operations}, {"failure": operations}):
        gateway.answers.clear()
        request = rpc.TxnRequest(**branch)
        gateway.submit(1, method("Txn"), request.SerializeToString(), Millis(0), None)
        assert gateway.answers == ([(1, code, b"")] if code else [])
        gateway.cancel(1)


def test_a_change_of_leader_leaves_proposals_unknown_and_late_results_harmless(gateway: GatewayCore) -> None:
    """Whoever waits is told that the outcome is open; an answer that comes after all is not given twice."""
    gateway.submit(1, method("Put"), put(), Millis(0), None)
    (message,) = turn(gateway)
    lead(gateway, 2, 7)
    assert gateway.answers == [(1, ErrorCode.LEADER_CHANGED, b"")]
    gateway.handle(applied(message.sequence, 0), Source("applier"), Millis(1))  # type: ignore[attr-defined]
    assert len(gateway.answers) == 1


def test_what_was_certainly_not_proposed_is_proposed_again(gateway: GatewayCore) -> None:
    """A refusal is not the client's business while there is time; the number stays, so a copy cannot apply twice."""
    gateway.submit(1, method("Put"), put(), Millis(0), None)
    (first,) = turn(gateway)
    refused = local.ProposalRefused(sequence=first.sequence, code=ErrorCode.NO_LEADER)  # type: ignore[attr-defined]
    gateway.handle(refused, Source("raft"), Millis(1))
    assert gateway.answers == []
    gateway.wake(Millis(100))
    (second,) = turn(gateway, 100)
    assert second == first


def test_calls_wait_for_a_leader_and_run_out_of_time_as_unknown() -> None:
    """Without a leader nothing is sent; at the deadline the client is told, in etcd's words."""
    gateway = core()
    gateway.submit(1, method("Put"), put(), Millis(0), Millis(300))
    gateway.submit(2, method("Put"), put(), Millis(0), None)
    assert turn(gateway) == []
    gateway.wake(Millis(400))
    assert gateway.answers == [(1, ErrorCode.DEADLINE_EXCEEDED, b"")]
    gateway.wake(Millis(7100))
    assert gateway.answers[1:] == [(2, ErrorCode.TIMEOUT, b"")]


def test_a_read_is_never_older_than_what_was_published(gateway: GatewayCore) -> None:
    """A restarted applier that still replays is asked again, not believed."""
    gateway.submit(1, method("Put"), put(), Millis(0), None)
    (proposal,) = turn(gateway)
    gateway.handle(applied(proposal.sequence, 0), Source("applier"), Millis(1))  # type: ignore[attr-defined]
    gateway.answers.clear()
    body = rpc.RangeRequest(key=b"k", serializable=True).SerializeToString()
    gateway.submit(2, method("Range"), body, Millis(2), None)
    gateway.handle(
        local.StoreProgressed(applied=Index(9), revision=Revision(5), compacted=Revision(0), logical_bytes=0),
        Source("applier"),
        Millis(2),
    )
    (read,) = turn(gateway, 2)
    assert isinstance(read, local.ServeReads)
    stale = local.ReadsServed(
        incarnation=LIFE, sequence=read.sequence, results=((0, 0, b"old"),), applied=Index(3), revision=Revision(2)
    )
    gateway.handle(stale, Source("applier"), Millis(3))
    assert gateway.answers == []
    gateway.wake(Millis(60))
    (again,) = turn(gateway, 60)
    assert isinstance(again, local.ServeReads)
    gateway.handle(
        stale.model_copy(update={"sequence": again.sequence, "applied": Index(9)}), Source("applier"), Millis(61)
    )
    assert gateway.answers == [(2, 0, b"old")]


def test_too_many_open_calls_are_refused() -> None:
    """The limit answers; it does not queue."""
    gateway = core(pending_requests_max=2)
    for call_id in (1, 2, 3):
        gateway.submit(call_id, method("Put"), put(), Millis(0), None)
    assert gateway.answers == [(3, ErrorCode.TOO_MANY_REQUESTS, b"")]


def test_stopping_answers_everybody(gateway: GatewayCore) -> None:
    """Nobody is left waiting for a node that is gone."""
    gateway.submit(1, method("Put"), put(), Millis(0), None)
    turn(gateway)
    gateway.handle(local.StopActor(), Source("supervisor"), Millis(1))
    assert gateway.answers == [(1, ErrorCode.STOPPED, b"")]
