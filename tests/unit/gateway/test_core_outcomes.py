"""What a call is told when something goes wrong: no more than is known, and always something."""

from collections.abc import Iterator

import pytest
from core_parts import (
    LIFE,
    OTHER,
    TIMEOUT_MS,
    applied,
    ask,
    get,
    lead,
    make_core,
    only_turn,
    progress,
    put,
    served,
    tell,
    turn,
)

from actors.actor import Source
from actors.effects import Halt
from gateway.core import GatewayCore
from protocol import local
from protocol.errors import ErrorCode
from protocol.types import Incarnation, Index, Millis, Revision
from protocol.wire import rpc_pb2 as rpc


@pytest.fixture
def gateway() -> Iterator[GatewayCore]:
    """A gateway with a leader; its invariants hold when the test ends."""
    made = make_core()
    lead(made, 1)
    yield made
    made.check_invariants()


def started(gateway: GatewayCore, actor: str) -> None:
    """Tell that another actor of the node runs anew."""
    tell(gateway, "supervisor", local.ActorStarted(actor=actor, incarnation=Incarnation(5)))


def compact(physical: bool = True) -> bytes:
    """A CompactionRequest."""
    return rpc.CompactionRequest(revision=1, physical=physical).SerializeToString()


@pytest.mark.parametrize(
    ("until", "code", "told_at"),
    [
        (None, ErrorCode.TIMEOUT, TIMEOUT_MS),
        (TIMEOUT_MS + 5000, ErrorCode.TIMEOUT, TIMEOUT_MS),
        (450, ErrorCode.DEADLINE_EXCEEDED, 500),
        (-1000, ErrorCode.DEADLINE_EXCEEDED, 0),
    ],
)
def test_a_call_ends_at_its_own_deadline_or_at_etcds(
    gateway: GatewayCore, until: int | None, code: ErrorCode, told_at: int
) -> None:
    """5 s and two election timeouts (rule 13), or what the client said, to 100 ms; no sooner."""
    ask(gateway, 1, "Put", put(), until=until)
    turn(gateway, told_at - 1)
    assert gateway.answers == []
    turn(gateway, told_at)
    assert gateway.answers == [(1, code, b"")]


def test_a_late_result_of_an_expired_call_is_not_an_answer(gateway: GatewayCore) -> None:
    """One call, one answer."""
    ask(gateway, 1, "Put", put(), until=100)
    sequence = only_turn(gateway).sequence
    turn(gateway, 100)
    tell(gateway, "applier", applied(sequence, 0), 101)
    assert gateway.answers == [(1, ErrorCode.DEADLINE_EXCEEDED, b"")]


def test_when_raft_is_started_anew_proposals_are_unknown_and_reads_are_asked_again(gateway: GatewayCore) -> None:
    """A read changes nothing, so it may be repeated; a proposal may be in the log."""
    ask(gateway, 1, "Put", put())
    ask(gateway, 2, "Range", get())
    assert len(turn(gateway)) == 2
    started(gateway, "raft")
    assert gateway.answers == [(1, ErrorCode.TIMEOUT_CONNECTION_LOST, b"")]
    assert turn(gateway) == []
    lead(gateway, 2)
    again = only_turn(gateway)
    assert isinstance(again, local.RequestReads)
    tell(gateway, "applier", served(again.sequence, (0, 0, b"answer")))
    assert gateway.answers[1:] == [(2, 0, b"answer")]


def test_when_the_applier_is_started_anew_local_reads_wait_until_it_is_open(gateway: GatewayCore) -> None:
    """They are asked of the new one once it says that it serves."""
    ask(gateway, 1, "Range", get(serializable=True))
    only_turn(gateway)
    started(gateway, "applier")
    assert turn(gateway) == []
    progress(gateway, 3)
    assert isinstance(only_turn(gateway), local.ServeReads)


def test_a_compaction_is_answered_when_it_is_through(gateway: GatewayCore) -> None:
    """`physical` means that the space is free (rule 25); the others of the batch need not wait."""
    ask(gateway, 1, "Put", put())
    ask(gateway, 2, "Compact", compact())
    sequence = only_turn(gateway).sequence
    tell(gateway, "applier", applied(sequence, 0, ErrorCode.PENDING))
    assert gateway.answers == [(1, 0, b"response")]
    gateway.check_invariants()
    answered = local.CommandAnswered(incarnation=LIFE, sequence=sequence, position=1, code=0, body=b"compacted")
    tell(gateway, "applier", answered)
    tell(gateway, "applier", answered)
    assert gateway.answers[1:] == [(2, 0, b"compacted")]


def test_a_compaction_whose_applier_died_is_unknown(gateway: GatewayCore) -> None:
    """It is in the log; when the space is free nobody will say any more."""
    ask(gateway, 1, "Compact", compact())
    tell(gateway, "applier", applied(only_turn(gateway).sequence, ErrorCode.PENDING))
    started(gateway, "applier")
    assert gateway.answers == [(1, ErrorCode.TIMEOUT_CONNECTION_LOST, b"")]


def test_a_replaying_applier_is_not_believed_even_in_part(gateway: GatewayCore) -> None:
    """Only what it shows too early is asked again; what it showed in time stays answered."""
    ask(gateway, 1, "Range", get(b"1"))
    ask(gateway, 2, "Range", get(b"2"))
    sequence = only_turn(gateway).sequence
    tell(gateway, "applier", served(sequence, (1, 0, b"new"), index=9))
    tell(gateway, "applier", served(sequence, (0, 0, b"old"), index=8))
    assert gateway.answers == [(2, 0, b"new")]
    again = only_turn(gateway, 20)
    tell(gateway, "applier", served(again.sequence, (0, 0, b"fresh"), index=9))
    assert gateway.answers[1:] == [(1, 0, b"fresh")]


def test_the_byte_limit_counts_open_calls_only() -> None:
    """What was answered makes room."""
    body = put(b"k", b"x" * 600_000)
    gateway = make_core(request_bytes_max=1 << 20, pending_bytes_max=1 << 20)
    lead(gateway, 1)
    ask(gateway, 1, "Put", body)
    ask(gateway, 2, "Put", body)
    assert gateway.answers == [(2, ErrorCode.TOO_MANY_REQUESTS, b"")]
    tell(gateway, "applier", applied(only_turn(gateway).sequence, 0))
    ask(gateway, 3, "Put", body)
    assert [call_id for call_id, _, _ in gateway.answers] == [2, 1]


def test_the_quota_counts_what_was_proposed_since_the_store_told_its_size() -> None:
    """The store speaks once a second; what was sent to it in between is counted, what still waits is not."""
    gateway = make_core(quota_bytes=10_000)
    lead(gateway, 1)
    for call_id in range(4):
        ask(gateway, call_id, "Put", put(b"k", b"x" * 2000))
    assert gateway.answers == []
    tell(gateway, "applier", applied(only_turn(gateway).sequence, 0, 0, 0, 0))
    ask(gateway, 5, "Put", put(b"k", b"x" * 2000))
    tell(gateway, "applier", applied(only_turn(gateway).sequence, 0))
    assert gateway.answers[4:] == [(5, ErrorCode.NO_SPACE, b"")]
    progress(gateway, 4, logical_bytes=2000)
    ask(gateway, 6, "Put", put(b"k", b"x" * 2000))
    tell(gateway, "applier", applied(only_turn(gateway).sequence, 0))
    assert gateway.answers[5:] == [(6, 0, b"response")]


@pytest.mark.parametrize(
    ("operation", "refused"),
    [
        (rpc.RequestOp(request_put=rpc.PutRequest(key=b"k")), True),
        (rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"k")), False),
        (
            rpc.RequestOp(
                request_txn=rpc.TxnRequest(failure=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"deep down"))])
            ),
            True,
        ),
    ],
)
def test_a_full_store_refuses_txns_that_may_put(operation: rpc.RequestOp, refused: bool) -> None:
    """Either branch counts, however deep (rules 52, 53)."""
    gateway = make_core(quota_bytes=1)
    lead(gateway, 1)
    ask(gateway, 1, "Txn", rpc.TxnRequest(failure=[operation]).SerializeToString())
    tell(gateway, "applier", applied(only_turn(gateway).sequence, 0))
    assert gateway.answers == [(1, ErrorCode.NO_SPACE, b"") if refused else (1, 0, b"response")]


def test_without_a_quota_nothing_is_refused_for_space(gateway: GatewayCore) -> None:
    """Zero means none."""
    progress(gateway, 1, logical_bytes=1 << 60)
    ask(gateway, 1, "Put", put())
    assert gateway.answers == []


def test_a_stopping_gateway_answers_what_is_open_and_takes_nothing_new(gateway: GatewayCore) -> None:
    """Waiting, sent and late ones alike; then it is done."""
    ask(gateway, 1, "Compact", compact())
    tell(gateway, "applier", applied(only_turn(gateway).sequence, ErrorCode.PENDING))
    ask(gateway, 2, "Put", put())
    turn(gateway)
    ask(gateway, 3, "Range", get())
    (halt,) = gateway.handle(local.StopActor(), Source("supervisor"), Millis(1))
    assert isinstance(halt, Halt)
    assert not halt.failed
    ask(gateway, 4, "Put", put())
    assert gateway.answers == [(call_id, ErrorCode.STOPPED, b"") for call_id in (1, 2, 3, 4)]


def test_the_same_leader_in_the_same_term_is_no_change(gateway: GatewayCore) -> None:
    """News of membership alone leaves proposals alone."""
    ask(gateway, 1, "Put", put())
    turn(gateway)
    lead(gateway, 1)
    assert gateway.answers == []
    lead(gateway, 2)
    assert gateway.answers == [(1, ErrorCode.LEADER_CHANGED, b"")]
    assert gateway.metrics.counters["etcd_server_proposals_failed_total"] == 1


def test_requests_ride_over_an_election(gateway: GatewayCore) -> None:
    """What was not yet proposed waits for the next leader and is then done."""
    lead(gateway, 2, 0)
    ask(gateway, 1, "Put", put())
    ask(gateway, 2, "Range", get())
    assert turn(gateway, 900) == []
    lead(gateway, 3, OTHER, 901)
    proposal, read = turn(gateway, 901)
    tell(gateway, "applier", applied(proposal.sequence, 0), 902)
    tell(gateway, "applier", served(read.sequence, (0, 0, b"answer")), 902)
    assert gateway.answers == [(1, 0, b"response"), (2, 0, b"answer")]


def test_what_was_published_only_grows(gateway: GatewayCore) -> None:
    """An older report does not make the gateway forget what clients have seen."""
    ask(gateway, 1, "Put", put())
    tell(gateway, "applier", applied(only_turn(gateway).sequence, 0, index=20))
    stale = local.CommandsApplied(incarnation=LIFE, sequence=99, results=(), applied=Index(5), revision=Revision(5))
    tell(gateway, "applier", stale)
    assert (gateway.applied, gateway.revision) == (20, 20)
