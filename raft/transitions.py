"""Every change of role, as data.

Rule 1: a member changes its role only through a row of `ROLE_AFTER`. Rule 2: this file knows no peer, no time and no
log; whether a cause has come about is decided elsewhere. A pair that is neither in the table nor in `IMPOSSIBLE` does
not exist; a test proves it.
"""

from enum import Enum
from typing import Final

from protocol.errors import InvariantViolation


class Role(Enum):
    """What a member is to the others in its term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"
    """Asks whether an election could be won, without touching its term (thesis, section 9.6)."""
    CANDIDATE = "candidate"
    LEADER = "leader"


class Cause(Enum):
    """Why a role changes."""

    ELECTION_TIMED_OUT = "election_timed_out"
    PRE_VOTE_WON = "pre_vote_won"
    LEADERSHIP_OFFERED = "leadership_offered"
    """The leader hands over: `TimeoutNow` (thesis, section 3.10)."""
    VOTE_WON = "vote_won"
    VOTE_LOST = "vote_lost"
    LEADER_HEARD = "leader_heard"
    HIGHER_TERM_SEEN = "higher_term_seen"
    OFFICE_LEFT = "office_left"
    """A majority is silent, the own disk is stuck, or the leader is no voter any more."""


_F, _P, _C, _L = Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER

ROLE_AFTER: Final[dict[tuple[Role, Cause], Role]] = {
    (_F, Cause.ELECTION_TIMED_OUT): _P,
    (_P, Cause.ELECTION_TIMED_OUT): _P,
    (_C, Cause.ELECTION_TIMED_OUT): _P,
    (_P, Cause.PRE_VOTE_WON): _C,
    (_F, Cause.LEADERSHIP_OFFERED): _C,
    (_C, Cause.VOTE_WON): _L,
    (_P, Cause.VOTE_LOST): _F,
    (_C, Cause.VOTE_LOST): _F,
    (_F, Cause.LEADER_HEARD): _F,
    (_P, Cause.LEADER_HEARD): _F,
    (_C, Cause.LEADER_HEARD): _F,
    (_F, Cause.HIGHER_TERM_SEEN): _F,
    (_P, Cause.HIGHER_TERM_SEEN): _F,
    (_C, Cause.HIGHER_TERM_SEEN): _F,
    (_L, Cause.HIGHER_TERM_SEEN): _F,
    (_L, Cause.OFFICE_LEFT): _F,
}

IMPOSSIBLE: Final[frozenset[tuple[Role, Cause]]] = frozenset(
    {
        (_L, Cause.ELECTION_TIMED_OUT),  # a leader has no election timer
        (_F, Cause.PRE_VOTE_WON),
        (_C, Cause.PRE_VOTE_WON),
        (_L, Cause.PRE_VOTE_WON),
        (_P, Cause.LEADERSHIP_OFFERED),  # only who follows a leader is offered its office
        (_C, Cause.LEADERSHIP_OFFERED),
        (_L, Cause.LEADERSHIP_OFFERED),
        (_F, Cause.VOTE_WON),
        (_P, Cause.VOTE_WON),
        (_L, Cause.VOTE_WON),
        (_F, Cause.VOTE_LOST),
        (_L, Cause.VOTE_LOST),
        (_L, Cause.LEADER_HEARD),  # election safety: no second leader in one term
        (_F, Cause.OFFICE_LEFT),
        (_P, Cause.OFFICE_LEFT),
        (_C, Cause.OFFICE_LEFT),
    }
)
"""Pairs that only a bug, ours or a peer's, can bring about."""


def role_after(role: Role, cause: Cause) -> Role:
    """Return the role that follows `role` for `cause`.

    Raises:
        InvariantViolation: the pair is impossible.
    """
    following = ROLE_AFTER.get((role, cause))
    if following is None:
        raise InvariantViolation(f"impossible transition: {cause.value} while {role.value}")
    return following
