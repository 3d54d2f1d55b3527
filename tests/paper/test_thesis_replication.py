"""The rules of Ongaro's thesis on the log, commit and reads, one test each, named by section."""

import pytest

from protocol.config import RaftConfig
from protocol.errors import InvariantViolation, PeerFault
from protocol.peer import AppendEntries, AppendEntriesReply, Heartbeat, RequestReadIndex
from protocol.types import LOG_START, Entry, EntryKind, Index, LogPosition, MemberId, Millis, Term
from raft.progress import ProgressState
from raft.transitions import Role
from sim.core_cluster import CoreCluster, CoreMember

N1, N2, N3 = MemberId(1), MemberId(2), MemberId(3)


def entry(index: int, term: int, data: bytes = b"") -> Entry:
    """A commands entry."""
    return Entry(Term(term), Index(index), EntryKind.COMMANDS, data)


def append(term: int, previous: tuple[int, int], entries: list[Entry], commit: int = 0) -> AppendEntries:
    """A leader's append; `previous` is (index, term)."""
    behind = LogPosition(Term(previous[1]), Index(previous[0]))
    return AppendEntries(term=Term(term), previous=behind, entries=tuple(entries), commit=Index(commit), quiet=False)


def persist_all(member: CoreMember) -> None:
    """Let the disk finish everything."""
    while member.persist():
        pass


def replies(cluster: CoreCluster, to: int) -> list[AppendEntriesReply]:
    """Append answers on their way to `to`."""
    return [wire.message for wire in cluster.wire if wire.to == to and isinstance(wire.message, AppendEntriesReply)]


def terms(member: CoreMember) -> list[int]:
    """The terms of a member's log from the first entry held."""
    log = member.core.log
    return [each.term for each in log.between(log.first_index, log.last.index)]


def test_leader_appends_and_replicates_at_once() -> None:
    """A command goes to the leader's log and to all followers in parallel with the own fsync (sections 3.5, 10.2.1)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.propose(1, b"x")

    assert len(leader.writes) == 1, "its own write is on the way"
    assert leader.core.log.durable == 1
    sent = [wire for wire in cluster.wire if isinstance(wire.message, AppendEntries) and wire.message.entries]
    assert [wire.to for wire in sent] == [N2, N3]


def test_entry_commits_with_a_majority_of_fsyncs() -> None:
    """An entry is committed once a majority has it on disk, the leader's disk among them (sections 3.5, 10.2.1)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.propose(1, b"x")
    for number in (2, 3):
        cluster.deliver_to(number)
    assert cluster[2].persist()
    cluster.deliver_to(1)
    assert leader.core.commit == 1, "one follower alone is no majority, and the own fsync is under way"
    persist_all(leader)
    assert leader.core.commit == 2


def test_commit_without_the_leaders_own_disk() -> None:
    """Two followers commit an entry before the leader's own fsync; the leader applies it after (section 10.2.1)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.propose(1, b"x")
    for number in (2, 3):
        cluster.deliver_to(number)
        persist_all(cluster[number])
    cluster.deliver_to(1)

    assert leader.core.commit == 2
    assert leader.core.handed == 1, "only what is durable here goes to the applier"
    persist_all(leader)
    assert leader.core.handed == 2


def test_followers_learn_the_commit_promptly() -> None:
    """Followers apply what is committed with the next message, without waiting for a heartbeat (section 3.5)."""
    cluster = CoreCluster()
    cluster.elect(1)
    before = cluster.now
    cluster.propose(1, b"x")
    cluster.settle()

    assert cluster.now == before
    assert [cluster.commands(number) for number in (1, 2, 3)] == [[b"x"]] * 3


def test_news_of_a_commit_waits_for_an_append_unless_somebody_waits_for_it() -> None:
    """What nobody at a follower waits for travels with the next append, or alone after the delay (section 3.5)."""
    cluster = CoreCluster(config=RaftConfig(commit_news_delay_ms=5, unattended_delay_ms=0))
    cluster.elect(1)
    cluster.advance(10)
    cluster.propose(1, b"a")
    cluster.settle()
    assert [cluster.commands(number) for number in (1, 2, 3)] == [[b"a"], [], []]

    cluster.propose(1, b"b")
    cluster.settle()
    assert [cluster.commands(number) for number in (1, 2, 3)] == [[b"a", b"b"], [b"a"], [b"a"]]

    cluster.propose(2, b"c")
    cluster.settle()
    assert [cluster.commands(number) for number in (1, 2)] == [[b"a", b"b", b"c"]] * 2, "a client of member 2 waits"
    assert cluster.commands(3) == [b"a", b"b"]

    cluster.advance(5)
    assert cluster.commands(3) == [b"a", b"b", b"c"]


def test_acknowledgement_follows_the_fsync() -> None:
    """A follower answers an append only when it is on its disk (section 3.8)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, append(1, (0, 0), [entry(1, 1)]))
    assert not replies(cluster, 2)
    persist_all(member)

    assert [(reply.matched, reply.rejected) for reply in replies(cluster, 2)] == [(1, False)]


def test_append_is_refused_where_logs_do_not_meet() -> None:
    """An append behind an entry that the follower lacks, or holds with another term, is refused (section 3.5)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, append(1, (0, 0), [entry(1, 1), entry(2, 1)]))
    persist_all(member)
    cluster.wire.clear()
    cluster.step(member, N2, append(3, (5, 3), [entry(6, 3)]))
    cluster.step(member, N2, append(3, (2, 2), [entry(3, 3)]))

    assert [(reply.rejected, reply.conflict.index) for reply in replies(cluster, 2)] == [(True, 2), (True, 2)]
    assert terms(member) == [1, 1]


@pytest.mark.parametrize(
    ("previous", "new", "expected"),
    [
        ((2, 2), [(3, 4)], [1, 2, 4]),
        ((1, 1), [(2, 3), (3, 4)], [1, 3, 4]),
        ((0, 0), [(1, 1)], [1, 2, 3]),
        ((3, 3), [(4, 4)], [1, 2, 3, 4]),
        ((0, 0), [(1, 1), (2, 2)], [1, 2, 3]),
        ((0, 0), [(1, 2)], [2]),
    ],
)
def test_conflicts_are_overwritten_and_only_they(
    previous: tuple[int, int], new: list[tuple[int, int]], expected: list[int]
) -> None:
    """A differing entry and all behind it go; an append that holds a prefix takes nothing away (section 3.5)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, append(3, (0, 0), [entry(1, 1), entry(2, 2), entry(3, 3)]))
    persist_all(member)
    cluster.step(member, N2, append(4, previous, [entry(index, term) for index, term in new]))
    persist_all(member)

    assert terms(member) == expected
    assert [each.term for each in member.disk.entries] == expected


def test_logs_converge_under_a_new_leader() -> None:
    """Whatever followers hold, a leader brings their logs to its own (section 3.5, figure 3.6)."""
    histories = {2: [1, 1, 1, 4], 3: [1, 1, 1, 4, 4, 5, 5, 6, 6], 4: [1, 1, 1, 2, 2, 2, 3, 3], 5: []}
    cluster = CoreCluster(5)
    ours = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    for number, history in {1: ours, **histories}.items():
        if history:
            entries = [entry(index, term) for index, term in enumerate(history, 1)]
            cluster.step(cluster[number], MemberId(9), append(max(history), (0, 0), entries))
            persist_all(cluster[number])
    cluster.wire.clear()
    cluster.now = Millis(cluster.now + 5000)
    cluster.elect(1)
    cluster.advance(1000)

    assert [terms(cluster[number]) for number in range(1, 6)] == [[*ours, cluster.core(1).term]] * 5


def test_back_off_goes_by_terms() -> None:
    """A diverged follower is found in one step per term, not per entry (section 3.5)."""
    cluster = CoreCluster()
    ours = [entry(1, 1), *(entry(index, 9) for index in range(2, 60))]
    theirs = [entry(1, 1), *(entry(index, 5) for index in range(2, 90))]
    for number, log in ((1, ours), (2, ours), (3, theirs)):
        cluster.step(cluster[number], MemberId(9), append(max(each.term for each in log), (0, 0), log))
        persist_all(cluster[number])
    cluster.wire.clear()
    cluster.now = Millis(cluster.now + 5000)
    rejections = []
    cluster.on_put = lambda wire: rejections.append(wire) if getattr(wire.message, "rejected", False) else None
    cluster.elect(1)
    cluster.settle()

    assert terms(cluster[3]) == terms(cluster[1])
    assert len([wire for wire in rejections if wire.sender == N3]) <= 3


def test_entries_of_earlier_terms_are_not_counted() -> None:
    """Only an entry of the leader's own term is committed by counting; older ones come with it (section 3.6.2)."""
    cluster = CoreCluster()
    for number in (1, 2):
        cluster.step(cluster[number], N3, append(2, (0, 0), [entry(1, 2)]))
        persist_all(cluster[number])
    cluster.wire.clear()
    cluster.now = Millis(cluster.now + 5000)
    leader = cluster[1]
    cluster.isolate(3)
    cluster.core(2).heard_leader_at = None
    leader.core.election_due = cluster.now
    leader.core.tick(cluster.now)
    leader.turn()
    while leader.core.role is not Role.LEADER:
        cluster.deliver()
        for number in (1, 2):
            cluster[number].persist()
    term = leader.core.term
    old = AppendEntriesReply(term=term, matched=Index(1), rejected=False, conflict=LOG_START)
    cluster.step(leader, N2, old)
    assert leader.core.commit == 0, "entry 1 of term 2 is on two disks and yet not committed"
    cluster.settle()
    assert leader.core.commit == 2, "the no-op of the own term brings it along"


def test_leader_begins_with_a_no_op() -> None:
    """A new leader puts an empty entry of its term behind the log (section 6.4)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)

    assert leader.core.log.between(Index(1), Index(1)) == (Entry(Term(1), Index(1), EntryKind.NOOP, b""),)


def test_leader_completeness() -> None:
    """A server without a committed entry cannot be elected (section 3.6.3)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.isolate(3)
    cluster.propose(1, b"x")
    cluster.settle()
    cluster.crash(1)
    cluster.heal()
    cluster.cut_off.add(frozenset((N1, N2)))
    cluster.core(3).election_due = cluster.now
    cluster.advance(10_000)

    assert cluster.leader.member == N2


def test_committed_entries_are_never_overwritten() -> None:
    """An append that contradicts a committed entry shows a broken promise, and stops the member (section 3.6.3)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, append(1, (0, 0), [entry(1, 1)], commit=1))
    with pytest.raises(InvariantViolation, match="committed entry 1"):
        member.core.step(N2, append(2, (0, 0), [entry(1, 2)]), cluster.now)


@pytest.mark.parametrize("entries", [[entry(3, 1)], [entry(2, 9)], [entry(2, 2), entry(3, 1)]])
def test_senseless_append_is_dropped(entries: list[Entry]) -> None:
    """Entries with a gap, of a later term than their leader's, or with falling terms change nothing (section 3.5)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, append(1, (0, 0), [entry(1, 1)]))
    with pytest.raises(PeerFault):
        member.core.step(N2, append(3, (1, 1), entries), cluster.now)
    assert terms(member) == [1]
    assert member.core.term == 1


def test_commit_index_stops_where_logs_are_known_to_match() -> None:
    """A follower does not commit past what this append has matched, whatever the leader's index (section 3.5)."""
    cluster = CoreCluster()
    member = cluster[1]
    cluster.step(member, N2, append(1, (0, 0), [entry(1, 1), entry(2, 1), entry(3, 1)]))
    cluster.step(member, N3, append(2, (1, 1), [], commit=3))

    assert member.core.commit == 1


def test_pipeline_is_bounded() -> None:
    """Appends follow one another without waiting, up to the window (section 10.2.1)."""
    config = RaftConfig(commit_news_delay_ms=0, unattended_delay_ms=0, append_entries_max=1, inflight_appends_max=3)
    cluster = CoreCluster(config=config)
    leader = cluster.elect(1)
    cluster.isolate(3)
    for number in range(10):
        cluster.propose(1, b"%d" % number, number + 1)
    while leader.core.leading is not None and leader.core.leading.more_to_send:
        leader.turn()

    assert len([wire for wire in cluster.wire if isinstance(wire.message, AppendEntries)]) == 3
    cluster.settle()
    assert len(cluster.commands(2)) == 10


def test_lost_append_is_sent_again() -> None:
    """A lost append is found by its silence and sent again (section 3.5)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.isolate(3)
    cluster.propose(1, b"x")
    cluster.wire = [wire for wire in cluster.wire if not isinstance(wire.message, AppendEntries)]
    cluster.advance(1000)

    assert cluster.commands(2) == [b"x"]


def test_restart_recovers_term_vote_and_log() -> None:
    """What was on disk is there after a crash, and nothing acknowledged is missing (section 3.8)."""
    cluster = CoreCluster()
    cluster.elect(1)
    for number in range(5):
        cluster.propose(1, b"%d" % number, number + 1)
    cluster.settle()
    for number in (1, 2, 3):
        cluster.crash(number)
    for number in (1, 2, 3):
        cluster.restart(number)
    cluster.advance(3000)

    assert cluster.commands(2) == [b"0", b"1", b"2", b"3", b"4"]
    assert cluster.leader.core.term >= 2


# --- reads (section 6.4) ---------------------------------------------------------------------------


def test_read_waits_for_a_commit_of_the_own_term() -> None:
    """A new leader serves no read before an entry of its own term is committed (section 6.4, step 1)."""
    cluster = CoreCluster()
    leader = cluster[1]
    leader.core.election_due = cluster.now
    leader.core.tick(cluster.now)
    leader.turn()
    while leader.core.role is not Role.LEADER:
        cluster.deliver()
        for number in (1, 2, 3):
            cluster[number].persist()
    assert leader.core.commit == 0
    cluster.read(1, 1)
    for _ in range(3):
        heartbeats = [at for at, wire in enumerate(cluster.wire) if not isinstance(wire.message, AppendEntries)]
        if heartbeats:
            cluster.deliver(heartbeats[0])
    assert not leader.reads
    cluster.settle()
    assert [read.index for read in leader.reads] == [1]


def test_read_waits_for_a_round_of_a_majority() -> None:
    """A read is served only after a round that began after it was answered by a majority (section 6.4, step 3)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.isolate(1)
    cluster.read(1, 1)
    cluster.settle()
    assert not leader.reads
    cluster.heal()
    cluster.advance(200)

    assert [read.sequence for read in leader.reads] == [1]


def test_old_answer_confirms_no_new_read() -> None:
    """The answer to an earlier round says nothing about a later read (section 6.4; etcd#20418)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.read(1, 1)
    cluster.deliver_to(2)
    cluster.deliver_to(3)
    late = [wire for wire in cluster.wire if wire.to == N1]
    assert len(late) == 2
    cluster.wire.clear()
    cluster.isolate(1)
    cluster.read(1, 2)
    for wire in late:
        cluster.step(leader, wire.sender, wire.message)

    assert [read.sequence for read in leader.reads] == [1], "read 2 still waits for its own round"


def test_read_sees_what_was_committed_before_it() -> None:
    """A read is served behind everything that was committed when it arrived (section 6.4, steps 2 and 4)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.propose(1, b"x")
    cluster.settle()
    committed = leader.core.commit
    cluster.read(1, 1)
    cluster.settle()

    assert [read.index for read in leader.reads] == [committed]


def test_deposed_leader_serves_no_read() -> None:
    """A leader of the past, cut off from the majority, answers no read while another commits writes (section 6.4)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.isolate(1)
    cluster.advance(300)
    cluster.elect_among(2, 3)
    cluster.propose(2, b"new")
    cluster.settle()
    cluster.read(1, 7)
    cluster.advance(5000)

    assert not cluster[1].reads
    assert [sequence for sequence, _ in cluster[1].refused_reads] == [7]


def test_follower_reads_by_asking_the_leader() -> None:
    """A follower asks the leader for the index, all reads of a turn in one question (section 6.4)."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.propose(1, b"x")
    cluster.settle()
    follower = cluster[3]
    for sequence in (1, 2, 3):
        follower.core.read(sequence, b"", cluster.now)
    follower.turn()
    assert len([wire for wire in cluster.wire if isinstance(wire.message, RequestReadIndex)]) == 1
    cluster.settle()

    assert [(read.sequence, read.index) for read in follower.reads] == [(1, 2), (2, 2), (3, 2)]


def test_reads_share_a_round() -> None:
    """Reads of one turn cost one round of heartbeats (section 6.4)."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    for sequence in range(50):
        leader.core.read(sequence, b"", cluster.now)
    leader.turn()

    assert len([wire for wire in cluster.wire if isinstance(wire.message, Heartbeat)]) == 2
    cluster.settle()
    assert len(leader.reads) == 50


# --- compaction (chapter 5) ------------------------------------------------------------------------


def test_follower_behind_the_cut_gets_a_snapshot() -> None:
    """A follower that needs entries that are gone waits for a snapshot, then goes on behind it (chapter 5)."""
    cluster = CoreCluster(
        config=RaftConfig(commit_news_delay_ms=0, unattended_delay_ms=0, snapshot_count=5, catchup_entries=0)
    )
    leader = cluster.elect(1)
    cluster.isolate(3)
    for number in range(20):
        cluster.propose(1, b"%d" % number, number + 1)
        cluster.settle()
    cluster.advance(3000)
    leader.cut_log()
    persist_all(leader)
    assert leader.core.log.mark.index > 10
    cluster.heal()
    cluster.advance(1000)
    assert leader.core.leading is not None
    assert leader.core.leading.progress[N3].state is ProgressState.SNAPSHOT
    assert cluster[3].install_from(leader)
    cluster.advance(500)

    assert cluster.commands(3) == cluster.commands(1)
    assert leader.core.leading.progress[N3].state is ProgressState.REPLICATE


def test_snapshot_keeps_what_it_does_not_hold() -> None:
    """A snapshot whose last entry the log already has takes nothing away behind it (chapter 5, InstallSnapshot 6)."""
    cluster = CoreCluster()
    cluster.elect(1)
    donor = cluster[2]
    member = cluster[3]
    cluster.propose(1, b"x")
    cluster.settle()
    cluster.step(member, N1, append(1, (2, 1), [entry(3, 1, b"y")]))
    persist_all(member)
    before = terms(member)
    member.core.commit = member.core.handed = member.core.applied = Index(1)
    assert not member.install_from(donor)

    assert terms(member) == before, "entry 3 was acknowledged and stays"
    assert member.core.commit == 2, "what the snapshot holds is committed"
