"""Every rule about members, broken on purpose by hand-made messages and histories."""

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from protocol.local import ApplyEntries, EntriesPersisted, LeadershipChanged, PersistEntries, StoreOpened
from protocol.peer import RequestVoteReply
from protocol.types import NOBODY, Entry, EntryKind, HardState, Index, MemberId, Revision, StoreId, Term
from protocol.wire import rpc_pb2 as rpc
from raft.configuration import Configuration, MemberRecord
from sim.administrator import asked
from sim.checkers import Checkers
from sim.clients import History
from sim.configurations import Placed
from sim.member_checkers import check_members
from sim.trouble import SimulationFailed
from sim.workload import Request

if TYPE_CHECKING:
    from sim.process import Process

MEMBERS = {f"n{number}": MemberId(number) for number in range(1, 6)}
ONE, TWO, THREE, FOUR = (MemberId(number) for number in range(1, 5))


def _of(*voters: int, learners: tuple[int, ...] = (), removed: tuple[int, ...] = ()) -> Configuration:
    records = {
        MemberId(each): MemberRecord(f"n{each}", (f"http://n{each}:1",), (), StoreId(0))
        for each in sorted((*voters, *learners))
    }
    return Configuration(
        tuple(MemberId(each) for each in voters),
        learners=tuple(MemberId(each) for each in learners),
        members=records,
        removed=tuple(MemberId(each) for each in removed),
    )


class _Cluster:
    """Founders 1 to 3, and machines 4 and 5 that have joined; a test makes up what they say."""

    def __init__(self) -> None:
        founding = _of(1, 2, 3)
        self.checker = Checkers({name: MEMBERS[name] for name in ("n1", "n2", "n3")}, founding)
        for name in ("n4", "n5"):
            self.checker.add_log(name)
            self.checker.join(name, MEMBERS[name], founding)
        self.ticket = 0
        for name in MEMBERS:
            self.say(name, StoreOpened(applied=Index(0), revision=Revision(1)), to="raft")

    def process(self, name: str) -> "Process":
        node = SimpleNamespace(name=name, member=MEMBERS[name])
        return cast("Process", SimpleNamespace(node=node, incarnation=1))

    def say(self, name: str, message: Any, to: str = "wal") -> None:
        self.checker.on_send(self.process(name), to, message)

    def write(self, configuration: Configuration, index: int, *names: str) -> Entry:
        """Have nodes write a configuration, the first one as leader, and sync it."""
        entry = Entry(Term(1), Index(index), EntryKind.CONFIGURATION, configuration.encode())
        for name in names:
            self.ticket += 1
            state = HardState(Term(1), NOBODY, Index(0))
            written = PersistEntries(
                ticket=self.ticket, hard_state=state, entries=(entry,), last=entry.position, outbound=()
            )
            self.say(name, written)
            self.say(name, EntriesPersisted(ticket=self.ticket, last=entry.position), to="raft")
        return entry

    def apply(self, name: str, *entries: Entry, commit: int = 0) -> None:
        self.say(name, ApplyEntries(entries=entries, commit=Index(commit or entries[-1].index)), to="applier")

    def vote(self, candidate: str, term: int, *voters: MemberId) -> None:
        reply = RequestVoteReply.model_construct(term=Term(term), asked=Term(term), granted=True, pre_vote=False)
        for voter in voters:
            self.checker.on_peer(self.process(candidate), voter, reply)

    def lead(self, name: str, term: int) -> None:
        self.say(name, LeadershipChanged(term=Term(term), leader=MEMBERS[name], members=()), to="gateway")


@pytest.fixture
def cluster() -> _Cluster:
    """Nothing is written yet."""
    return _Cluster()


def _joint(before: Configuration, after: Configuration) -> Configuration:
    return before.enter_joint(after.voters, after.learners, after.members, auto_leave=True)


def test_an_honest_change_passes(cluster: _Cluster) -> None:
    """A learner comes, is promoted through a joint configuration, and leads."""
    learning, joint = _of(1, 2, 3, learners=(4,)), _joint(_of(1, 2, 3, learners=(4,)), _of(1, 2, 3, 4))
    entries = [
        cluster.write(configuration, index, "n1", "n2", "n3", "n4")
        for index, configuration in enumerate((learning, joint, joint.leave_joint()), 1)
    ]
    cluster.apply("n1", *entries)
    cluster.apply("n4", *entries)
    cluster.vote("n4", 2, ONE, TWO)
    cluster.lead("n4", 2)
    assert [placed.index for placed in cluster.checker.configurations.committed] == [0, 1, 2, 3]


def test_what_half_of_a_joint_configuration_holds_is_not_committed(cluster: _Cluster) -> None:
    """Old or new: each alone is not enough, and a learner counts nothing."""
    learning = cluster.write(_of(1, 2, 3, learners=(4,)), 1, "n1", "n4")
    with pytest.raises(SimulationFailed, match="committed is on a majority"):
        cluster.apply("n1", learning)
    cluster = _Cluster()
    first = cluster.write(_of(1, 2, 3, learners=(4, 5)), 1, *MEMBERS)
    joint = cluster.write(_joint(_of(1, 2, 3, learners=(4, 5)), _of(3, 4, 5)), 2, "n1", "n2")
    cluster.apply("n1", first)
    with pytest.raises(SimulationFailed, match="committed is on a majority"):
        cluster.apply("n1", joint)


def test_an_election_by_one_half_or_by_learners_is_noticed(cluster: _Cluster) -> None:
    """The candidate's own log says who must have voted."""
    cluster.write(_of(1, 2, 3, learners=(4, 5)), 1, *MEMBERS)
    cluster.vote("n1", 2, FOUR)
    with pytest.raises(SimulationFailed, match="elected by a majority"):
        cluster.lead("n1", 2)
    cluster.write(_joint(_of(1, 2, 3, learners=(4, 5)), _of(1, 4, 5)), 2, *MEMBERS)
    cluster.vote("n1", 3, TWO, THREE)
    with pytest.raises(SimulationFailed, match="elected by a majority"):
        cluster.lead("n1", 3)
    cluster.vote("n1", 4, TWO, FOUR)
    cluster.lead("n1", 4)


def test_a_learner_that_leads_is_noticed(cluster: _Cluster) -> None:
    """Whoever may have voted for it."""
    first = cluster.write(_of(1, 2, 3, learners=(4,)), 1, *MEMBERS)
    cluster.apply("n4", first)
    cluster.vote("n4", 2, ONE, TWO, THREE)
    with pytest.raises(SimulationFailed, match="leaders vote"):
        cluster.lead("n4", 2)


def test_who_is_removed_by_its_own_log_may_lead_until_that_is_committed(cluster: _Cluster) -> None:
    """Thesis 4.2.2; once it has handed its removal over, it is out: it leads no more and applies nothing beyond."""
    joint = _joint(_of(1, 2, 3), _of(2, 3))
    entries = [cluster.write(each, index, "n1", "n2", "n3") for index, each in ((1, joint), (2, joint.leave_joint()))]
    later = cluster.write(replace(joint.leave_joint()), 3, "n1", "n2", "n3")
    cluster.vote("n1", 2, TWO, THREE)
    cluster.lead("n1", 2)
    cluster.apply("n1", *entries)
    cluster.vote("n1", 3, TWO, THREE)
    with pytest.raises(SimulationFailed, match="the removed are out"):
        cluster.lead("n1", 2)
    with pytest.raises(SimulationFailed, match="the removed are out"):
        cluster.apply("n1", later)


@pytest.mark.parametrize("wrong", ["another majority", "joint twice", "left another way"])
def test_a_step_that_leads_nowhere_is_noticed(cluster: _Cluster, wrong: str) -> None:
    """Voters change through a joint configuration of what was and what will be."""
    joint = _joint(_of(1, 2, 3), _of(2, 3))
    if wrong != "another majority":
        cluster.write(joint, 1, "n1")
    second = {"another majority": _of(1, 2), "joint twice": joint, "left another way": _of(1, 2, 3)}[wrong]
    with pytest.raises(SimulationFailed, match="one step at a time"):
        cluster.write(second, 1 if wrong == "another majority" else 2, "n1")


def test_a_vote_for_who_holds_nothing_is_noticed(cluster: _Cluster) -> None:
    """A hundred entries it may lack, not more."""
    for index in range(1, 103):
        cluster.write(_of(1, 2, 3, learners=(4,)), index, "n1")
    with pytest.raises(SimulationFailed, match="who gets a vote has caught up"):
        cluster.write(_joint(_of(1, 2, 3, learners=(4,)), _of(1, 2, 3, 4)), 103, "n1")


def test_an_id_that_comes_back_is_noticed(cluster: _Cluster) -> None:
    """Even as a learner."""
    names = ("n1", "n2", "n3")
    cluster.apply("n1", cluster.write(_of(1, 2, 3, learners=(4,)), 1, *names))
    cluster.apply("n1", cluster.write(_of(1, 2, 3, removed=(4,)), 2, *names))
    with pytest.raises(SimulationFailed, match="ids are never reused"):
        cluster.apply("n1", cluster.write(_of(1, 2, 3, learners=(4,)), 3, *names))


# --- what clients are told -----------------------------------------------------------------------------

COMMITTED = [
    Placed(0, 0, _of(1, 2, 3)),
    Placed(5, 1, _of(1, 2, 3, learners=(4,))),
    Placed(9, 1, _of(1, 2, 3, removed=(4,))),
]


def _listed(configuration: Configuration, added: int = 0) -> bytes:
    """An answer that lists these members; of an addition, with the new one apart."""
    response = rpc.MemberAddResponse() if added else rpc.MemberListResponse()
    for view in configuration.views():
        response.members.add(ID=view.member, name=view.name, peerURLs=view.peer_urls, isLearner=view.is_learner)
        if view.member == added:
            response.member.CopyFrom(response.members[-1])  # type: ignore[union-attr]
    return response.SerializeToString()


WRITTEN_US = {(5, 1): 11, (9, 1): 41}
"""Within the calls of the honest history that asked for them."""
ADD = asked("member_add", rpc.MemberAddRequest(peerURLs=["http://n4:1"], isLearner=True))
REMOVE = asked("member_remove", rpc.MemberRemoveRequest(ID=4))
LIST = asked("member_list", rpc.MemberListRequest(linearizable=True))
STALE = asked("member_list", rpc.MemberListRequest(linearizable=False))


def _told(*calls: tuple[Request, int | None, bytes]) -> History:
    """One call after the other, each for ten microseconds."""
    history = History()
    for number, (request, code, body) in enumerate(calls, 1):
        call = history.begin(1, request, 1000)
        call.end_us = 10 * number
        history.end(call, code, body)
    return history


GOOD: tuple[tuple[Request, int | None, bytes], ...] = (
    (LIST, 0, _listed(COMMITTED[0].configuration)),
    (ADD, 0, _listed(COMMITTED[1].configuration, added=4)),
    (STALE, 0, _listed(COMMITTED[0].configuration)),
    (LIST, 0, _listed(COMMITTED[1].configuration)),
    (REMOVE, 0, _listed(COMMITTED[2].configuration)),
    (LIST, 0, _listed(COMMITTED[2].configuration)),
)


def test_an_honest_history_of_members_passes() -> None:
    """A list that need not be fresh may be old."""
    assert check_members(_told(*GOOD), COMMITTED, WRITTEN_US) == {"member_answers_checked": 6}


def test_a_list_that_misses_what_was_acknowledged_is_noticed() -> None:
    """Even if the members will be the same again later."""
    with pytest.raises(SimulationFailed, match="member lists are fresh"):
        check_members(_told(*GOOD[:2], GOOD[0], *GOOD[3:]), COMMITTED, WRITTEN_US)


@pytest.mark.parametrize(
    ("calls", "rule"),
    [
        ((*GOOD[:2], *GOOD[4:], GOOD[1]), "member lists are fresh"),
        ((*GOOD[:4], (REMOVE, 0, _listed(COMMITTED[1].configuration))), "member lists are fresh"),
        ((GOOD[0], (ADD, 0, _listed(COMMITTED[0].configuration, added=4)), GOOD[4]), "member lists are fresh"),
        ((*GOOD, (LIST, 0, _listed(_of(1, 2)))), "member lists are fresh"),
        ((GOOD[0], *GOOD[4:]), "no member out of thin air"),
        ((GOOD[0], (ADD, 53, b""), *GOOD[4:]), "no member out of thin air"),
        (GOOD[:4], "no member out of thin air"),
        ((*GOOD[:2], GOOD[1], *GOOD[3:]), "ids are never reused"),
    ],
)
def test_wrong_answers_about_members_are_noticed(
    calls: tuple[tuple[Request, int | None, bytes], ...], rule: str
) -> None:
    """Stale, early, invented, unasked, refused and yet done, or one id for two."""
    with pytest.raises(SimulationFailed, match=rule):
        check_members(_told(*calls), COMMITTED, {})


def test_a_change_of_unknown_outcome_explains_what_was_done() -> None:
    """Nobody was answered, and the member is there."""
    unknown: tuple[Request, int | None, bytes] = (ADD, None, b"")
    assert check_members(_told(GOOD[0], unknown, *GOOD[3:]), COMMITTED, {})["member_answers_checked"] == 4
