"""What must hold between the parts of a core after every turn. Reads everything, changes nothing."""

from typing import TYPE_CHECKING

from protocol.types import NOBODY
from raft.transitions import Role

if TYPE_CHECKING:
    from raft.core import Raft


def check(raft: "Raft") -> None:
    """Assert them all."""
    raft.log.check()
    _check_cursors(raft)
    _check_role(raft)
    _check_configurations(raft)
    if raft.leading is not None:
        for progress in raft.leading.progress.values():
            progress.check()
            assert progress.matched <= raft.log.last.index, f"{progress.member:x} holds more than its leader"


def _check_cursors(raft: "Raft") -> None:
    assert raft.log.mark.index <= raft.applied, f"cut at {raft.log.mark.index}, applied {raft.applied}"
    assert raft.applied <= raft.handed, f"applied {raft.applied} before it was handed over, {raft.handed}"
    assert raft.handed <= raft.commit, f"handed over {raft.handed}, committed {raft.commit}"
    assert raft.commit <= raft.log.last.index, f"commit {raft.commit} behind the log's end {raft.log.last.index}"
    assert raft.handed <= raft.log.durable, f"handed over {raft.handed}, durable here {raft.log.durable}"
    assert raft.gate.written_to <= raft.log.last.index, "more was written than the log holds"
    assert raft.log.durable <= raft.gate.written_to, "more is durable than was written"
    assert raft.term >= raft.log.last.term, f"term {raft.term}, the log ends in {raft.log.last.term}"
    assert raft.gate.saved.term <= raft.term, "a later term was saved"


def _check_role(raft: "Raft") -> None:
    assert (raft.leading is not None) == (raft.role is Role.LEADER), "leader state and office go together"
    assert (raft.leader == raft.member) == (raft.role is Role.LEADER), "a leader, and nobody else, follows itself"
    if raft.role is Role.LEADER:
        assert raft.voted_for == raft.member, "a leader has voted for itself"
        assert raft.leading is not None, "a leader has its office"
        expected = [member for member in raft.configuration.everyone() if member != raft.member]
        assert list(raft.leading.progress) == expected, "a leader follows every other member"
    if raft.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        assert raft.leader == NOBODY, "a candidate follows nobody"
    if raft.role is not Role.CANDIDATE:
        assert raft.own_vote_ticket is None, "only a candidate waits for its own vote"


def _check_configurations(raft: "Raft") -> None:
    indexes = [index for index, _ in raft.configurations]
    assert indexes == sorted(set(indexes)), f"configurations out of order: {indexes}"
    assert indexes[0] == raft.log.mark.index, "the first configuration stands at the mark"
    assert indexes[-1] <= raft.log.last.index, "a configuration behind the log's end"
    raft.configuration.check()
