"""A leader's care: stuck disks, reads that never starve the timers, slow and dead followers, cuts."""

from protocol.config import RaftConfig
from protocol.errors import ErrorCode
from protocol.peer import AppendEntries, Heartbeat, HeartbeatReply
from protocol.types import Index, LogPosition, MemberId, Millis, Term
from raft import snapshots
from raft.progress import Progress, ProgressState
from raft.transitions import Role
from sim.core_cluster import CoreCluster

N1, N2, N3 = MemberId(1), MemberId(2), MemberId(3)


def test_leader_with_a_stuck_disk_hands_over() -> None:
    """A leader whose write waits longer than an election timeout names an heir and stops its heartbeats."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.advance(300)
    cluster.propose(1, b"x")
    stuck = cluster.now
    while cluster.now < stuck + 1500 and leader.core.role is Role.LEADER:
        cluster.now = Millis(cluster.now + 50)
        for member in cluster.members.values():
            if member.core.deadline <= cluster.now:
                member.core.tick(cluster.now)
                member.turn()
        for _ in range(len(cluster.wire)):
            cluster.deliver()
        for number in (2, 3):
            while cluster[number].persist():
                pass
    assert leader.core.role is not Role.LEADER
    assert cluster.now - stuck <= cluster.config.election_timeout_ms + 200
    for _ in range(20):
        cluster.deliver()
        for number in (2, 3):
            cluster[number].persist()
    assert cluster.leader.member in (N2, N3), "the heir stood at once, and won without the stuck disk"


def test_follower_with_a_stuck_disk_is_silent_and_does_not_stand() -> None:
    """A member that cannot write answers no heartbeat and starts no election."""
    cluster = CoreCluster()
    member = cluster[2]
    entry_free = AppendEntries(
        term=Term(1), previous=LogPosition(Term(0), Index(0)), entries=(), commit=Index(0), quiet=False
    )
    cluster.step(member, N1, entry_free)
    cluster.wire.clear()
    cluster.now = Millis(cluster.now + 1001)
    cluster.step(member, N1, Heartbeat(term=Term(1), commit=Index(0), round=1))
    assert member.core.disk_stuck
    assert not [wire for wire in cluster.wire if isinstance(wire.message, HeartbeatReply)]
    cluster.now = member.core.deadline
    member.core.tick(cluster.now)
    assert member.core.role is Role.FOLLOWER


def test_constant_reads_do_not_keep_a_leader_in_office() -> None:
    """Read rounds do not put off the regular tick: a leader cut off under constant reads steps down all the same."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.advance(300)
    cluster.isolate(1)
    for step in range(250):
        cluster.now = Millis(cluster.now + 10)
        cluster.read(1, step)
        if leader.core.deadline <= cluster.now:
            leader.core.tick(cluster.now)
            leader.turn()
    assert leader.core.role is not Role.LEADER
    assert len(leader.refused_reads) == 250
    assert {code for _, code in leader.refused_reads} <= {ErrorCode.LEADER_CHANGED, ErrorCode.NO_LEADER}


def test_idle_leader_wakes_once_per_heartbeat() -> None:
    """An idle cluster does nothing but heartbeats: one turn of the leader per interval, one timer at a follower."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.advance(1000)
    sent: list[object] = []
    cluster.on_put = lambda wire: sent.append(wire.message)
    cluster.advance(1000)
    assert len([each for each in sent if isinstance(each, Heartbeat)]) == 20
    assert len(sent) == 40, "a heartbeat and its answer, to two followers, ten times"
    assert leader.core.deadline - cluster.now <= 100
    assert cluster.core(2).deadline == cluster.core(2).election_due


def test_dead_follower_costs_only_heartbeats() -> None:
    """Who does not answer is not sent appends again and again."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.crash(3)
    cluster.propose(1, b"x" * 1000)
    cluster.advance(3000)
    sent: list[object] = []
    cluster.on_put = lambda wire: sent.append(wire.message) if wire.to == N3 else None
    cluster.advance(2000)
    assert {type(each) for each in sent} == {Heartbeat}
    cluster.restart(3)
    cluster.advance(1000)
    assert cluster.commands(3) == [b"x" * 1000]


def test_round_trip_is_measured() -> None:
    """The time between a heartbeat and its answer is observed per follower."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.advance(500)
    seen: list[tuple[MemberId, int]] = []
    leader.core.observe_round_trip = lambda member, elapsed: seen.append((member, elapsed))
    cluster.now = leader.core.deadline
    leader.core.tick(cluster.now)
    leader.turn()
    cluster.now = Millis(cluster.now + 7)
    cluster.settle()
    assert sorted(seen) == [(N2, 7), (N3, 7)]


def test_late_heartbeats_are_counted() -> None:
    """A leader that woke too late for its heartbeats counts that."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.advance(500)
    cluster.now = Millis(leader.core.deadline + 150)
    leader.core.tick(cluster.now)
    assert leader.core.heartbeats_late == 1


def test_reluctant_member_stands_only_if_nobody_else_does() -> None:
    """A member whose node is not well lets one election timeout pass for the others."""
    cluster = CoreCluster()
    member = cluster[2]
    member.core.reluctant = True
    cluster.step(member, N1, Heartbeat(term=Term(1), commit=Index(0), round=0))
    assert member.persist()
    roles = []
    for _ in range(2):
        cluster.now = member.core.election_due
        member.core.tick(cluster.now)
        roles.append(member.core.role)
    assert roles == [Role.FOLLOWER, Role.PRE_CANDIDATE]


def test_log_is_not_cut_under_a_living_follower() -> None:
    """A follower that is being fed keeps the entries it needs in the log, within bounds."""
    cluster = CoreCluster(config=RaftConfig(snapshot_count=5, catchup_entries=0))
    leader = cluster.elect(1)
    cluster.advance(200)
    assert leader.core.leading is not None
    cluster.isolate(3)
    for number in range(12):
        cluster.propose(1, b"x", number)
    cluster.settle()
    assert snapshots.cut(leader.core, leader.applied_index) is None or leader.core.log.mark.index <= 1
    for number in range(snapshots.SLOW_ENTRIES_MIN):
        cluster.propose(1, b"x", 100 + number)
    cluster.settle()
    leader.cut_log()
    assert leader.core.log.mark.index > 12, "too far behind: it is left to a snapshot"


def test_log_memory_is_bounded() -> None:
    """Over its memory bound the log is cut although few entries are in it."""
    cluster = CoreCluster(config=RaftConfig(log_bytes_max=1 << 20))
    leader = cluster.elect(1)
    for number in range(5):
        cluster.propose(1, b"x" * 300_000, number)
        cluster.settle()
    assert snapshots.cut_wanted(leader.core, hold=False)
    assert not snapshots.cut_wanted(leader.core, hold=True), "a follower on its way through a snapshot needs it"
    leader.cut_log()
    assert leader.core.log.bytes_held <= 1 << 18


def test_old_rejection_changes_nothing() -> None:
    """A rejection that arrives after its place was settled is ignored."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    for number in range(5):
        cluster.propose(1, b"x", number)
    cluster.settle()
    assert leader.core.leading is not None
    progress = leader.core.leading.progress[N2]
    before = (progress.state, progress.next_index, progress.matched)
    progress.rejected(Index(3), LogPosition(Term(1), Index(2)), leader.core.log, cluster.now)
    assert (progress.state, progress.next_index, progress.matched) == before
    probing = Progress(N3, Index(6), cluster.now)
    probing.rejected(Index(2), LogPosition(Term(1), Index(1)), leader.core.log, cluster.now)
    assert (probing.state, probing.next_index) == (ProgressState.PROBE, 6)


def test_reads_held_are_bounded_and_given_up() -> None:
    """A question to a leader that never answers is given up with a time-out."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.advance(200)
    member = cluster[2]
    cluster.read(2, 1)
    cluster.wire.clear()
    for _ in range(70):
        cluster.now = Millis(cluster.now + 100)
        cluster.step(member, N1, Heartbeat(term=Term(1), commit=Index(1), round=0))
        member.core.tick(cluster.now)
        member.turn()
        cluster.wire.clear()
    assert member.refused_reads == [(1, ErrorCode.TIMEOUT)]
