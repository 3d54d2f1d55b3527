"""How a leader brings entries to the followers and commits them (thesis, sections 3.5, 3.6, 10.2.1).

Invariants: the leader never overwrites its own log; only entries of its own term are committed by counting; the
leader's own entries count after its own fsync; what is in flight to a follower is bounded in count and bytes.
"""

from typing import TYPE_CHECKING

from protocol.errors import InvariantViolation, PeerFault
from protocol.peer import AppendEntries, AppendEntriesReply, Heartbeat, HeartbeatReply, PeerMessage
from protocol.types import NOBODY, EntryKind, Index, LogPosition, MemberId, Millis
from raft import member_changes, membership, read_index, spares, transfer
from raft.leading import LeaderState
from raft.progress import Progress, ProgressState
from raft.quorum import VoteResult, committed_index, vote_result
from raft.transitions import Cause

if TYPE_CHECKING:
    from raft.core import Raft


def take_office(raft: "Raft") -> None:
    """Begin to lead: probe everybody and append the no-op that lets older entries be committed (thesis, 3.6.2)."""
    assert raft.leading is None, "nobody takes office twice"
    raft.leading = LeaderState(
        progress={},
        first_own_index=Index(raft.log.last.index + 1),
        quorum_checked_at=raft.now,
        tick_due=raft.now,
    )
    sync_followers(raft)
    raft.proposals.office_taken(raft.term)
    raft.append(EntryKind.NOOP, b"")


def sync_followers(raft: "Raft") -> None:
    """Have a `Progress` for every other member and for nobody else."""
    leading = raft.leading
    assert leading is not None, "only a leader has followers"
    others = [member for member in raft.configuration.everyone() if member != raft.member]
    next_index = Index(raft.log.last.index + 1)
    leading.progress = {
        member: leading.progress.get(member) or Progress(member, next_index, raft.now) for member in others
    }
    spares.appoint(raft)


# --- time ------------------------------------------------------------------------------------------


def leader_tick(raft: "Raft") -> None:
    """Say that we live, look after what was lost, and leave office when a majority or the own disk is silent."""
    leading = raft.leading
    assert leading is not None, "only a leader ticks so"
    config = raft.config
    if raft.disk_stuck:
        # A leader that cannot write must not keep others from electing one that can.
        leave_office(raft, "disk_stuck")
        return
    if raft.now < leading.tick_due:
        return
    if raft.now - leading.tick_due > config.heartbeat_interval_ms:
        raft.heartbeats_late += 1
    leading.tick_due = Millis(raft.now + config.heartbeat_interval_ms)
    if raft.now - leading.quorum_checked_at >= config.election_timeout_ms:
        leading.quorum_checked_at = raft.now
        if not quorum_heard(raft):
            raft.log_event("quorum_silent", {"term": raft.term})
            raft.become_follower(raft.term, NOBODY, Cause.OFFICE_LEFT)
            return
    send_heartbeats(raft)
    for progress in leading.progress.values():
        _find_lost(raft, progress)
    spares.look_after(raft)
    transfer.remind(raft)
    member_changes.tick(raft)


def leave_office(raft: "Raft", reason: str) -> None:
    """Step down at once, with a word to the follower that is furthest ahead so that the others need not wait."""
    raft.log_event("leader_leaves", {"term": raft.term, "reason": reason})
    transfer.bequeath(raft)
    raft.become_follower(raft.term, NOBODY, Cause.OFFICE_LEFT)


def quorum_heard(raft: "Raft") -> bool:
    """Whether a majority has answered within the last election timeout (check-quorum; thesis, section 6.2)."""
    leading = raft.leading
    assert leading is not None, "only a leader counts"
    since = Millis(raft.now - raft.config.election_timeout_ms)
    heard = {member: True for member, progress in leading.progress.items() if progress.heard_since(since)}
    heard[raft.member] = True
    configuration = raft.configuration
    return vote_result(configuration.voters, configuration.outgoing, heard) is VoteResult.WON


def send_heartbeats(raft: "Raft") -> None:
    """Send every follower a heartbeat that carries the newest read round."""
    leading = raft.leading
    assert leading is not None, "only a leader's heart beats"
    leading.round_wanted = False
    for member, progress in leading.progress.items():
        commit = Index(min(progress.matched, raft.commit))
        raft.send(member, Heartbeat(term=raft.term, commit=commit, round=leading.round))
        progress.commit_sent = max(progress.commit_sent, commit)
        if progress.timed_round is None or progress.timed_round[0] != leading.round:
            progress.timed_round = (leading.round, raft.now)


def _patience(raft: "Raft") -> int:
    """How long an append may go unanswered before it is taken for lost."""
    return max(2 * raft.config.heartbeat_interval_ms, raft.config.election_timeout_ms // 4)


def _find_lost(raft: "Raft", progress: Progress) -> None:
    """Take silent appends for lost, if the follower lives; who is silent altogether is left to the heartbeats."""
    if raft.now - progress.sent_at < _patience(raft) or not _alive(raft, progress):
        return
    if progress.state is ProgressState.REPLICATE and progress.inflight:
        progress.probe_again()
    elif progress.state is ProgressState.PROBE:
        progress.probe_sent = False
    elif progress.state is ProgressState.SNAPSHOT:
        # Word of an installed snapshot may have been lost: see whether the log now reaches it.
        progress.sent_at = raft.now
        _send_append(raft, progress.member, raft.log.mark, 0, quiet=False)


def _alive(raft: "Raft", progress: Progress) -> bool:
    return progress.heard_since(Millis(raft.now - raft.config.election_timeout_ms))


# --- appends ---------------------------------------------------------------------------------------


def feed_followers(raft: "Raft") -> None:
    """Send each follower at most one append; called once a turn, so that a turn is one append."""
    leading = raft.leading
    assert leading is not None, "only a leader feeds"
    if leading.round_wanted:
        send_heartbeats(raft)
    # Followers that stand at the same place get the same message; it is encoded once.
    built: dict[Index, AppendEntries] = {}
    quiet: dict[Index, AppendEntries] = {}
    leading.more_to_send = False
    last, commit = raft.log.last.index, raft.commit
    leading.forget_news_due()
    gathering = False
    for progress in leading.progress.values():
        if progress.state is ProgressState.REPLICATE:
            if progress.next_index <= last:
                if progress.spare and spares.may_gather(raft, progress):
                    gathering = True
                    continue
            elif progress.commit_sent >= commit or _news_may_wait(raft, leading, progress):
                continue
        _feed(raft, progress, built, quiet)
        if progress.next_index <= last and progress.state is ProgressState.REPLICATE and _sendable(raft, progress):
            leading.more_to_send = True
    if leading.news_due is None:
        leading.news_since = None
    if not gathering:
        leading.spares_due = None


def _news_may_wait(raft: "Raft", leading: LeaderState, progress: Progress) -> bool:
    """Whether word of a commit may wait for an append to carry it to this follower; `news_due` says how long.

    Under load the next append follows at once, and that spares both sides a message and a turn.
    """
    if leading.news_since is None or progress.commit_awaited > progress.commit_sent:
        return False
    attended = raft.now < progress.attended_until
    config = raft.config
    delay_ms = config.commit_news_delay_ms if attended else max(config.commit_news_delay_ms, config.unattended_delay_ms)
    due = Millis(leading.news_since + delay_ms)
    if raft.now >= due:
        return False
    leading.news_due = due if leading.news_due is None else min(leading.news_due, due)
    return True


def _sendable(raft: "Raft", progress: Progress) -> bool:
    """Whether entries wait for this follower and the window has room."""
    config = raft.config
    return (
        progress.next_index <= raft.log.last.index
        and len(progress.inflight) < config.inflight_appends_max
        and (not progress.inflight or progress.inflight_bytes < config.inflight_bytes_max)
    )


def _feed(
    raft: "Raft", progress: Progress, built: dict[Index, AppendEntries], quiet: dict[Index, AppendEntries]
) -> None:
    if progress.state is ProgressState.SNAPSHOT:
        return
    if progress.state is ProgressState.REPLICATE and progress.next_index <= raft.log.mark.index:
        # The log was cut before this follower got all of it.
        progress.probe_again()
    if progress.state is ProgressState.PROBE:
        if not progress.probe_sent:
            _probe(raft, progress)
        return
    if _sendable(raft, progress):
        message = built.get(progress.next_index)
        if message is None:
            message = _append_behind(raft, Index(progress.next_index - 1), raft.config.append_entries_max, quiet=False)
            built[progress.next_index] = message
        raft.send(progress.member, message, bulk=True)
        size = raft.log.bytes_between(message.previous.index, message.entries[-1].index)
        progress.sent(message.entries[-1].index, size, raft.now)
        progress.commit_sent = raft.commit
    elif raft.commit > progress.commit_sent and progress.next_index > raft.commit:
        # Nothing else goes out: tell the news.
        news = quiet.get(progress.next_index)
        if news is None:
            news = quiet[progress.next_index] = _append_behind(raft, Index(progress.next_index - 1), 0, quiet=True)
        raft.send(progress.member, news, bulk=True)
        progress.commit_sent = raft.commit


def _probe(raft: "Raft", progress: Progress) -> None:
    """Send one append and wait for what the follower says to it."""
    if progress.next_index <= raft.log.mark.index:
        # What it needs may be cut away; ask at the first place we still know before a snapshot is made.
        progress.next_index = raft.log.first_index
    # The first probe carries entries, it may well fit; who is silent then gets nothing but small questions.
    hopeful = progress.heard_at is None or _alive(raft, progress)
    entries_max = raft.config.append_entries_max if hopeful else 0
    previous = _position(raft, Index(progress.next_index - 1))
    _send_append(raft, progress.member, previous, entries_max, quiet=False)
    progress.sent(Index(progress.next_index - 1), 0, raft.now)
    progress.commit_sent = raft.commit


def _position(raft: "Raft", index: Index) -> LogPosition:
    term = raft.log.term_at(index)
    if term is None:
        raise InvariantViolation(
            f"an append behind {index}, the log holds {raft.log.mark.index}..{raft.log.last.index}"
        )
    return LogPosition(term, index)


def _append_behind(raft: "Raft", index: Index, entries_max: int, *, quiet: bool) -> AppendEntries:
    previous = _position(raft, index)
    following = Index(index + 1)
    wanted = entries_max and following <= raft.log.last.index
    entries = raft.log.slice(following, entries_max, raft.config.append_bytes_max) if wanted else ()
    # Built without validation: everything in it is our own, and this is the hottest message there is.
    return AppendEntries.make(term=raft.term, previous=previous, entries=entries, commit=raft.commit, quiet=quiet)


def _send_append(raft: "Raft", to: MemberId, previous: LogPosition, entries_max: int, *, quiet: bool) -> None:
    raft.send(to, _append_behind(raft, previous.index, entries_max, quiet=quiet), bulk=True)


# --- answers ---------------------------------------------------------------------------------------


def follower_of(raft: "Raft", sender: MemberId, message: PeerMessage) -> Progress | None:
    """Return the sender's progress if this member leads it in this term; step down before a higher one."""
    if message.term > raft.term:
        raft.become_follower(message.term, NOBODY, Cause.HIGHER_TERM_SEEN)
        return None
    if raft.leading is None or message.term < raft.term:
        return None
    progress = raft.leading.progress.get(sender)
    if progress is not None:
        progress.heard_at = raft.now
    return progress


def on_append_entries_reply(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Move a follower's cursor; commit what a majority now has on disk."""
    assert isinstance(message, AppendEntriesReply), f"{message.kind} came to on_append_entries_reply"
    progress = follower_of(raft, sender, message)
    if progress is None:
        return
    if message.rejected:
        progress.rejected(message.matched, message.conflict, raft.log, raft.now)
        return
    if message.matched > raft.log.last.index:
        raise PeerFault(f"{sender:x} acknowledges {message.matched}, our log ends at {raft.log.last.index}")
    if progress.acknowledged(message.matched, raft.log.first_index, raft.now):
        committed = raft.commit
        advance_commit(raft)
        if progress.spare and raft.commit > committed and raft.leading is not None:
            # Others were slower than one that was fed late. (The commit may have ended our office: we were removed.)
            spares.appoint(raft)
        transfer.hand_over_when_ready(raft)


def on_heartbeat_reply(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Note that the follower lives, and which read round it has confirmed."""
    assert isinstance(message, HeartbeatReply), f"{message.kind} came to on_heartbeat_reply"
    progress = follower_of(raft, sender, message)
    if progress is None:
        return
    timed = progress.timed_round
    if timed is not None and timed[0] == message.round:
        raft.observe_round_trip(sender, raft.now - timed[1])
        progress.timed_round = None
    if message.attended:
        progress.attended_until = Millis(raft.now + raft.config.election_timeout_ms)
    if message.round > progress.round_acked:
        progress.round_acked = message.round
        read_index.round_acknowledged(raft)
    _find_lost(raft, progress)


def advance_commit(raft: "Raft") -> None:
    """Commit what a majority has on disk, if it ends in an entry of this term (thesis, section 3.6.2)."""
    leading = raft.leading
    assert leading is not None, "only a leader counts"
    durable = {member: progress.matched for member, progress in leading.progress.items()}
    durable[raft.member] = raft.log.durable
    configuration = raft.configuration
    index = committed_index(configuration.voters, configuration.outgoing, durable)
    if index <= raft.commit or raft.log.term_at(index) != raft.term:
        return
    raft.commit = index
    if leading.news_since is None:
        leading.news_since = raft.now
    read_index.own_term_committed(raft)
    membership.committed_as_leader(raft)
