"""How a leader is found: timeouts, pre-votes, votes (thesis, sections 3.4, 3.6.1, 4.2.3, 9.6).

Invariants: a member asks only with a log that is on its disk; its own vote counts once it is on disk; a member that
hears a living leader neither votes nor changes its term for somebody else.
"""

from typing import TYPE_CHECKING

from protocol.peer import ConfirmMembership, PeerMessage, RequestVote, RequestVoteReply
from protocol.types import NOBODY, MemberId, Millis, Term
from raft import membership, replication
from raft.quorum import VoteResult, vote_result
from raft.transitions import Cause, Role

if TYPE_CHECKING:
    from raft.core import Raft

EAGER_ELECTIONS_MAX = 6
"""After a start this many tries come early, because nobody is known to lead; then the usual patience."""


def reset_timeout(raft: "Raft") -> None:
    """Draw the next election timeout, one to two times the configured one, so that splits heal (thesis, 3.4)."""
    timeout = raft.config.election_timeout_ms
    first = timeout
    if raft.heard_leader_at is None and raft.leading is None and raft.elections_tried < EAGER_ELECTIONS_MAX:
        # Pre-votes protect a leader whom we have not heard yet; a cluster that starts need not wait.
        first = timeout // 4
    raft.election_patience = Millis(first + raft.rng.randrange(timeout))
    raft.election_due = Millis(raft.now + raft.election_patience)


def first_timeout(raft: "Raft") -> None:
    """Draw the timeout after a start: at once when alone, early in a new cluster, where nobody can be leading."""
    if raft.configuration.voters == (raft.member,) and not raft.configuration.joint:
        raft.election_due = raft.now
    elif raft.log.last.index == 0 and raft.term == 0:
        heartbeat = raft.config.heartbeat_interval_ms
        raft.election_due = Millis(raft.now + heartbeat + raft.rng.randrange(3 * heartbeat))
    else:
        reset_timeout(raft)


def timed_out(raft: "Raft") -> None:
    """No leader was heard: ask around whether an election could be won, without touching the term."""
    raft.elections_tried += 1
    may_stand = _may_stand(raft)
    if not may_stand or raft.disk_stuck:
        reset_timeout(raft)
        if not may_stand:
            _confirm_membership(raft)
        return
    if raft.reluctant and not raft.passed_over:
        raft.passed_over = True
        reset_timeout(raft)
        return
    raft.passed_over = False
    if raft.elections_tried > EAGER_ELECTIONS_MAX:
        # A voter that was removed without its knowledge is refused, and by those that have lost its address in silence.
        _confirm_membership(raft)
    raft.change_role(Cause.ELECTION_TIMED_OUT)
    raft.set_leader(NOBODY)
    _ask(raft, Term(raft.term + 1), pre_vote=True, transfer=False)
    record_vote(raft, raft.member, granted=True)


def _confirm_membership(raft: "Raft") -> None:
    """Silence may mean that this member was removed: a leader does not feed who does not belong.

    Its log may end in its removal, which it does not know to be committed: where it is then stands further back.
    """
    tables = [configuration.members for _, configuration in raft.configurations]
    own = next((table[raft.member] for table in reversed(tables) if raft.member in table), None)
    question = ConfirmMembership(term=raft.term, peer_urls=own.peer_urls if own is not None else ())
    for voter in raft.configuration.everyone_voting():
        if voter != raft.member:
            raft.send(voter, question)


def _may_stand(raft: "Raft") -> bool:
    """Whether this member votes, or did before a change that is not committed yet.

    In the latter case others may need it: as long as it alone has the entry that removes it, nobody else can be elected
    without its vote, which its longer log forbids (thesis, section 4.2.2).
    """
    if raft.configuration.is_voter(raft.member):
        return True
    return membership.configuration_at(raft, raft.commit).is_voter(raft.member)


def stand(raft: "Raft", cause: Cause) -> None:
    """Stand for election in the next term, with the own vote first."""
    assert cause in (Cause.PRE_VOTE_WON, Cause.LEADERSHIP_OFFERED), f"nobody stands because of {cause}"
    raft.change_role(cause)
    raft.term = Term(raft.term + 1)
    raft.voted_for = raft.member
    # The next write holds the vote; only when it is on disk does the vote count.
    raft.own_vote_ticket = raft.gate.ticket + 1
    raft.set_leader(NOBODY)
    _ask(raft, raft.term, pre_vote=False, transfer=cause is Cause.LEADERSHIP_OFFERED)


def _ask(raft: "Raft", term: Term, *, pre_vote: bool, transfer: bool) -> None:
    raft.votes = {}
    reset_timeout(raft)
    raft.log_event("election_started", {"term": term, "pre_vote": pre_vote})
    request = RequestVote(term=term, last=raft.log.last, pre_vote=pre_vote, transfer=transfer)
    for voter in raft.configuration.everyone_voting():
        if voter != raft.member:
            # What the request claims to hold must survive a crash, or a shorter log could be elected.
            raft.send(voter, request, after_sync=True)


def record_vote(raft: "Raft", voter: MemberId, *, granted: bool) -> None:
    """Count one voter's answer, once; act if it decides."""
    if raft.role not in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        return
    raft.votes.setdefault(voter, granted)
    configuration = raft.configuration
    result = vote_result(configuration.voters, configuration.outgoing, raft.votes)
    if result is VoteResult.WON and raft.role is Role.PRE_CANDIDATE:
        stand(raft, Cause.PRE_VOTE_WON)
    elif result is VoteResult.WON:
        _take_office(raft)
    elif result is VoteResult.LOST:
        raft.become_follower(raft.term, NOBODY, Cause.VOTE_LOST)


def _take_office(raft: "Raft") -> None:
    raft.change_role(Cause.VOTE_WON)
    assert raft.voted_for == raft.member, "a leader has voted for itself"
    raft.votes = {}
    raft.elections_tried = EAGER_ELECTIONS_MAX
    raft.log_event("leader_elected", {"term": raft.term})
    replication.take_office(raft)
    raft.set_leader(raft.member)


def on_request_vote(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Vote, once a term, for a candidate whose log is at least as good as ours."""
    assert isinstance(message, RequestVote), f"{message.kind} came to on_request_vote"
    # No look at our own configuration: the candidate may know a newer one (thesis, section 4.2.2).
    if not message.transfer and hears_a_leader(raft):
        return
    if message.term > raft.term and not message.pre_vote:
        raft.become_follower(message.term, NOBODY, Cause.HIGHER_TERM_SEEN)
    good_log = message.last >= raft.log.last
    if message.pre_vote:
        granted = good_log and message.term > raft.term
        _answer(raft, sender, message, granted=granted)
        return
    granted = message.term == raft.term and good_log and raft.voted_for in (NOBODY, sender)
    if granted:
        raft.voted_for = sender
        reset_timeout(raft)
    _answer(raft, sender, message, granted=granted)


def _answer(raft: "Raft", to: MemberId, message: RequestVote, *, granted: bool) -> None:
    reply = RequestVoteReply(term=raft.term, asked=message.term, granted=granted, pre_vote=message.pre_vote)
    # A vote we might forget must not leave the node (thesis, section 3.8); a pre-vote promises nothing.
    raft.send(to, reply, after_sync=granted and not message.pre_vote)


def hears_a_leader(raft: "Raft") -> bool:
    """Whether a leader was heard so lately that an election would only disturb it (thesis, section 4.2.3)."""
    if raft.leading is not None:
        return True
    heard = raft.heard_leader_at
    return raft.leader != NOBODY and heard is not None and raft.now - heard < raft.config.election_timeout_ms


def on_confirm_membership(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Say nothing: who asks and was removed has been refused before this, and who belongs will be fed."""


def on_request_vote_reply(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Count a vote given to this candidacy; a higher term ends it."""
    assert isinstance(message, RequestVoteReply), f"{message.kind} came to on_request_vote_reply"
    if message.term > raft.term:
        raft.become_follower(message.term, NOBODY, Cause.HIGHER_TERM_SEEN)
        return
    if message.pre_vote:
        current = raft.role is Role.PRE_CANDIDATE and message.asked == raft.term + 1
    else:
        current = raft.role is Role.CANDIDATE and message.asked == raft.term
    if current:
        record_vote(raft, sender, granted=message.granted)
