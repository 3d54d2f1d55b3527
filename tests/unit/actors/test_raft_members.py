"""The raft actor and the member table: requests of the gateway, and what a node says of itself."""

import random

from test_raft_actor import N2, N3, STORES, Desk

from actors.effects import KnowPeers
from actors.raft import RaftActor
from protocol import local, peer
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.membership import ChangeKind, MemberChange
from protocol.types import ClusterId, Entry, EntryKind, Incarnation, Index, LogPosition, MemberId, StoreId, Term
from raft.configuration import Configuration, MemberRecord

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


def changed_to(*numbers: int, removed: tuple[int, ...] = (), stores: dict[int, int] | None = None) -> Configuration:
    """A configuration with these voters."""
    members = {
        MemberId(each): MemberRecord(
            f"n{each}", (f"http://m{each}:1",), (f"http://c{each}:1",), StoreId((stores or {}).get(each, 0))
        )
        for each in numbers
    }
    voters = tuple(MemberId(each) for each in numbers)
    return Configuration(voters, members=members, removed=tuple(MemberId(each) for each in removed))


def opened_with(configuration: Configuration, *, committed: bool = True) -> Desk:
    """Member 1, whose log ends in this configuration."""
    desk = Desk()
    entry = Entry(Term(1), Index(1), EntryKind.CONFIGURATION, configuration.encode())
    desk.open((entry,), term=Term(1), commit=Index(1 if committed else 0), applied=Index(1 if committed else 0))
    return desk


def test_links_follow_the_configuration_in_force_and_the_wal_hears_of_it_first() -> None:
    """Adopted on append: the same turn's messages already go to new members."""
    desk = opened_with(changed_to(1, 2, 5), committed=False)
    peers = {MemberId(1): "http://m1:1", MemberId(2): "http://m2:1", MemberId(5): "http://m5:1"}
    assert [effect for effect in desk.effects if isinstance(effect, KnowPeers)] == [KnowPeers(peers)]
    (told,) = desk.sent(local.PeersChanged, "wal")
    assert dict(told.peers) == peers
    plain = Desk()
    plain.open()
    assert plain.sent(local.PeersChanged) == [], "founders are known from the start"


def test_a_newcomer_is_told_who_it_is_unless_its_member_has_a_store() -> None:
    """The answer goes to the address in the table, whoever asked."""
    desk = opened_with(changed_to(1, 2, 5, stores={2: 77}))
    desk.turn(peer.JoinAsked(peer_urls=("http://nobody:1",)))
    assert desk.to_peers(peer.ClusterDescribed) == []
    desk.turn(peer.JoinAsked(peer_urls=("http://m5:1",)))
    ((to, described),) = desk.to_peers(peer.ClusterDescribed)
    assert (to, described.refusal) == (5, "")
    assert [view.member for view in described.members] == [1, 2, 5]
    desk.forget()
    desk.turn(peer.JoinAsked(peer_urls=("http://m2:1",)))
    ((to, described),) = desk.to_peers(peer.ClusterDescribed)
    assert to == N2
    assert "has had a data directory" in described.refusal


def test_a_newcomer_is_not_told_of_a_member_that_may_be_rolled_back() -> None:
    """It would be that member for ever, on its disk, and nobody in the table."""
    desk = opened_with(changed_to(1, 2, 5), committed=False)
    desk.turn(peer.JoinAsked(peer_urls=("http://m5:1",)))
    assert desk.to_peers(peer.ClusterDescribed) == []


def test_a_leader_tells_members_that_it_does_not_hear_where_everybody_is() -> None:
    """Not at once after its election, and not those that answer."""
    desk = Desk()
    desk.open()
    desk.lead()
    desk.persist()
    desk.forget()
    core = desk.actor.core
    assert core is not None
    until = desk.now + 3 * desk.config.election_timeout_ms
    while desk.now < until:
        desk.wait()
        desk.acknowledge_all(N2)
    described = desk.to_peers(peer.ClusterDescribed)
    assert {to for to, _ in described} == {N3}
    assert 2 <= len(described) <= 3, "once an election timeout"
    assert [view.member for view in described[0][1].members] == [1, 2, 3]


def test_a_member_reaches_others_where_the_leader_says_until_its_log_says_later() -> None:
    """A joiner without a log, or one that was away while all others changed, would answer where nobody is."""
    desk = Desk()
    desk.open()
    seven = MemberId(7)
    desk.turn(peer.Heartbeat(term=Term(2), commit=Index(0), round=0), sender=seven, store=StoreId(0))
    views = changed_to(1, 2, 7).views()
    desk.forget()
    desk.turn(peer.ClusterDescribed(members=views, refusal=""), sender=N3)
    assert not [effect for effect in desk.effects if isinstance(effect, KnowPeers)], "only the leader knows"
    desk.turn(peer.ClusterDescribed(members=views, refusal=""), sender=seven, store=StoreId(0))
    (known,) = [effect for effect in desk.effects if isinstance(effect, KnowPeers)]
    assert known.peers[seven] == "http://m7:1"
    assert known.peers[N2] == "http://m2:1"
    assert dict(desk.sent(local.PeersChanged, "wal")[0].peers) == known.peers
    core = desk.actor.core
    assert core is not None
    assert desk.actor.members.address_of(core, seven) == {"peer_url": "http://m7:1"}, "helpers go there, too"
    later = Configuration(changed_to(1, 2).voters, members=changed_to(1, 2).members)
    moved = later.with_member(N2, later.members[N2]._replace(peer_urls=("http://moved:1",)))
    entry = Entry(Term(2), Index(1), EntryKind.CONFIGURATION, moved.encode())
    append = peer.AppendEntries(
        term=Term(2), previous=LogPosition(Term(0), Index(0)), entries=(entry,), commit=Index(0), quiet=False
    )
    desk.turn(append, sender=seven, store=StoreId(0))
    assert desk.actor.members.address_of(core, N2) == {"peer_url": "http://moved:1"}
    assert desk.actor.members.address_of(core, seven) == {"peer_url": "http://m7:1"}


def test_a_removed_member_is_not_heard_and_is_told_so() -> None:
    """Not at once again, and only when its removal is committed: until then it may be needed."""
    for committed in (True, False):
        desk = opened_with(changed_to(1, 2, removed=(3,)), committed=committed)
        for _ in range(2):
            desk.turn(peer.Heartbeat(term=Term(9), commit=Index(0), round=0), sender=N3)
        core = desk.actor.core
        assert core is not None
        refusals = desk.to_peers(peer.PeerRefused)
        if committed:
            assert core.term == 1
            assert [(to, refused.removed) for to, refused in refusals] == [(N3, True)]
        else:
            assert (core.term, refusals) == (9, [])


def test_who_asks_whether_it_belongs_is_told_that_it_does_not() -> None:
    """The question says nothing to the consensus, and only who was removed is answered."""
    desk = opened_with(changed_to(1, 2, removed=(3,)))
    for sender in (N2, N3):
        desk.turn(peer.ConfirmMembership(term=Term(9)), sender=sender)
    assert desk.actor.core is not None
    assert desk.actor.core.term == 1
    assert [(to, refused.removed) for to, refused in desk.to_peers(peer.PeerRefused)] == [(N3, True)]


def test_who_asks_whether_it_belongs_is_told_where_it_says_it_is() -> None:
    """An actor that was started after the removal knows no address of a former member; members stay where they are."""
    desk = opened_with(changed_to(1, 2, removed=(9,)))
    desk.forget()
    desk.turn(peer.ConfirmMembership(term=Term(9), peer_urls=("http://m9:1",)), sender=MemberId(9))
    (known,) = [effect for effect in desk.effects if isinstance(effect, KnowPeers)]
    assert known == KnowPeers({MemberId(1): "http://m1:1", MemberId(2): "http://m2:1", MemberId(9): "http://m9:1"})
    assert [(to, refused.removed) for to, refused in desk.to_peers(peer.PeerRefused)] == [(9, True)]


def test_a_member_that_was_removed_stops_in_good_order() -> None:
    """By its own log or by another's word; after an election timeout, in which it can still answer."""
    desk = opened_with(changed_to(2, 3, removed=(1,)))
    assert desk.halts() == []
    for _ in range(10):
        if not desk.halts():
            desk.wait()
    (halt,) = desk.halts()
    assert (halt.failed, halt.fatal) == (False, True)
    assert "was removed from the cluster" in halt.reason

    desk = Desk()
    desk.open()
    desk.turn(peer.PeerRefused(reason="something else"), sender=N2)
    desk.turn(peer.PeerRefused(reason="removed", removed=True), sender=N2)
    began = desk.now
    for _ in range(10):
        if not desk.halts():
            desk.wait()
    assert desk.halts()[0].fatal
    assert desk.now - began == desk.config.election_timeout_ms
