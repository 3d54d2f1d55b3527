"""The raft actor and the member table: requests of the gateway, and what a node says of itself."""

import random

from test_raft_actor import N2, N3, STORES, Desk

from actors.raft import RaftActor
from protocol import local, peer
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.membership import ChangeKind, MemberChange
from protocol.types import ClusterId, Incarnation, MemberId

ADD = MemberChange(ChangeKind.ADD, MemberId(9), ("http://n9:2380",))


def test_a_change_is_answered_once_it_is_committed_and_lists_show_it_from_then_on() -> None:
    """What is only in the log may be rolled back: no client sees it."""
    desk = Desk()
    desk.open()
    desk.turn(local.ChangeMembers(sequence=1, change=ADD))
    (refused,) = desk.sent(local.MembersAnswered)
    assert refused.code == ErrorCode.NO_LEADER
    desk.lead()
    for member in (N2, N3):
        assert desk.actor.core is not None
        desk.turn(peer.HeartbeatReply(term=desk.actor.core.term, round=0), sender=member)
        desk.persist()
        desk.acknowledge_all()
    desk.forget()
    desk.turn(local.ChangeMembers(sequence=2, change=ADD), local.ListMembers(sequence=3))
    (listed,) = desk.sent(local.MembersAnswered)
    assert (listed.sequence, len(listed.members)) == (3, 3)
    assert desk.sent(local.LeadershipChanged) == []
    desk.persist()
    desk.acknowledge_all(N2, N3)
    answered = desk.sent(local.MembersAnswered)[-1]
    assert (answered.sequence, answered.code) == (2, ErrorCode.OK)
    assert [view.member for view in answered.members] == [1, 2, 3, 9]
    assert desk.sent(local.LeadershipChanged)[-1].members == answered.members


def test_a_node_that_is_not_open_yet_answers_that_nobody_leads() -> None:
    """So the gateway asks again."""
    desk = Desk()
    desk.turn(local.ChangeMembers(sequence=1, change=ADD), local.ListMembers(sequence=2))
    assert [(told.sequence, told.code) for told in desk.sent(local.MembersAnswered)] == [
        (1, ErrorCode.NO_LEADER),
        (2, ErrorCode.NO_LEADER),
    ]


def test_a_node_publishes_what_the_table_does_not_say_until_it_does() -> None:
    """Its name and client URLs go to whoever leads; a refusal is followed by another try."""
    desk = Desk()
    identity = NodeIdentity(
        ClusterId(9), MemberId(1), "renamed", STORES[MemberId(1)], Incarnation(4), desk.founders, ("http://c:1",)
    )
    desk.actor = RaftActor(identity, desk.config, random.Random(1))
    desk.open()
    desk.follow()
    ((to, question),) = desk.to_peers(peer.ForwardMemberChange)
    assert to == N2
    assert question.change == MemberChange(ChangeKind.PUBLISH, MemberId(1), name="renamed", client_urls=("http://c:1",))
    desk.forget()
    reply = peer.ForwardMemberChangeReply(
        term=question.term, context=question.context, code=ErrorCode.TOO_MANY_REQUESTS, members=()
    )
    desk.turn(reply, sender=N2)
    assert desk.sent(local.MembersAnswered) == [], "the gateway did not ask"
    for _ in range(20):
        if desk.to_peers(peer.ForwardMemberChange):
            break
        desk.turn(peer.Heartbeat(term=question.term, commit=0, round=0), sender=N2)
        desk.wait()
    ((_, again),) = desk.to_peers(peer.ForwardMemberChange)
    assert (again.change, again.context) == (question.change, question.context + 1)
