"""Every rule of the checkers, broken on purpose by hand-made messages."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from protocol.local import (
    ApplyEntries,
    CutLog,
    EntriesPersisted,
    LeadershipChanged,
    LogRecovered,
    PersistEntries,
    StoreOpened,
)
from protocol.message import Message
from protocol.peer import RequestVoteReply
from protocol.types import (
    NOBODY,
    Entry,
    EntryKind,
    HardState,
    Index,
    LogMark,
    MemberId,
    Revision,
    Term,
)
from sim.checkers import Checkers, SameState
from sim.trouble import SimulationFailed

if TYPE_CHECKING:
    from sim.process import Process

MEMBERS = {"n1": MemberId(1), "n2": MemberId(2), "n3": MemberId(3)}


def _process(name: str, incarnation: int = 1) -> "Process":
    node = SimpleNamespace(name=name, member=MEMBERS[name])
    return cast("Process", SimpleNamespace(node=node, incarnation=incarnation))


def _entry(index: int, term: int, data: bytes = b"x") -> Entry:
    return Entry(Term(term), Index(index), EntryKind.COMMANDS, data)


class _Cluster:
    """Three members whose messages a test makes up."""

    def __init__(self) -> None:
        self.checker = Checkers(MEMBERS)
        self.ticket = 0
        for name in MEMBERS:
            self.say(name, StoreOpened(applied=Index(0), revision=Revision(1)), to="raft")

    def say(self, name: str, message: Message, to: str = "wal") -> None:
        self.checker.on_send(_process(name), to, message)

    def write(self, name: str, *entries: Entry, term: int = 1, synced: bool = True) -> None:
        self.ticket += 1
        last = entries[-1].position
        state = HardState(Term(term), NOBODY, Index(0))
        self.say(name, PersistEntries(ticket=self.ticket, hard_state=state, entries=entries, last=last, outbound=()))
        if synced:
            self.say(name, EntriesPersisted(ticket=self.ticket, last=last), to="raft")

    def apply(self, name: str, *entries: Entry) -> None:
        self.say(name, ApplyEntries(entries=entries, commit=entries[-1].index), to="applier")

    def recover(self, name: str, *entries: Entry, term: int = 1, voted_for: int = 0, mark: int = 0) -> None:
        recovered = LogRecovered(
            mark=LogMark(Index(mark), Term(1 if mark else 0), b"", ""),
            hard_state=HardState(Term(term), MemberId(voted_for), Index(0)),
            entries=entries,
            final=True,
        )
        self.say(name, recovered, to="raft")

    def lead(self, name: str, term: int, leader: int) -> None:
        vote = RequestVoteReply.model_construct(term=Term(term), asked=Term(term), granted=True, pre_vote=False)
        if leader == MEMBERS[name]:
            for voter in set(MEMBERS.values()) - {leader}:
                self.checker.on_peer(_process(name), voter, vote)
        self.say(name, LeadershipChanged(term=Term(term), leader=MemberId(leader), members=()), to="gateway")


@pytest.fixture
def cluster() -> _Cluster:
    """A cluster whose first entry is on two members and applied by one."""
    cluster = _Cluster()
    cluster.write("n1", _entry(1, 1))
    cluster.write("n2", _entry(1, 1))
    cluster.apply("n1", _entry(1, 1))
    return cluster


def _broken(rule: str) -> "pytest.RaisesExc[SimulationFailed]":
    return pytest.raises(SimulationFailed, match=rule)


def test_an_honest_history_passes(cluster: _Cluster) -> None:
    """Writes, commits, a conflict that is overwritten, a cut and a restart break no rule."""
    cluster.write("n3", _entry(1, 1), _entry(2, 1, b"lost"))
    cluster.write("n1", _entry(2, 2), term=2)
    cluster.write("n3", _entry(2, 2), term=2)
    cluster.apply("n1", _entry(2, 2))
    cluster.lead("n1", 2, 1)
    cut = CutLog(ticket=1, mark=LogMark(Index(1), Term(1), b"", ""), keep_after=Index(1))
    cluster.say("n3", cut)
    cluster.write("n3", _entry(3, 2), term=2, synced=False)
    cluster.recover("n3", _entry(2, 2), term=2, mark=1)
    assert cluster.checker.committed.last == 2


def test_two_leaders_in_a_term_are_noticed(cluster: _Cluster) -> None:
    """Election safety (thesis 3.4): one leader per term, whoever says so."""
    cluster.lead("n1", 1, 1)
    with _broken("election safety"):
        cluster.lead("n3", 1, 2)


def test_a_second_vote_in_a_term_is_noticed(cluster: _Cluster) -> None:
    """A member that grants two candidates of one term is found out; pre-votes are no votes."""
    pre_vote = RequestVoteReply.model_construct(term=Term(5), asked=Term(5), granted=True, pre_vote=True)
    vote = RequestVoteReply.model_construct(term=Term(5), asked=Term(5), granted=True, pre_vote=False)
    cluster.checker.on_peer(_process("n2"), MEMBERS["n1"], pre_vote)
    cluster.checker.on_peer(_process("n3"), MEMBERS["n1"], vote)
    with _broken("one vote per term"):
        cluster.checker.on_peer(_process("n2"), MEMBERS["n1"], vote)


def test_another_entry_of_the_same_place_is_noticed(cluster: _Cluster) -> None:
    """Log matching (thesis 3.5): index and term name one entry, and one entry before it."""
    with _broken("log matching"):
        cluster.write("n3", _entry(1, 1, b"y"))
    cluster.write("n1", _entry(2, 1), _entry(3, 3))
    with _broken("log matching"):
        cluster.write("n2", _entry(2, 2), _entry(3, 3))


def test_another_applied_entry_is_noticed(cluster: _Cluster) -> None:
    """State machine safety (thesis 3.6.3): one entry per index, on all members."""
    cluster.write("n3", _entry(1, 2), term=2)
    with _broken("state machine safety"):
        cluster.apply("n3", _entry(1, 2))


def test_an_entry_applied_before_it_is_durable_here_is_noticed(cluster: _Cluster) -> None:
    """A majority elsewhere is not enough for a member's own applier."""
    cluster.write("n3", _entry(1, 1), synced=False)
    with _broken("apply what is durable here"):
        cluster.apply("n3", _entry(1, 1))


def test_a_commit_on_a_minority_is_noticed(cluster: _Cluster) -> None:
    """An entry that one of three has on disk is not committed."""
    cluster.write("n1", _entry(2, 1))
    with _broken("committed is on a majority"):
        cluster.apply("n1", _entry(2, 1))


def test_a_skipped_entry_is_noticed(cluster: _Cluster) -> None:
    """Entries are applied one after the other."""
    cluster.write("n2", _entry(2, 1))
    with _broken("apply in order"):
        cluster.apply("n2", _entry(2, 1))


def test_a_dropped_committed_entry_is_noticed(cluster: _Cluster) -> None:
    """Nobody replaces a committed entry it holds."""
    with _broken("committed entries stay"):
        cluster.write("n2", _entry(1, 2, b"z"), term=2)


def test_a_leader_without_a_committed_entry_is_noticed(cluster: _Cluster) -> None:
    """Leader completeness (thesis 3.6.3)."""
    with _broken("leader completeness"):
        cluster.lead("n3", 2, 3)


def test_a_term_that_falls_is_noticed(cluster: _Cluster) -> None:
    """A hard state's term never goes back."""
    cluster.write("n1", _entry(2, 4), term=4)
    with _broken("terms only grow"):
        cluster.write("n1", _entry(3, 4), term=3)


def test_a_recovery_that_lost_what_was_persisted_is_noticed(cluster: _Cluster) -> None:
    """An entry, or a vote, that was reported persisted is there after a crash."""
    with _broken("persisted is recovered"):
        cluster.recover("n1", term=1)
    with _broken("persisted is recovered"):
        cluster.recover("n2", _entry(1, 1), term=1, voted_for=3)


def test_an_unreported_write_may_be_there_or_not(cluster: _Cluster) -> None:
    """After a crash any whole number of unreported writes may be on disk, in their order."""
    cluster.write("n1", _entry(2, 1), synced=False)
    cluster.write("n1", _entry(3, 1), synced=False)
    cluster.recover("n1", _entry(1, 1), _entry(2, 1))
    cluster.recover("n1", _entry(1, 1), _entry(2, 1))
    with _broken("persisted is recovered"):
        cluster.recover("n1", _entry(1, 1))


def test_a_store_at_another_revision_is_noticed() -> None:
    """Members that applied the same entries are at the same revision, and applied never falls."""
    states = SameState()
    states.on_store(_process("n1"), 5, 4)
    states.on_store(_process("n2"), 5, 4)
    with _broken("same entries, same state"):
        states.on_store(_process("n3"), 5, 3)
    with _broken("applied only grows"):
        states.on_store(_process("n1"), 4, 4)
    states.on_store(_process("n1", incarnation=2), 3, 3)
