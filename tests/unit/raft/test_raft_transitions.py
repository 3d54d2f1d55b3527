"""The table of roles is total and says what Raft says."""

import itertools

import pytest

from protocol.errors import InvariantViolation
from raft.transitions import IMPOSSIBLE, ROLE_AFTER, Cause, Role, role_after

PAIRS = list(itertools.product(Role, Cause))


@pytest.mark.parametrize(("role", "cause"), PAIRS)
def test_every_pair_is_decided_once(role: Role, cause: Cause) -> None:
    """Each pair of role and cause stands either in the table or among the impossible ones."""
    assert ((role, cause) in ROLE_AFTER) != ((role, cause) in IMPOSSIBLE)


def test_nothing_else_is_in_the_tables() -> None:
    """The tables name no pair twice and none that does not exist."""
    assert set(ROLE_AFTER) | IMPOSSIBLE == set(PAIRS)


@pytest.mark.parametrize(("role", "cause"), sorted(IMPOSSIBLE, key=str))
def test_impossible_pair_is_a_violation(role: Role, cause: Cause) -> None:
    """An impossible change of role stops the member and names both."""
    with pytest.raises(InvariantViolation, match=f"{cause.value} while {role.value}"):
        role_after(role, cause)


def test_office_comes_from_votes_alone() -> None:
    """Only a candidate that won a vote becomes leader."""
    assert [pair for pair, after in ROLE_AFTER.items() if after is Role.LEADER] == [(Role.CANDIDATE, Cause.VOTE_WON)]


@pytest.mark.parametrize("role", list(Role))
def test_higher_term_always_makes_a_follower(role: Role) -> None:
    """No role survives a higher term."""
    assert role_after(role, Cause.HIGHER_TERM_SEEN) is Role.FOLLOWER
