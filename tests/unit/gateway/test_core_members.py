"""Calls about members at the gateway: what goes to raft, what comes back, and what a learner refuses."""

from collections.abc import Iterator

import pytest
from core_parts import LIFE, ME, MEMBERS, OTHER, ask, get, lead, make_core, method, progress, put, tell, view
from google.protobuf.message import Message

from actors.actor import Source
from actors.effects import Send
from gateway.core import GatewayCore
from gateway.methods import STREAM_METHODS
from gateway.streams import StreamHead
from protocol import local
from protocol.config import member_id_of
from protocol.errors import ErrorCode
from protocol.membership import ChangeKind
from protocol.types import Incarnation, MemberId, Millis, Term
from protocol.wire import rpc_pb2 as rpc

NEW = view(MemberId(9), "")._replace(peer_urls=("http://127.0.0.1:5",))


@pytest.fixture
def gateway() -> Iterator[GatewayCore]:
    """A gateway with a leader; its invariants hold when the test ends."""
    made = make_core()
    lead(made, 1)
    made.members.calls.unix_s = lambda: 1234
    yield made
    made.check_invariants()


def submit(gateway: GatewayCore, call_id: int, name: str, request: Message, now: int = 0) -> None:
    """Ask something of the Cluster service, or of Maintenance."""
    service = "Maintenance" if name == "MoveLeader" else "Cluster"
    body = request.SerializeToString()
    gateway.submit(call_id, method(name, service), body, Millis(now), None)


def to_raft(gateway: GatewayCore, now: int = 0) -> list[local.ChangeMembers | local.TransferLeadership]:
    """End a turn; return what raft is asked."""
    found = []
    for effect in gateway.end_turn(Millis(now)):
        assert isinstance(effect, Send)
        assert effect.to == "raft"
        assert isinstance(effect.message, local.ChangeMembers | local.TransferLeadership)
        found.append(effect.message)
    gateway.check_invariants()
    return found


def test_a_new_member_gets_its_id_before_it_is_proposed(gateway: GatewayCore) -> None:
    """The id is made of sorted URLs and the second, as etcd makes it; the answer shows the member and all of them."""
    submit(gateway, 1, "MemberAdd", rpc.MemberAddRequest(peerURLs=["http://b:2", "http://a:1"], isLearner=True))
    (asked,) = to_raft(gateway)
    assert isinstance(asked, local.ChangeMembers)
    expected = member_id_of(["http://a:1", "http://b:2"], "1234")
    assert asked.change == (ChangeKind.ADD, expected, ("http://a:1", "http://b:2"), True, "", ())
    added = view(expected, "")
    answered = local.MembersAnswered(sequence=asked.sequence, code=0, members=(*MEMBERS, added))
    tell(gateway, "raft", answered)
    ((_, code, body),) = gateway.answers
    response = rpc.MemberAddResponse.FromString(bytes(body))  # type: ignore[arg-type]
    assert (code, response.member.ID, len(response.members)) == (0, expected, 3)
    assert (response.header.member_id, response.header.raft_term, response.header.revision) == (ME, 1, 0)


@pytest.mark.parametrize("name", ["MemberAdd", "MemberUpdate"])
def test_bad_urls_are_refused_at_the_door(gateway: GatewayCore, name: str) -> None:
    """Nobody else is asked."""
    request = rpc.MemberAddRequest if name == "MemberAdd" else rpc.MemberUpdateRequest
    submit(gateway, 1, name, request(peerURLs=["a:1"]))
    assert gateway.answers == [(1, ErrorCode.MEMBER_BAD_URLS, b"")]


def test_refusals_of_raft_are_passed_on_and_what_was_not_done_is_asked_again(gateway: GatewayCore) -> None:
    """NO_LEADER is a promise that nothing happened; anything else is an answer."""
    submit(gateway, 1, "MemberRemove", rpc.MemberRemoveRequest(ID=5))
    (first,) = to_raft(gateway)
    tell(gateway, "raft", local.MembersAnswered(sequence=first.sequence, code=ErrorCode.NO_LEADER, members=()))
    assert to_raft(gateway, 5) == []
    gateway.wake(Millis(30))
    (second,) = to_raft(gateway, 30)
    assert second.sequence != first.sequence
    tell(gateway, "raft", local.MembersAnswered(sequence=second.sequence, code=ErrorCode.MEMBER_NOT_FOUND, members=()))
    assert gateway.answers == [(1, ErrorCode.MEMBER_NOT_FOUND, b"")]


def test_a_change_that_was_under_way_when_raft_died_has_an_unknown_outcome(gateway: GatewayCore) -> None:
    """It is not asked again: the leader may have done it."""
    submit(gateway, 1, "MemberPromote", rpc.MemberPromoteRequest(ID=5))
    assert len(to_raft(gateway)) == 1
    gateway.handle(local.ActorStarted(actor="raft", incarnation=Incarnation(8)), Source("supervisor"), Millis(1))
    assert gateway.answers == [(1, ErrorCode.TIMEOUT_CONNECTION_LOST, b"")]
    lead(gateway, 2)
    assert to_raft(gateway) == []


def test_leadership_is_moved_by_the_leader_alone(gateway: GatewayCore) -> None:
    """Elsewhere it is refused; a transfer that takes too long has a text of its own; success has no header."""
    for outcome, told in ((0, 0), (ErrorCode.TIMEOUT, ErrorCode.TIMEOUT_LEADER_TRANSFER), (26, 26)):
        submit(gateway, 1, "MoveLeader", rpc.MoveLeaderRequest(targetID=OTHER))
        (asked,) = to_raft(gateway)
        assert isinstance(asked, local.TransferLeadership)
        assert asked.target == OTHER
        tell(gateway, "raft", local.LeadershipTransferEnded(sequence=asked.sequence, code=outcome))
        assert gateway.answers == [(1, told, b"")]
        gateway.answers.clear()
    lead(gateway, 2, leader=OTHER)
    submit(gateway, 2, "MoveLeader", rpc.MoveLeaderRequest(targetID=ME))
    assert gateway.answers == [(2, ErrorCode.NOT_LEADER, b"")]


def test_a_learner_serves_its_own_state_and_nothing_else(gateway: GatewayCore) -> None:
    """Serializable ranges and status; no writes, no linearizable reads, no member lists, no streams (rule 68)."""
    progress(gateway, 9)
    me = view(ME, "n")._replace(is_learner=True)
    told = local.LeadershipChanged(term=Term(1), leader=OTHER, members=(me, MEMBERS[1]))
    tell(gateway, "raft", told)
    ask(gateway, 1, "Put", put())
    ask(gateway, 2, "Range", get())
    submit(gateway, 3, "MemberList", rpc.MemberListRequest())
    ask(gateway, 4, "Txn", rpc.TxnRequest().SerializeToString())
    assert [(call_id, code) for call_id, code, _ in gateway.answers] == [
        (call_id, ErrorCode.NOT_SUPPORTED_FOR_LEARNER) for call_id in range(1, 5)
    ]
    gateway.answers.clear()
    ask(gateway, 5, "Range", get(serializable=True))
    gateway.submit(6, method("Status", "Maintenance"), b"", Millis(0), None)
    attended, effect = gateway.end_turn(Millis(0))
    assert attended == Send("raft", local.ClientsAttended())
    assert isinstance(effect, Send)
    assert isinstance(effect.message, local.ServeReads)
    results = tuple((position, 0, b"") for position in range(2))
    reads = local.ReadsServed.make(
        incarnation=LIFE, sequence=effect.message.sequence, results=results, applied=9, revision=9
    )
    tell(gateway, "applier", reads)
    status = rpc.StatusResponse.FromString(bytes(gateway.answers[-1][2]))  # type: ignore[arg-type]
    assert status.isLearner
    gateway.answers.clear()

    gateway.streams.open(7, STREAM_METHODS[b"/etcdserverpb.Watch/Watch"], StreamHead(), Millis(0))
    (stream,) = gateway.streams.dirty
    assert gateway.streams.take(stream) == ([], ErrorCode.NOT_SUPPORTED_FOR_LEARNER)
    gateway.streams.dirty.clear()
    lead(gateway, 2)
    ask(gateway, 8, "Put", put())
    assert gateway.answers == [], "promoted, it serves everything"
