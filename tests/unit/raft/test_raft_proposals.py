"""Proposals: bounds, forwarding, and that each is decided once."""

import pytest

from protocol.config import RaftConfig
from protocol.errors import ErrorCode
from protocol.peer import ForwardProposal, ForwardProposalReply
from protocol.types import Index, MemberId, Term
from raft.proposals import FORWARDS_REMEMBERED_MAX, SEEN_CONTEXTS, ProposalDesk, SeenWindow
from sim.core_cluster import CoreCluster

N1, N2, N3 = MemberId(1), MemberId(2), MemberId(3)


def forwards(cluster: CoreCluster) -> list[ForwardProposal]:
    """Forwarded batches under way."""
    return [wire.message for wire in cluster.wire if isinstance(wire.message, ForwardProposal)]


def test_follower_forwards_to_its_leader() -> None:
    """A batch submitted at a follower gets into the log through the leader, once."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.propose(2, b"x", 7)
    cluster.settle()
    assert cluster.commands(2) == [b"x"]
    assert not cluster[2].refused


def test_nobody_leads_means_refused() -> None:
    """Without a leader a batch is refused at once."""
    cluster = CoreCluster()
    cluster.propose(2, b"x", 7)
    assert cluster[2].refused == [(7, ErrorCode.NO_LEADER)]


def test_copy_of_a_forwarded_batch_is_ignored() -> None:
    """A copy of what was accepted neither enters the log again nor is refused, even after the office is lost."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.propose(2, b"x", 7)
    (copy,) = forwards(cluster)
    cluster.settle()
    cluster.step(leader, N2, copy)
    cluster.settle()
    cluster.elect(3)
    cluster.step(leader, N2, copy)
    cluster.settle()

    assert cluster.commands(2) == [b"x"]
    assert not cluster[2].refused


def test_refusal_finds_its_way_back() -> None:
    """A batch that reaches its leader after the office was lost is refused under the gateway's own sequence."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.propose(2, b"x", 7)
    (message,) = forwards(cluster)
    cluster.wire.clear()
    cluster.elect(3)
    cluster.step(leader, N2, message)
    cluster.settle()
    assert cluster[2].refused == [(7, ErrorCode.NO_LEADER)]
    cluster.step(leader, N2, message)
    cluster.settle()
    assert len(cluster[2].refused) == 1
    assert cluster.commands(2) == []


def test_batch_of_a_forgotten_office_is_met_with_silence() -> None:
    """A leader that crashed cannot know what it decided, so it says nothing."""
    cluster = CoreCluster()
    leader = cluster.elect(1)
    cluster.propose(2, b"x", 7)
    (message,) = forwards(cluster)
    cluster.wire.clear()
    cluster.crash(1)
    cluster.restart(1)
    cluster.step(leader, N2, message)
    assert not [wire for wire in cluster.wire if isinstance(wire.message, ForwardProposalReply)]


def test_refusal_of_a_replaced_gateways_batch_is_nobodys() -> None:
    """After the gateway was replaced refusals of its predecessor's batches are dropped."""
    cluster = CoreCluster()
    cluster.elect(1)
    cluster.propose(2, b"x", 7)
    (message,) = forwards(cluster)
    cluster.core(2).proposals.forget_gateway()
    reply = ForwardProposalReply(term=Term(1), context=message.context, code=ErrorCode.TOO_MANY_REQUESTS)
    cluster.step(cluster[2], N1, reply)
    assert not cluster[2].refused


def test_uncommitted_bytes_are_bounded() -> None:
    """Over the bound a leader refuses; what is committed makes room again; a single large batch is let in."""
    cluster = CoreCluster(config=RaftConfig(uncommitted_bytes_max=100))
    cluster.elect(1)
    cluster.isolate(1)
    cluster.propose(1, b"x" * 150, 1)
    cluster.propose(1, b"x", 2)
    assert cluster[1].refused == [(2, ErrorCode.TOO_MANY_REQUESTS)]
    cluster.heal()
    cluster.advance(500)
    cluster.propose(1, b"x", 3)
    cluster.settle()
    assert cluster.commands(1) == [b"x" * 150, b"x"]


@pytest.mark.parametrize(
    "config", [RaftConfig(unapplied_entries_max=3), RaftConfig(unapplied_bytes_max=30)], ids=["entries", "bytes"]
)
def test_unapplied_is_bounded(config: RaftConfig) -> None:
    """A slow applier is handed a bounded amount, and while it is behind proposals are refused."""
    cluster = CoreCluster(config=config)
    leader = cluster.elect(1)
    for number in range(9):
        cluster.propose(1, b"x" * 10, number)
    for _ in range(60):
        cluster.deliver()
        for member in cluster.members.values():
            member.persist()
    cluster.propose(1, b"x" * 10, 9)
    core = leader.core
    assert core.commit > core.handed
    assert core.handed - core.applied <= 4
    assert leader.refused == [(9, ErrorCode.TOO_MANY_REQUESTS)]
    cluster.settle()
    assert core.applied == core.commit
    assert len(cluster.commands(1)) == 9


def test_seen_window_decides_once() -> None:
    """A context is new once, in any order, as long as it is not too far behind the highest."""
    window = SeenWindow()
    assert [window.first_time(context) for context in (5, 7, 6, 5, 7, 8, 6)] == [
        True, True, True, False, False, True, False,
    ]  # fmt: skip
    assert window.first_time(8 + SEEN_CONTEXTS - 1)
    assert not window.first_time(8)
    assert not window.first_time(1), "too old to tell"
    assert window.first_time(10 + SEEN_CONTEXTS * 3)
    assert window.first_time(11 + SEEN_CONTEXTS * 2), "never seen, and within the window"


def test_forwarded_batches_are_remembered_within_a_bound() -> None:
    """The oldest forwarded batch is forgotten when there are too many."""
    desk = ProposalDesk(0)
    contexts = [desk.forwarded(sequence) for sequence in range(FORWARDS_REMEMBERED_MAX + 1)]
    desk.forward_refused(contexts[0], ErrorCode.NO_LEADER)
    desk.forward_refused(contexts[-1], ErrorCode.NO_LEADER)
    assert desk.take_refused() == [(FORWARDS_REMEMBERED_MAX, ErrorCode.NO_LEADER)]


def test_log_position_of_a_refused_batch_stays_free() -> None:
    """A refused batch leaves no trace in the log."""
    cluster = CoreCluster(config=RaftConfig(uncommitted_bytes_max=10))
    leader = cluster.elect(1)
    cluster.isolate(1)
    cluster.propose(1, b"x" * 10, 1)
    end = leader.core.log.last
    cluster.propose(1, b"x" * 10, 2)
    assert leader.core.log.last == end
    assert leader.core.log.bytes_between(Index(0), end.index) == 10
