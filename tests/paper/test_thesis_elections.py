"""The rules of Ongaro's thesis on terms and elections, one test each, named by section."""

import random

import pytest

from protocol.config import RaftConfig
from protocol.peer import AppendEntries, Heartbeat, HeartbeatReply, RequestVote, RequestVoteReply, TimeoutNow
from protocol.types import LOG_START, Entry, EntryKind, Index, LogPosition, MemberId, Millis, Term
from raft.transitions import Role
from sim.core_cluster import CoreCluster, CoreMember

N1, N2, N3 = MemberId(1), MemberId(2), MemberId(3)


def vote_request(term: int, *, last: LogPosition = LOG_START, pre_vote: bool = False) -> RequestVote:
    """A candidate's question."""
    return RequestVote(term=Term(term), last=last, pre_vote=pre_vote, transfer=False)


def heartbeat(term: int) -> Heartbeat:
    """A sign of life of that term's leader."""
    return Heartbeat(term=Term(term), commit=Index(0), round=0)


def persist_all(member: CoreMember) -> None:
    """Let the disk finish everything."""
    while member.persist():
        pass


def role_of(member: CoreMember) -> Role:
    """The role right now."""
    return member.core.role


def answers(cluster: CoreCluster, to: int) -> list[RequestVoteReply]:
    """Vote answers on their way to `to`."""
    return [wire.message for wire in cluster.wire if wire.to == to and isinstance(wire.message, RequestVoteReply)]


def with_log(member: CoreMember, leader: int, terms: list[int]) -> None:
    """Give a member a log of entries of these terms, as a leader of the last term would."""
    entries = tuple(Entry(Term(term), Index(at), EntryKind.COMMANDS, b"") for at, term in enumerate(terms, 1))
    message = AppendEntries(term=Term(max(terms)), previous=LOG_START, entries=entries, commit=Index(0), quiet=False)
    member.cluster.step(member, MemberId(leader), message)
    persist_all(member)
    member.cluster.wire.clear()
    member.cluster.now = Millis(member.cluster.now + 10_000)


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_higher_term_makes_a_follower(role: Role) -> None:
    """Whoever sees a higher term takes it over and becomes a follower (section 3.3)."""
    cluster = CoreCluster()
    member = cluster[1]
    if role is Role.LEADER:
        cluster.elect(1)
    elif role is Role.CANDIDATE:
        cluster.isolate(1)
        member.core.tick(member.core.election_due)
        member.core.step(
            N2, RequestVoteReply(term=Term(0), asked=Term(1), granted=True, pre_vote=True), member.core.now
        )
        cluster.now = member.core.now
        assert member.core.role is Role.CANDIDATE
    cluster.step(member, N2, heartbeat(member.core.term + 5))

    assert member.core.role is Role.FOLLOWER
    assert member.core.leader == N2


def test_message_of_an_old_term_is_refused() -> None:
    """A request with an old term changes nothing, and its sender is told the new one (section 3.3)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, heartbeat(5))
    cluster.wire.clear()
    cluster.step(member, N3, heartbeat(4))

    assert member.core.leader == N2
    assert [wire.message.term for wire in cluster.wire if wire.to == N3] == [5]


def test_starts_as_follower() -> None:
    """A server starts as a follower (section 3.4)."""
    assert CoreCluster().core(1).role is Role.FOLLOWER


def test_leader_sends_heartbeats_each_interval() -> None:
    """A leader tells every follower each heartbeat interval that it lives (section 3.4)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.advance(500)
    cluster.now = Millis(leader.core.leading.tick_due)  # type: ignore[union-attr]
    leader.core.tick(cluster.now)
    leader.turn()

    assert [wire.to for wire in cluster.wire if isinstance(wire.message, Heartbeat)] == [N2, N3]
    assert leader.core.deadline == cluster.now + cluster.config.heartbeat_interval_ms


def test_silence_starts_an_election() -> None:
    """A follower that hears nothing for its election timeout stands; its own vote goes first (section 3.4)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, heartbeat(1))
    persist_all(member)
    cluster.isolate(2)
    member.core.tick(member.core.election_due)
    cluster.now = member.core.now
    member.turn()
    persist_all(member)
    cluster.deliver_to(3)
    cluster.deliver_to(1)

    assert member.core.role is Role.CANDIDATE
    assert member.core.term == 2
    assert member.core.voted_for == N1


@pytest.mark.parametrize(
    ("size", "granted", "wins"),
    [(1, 0, True), (3, 0, False), (3, 1, True), (5, 1, False), (5, 2, True), (5, 4, True)],
)
def test_majority_elects(size: int, granted: int, wins: bool) -> None:
    """A candidate becomes leader with the votes of a majority, and not before (section 3.4)."""
    cluster = CoreCluster(size)
    member = cluster[1]
    member.core.tick(member.core.election_due)
    cluster.now = member.core.now
    member.turn()
    for pre_vote in (True, False):
        persist_all(member)
        cluster.wire.clear()
        for voter in range(2, 2 + granted):
            reply = RequestVoteReply(term=Term(0), asked=Term(1), granted=True, pre_vote=pre_vote)
            cluster.step(member, MemberId(voter), reply)
    persist_all(member)

    assert (member.core.role is Role.LEADER) == wins


def test_vote_counts_once_per_voter() -> None:
    """An answer that arrives twice is one vote (section 3.4)."""
    cluster = CoreCluster(5)
    member = cluster[1]
    member.core.tick(member.core.election_due)
    cluster.now = member.core.now
    member.turn()
    for _ in range(4):
        reply = RequestVoteReply(term=Term(0), asked=Term(1), granted=True, pre_vote=True)
        cluster.step(member, N2, reply)

    assert member.core.role is Role.PRE_CANDIDATE


def test_one_vote_per_term_first_come() -> None:
    """A server votes for one candidate a term, the first to ask; a repeat gets the same answer (section 3.4)."""
    cluster = CoreCluster()
    member = cluster[1]
    for candidate in (N2, N3, N2):
        cluster.step(member, candidate, vote_request(1))
    persist_all(member)

    assert [reply.granted for reply in answers(cluster, 3)] == [False]
    assert {reply.granted for reply in answers(cluster, 2)} == {True}


def test_candidate_follows_a_leader_of_its_term() -> None:
    """A candidate that hears the leader of its own term gives up (section 3.4)."""
    cluster = CoreCluster()
    cluster.isolate(1)
    member = cluster[1]
    member.core.tick(member.core.election_due)
    cluster.now = member.core.now
    member.turn()
    cluster.step(member, N2, RequestVoteReply(term=Term(0), asked=Term(1), granted=True, pre_vote=True))
    assert role_of(member) is Role.CANDIDATE
    cluster.step(member, N2, heartbeat(1))

    assert role_of(member) is Role.FOLLOWER
    assert member.core.leader == N2


def test_timeouts_are_randomized() -> None:
    """Election timeouts spread over one to two times the configured one (section 3.4)."""
    drawn = set()
    for seed in range(100):
        cluster = CoreCluster(seed=seed)
        member = cluster[1]
        member.core.rng = random.Random(seed)
        cluster.step(member, N2, heartbeat(1))
        cluster.step(member, N2, heartbeat(2))
        drawn.add(member.core.election_due - cluster.now)
    timeout = cluster.config.election_timeout_ms

    assert min(drawn) < 1.1 * timeout
    assert timeout <= min(drawn)
    assert max(drawn) > 1.9 * timeout
    assert max(drawn) < 2 * timeout
    assert len(drawn) > 80


@pytest.mark.parametrize(
    ("ours", "theirs", "granted"),
    [
        ([1], LogPosition(Term(1), Index(1)), True),
        ([1], LogPosition(Term(1), Index(2)), True),
        ([1], LogPosition(Term(2), Index(1)), True),
        ([1, 1], LogPosition(Term(1), Index(1)), False),
        ([2], LogPosition(Term(1), Index(9)), False),
        ([1, 2], LogPosition(Term(1), Index(3)), False),
    ],
)
@pytest.mark.parametrize("pre_vote", [True, False])
def test_voter_refuses_a_worse_log(ours: list[int], theirs: LogPosition, granted: bool, pre_vote: bool) -> None:
    """A voter refuses a candidate whose log is less up to date: last term first, then length (section 3.6.1)."""
    cluster = CoreCluster()
    member = cluster[1]
    with_log(member, 2, ours)
    cluster.step(member, N3, vote_request(9, last=theirs, pre_vote=pre_vote))
    persist_all(member)

    assert [reply.granted for reply in answers(cluster, 3)] == [granted]


def test_vote_is_on_disk_before_it_leaves() -> None:
    """Term and vote are persisted before the answer, and survive a crash (section 3.8)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, vote_request(1))
    assert not answers(cluster, 2), "the vote waits for the disk"
    persist_all(member)
    assert [reply.granted for reply in answers(cluster, 2)] == [True]

    cluster.crash(1)
    cluster.restart(1)
    cluster.wire.clear()
    cluster.step(member, N3, vote_request(1))
    persist_all(member)
    assert [reply.granted for reply in answers(cluster, 3)] == [False], "it remembers its vote"


def test_own_vote_counts_when_it_is_on_disk() -> None:
    """A candidate's vote for itself counts like any other: after its fsync (section 3.8)."""
    cluster = CoreCluster()
    member = cluster[1]
    member.core.tick(member.core.election_due)
    cluster.now = member.core.now
    member.turn()
    cluster.step(member, N2, RequestVoteReply(term=Term(0), asked=Term(1), granted=True, pre_vote=True))
    assert not [wire for wire in cluster.wire if isinstance(wire.message, RequestVote) and not wire.message.pre_vote]
    cluster.step(member, N2, RequestVoteReply(term=Term(1), asked=Term(1), granted=True, pre_vote=False))
    assert role_of(member) is Role.CANDIDATE, "one vote of a follower and one that could be forgotten"
    persist_all(member)
    assert role_of(member) is Role.LEADER


def test_leader_heard_lately_is_protected() -> None:
    """Who hears a living leader neither votes nor takes over a disturber's term (section 4.2.3)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(500)
    for member in (cluster[1], cluster[2]):
        cluster.step(member, N3, vote_request(99, last=LogPosition(Term(99), Index(99))))
        assert member.core.term == 1
        assert not answers(cluster, 3)


def test_removed_server_cannot_disturb() -> None:
    """A server cut off from heartbeats asks in vain while the others hear their leader (section 4.2.3)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(300)
    cluster.cut_off.add(frozenset((N1, N3)))
    cluster.advance(10_000)

    assert cluster.leader.member == N1
    assert {cluster.core(number).term for number in (1, 2, 3)} == {1}


def test_pre_vote_leaves_terms_alone() -> None:
    """A partitioned server does not raise its term, and does not depose the leader when it returns (section 9.6)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.isolate(3)
    cluster.advance(20_000)
    assert cluster.core(3).term == 1
    cluster.heal()
    cluster.advance(3000)

    assert cluster.leader.member == N1
    assert cluster.leader.core.term == 1


def test_leader_without_a_majority_steps_down() -> None:
    """A leader that no majority answers for an election timeout stops leading (section 6.2)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(1000)
    cluster.isolate(1)
    cluster.advance(2 * cluster.config.election_timeout_ms)

    assert cluster.core(1).role is not Role.LEADER
    assert cluster.core(1).leader != N1


def test_leader_with_a_silent_minority_goes_on() -> None:
    """One silent follower of three does not end a reign (section 6.2)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.isolate(3)
    cluster.advance(20_000)

    assert cluster.leader.member == N1
    assert cluster.leader.core.term == 1


def test_new_cluster_elects_quickly() -> None:
    """A new cluster has a leader within half an election timeout, a single server at once (sections 3.4, 6.4)."""
    for seed in range(20):
        cluster = CoreCluster(seed=seed)
        cluster.advance(500)
        assert cluster.leader.core.commit >= 1
    alone = CoreCluster(1)
    alone.settle()
    assert alone.leader.core.commit == 1
    assert alone.now == 1000


@pytest.mark.parametrize("seed", range(20))
def test_early_patience_ends_with_the_first_leader(seed: int) -> None:
    """Who stood early after the start gives the leader it then heard a whole election timeout (section 3.4)."""
    cluster = CoreCluster(seed=seed)
    member = cluster[2]
    cluster.isolate(2)
    cluster.advance(500)
    assert member.core.elections_tried > 0
    cluster.step(member, N1, heartbeat(1))
    assert member.core.election_due - cluster.now >= member.core.config.election_timeout_ms


def test_split_vote_heals() -> None:
    """Candidates that split the vote draw new timeouts and one of them wins (section 3.4)."""
    cluster = CoreCluster(4, config=RaftConfig(heartbeat_interval_ms=10, election_timeout_ms=100))
    for number in (1, 2):
        cluster.core(number).election_due = cluster.now
    cluster.core(1).tick(cluster.now)
    cluster.core(2).tick(cluster.now)
    cluster[1].turn()
    cluster[2].turn()
    cluster.advance(2000)

    assert cluster.leader.core.commit >= 1


def test_heartbeat_answers_carry_the_round() -> None:
    """A follower's answer names the round it answers (section 6.4)."""
    cluster = CoreCluster()
    cluster.step(cluster[1], N2, Heartbeat(term=Term(3), commit=Index(0), round=17))

    replies = [wire.message for wire in cluster.wire if isinstance(wire.message, HeartbeatReply)]
    assert [(reply.term, reply.round) for reply in replies] == [(3, 17)]


def test_earlier_write_does_not_make_the_own_vote_count() -> None:
    """The fsync of a write before the vote says nothing about the vote (section 3.8)."""
    cluster = CoreCluster()
    member = cluster[1]
    entries = (Entry(Term(1), Index(1), EntryKind.COMMANDS, b""),)
    cluster.step(
        member,
        N2,
        AppendEntries(term=Term(1), previous=LOG_START, entries=entries, commit=Index(0), quiet=False),
    )
    assert len(member.writes) == 1, "the entry is still on its way to the disk"
    cluster.now = Millis(cluster.now + 500)
    cluster.step(member, N2, TimeoutNow(term=Term(1)))
    assert member.core.role is Role.CANDIDATE
    cluster.step(member, N3, RequestVoteReply(term=Term(2), asked=Term(2), granted=True, pre_vote=False))
    assert member.persist()
    assert role_of(member) is Role.CANDIDATE, "the entry is on disk, the vote is not"
    assert member.persist()
    assert role_of(member) is Role.LEADER
