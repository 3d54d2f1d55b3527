"""How a leader is found: timeouts, pre-votes, votes (thesis, sections 3.4, 4.2.3, 9.6).

Invariants: a member asks only with a log that is on its disk; its own vote counts once it is on disk; a member
that hears a living leader neither votes nor changes its term for somebody else.
"""

from typing import TYPE_CHECKING

from protocol.peer import PeerMessage, RequestVote, RequestVoteReply
from protocol.types import NOBODY, MemberId, Millis, Term
from raft import membership, reads, replication
from raft.quorum import VoteResult, vote_result

if TYPE_CHECKING:
    from raft.core import Raft


def reset_timeout(raft: "Raft") -> None:
    """Draw the next election timeout, one to two times the configured one, so that splits heal."""
    timeout = raft.config.election_timeout_ms
    raft.election_patience = Millis(timeout + raft.rng.randrange(timeout))
    raft.election_due = Millis(raft.now + raft.election_patience)


def first_timeout(raft: "Raft", *, fresh: bool) -> None:
    """Draw the timeout after a start: at once when alone, early in a new cluster, where nobody can be leading."""
    if len(raft.configuration.everyone()) == 1:
        raft.election_due = raft.now
    elif fresh:
        heartbeat = raft.config.heartbeat_interval_ms
        raft.election_due = Millis(raft.now + heartbeat + raft.rng.randrange(heartbeat * 3))
    else:
        reset_timeout(raft)


def timed_out(raft: "Raft") -> None:
    """No leader was heard: ask around whether an election could be won, without touching the term."""
    if not raft.configuration.is_voter(raft.member) or raft.disk_stuck:
        reset_timeout(raft)
        return
    campaign(raft, pre_vote=True, transfer=False)


def campaign(raft: "Raft", *, pre_vote: bool, transfer: bool) -> None:
    """Stand for election, for real or for the rehearsal before it."""
    from raft.core import Role

    reads.leader_changed(raft)
    raft.leader = NOBODY
    raft.votes = {}
    reset_timeout(raft)
    if pre_vote:
        raft.role = Role.PRE_CANDIDATE
        term = Term(raft.term + 1)
    else:
        raft.role = Role.CANDIDATE
        raft.term = term = Term(raft.term + 1)
        raft.voted_for = raft.member
        raft.own_vote = (term, 0)
    raft.log_event("election_started", {"term": term, "pre_vote": pre_vote})
    request = RequestVote(term=term, last=raft.log.last, pre_vote=pre_vote, transfer=transfer)
    for voter in _voters(raft):
        if voter != raft.member:
            # What the request claims to hold must survive a crash, or a shorter log could be elected.
            raft.send(voter, request, after_sync=True)
    if pre_vote:
        record_vote(raft, raft.member, granted=True)


def _voters(raft: "Raft") -> list[MemberId]:
    configuration = raft.configuration
    return sorted({*configuration.voters, *configuration.outgoing})


def record_vote(raft: "Raft", voter: MemberId, *, granted: bool) -> None:
    """Count one voter's answer; act if it decides."""
    from raft.core import Role

    if raft.role not in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        return
    raft.votes.setdefault(voter, granted)
    configuration = raft.configuration
    result = vote_result(configuration.voters, configuration.outgoing, raft.votes)
    if result is VoteResult.WON and raft.role is Role.PRE_CANDIDATE:
        campaign(raft, pre_vote=False, transfer=False)
    elif result is VoteResult.WON:
        become_leader(raft)
    elif result is VoteResult.LOST:
        raft.become_follower(raft.term, NOBODY)


def become_leader(raft: "Raft") -> None:
    """Take office: know nothing of the followers, and put a no-op behind the log (thesis, section 6.4)."""
    from raft.core import Role

    raft.role = Role.LEADER
    raft.leader = raft.member
    raft.votes = {}
    raft.log_event("leader_elected", {"term": raft.term})
    replication.take_office(raft)
    membership.office_taken(raft)


def on_request_vote(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Vote, once a term, for a candidate whose log is at least as good as ours."""
    assert isinstance(message, RequestVote)
    # No look at our own configuration: the candidate may know a newer one (thesis, section 4.2.2).
    if not message.transfer and _hears_a_leader(raft):
        return
    if message.term < raft.term:
        refusal = RequestVoteReply(term=raft.term, granted=False, pre_vote=message.pre_vote)
        raft.send(sender, refusal)
        return
    if not message.pre_vote and message.term > raft.term:
        raft.become_follower(message.term, NOBODY)
    good_log = message.last >= raft.log.last
    if message.pre_vote:
        granted = good_log and message.term > raft.term
        term = message.term if granted else raft.term
        raft.send(sender, RequestVoteReply(term=term, granted=granted, pre_vote=True))
        return
    granted = good_log and raft.voted_for in (NOBODY, sender) and raft.leader == NOBODY
    if granted:
        raft.voted_for = sender
        reset_timeout(raft)
    # A vote we might forget must not leave the node (thesis, section 3.8).
    raft.send(sender, RequestVoteReply(term=raft.term, granted=granted, pre_vote=False), after_sync=True)


def _hears_a_leader(raft: "Raft") -> bool:
    if raft.leading is not None:
        return True
    heard = raft.heard_leader_at
    return raft.leader != NOBODY and heard is not None and raft.now - heard < raft.config.election_timeout_ms


def on_request_vote_reply(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Count a vote given to this candidacy; a higher term ends it."""
    from raft.core import Role

    assert isinstance(message, RequestVoteReply)
    wanted = Role.PRE_CANDIDATE if message.pre_vote else Role.CANDIDATE
    expected = raft.term + 1 if message.pre_vote and message.granted else raft.term
    if message.term > raft.term and not (message.pre_vote and message.granted):
        raft.become_follower(message.term, NOBODY)
    elif raft.role is wanted and message.term == expected:
        record_vote(raft, sender, granted=message.granted)
    elif raft.role is wanted and not message.granted and message.term <= raft.term:
        record_vote(raft, sender, granted=False)


def on_timeout_now(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """The leader hands over: stand at once, without a rehearsal (thesis, section 3.10)."""
    if message.term == raft.term and sender == raft.leader and raft.configuration.is_voter(raft.member):
        campaign(raft, pre_vote=False, transfer=True)
