"""Majorities, plain and joint. Pure functions: no state, no time.

Invariant: in a joint configuration both halves must agree (thesis, section 4.3).
"""

from collections.abc import Collection, Mapping
from enum import Enum

from protocol.types import Index, MemberId


class VoteResult(Enum):
    """Where an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def majority(count: int) -> int:
    """Return the smallest number of `count` members that is more than half of them."""
    return count // 2 + 1


def _committed(voters: Collection[MemberId], durable: Mapping[MemberId, Index]) -> Index:
    ranked = sorted((durable.get(voter, Index(0)) for voter in voters), reverse=True)
    return ranked[majority(len(ranked)) - 1]


def committed_index(
    voters: Collection[MemberId], outgoing: Collection[MemberId], durable: Mapping[MemberId, Index]
) -> Index:
    """Return the largest index that a majority of each half has fsynced; a silent voter counts as 0."""
    assert voters, "an empty configuration commits nothing"
    incoming = _committed(voters, durable)
    return min(incoming, _committed(outgoing, durable)) if outgoing else incoming


def _half(voters: Collection[MemberId], votes: Mapping[MemberId, bool]) -> VoteResult:
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= majority(len(voters)):
        return VoteResult.WON
    if len(voters) - refused < majority(len(voters)):
        return VoteResult.LOST
    return VoteResult.PENDING


def vote_result(
    voters: Collection[MemberId], outgoing: Collection[MemberId], votes: Mapping[MemberId, bool]
) -> VoteResult:
    """Return whether `votes` decide an election; a voter votes once, however often its answer arrives."""
    assert voters, "an empty configuration elects nobody"
    halves = [_half(voters, votes)]
    if outgoing:
        halves.append(_half(outgoing, votes))
    if VoteResult.LOST in halves:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in halves else VoteResult.WON
