"""Wishes to change the membership: etcd's rules, promises of a vote, and answers that come once."""

import pytest

from protocol.config import RaftConfig
from protocol.errors import ErrorCode, PeerFault
from protocol.membership import ChangeKind, MemberChange
from protocol.peer import ConfirmMembership, ForwardMemberChange, ForwardMemberChangeReply, Heartbeat
from protocol.types import Index, MemberId, Millis, Term
from raft import election
from raft.configuration import Configuration
from raft.member_changes import Answer
from raft.transitions import Role
from sim.core_cluster import CoreCluster, Wire

N4, N5, N6 = MemberId(4), MemberId(5), MemberId(6)


class Members:
    """A cluster of cores whose members are asked to change the membership."""

    def __init__(self, size: int = 3, **config: object) -> None:
        self.cluster = CoreCluster(size, config=RaftConfig.model_validate({"commit_news_delay_ms": 0, **config}))
        self.cluster.elect(1)
        self.cluster.advance(500)
        self.sequence = 0

    def wish(self, change: MemberChange, at: int = 1) -> None:
        """Ask member `at`, and let nothing happen yet."""
        self.sequence += 1
        core = self.cluster.core(at)
        core.ask_change(self.sequence, change, self.cluster.now)
        self.cluster[at].turn()

    def ask(self, change: MemberChange, at: int = 1, within_ms: int = 500) -> ErrorCode:
        """Ask member `at`; return what it is answered."""
        self.wish(change, at)
        self.cluster.advance(within_ms)
        (answer,) = self.answers(at)
        assert answer.sequence == self.sequence
        return answer.code

    def answers(self, at: int = 1) -> list[Answer]:
        """What member `at` was answered since the last look."""
        return self.cluster.core(at).changes.take_answers()

    def configuration(self, at: int = 1) -> Configuration:
        """What member `at` goes by."""
        return self.cluster.core(at).configuration

    def name(self, number: int) -> ErrorCode:
        """Have a member tell its name, as every node does that starts."""
        return self.ask(
            MemberChange(ChangeKind.PUBLISH, MemberId(number), name=f"n{number}", client_urls=("http://c",))
        )

    def grow(self, number: int) -> None:
        """Add a voter that starts, catches up and tells its name."""
        assert self.ask(add(number)) is ErrorCode.OK
        self.cluster.add_member(number)
        self.cluster.advance(1000)
        assert self.name(number) is ErrorCode.OK


def add(number: int, *, learner: bool = False, url: str = "") -> MemberChange:
    """The wish to add member `number`."""
    return MemberChange(ChangeKind.ADD, MemberId(number), (url or f"http://n{number}:2380",), learner)


def remove(number: int) -> MemberChange:
    """The wish to remove member `number`."""
    return MemberChange(ChangeKind.REMOVE, MemberId(number))


def promote(number: int) -> MemberChange:
    """The wish to promote member `number`."""
    return MemberChange(ChangeKind.PROMOTE, MemberId(number))


@pytest.fixture
def members() -> Members:
    """Three members; the invariants of every core are checked after every turn."""
    return Members()


def test_a_voter_that_is_not_there_yet_costs_no_quorum_and_votes_once_it_has_caught_up(members: Members) -> None:
    """It is shown as a voter from the start, and gets its vote from the leader without being asked for."""
    assert members.ask(add(4)) is ErrorCode.OK
    view = members.configuration().views()[-1]
    assert (view.member, view.name, view.is_learner) == (N4, "", False)
    assert members.configuration().voters == (1, 2, 3)
    members.cluster.crash(2)
    members.cluster.propose(1, b"x")
    members.cluster.advance(300)
    assert members.cluster.commands(1) == [b"x"], "two of three are a quorum still"

    members.cluster.restart(2)
    members.cluster.add_member(4)
    members.cluster.advance(1500)
    assert members.configuration().voters == (1, 2, 3, 4)
    assert not members.configuration().members[N4].promised
    assert members.cluster.commands(4) == [b"x"]


def test_any_member_may_be_asked_and_is_answered_when_it_is_done(members: Members) -> None:
    """The answer carries the members as they are from then on."""
    members.wish(add(4), at=3)
    members.cluster.advance(500)
    (answer,) = members.answers(3)
    assert answer.code is ErrorCode.OK
    assert [view.member for view in answer.members] == [1, 2, 3, 4]
    members.wish(remove(2), at=3)
    members.cluster.advance(500)
    (answer,) = members.answers(3)
    assert (answer.code, [view.member for view in answer.members]) == (ErrorCode.OK, [1, 3, 4])
    assert members.configuration(3).removed == (2,)


def test_a_question_that_is_put_twice_is_decided_once(members: Members) -> None:
    """Copies and repetitions get the first answer."""
    change = add(4)
    question = ForwardMemberChange(term=members.cluster.core(1).term, context=9, change=change)
    said: list[ForwardMemberChangeReply] = []
    members.cluster.on_put = lambda wire: (
        said.append(wire.message) if isinstance(wire.message, ForwardMemberChangeReply) else None
    )
    for _ in range(2):
        members.cluster.step(members.cluster[1], MemberId(2), question)
    members.cluster.advance(500)
    members.cluster.step(members.cluster[1], MemberId(2), question)
    assert [reply.code for reply in said] == [ErrorCode.OK, ErrorCode.OK]
    assert members.configuration().members[N4].peer_urls == ("http://n4:2380",)
    unknown = ForwardMemberChange(term=question.term, context=10, change=change._replace(kind=77))
    with pytest.raises(PeerFault, match="change 77"):
        members.cluster.step(members.cluster[1], MemberId(2), unknown)


def test_a_question_of_another_term_is_not_answered(members: Members) -> None:
    """Only the leader of the term it was sent in knows whether it was decided."""
    question = ForwardMemberChange(term=members.cluster.core(1).term, context=9, change=add(4))
    members.cluster.elect(2)
    members.cluster.elect(1)
    members.cluster.step(members.cluster[1], MemberId(2), question)
    members.cluster.advance(300)
    assert members.configuration().everyone() == (1, 2, 3)


def test_a_leader_that_leads_again_is_not_asked_again(members: Members) -> None:
    """It may have made the change in its former term, of which it remembers nothing."""
    cluster = members.cluster
    members.wish(add(4), at=3)
    cluster.isolate(3)
    later = Heartbeat(term=Term(cluster.core(3).term + 1), commit=Index(0), round=0)
    cluster.step(cluster[3], MemberId(1), later)
    asked: list[object] = []
    cluster.on_put = lambda wire: asked.append(wire.message) if isinstance(wire.message, ForwardMemberChange) else None
    cluster.heal()
    while cluster.core(3).changes.asked:
        cluster.now = Millis(cluster.now + 50)
        cluster.core(3).election_due = Millis(cluster.now + 1000)
        cluster.core(3).tick(cluster.now)
        cluster[3].turn()
    (answer,) = members.answers(3)
    assert (answer.code, asked) == (ErrorCode.LEADER_CHANGED, [])


def test_a_lost_question_is_put_again(members: Members) -> None:
    """The wish reaches the leader as soon as the network does."""
    members.wish(add(4), at=2)
    members.cluster.wire.clear()
    members.cluster.advance(1500)
    assert [answer.code for answer in members.answers(2)] == [ErrorCode.OK]


def test_wishes_of_a_leader_that_is_lost_have_an_unknown_outcome(members: Members) -> None:
    """Whoever asked hears that the leader changed, not that nothing was done."""
    members.cluster.isolate(1)
    members.wish(add(4), at=1)
    members.cluster.advance(5000)
    assert [answer.code for answer in members.answers(1)] == [ErrorCode.LEADER_CHANGED]


def test_without_a_leader_nothing_is_done(members: Members) -> None:
    """NO_LEADER promises that it was not."""
    members.cluster.isolate(1, 2)
    members.cluster.isolate(1)
    members.cluster.advance(5000)
    members.wish(add(4), at=3)
    assert [answer.code for answer in members.answers(3)] == [ErrorCode.NO_LEADER]


def test_changes_wait_for_one_another(members: Members) -> None:
    """Two wishes at once are both carried out, in order."""
    members.wish(add(4, learner=True), at=2)
    members.wish(MemberChange(ChangeKind.UPDATE, MemberId(3), ("http://elsewhere:1",)), at=1)
    members.cluster.advance(1000)
    assert [answer.code for answer in (*members.answers(1), *members.answers(2))] == [ErrorCode.OK] * 2
    assert members.configuration().learners == (4,)
    assert members.configuration().members[MemberId(3)].peer_urls == ("http://elsewhere:1",)


def test_what_is_known_already_is_refused(members: Members) -> None:
    """Ids, addresses and the number of learners."""
    assert members.ask(add(2, url="http://new:1")) is ErrorCode.MEMBER_EXISTS
    assert members.ask(add(4, url="http://n2:2380")) is ErrorCode.PEER_URL_EXISTS
    assert members.ask(add(4, learner=True)) is ErrorCode.OK
    assert members.ask(add(5, learner=True)) is ErrorCode.TOO_MANY_LEARNERS
    taken = MemberChange(ChangeKind.UPDATE, MemberId(3), ("http://n2:2380",))
    assert members.ask(taken) is ErrorCode.PEER_URL_EXISTS
    assert members.ask(taken._replace(peer_urls=("http://n3:2380",))) is ErrorCode.OK, "its own are not taken"
    for change in (remove(9), promote(9), MemberChange(ChangeKind.UPDATE, MemberId(9), ("http://n9:1",))):
        assert members.ask(change) is ErrorCode.MEMBER_NOT_FOUND


def test_a_removed_member_never_comes_back(members: Members) -> None:
    """Its id is refused for ever, as one that is not found."""
    assert members.ask(remove(3)) is ErrorCode.OK
    assert members.ask(remove(3)) is ErrorCode.MEMBER_NOT_FOUND
    assert members.ask(add(3)) is ErrorCode.MEMBER_NOT_FOUND


def test_a_learner_that_nobody_feeds_asks_whether_it_belongs(members: Members) -> None:
    """It may not stand for election, so that it would hear of its removal from nobody; who belongs need not ask."""
    assert members.ask(add(4, learner=True)) is ErrorCode.OK
    members.cluster.add_member(4)
    asked: list[int] = []
    members.cluster.on_put = lambda wire: asked.append(wire.to) if isinstance(wire.message, ConfirmMembership) else None
    members.cluster.advance(20_000)
    assert asked == []
    assert members.ask(remove(4)) is ErrorCode.OK
    members.cluster.advance(20_000)
    assert set(asked) == {1, 2, 3}
    assert len(asked) <= 3 * 20, "once an election timeout"


def test_a_voter_that_nobody_votes_for_asks_whether_it_belongs_and_says_where_it_is(members: Members) -> None:
    """It may have been removed, by members that have forgotten its address and refuse it in silence."""
    asked: list[ConfirmMembership] = []

    def note(wire: Wire) -> None:
        if isinstance(wire.message, ConfirmMembership):
            asked.append(wire.message)

    members.cluster.on_put = note
    members.cluster.advance(20_000)
    assert asked == [], "who is fed does not ask"
    own = members.configuration().members[MemberId(3)].peer_urls
    for other in (1, 2):
        members.cluster[other].crash()
    members.cluster.advance(20_000)
    assert {each.peer_urls for each in asked} == {own}
    assert 2 <= len(asked) <= 2 * 20, "each voter once an election timeout"


def test_who_has_its_own_removal_in_its_log_still_says_where_it_is(members: Members) -> None:
    """It began the change, and does not know whether the others have committed its end."""
    core = members.cluster.core(3)
    before = members.configuration(3)
    table = {member: record for member, record in before.members.items() if member != MemberId(3)}
    without = Configuration((MemberId(1), MemberId(2)), members=table, removed=(MemberId(3),))
    core.configurations.append((Index(core.log.last.index + 1), without))
    election._confirm_membership(core)
    asked = [(outbound.to, outbound.message.peer_urls) for outbound in core.outbox]  # type: ignore[attr-defined]
    own = before.members[MemberId(3)].peer_urls
    assert asked == [(1, own), (2, own)]


def test_only_a_learner_in_sync_is_promoted(members: Members) -> None:
    """The three refusals that etcd has, and then the vote."""
    assert members.ask(add(4, learner=True)) is ErrorCode.OK
    assert members.ask(promote(4)) is ErrorCode.LEARNER_NOT_READY
    assert members.ask(promote(2)) is ErrorCode.MEMBER_NOT_LEARNER
    members.cluster.add_member(4)
    members.cluster.advance(1000)
    assert members.configuration().voters == (1, 2, 3), "a learner waits to be promoted"
    assert members.ask(promote(4), at=2) is ErrorCode.OK
    assert members.configuration().voters == (1, 2, 3, 4)


def test_a_voter_is_added_only_while_enough_are_started() -> None:
    """From one to two always; then the quorum of the new size must have told their names."""
    members = Members(1)
    assert members.ask(add(2)) is ErrorCode.OK
    assert members.ask(add(3)) is ErrorCode.NOT_ENOUGH_STARTED_MEMBERS
    assert members.ask(add(3, learner=True)) is ErrorCode.UNHEALTHY
    members.cluster.add_member(2)
    members.cluster.advance(1000)
    assert members.ask(add(3)) is ErrorCode.NOT_ENOUGH_STARTED_MEMBERS, "it runs, but has not told its name"
    assert members.name(2) is ErrorCode.OK
    assert members.ask(add(3)) is ErrorCode.OK


def test_a_voter_is_removed_only_while_enough_are_left(members: Members) -> None:
    """Who is down may go; who is up only while a quorum stays up."""
    members.cluster.crash(3)
    members.cluster.advance(1500)
    assert members.ask(add(4)) is ErrorCode.UNHEALTHY
    assert members.ask(remove(2)) is ErrorCode.UNHEALTHY
    assert members.ask(remove(3)) is ErrorCode.OK
    assert members.ask(remove(2)) is ErrorCode.OK
    assert members.ask(remove(1)) is ErrorCode.NOT_ENOUGH_STARTED_MEMBERS, "the last one stays"


def test_without_the_strict_checks_a_dying_cluster_can_still_be_changed() -> None:
    """But the last member that votes is never given away."""
    members = Members(3, strict_reconfig_check=False)
    members.cluster.crash(3)
    members.cluster.advance(1500)
    assert members.ask(add(4)) is ErrorCode.OK
    assert members.ask(add(5)) is ErrorCode.OK
    for number in (4, 5, 3, 2):
        assert members.ask(remove(number)) is ErrorCode.OK
    assert members.ask(remove(1)) is ErrorCode.NOT_ENOUGH_STARTED_MEMBERS


def test_a_cluster_grows_from_one_to_five_and_back_with_its_leaders_removed() -> None:
    """Each leader that is removed answers first and then leaves its office."""
    members = Members(1)
    for number in range(2, 6):
        members.grow(number)
    assert members.configuration().voters == (1, 2, 3, 4, 5)
    for left in range(4, 0, -1):
        leader = members.cluster.leader
        asked_at = min(each for each in leader.core.configuration.voters if each != leader.member)
        assert members.ask(remove(leader.member), at=asked_at, within_ms=50) is ErrorCode.OK
        members.cluster.advance(200)
        assert leader.core.role is Role.FOLLOWER
        members.cluster.crash(leader.member)
        members.cluster.advance(5000)
        assert len(members.cluster.leader.core.configuration.voters) == left


def test_a_name_is_published_once_however_often_it_is_told(members: Members) -> None:
    """What the table says already makes no entry."""
    assert members.ask(add(4, learner=True)) is ErrorCode.OK
    assert members.name(4) is ErrorCode.OK
    before = members.cluster.core(1).log.last.index
    assert members.name(4) is ErrorCode.OK
    assert members.cluster.core(1).log.last.index == before
    assert members.configuration().members[N4].name == "n4"


def test_a_leader_that_was_deposed_without_knowing_answers_no_update_that_changes_nothing(members: Members) -> None:
    """Its answer would list members that others have changed since."""
    own = members.configuration().members[MemberId(2)].peer_urls
    members.cluster.cut_off |= {frozenset((MemberId(1), MemberId(other))) for other in (2, 3)}
    members.wish(MemberChange(ChangeKind.UPDATE, MemberId(2), own))
    members.cluster.advance(200)
    assert members.answers() == []
    members.cluster.cut_off.clear()
    members.cluster.advance(5000)
    (answer,) = members.answers()
    assert answer.code in (ErrorCode.OK, ErrorCode.LEADER_CHANGED)


def test_configurations_of_the_first_format_are_still_read() -> None:
    """A log written before anybody could be removed keeps its meaning."""
    import msgpack

    old = msgpack.packb((1, (1, 2), (), (), (), False, [(1, "a", ("u",), ("c",), 7), (2, "b", ("v",), (), 0)]))
    configuration = Configuration.decode(old)
    assert configuration.voters == (1, 2)
    assert (configuration.members[MemberId(1)].store, configuration.members[MemberId(1)].promised) == (7, False)
    assert Configuration.decode(configuration.encode()) == configuration
