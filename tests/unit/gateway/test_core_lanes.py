"""How calls become batches: sizes, order, how many are out, and what happens when they do not come back."""

from collections.abc import Iterator

import pytest
from core_parts import (
    ME,
    MEMBERS,
    OTHER,
    applied,
    ask,
    get,
    lead,
    make_core,
    method,
    only_turn,
    put,
    served,
    tell,
    turn,
)

from actors.actor import Source
from actors.effects import Send
from gateway.core import GatewayCore
from protocol import local
from protocol.command import BATCH_BYTES_MAX, COMMANDS_PER_BATCH_MAX, ReadKind, decode_batch
from protocol.errors import ErrorCode
from protocol.types import Incarnation, Millis
from protocol.wire import rpc_pb2 as rpc


@pytest.fixture
def gateway() -> Iterator[GatewayCore]:
    """A gateway with a leader; its invariants hold when the test ends."""
    made = make_core()
    lead(made, 1)
    yield made
    made.check_invariants()


def test_a_batch_holds_no_more_commands_than_an_entry_may(gateway: GatewayCore) -> None:
    """What is over the limit leaves in the same turn as a second batch, in order."""
    for call_id in range(COMMANDS_PER_BATCH_MAX + 5):
        ask(gateway, call_id, "Put", put(b"%d" % call_id))
    first, second = turn(gateway)
    assert [len(decode_batch(message.payload).commands) for message in (first, second)] == [COMMANDS_PER_BATCH_MAX, 5]
    assert second.sequence == first.sequence + 1
    assert decode_batch(second.payload).commands[0].body == put(b"%d" % COMMANDS_PER_BATCH_MAX)


def test_a_batch_closes_before_it_is_too_large_and_a_large_command_travels_alone(gateway: GatewayCore) -> None:
    """Only a single command may be over the size of a batch."""
    large = put(b"large", b"x" * (BATCH_BYTES_MAX + 1))
    half = put(b"half", b"x" * (BATCH_BYTES_MAX // 2))
    for call_id, body in enumerate((half, large, half, half)):
        ask(gateway, call_id, "Put", body)
    batches = [decode_batch(message.payload).commands for message in turn(gateway)]
    assert [[len(command.body) for command in batch] for batch in batches] == [
        [len(half)],
        [len(large)],
        [len(half)],
        [len(half)],
    ]


def test_while_reads_are_out_the_next_ones_gather(gateway: GatewayCore) -> None:
    """Two batches of reads are under way at most; under load the third is large."""
    for call_id in (1, 2):
        ask(gateway, call_id, "Range", get())
        only_turn(gateway)
    for call_id in range(3, 50):
        ask(gateway, call_id, "Range", get())
        assert turn(gateway) == []
    tell(gateway, "applier", served(1, (0, 0, b"answer")))
    assert len(decode_batch(only_turn(gateway).payload).commands) == 47


def test_a_long_read_does_not_keep_short_ones_waiting(gateway: GatewayCore) -> None:
    """A batch with an answer no longer counts, though one of its reads takes long."""
    for call_id in (1, 2, 3, 4):
        ask(gateway, call_id, "Range", get())
        if call_id % 2 == 0:
            only_turn(gateway)
    for sequence in (1, 2):
        tell(gateway, "applier", served(sequence, (0, 0, b"short")))
    ask(gateway, 5, "Range", get())
    assert isinstance(only_turn(gateway), local.RequestReads)
    tell(gateway, "applier", served(1, (1, 0, b"long")))
    assert gateway.answers == [(1, 0, b"short"), (3, 0, b"short"), (2, 0, b"long")]


def fill_lane(gateway: GatewayCore, until: int | None = None) -> int:
    """Send eight batches, each of as many calls as are out already, so that none waits for more; return all calls."""
    calls = 0
    for _ in range(8):
        for call_id in range(calls, max(2 * calls, 1)):
            ask(gateway, call_id, "Put", put(), until=until)
        calls = max(2 * calls, 1)
        only_turn(gateway)
    return calls


def test_few_commands_wait_for_more_while_many_are_out(gateway: GatewayCore) -> None:
    """Who is alone is served at once; behind a large batch requests gather until they are as many."""
    for call_id in range(10):
        ask(gateway, call_id, "Put", put())
    first = only_turn(gateway)
    for call_id in range(10, 19):
        ask(gateway, call_id, "Put", put())
    assert turn(gateway, 1) == []
    ask(gateway, 19, "Put", put())
    assert len(decode_batch(only_turn(gateway, 2).payload).commands) == 10
    ask(gateway, 20, "Put", put())
    assert turn(gateway, 3) == []
    assert gateway.deadline == 2 + 50, "what is out may be lost: then the rest goes all the same"
    gateway.handle(applied(first.sequence, *[0] * 10), Source("applier"), Millis(4))
    for call_id in range(21, 30):
        ask(gateway, call_id, "Put", put())
    assert len(decode_batch(only_turn(gateway, 4).payload).commands) == 10


def test_a_full_lane_sends_again_when_nothing_comes_back(gateway: GatewayCore) -> None:
    """Lost batches slow a gateway down; they do not stop it."""
    fill_lane(gateway)
    for call_id in range(1000, 2000):
        ask(gateway, call_id, "Put", put())
    assert turn(gateway, 10) == []
    due = gateway.deadline
    assert due is not None
    assert due <= 60
    assert len(turn(gateway, 60)) == 1


def test_proposals_that_were_lost_do_not_fill_the_lane_for_ever(gateway: GatewayCore) -> None:
    """Once nobody waits for them the lane is as free as ever, and nothing is kept of them."""
    lead(gateway, 2, OTHER)
    calls = fill_lane(gateway, until=200)
    assert turn(gateway, 300) == []
    assert [code for _, code, _ in gateway.answers] == [ErrorCode.DEADLINE_EXCEEDED] * calls
    ask(gateway, calls, "Put", put(), now=300)
    assert len(turn(gateway, 300)) == 1
    gateway.measure()
    assert gateway.metrics.gauges["etcd_server_proposals_pending"] == 1


def test_cancelled_proposals_make_room_as_well(gateway: GatewayCore) -> None:
    """A client that is gone leaves nothing behind that others wait for."""
    for call_id in range(8):
        ask(gateway, call_id, "Put", put())
        only_turn(gateway)
        gateway.cancel(call_id)
    ask(gateway, 9, "Put", put())
    assert len(turn(gateway)) == 1


def test_cancelled_calls_are_not_sent(gateway: GatewayCore) -> None:
    """What nobody waits for and nobody has seen is dropped."""
    ask(gateway, 1, "Put", put(b"gone"))
    ask(gateway, 2, "Put", put(b"stays"))
    gateway.cancel(1)
    assert [command.body for command in decode_batch(only_turn(gateway).payload).commands] == [put(b"stays")]


def test_a_refusal_of_one_kind_does_not_hold_up_the_others(gateway: GatewayCore) -> None:
    """Refused reads wait a moment; proposals and local reads go on."""
    ask(gateway, 1, "Range", get())
    read = only_turn(gateway)
    tell(gateway, "raft", local.ReadsRefused(sequence=read.sequence, code=ErrorCode.NO_LEADER), 1)
    ask(gateway, 2, "Put", put(), 1)
    ask(gateway, 3, "Range", get(serializable=True), 1)
    assert {message.kind for message in turn(gateway, 1)} == {"ProposeBatch", "ServeReads"}
    assert [message.kind for message in turn(gateway, 21)] == ["RequestReads"]


def test_refused_reads_are_asked_again_in_their_order_ahead_of_later_ones(gateway: GatewayCore) -> None:
    """A change of leader is not the reader's business while there is time."""
    for call_id in (1, 2):
        ask(gateway, call_id, "Range", get(b"%d" % call_id))
    first = only_turn(gateway)
    ask(gateway, 3, "Range", get(b"3"))
    tell(gateway, "raft", local.ReadsRefused(sequence=first.sequence, code=ErrorCode.LEADER_CHANGED), 1)
    lead(gateway, 2, OTHER, 1)
    again = only_turn(gateway, 1)
    assert [command.body for command in decode_batch(again.payload).commands] == [get(b"1"), get(b"2"), get(b"3")]
    assert again.sequence != first.sequence
    tell(gateway, "applier", served(first.sequence, (0, 0, b"late")))
    assert gateway.answers == []


@pytest.mark.parametrize("kind", ["Put", "Range"])
def test_what_is_over_a_limit_of_raft_is_told(gateway: GatewayCore, kind: str) -> None:
    """An overloaded node says so instead of queueing without end."""
    ask(gateway, 1, kind, put() if kind == "Put" else get())
    sequence = only_turn(gateway).sequence
    form = local.ProposalRefused if kind == "Put" else local.ReadsRefused
    tell(gateway, "raft", form(sequence=sequence, code=ErrorCode.TOO_MANY_REQUESTS))
    assert gateway.answers == [(1, ErrorCode.TOO_MANY_REQUESTS, b"")]
    assert turn(gateway, 100) == []


def test_a_refusal_that_comes_too_late_pauses_nothing(gateway: GatewayCore) -> None:
    """When the batch is gone there is nothing to try again."""
    ask(gateway, 1, "Put", put())
    sequence = only_turn(gateway).sequence
    lead(gateway, 2, OTHER)
    tell(gateway, "raft", local.ProposalRefused(sequence=sequence, code=ErrorCode.NO_LEADER))
    ask(gateway, 2, "Put", put())
    assert len(turn(gateway)) == 1


def test_an_instant_that_has_passed_is_no_deadline(gateway: GatewayCore) -> None:
    """Regression, simulator seed 23: reads that ran out while their lane was paused left the gateway spinning."""
    ask(gateway, 1, "Range", get(), until=5)
    sequence = only_turn(gateway).sequence
    assert gateway.deadline is not None
    now = gateway.deadline
    gateway.wake(now)
    assert len(gateway.answers) == 1, "the call has run out"
    tell(gateway, "raft", local.ReadsRefused(sequence=sequence, code=ErrorCode.NO_LEADER), now)
    for _ in range(100):
        if gateway.deadline is None:
            break
        assert gateway.deadline > now, "it asks to be woken for the past"
        now = gateway.deadline
        gateway.wake(now)
        gateway.end_turn(now)
    assert gateway.deadline is None, "nothing is left to wait for"


def test_a_refused_batch_survives_a_change_of_leader_and_is_proposed_once_more(gateway: GatewayCore) -> None:
    """It is in no log, so its calls need not hear that their outcome is unknown."""
    ask(gateway, 1, "Put", put())
    first = only_turn(gateway)
    tell(gateway, "raft", local.ProposalRefused(sequence=first.sequence, code=ErrorCode.NO_LEADER))
    lead(gateway, 2, 0)
    assert turn(gateway, 10) == []
    assert gateway.answers == []
    lead(gateway, 2, OTHER)
    assert turn(gateway, 10) == [first]
    assert turn(gateway, 11) == []
    tell(gateway, "applier", applied(first.sequence, 0))
    assert gateway.answers == [(1, 0, b"response")]


def test_a_refused_batch_nobody_waits_for_is_not_proposed_again(gateway: GatewayCore) -> None:
    """Why do what no one asks for any more."""
    ask(gateway, 1, "Put", put())
    first = only_turn(gateway)
    tell(gateway, "raft", local.ProposalRefused(sequence=first.sequence, code=ErrorCode.NO_LEADER))
    gateway.cancel(1)
    assert turn(gateway, 50) == []


def test_answers_meant_for_an_earlier_gateway_are_ignored(gateway: GatewayCore) -> None:
    """Sequences begin anew with each life; a replay speaks of another's batch."""
    ask(gateway, 1, "Put", put())
    sequence = only_turn(gateway).sequence
    replayed = applied(sequence, 0).model_copy(update={"incarnation": Incarnation(3)})
    tell(gateway, "applier", replayed)
    assert gateway.answers == []
    assert gateway.applied == 9
    tell(gateway, "applier", applied(sequence, 0))
    assert gateway.answers == [(1, 0, b"response")]


def test_a_slow_read_index_is_counted(gateway: GatewayCore) -> None:
    """Operators see reads that waited more than half a second for their index."""
    ask(gateway, 1, "Range", get())
    sequence = only_turn(gateway).sequence
    tell(gateway, "applier", served(sequence, (0, 0, b"late")), 700)
    assert gateway.metrics.counters["etcd_server_slow_read_indexes_total"] == 1


def test_linearizable_member_lists_wait_for_a_barrier_and_local_ones_do_not(gateway: GatewayCore) -> None:
    """Both name the members; the header has no revision (rule 3)."""
    members = method("MemberList", "Cluster")
    gateway.submit(1, members, rpc.MemberListRequest().SerializeToString(), Millis(0), None)
    ((_, code, body),) = gateway.answers
    listed = rpc.MemberListResponse.FromString(body)
    assert (code, [member.ID for member in listed.members]) == (0, [ME, OTHER])
    assert (listed.header.cluster_id, listed.header.member_id, listed.header.revision) == (1, ME, 0)
    gateway.answers.clear()
    gateway.submit(2, members, rpc.MemberListRequest(linearizable=True).SerializeToString(), Millis(0), None)
    assert gateway.answers == []
    barrier = only_turn(gateway)
    assert isinstance(barrier, local.RequestReads)
    assert [command.kind for command in decode_batch(barrier.payload).commands] == [ReadKind.BARRIER]
    tell(gateway, "applier", served(barrier.sequence, (0, 0, b"")))
    assert gateway.answers == []
    (asked,) = gateway.end_turn(Millis(0))
    gateway.check_invariants()
    assert isinstance(asked, Send)
    assert isinstance(asked.message, local.ListMembers)
    answered = local.MembersAnswered(sequence=asked.message.sequence, code=0, members=MEMBERS)
    tell(gateway, "raft", answered)
    assert gateway.answers == [(2, 0, body)]


def test_a_gateway_that_has_heard_of_no_members_does_not_say_that_there_are_none() -> None:
    """Just started, it waits for raft instead of showing an empty cluster."""
    gateway = make_core()
    gateway.submit(1, method("MemberList", "Cluster"), b"", Millis(0), None)
    assert gateway.answers == []
    lead(gateway, 1)
    tell(gateway, "applier", served(only_turn(gateway).sequence, (0, 0, b"")))
    (asked,) = gateway.end_turn(Millis(0))
    assert isinstance(asked, Send)
    assert isinstance(asked.message, local.ListMembers)
    tell(gateway, "raft", local.MembersAnswered(sequence=asked.message.sequence, code=0, members=MEMBERS))
    ((_, _, body),) = gateway.answers
    assert len(rpc.MemberListResponse.FromString(body).members) == 2


def test_status_is_local_and_says_who_leads(gateway: GatewayCore) -> None:
    """The applier's part is kept, leader and term of now are appended, and without a leader the error is named."""
    status = method("Status", "Maintenance")
    for call_id, leader in ((1, OTHER), (2, 0)):
        gateway.submit(call_id, status, b"", Millis(0), None)
        read = only_turn(gateway)
        assert isinstance(read, local.ServeReads)
        lead(gateway, 5, leader)
        body = rpc.StatusResponse(version="3", raftTerm=1).SerializeToString()
        tell(gateway, "applier", served(read.sequence, (0, 0, body)))
    with_leader, without = (rpc.StatusResponse.FromString(body) for _, _, body in gateway.answers)
    assert (with_leader.version, with_leader.leader, with_leader.raftTerm) == ("3", OTHER, 5)
    assert list(with_leader.errors) == []
    assert list(without.errors) == ["etcdserver: no leader"]


def test_a_failed_status_is_passed_on_as_it_is(gateway: GatewayCore) -> None:
    """Nothing is appended to an error."""
    gateway.submit(1, method("Status", "Maintenance"), b"", Millis(0), None)
    tell(gateway, "applier", served(only_turn(gateway).sequence, (0, ErrorCode.UNHEALTHY, b"")))
    assert gateway.answers == [(1, ErrorCode.UNHEALTHY, b"")]


def test_nothing_is_asked_for_at_the_start() -> None:
    """Raft and applier say by themselves where they stand; nothing is due but the first comparison of stores."""
    gateway = make_core()
    assert gateway.start(Millis(0)) == []
    assert gateway.deadline == gateway.config.storage.integrity_check_interval_ms
    assert gateway.handle(local.Beat(), Source("raft"), Millis(0)) == []
