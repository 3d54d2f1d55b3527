"""The algebra of majorities, against definitions that need no sorting."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from protocol.types import Index, MemberId
from raft.quorum import VoteResult, committed_index, majority, vote_result

MEMBERS = st.integers(1, 7).map(MemberId)
VOTERS = st.lists(MEMBERS, min_size=1, max_size=7, unique=True)
OUTGOING = st.lists(MEMBERS, max_size=7, unique=True)
DURABLE = st.dictionaries(MEMBERS, st.integers(0, 9).map(Index))
VOTES = st.dictionaries(MEMBERS, st.booleans())


def agreed(voters: list[MemberId], durable: Mapping[MemberId, Index], index: int) -> bool:
    """Whether more than half of the voters hold `index`."""
    return 2 * sum(durable.get(voter, 0) >= index for voter in voters) > len(voters)


@given(VOTERS, OUTGOING, DURABLE)
def test_committed_index_is_the_largest_both_halves_hold(
    voters: list[MemberId], outgoing: list[MemberId], durable: dict[MemberId, Index]
) -> None:
    """The result is held by a majority of each half, and nothing larger is."""
    index = committed_index(voters, outgoing, durable)
    assert agreed(voters, durable, index)
    assert not outgoing or agreed(outgoing, durable, index)
    beyond = index + 1
    assert not (agreed(voters, durable, beyond) and (not outgoing or agreed(outgoing, durable, beyond)))


@given(VOTERS, OUTGOING, DURABLE, MEMBERS)
def test_committed_index_never_falls_when_a_voter_gains(
    voters: list[MemberId], outgoing: list[MemberId], durable: dict[MemberId, Index], member: MemberId
) -> None:
    """More entries on one disk never lower the commit index."""
    before = committed_index(voters, outgoing, durable)
    durable[member] = Index(durable.get(member, Index(0)) + 3)
    assert committed_index(voters, outgoing, durable) >= before


@given(VOTERS, OUTGOING, VOTES)
def test_vote_is_won_by_majorities_and_lost_when_none_is_left(
    voters: list[MemberId], outgoing: list[MemberId], votes: dict[MemberId, bool]
) -> None:
    """Won: each half granted by more than half. Lost: some half cannot be won any more. Else it is open."""
    halves = [half for half in (voters, outgoing) if half]
    won = all(2 * sum(votes.get(voter) is True for voter in half) > len(half) for half in halves)
    hopeless = any(2 * sum(votes.get(voter) is not False for voter in half) <= len(half) for half in halves)
    expected = VoteResult.WON if won else VoteResult.LOST if hopeless else VoteResult.PENDING
    assert vote_result(voters, outgoing, votes) is expected


@given(VOTERS, VOTES)
def test_a_configuration_joined_with_itself_is_itself(voters: list[MemberId], votes: dict[MemberId, bool]) -> None:
    """Both halves equal: the joint decision is the plain one."""
    assert vote_result(voters, voters, votes) is vote_result(voters, (), votes)


@given(VOTERS, st.data())
def test_two_majorities_meet(voters: list[MemberId], data: st.DataObject) -> None:
    """Any two majorities share a voter: the ground on which everything stands."""
    size = majority(len(voters))
    one = data.draw(st.permutations(voters))[:size]
    other = data.draw(st.permutations(voters))[:size]
    assert set(one) & set(other)
    assert vote_result(voters, (), dict.fromkeys(one, True)) is VoteResult.WON


@given(VOTERS, OUTGOING)
def test_nobody_heard_decides_nothing(voters: list[MemberId], outgoing: list[MemberId]) -> None:
    """Without a word nothing is committed and no election is decided."""
    assert committed_index(voters, outgoing, {}) == 0
    assert vote_result(voters, outgoing, {}) is VoteResult.PENDING
