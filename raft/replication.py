"""How entries reach the followers and become committed (thesis, sections 3.5, 3.6, 10.2.1).

Invariants: the leader never overwrites its own log; only entries of its own term are committed by counting; a
follower acknowledges only behind its own fsync; what is in flight to a follower is bounded in count and bytes.
"""

from typing import TYPE_CHECKING

from protocol.peer import (
    AppendEntries,
    AppendEntriesReply,
    FollowerLags,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    TimeoutNow,
)
from protocol.types import NOBODY, EntryKind, Index, LogPosition, MemberId, Millis
from raft import membership, reads
from raft.progress import Progress, ProgressState
from raft.quorum import VoteResult, committed_index, vote_result

if TYPE_CHECKING:
    from raft.core import Raft


def take_office(raft: "Raft") -> None:
    """Begin to lead: probe everybody and append the no-op that lets older entries be committed."""
    from raft.core import LeaderState

    next_index = Index(raft.log.last.index + 1)
    raft.leading = LeaderState(
        progress={},
        first_own_index=next_index,
        quorum_checked_at=raft.now,
        heartbeat_due=raft.now,
    )
    sync_followers(raft)
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


# --- the leader ------------------------------------------------------------------------------------


def leader_tick(raft: "Raft") -> None:
    """Say that we live, look after what was lost, and leave office when a majority is silent."""
    leading = raft.leading
    assert leading is not None, "only a leader ticks so"
    config = raft.config
    if raft.now - leading.quorum_checked_at >= config.election_timeout_ms:
        leading.quorum_checked_at = raft.now
        if not _quorum_heard(raft):
            raft.log_event("quorum_silent", {"term": raft.term})
            raft.become_follower(raft.term, NOBODY)
            return
    if leading.transfer_to != NOBODY and raft.now >= leading.transfer_deadline:
        leading.transfer_to = NOBODY
        raft.transfer_ended = False
    if raft.disk_stuck:
        # A leader that cannot write must not keep others from electing one that can.
        raft.log_event("disk_stuck", {"term": raft.term})
        raft.become_follower(raft.term, NOBODY)
        return
    if raft.now >= leading.heartbeat_due:
        send_heartbeats(raft)
        for progress in leading.progress.values():
            _find_lost(raft, progress)


def _quorum_heard(raft: "Raft") -> bool:
    leading = raft.leading
    assert leading is not None, "only a leader counts"
    since = raft.now - raft.config.election_timeout_ms
    heard = {
        member: True
        for member, progress in leading.progress.items()
        if progress.heard_ever and progress.heard_at >= since
    }
    heard[raft.member] = True
    configuration = raft.configuration
    return vote_result(configuration.voters, configuration.outgoing, heard) is VoteResult.WON


def send_heartbeats(raft: "Raft") -> None:
    """Send every follower a heartbeat that carries the newest read round."""
    leading = raft.leading
    assert leading is not None, "only a leader's heart beats"
    leading.heartbeat_due = Millis(raft.now + raft.config.heartbeat_interval_ms)
    leading.rounds_wanted = False
    for member, progress in leading.progress.items():
        commit = Index(min(progress.matched, raft.commit))
        raft.send(member, Heartbeat(term=raft.term, commit=commit, round=leading.round))
        progress.commit_sent = max(progress.commit_sent, commit)
        progress.round_sent_at.setdefault(leading.round, raft.now)


def _find_lost(raft: "Raft", progress: Progress) -> None:
    """Take silent appends for lost; fetch a follower out of a snapshot that came to nothing."""
    patience = max(2 * raft.config.heartbeat_interval_ms, raft.config.election_timeout_ms // 2)
    if raft.now - progress.sent_at < patience:
        return
    if progress.state is ProgressState.REPLICATE and progress.inflight:
        progress.probe_again()
    elif progress.state is ProgressState.PROBE and progress.probe_sent:
        progress.probe_sent = False


def feed_followers(raft: "Raft") -> None:
    """Send what each follower may get now; called once a turn, so that a turn is one append."""
    leading = raft.leading
    if leading is None:
        return
    if leading.rounds_wanted:
        send_heartbeats(raft)
    for progress in leading.progress.values():
        _feed(raft, progress)


def _feed(raft: "Raft", progress: Progress) -> None:
    config = raft.config
    while True:
        if progress.state is ProgressState.SNAPSHOT or (progress.state is ProgressState.PROBE and progress.probe_sent):
            return
        last = raft.log.last.index
        news = progress.next_index <= last
        if progress.state is ProgressState.REPLICATE:
            full = (
                len(progress.inflight) >= config.inflight_appends_max
                or progress.inflight_bytes >= config.inflight_appends_max * config.append_bytes_max
            )
            commit_news = raft.commit > progress.commit_sent and progress.next_index > raft.commit
            if full or not (news or commit_news):
                return
        previous_index = Index(progress.next_index - 1)
        previous_term = raft.log.term_at(previous_index)
        if previous_term is None:
            progress.await_snapshot(raft.now)
            return
        entries = (
            raft.log.slice(progress.next_index, config.append_entries_max, config.append_bytes_max) if news else ()
        )
        raft.send(
            progress.member,
            AppendEntries(
                term=raft.term,
                previous=LogPosition(previous_term, previous_index),
                entries=entries,
                commit=raft.commit,
            ),
            bulk=True,
        )
        progress.commit_sent = raft.commit
        size = sum(len(entry.data) for entry in entries)
        progress.sent(entries[-1].index if entries else previous_index, size, raft.now)
        if not entries:
            return


def on_append_entries_reply(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Move a follower's cursor; commit what a majority now holds."""
    assert isinstance(message, AppendEntriesReply)
    progress = _follower(raft, sender, message)
    if progress is None:
        return
    if message.rejected:
        if progress.rejected(message.matched, message.conflict.index):
            hint = message.conflict
            if raft.log.term_at(hint.index) != hint.term and hint.index > raft.log.mark.index:
                # Same index, other term: step over our whole run of terms above the follower's.
                ours = raft.log.conflict_hint(hint)
                progress.next_index = Index(max(progress.matched + 1, min(progress.next_index, ours.index + 1)))
        return
    if message.matched > raft.log.last.index:
        return
    if progress.state is ProgressState.SNAPSHOT and message.matched >= raft.log.mark.index:
        progress.snapshot_done(message.matched)
    if progress.state is not ProgressState.SNAPSHOT and progress.acknowledged(message.matched):
        advance_commit(raft)
        _hand_over_when_ready(raft, progress)


def _follower(raft: "Raft", sender: MemberId, message: PeerMessage) -> Progress | None:
    """Return the sender's progress if this member leads it in this term; step down before a higher one."""
    if message.term > raft.term:
        raft.become_follower(message.term, NOBODY)
        return None
    if raft.leading is None or message.term < raft.term:
        return None
    progress = raft.leading.progress.get(sender)
    if progress is not None:
        progress.heard_at = raft.now
        progress.heard_ever = True
    return progress


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
    committed = raft.log.between(Index(raft.commit + 1), index)
    leading.uncommitted_bytes -= sum(len(entry.data) for entry in committed)
    leading.uncommitted_bytes = max(leading.uncommitted_bytes, 0)
    raft.commit = index
    reads.own_term_committed(raft)
    membership.committed_as_leader(raft)


def start_transfer(raft: "Raft", target: MemberId) -> bool:
    """Begin to hand leadership over; False if `target` (NOBODY: whoever is furthest) cannot take it."""
    leading = raft.leading
    if leading is None:
        return False
    candidates = [member for member in raft.configuration.voters if member in leading.progress]
    if target == NOBODY:
        candidates.sort(key=lambda member: (leading.progress[member].matched, member))
        target = candidates[-1] if candidates else NOBODY
    if target not in candidates:
        return False
    leading.transfer_to = target
    leading.transfer_deadline = Millis(raft.now + raft.config.election_timeout_ms)
    _hand_over_when_ready(raft, leading.progress[target])
    return True


def _hand_over_when_ready(raft: "Raft", progress: Progress) -> None:
    leading = raft.leading
    if leading is not None and leading.transfer_to == progress.member and progress.matched == raft.log.last.index:
        raft.send(progress.member, TimeoutNow(term=raft.term))


def on_heartbeat_reply(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Note that the follower lives, and which read round it has confirmed."""
    assert isinstance(message, HeartbeatReply)
    progress = _follower(raft, sender, message)
    if progress is None:
        return
    progress.round_sent_at = {number: at for number, at in progress.round_sent_at.items() if number > message.round}
    if message.round > progress.round_acked:
        progress.round_acked = message.round
        reads.round_acknowledged(raft)


def on_follower_lags(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """A follower has installed a snapshot, or stands somewhere else than we thought: go on from there."""
    assert isinstance(message, FollowerLags)
    progress = _follower(raft, sender, message)
    if progress is not None and message.matched <= raft.log.last.index:
        progress.snapshot_done(message.matched)
        advance_commit(raft)


# --- the follower ----------------------------------------------------------------------------------


def _hear_leader(raft: "Raft", sender: MemberId, message: PeerMessage) -> bool:
    """Follow the sender of this term; False if its term is over (it is told so by the caller)."""
    from raft.core import Role

    if message.term < raft.term:
        return False
    if message.term > raft.term or raft.role is not Role.FOLLOWER or raft.leader != sender:
        assert not (message.term == raft.term and raft.leading is not None), f"two leaders in term {raft.term}"
        raft.become_follower(message.term, sender)
    raft.heard_leader_at = raft.now
    # The jitter is drawn once per following, not per message: it only has to differ between members.
    raft.election_due = Millis(raft.now + raft.election_patience)
    return True


def on_append_entries(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Take over the leader's entries where the logs meet; the answer follows the fsync."""
    assert isinstance(message, AppendEntries)
    if not _hear_leader(raft, sender, message):
        _tell_deposed(raft, sender)
        return
    previous = message.previous
    if previous.index < raft.log.mark.index:
        # What lies before the mark is committed, so it matches; an old append is answered with what we hold.
        raft.send(sender, _accepted(raft, raft.commit), after_sync=True)
        return
    if raft.log.term_at(previous.index) != previous.term:
        hint = raft.log.conflict_hint(previous)
        reply = AppendEntriesReply(term=raft.term, matched=previous.index, rejected=True, conflict=hint)
        raft.send(sender, reply)
        return
    for position, entry in enumerate(message.entries):
        held = raft.log.term_at(entry.index)
        if held == entry.term:
            continue
        if held is not None:
            assert entry.index > raft.commit, f"a committed entry {entry.index} would be overwritten"
            raft.log.truncate(entry.index)
            raft.written_to = min(raft.written_to, Index(entry.index - 1))
            membership.truncated(raft, entry.index)
        fresh = message.entries[position:]
        raft.log.append(fresh)
        membership.appended(raft, fresh)
        break
    matched = Index(previous.index + len(message.entries))
    _learn_commit(raft, Index(min(message.commit, matched)))
    raft.send(sender, _accepted(raft, matched), after_sync=True)


def _accepted(raft: "Raft", matched: Index) -> AppendEntriesReply:
    return AppendEntriesReply(term=raft.term, matched=matched, rejected=False, conflict=LogPosition(raft.term, matched))


def _tell_deposed(raft: "Raft", sender: MemberId) -> None:
    reply = AppendEntriesReply(
        term=raft.term, matched=Index(0), rejected=True, conflict=LogPosition(raft.term, Index(0))
    )
    raft.send(sender, reply)


def _learn_commit(raft: "Raft", commit: Index) -> None:
    if commit > raft.commit:
        assert commit <= raft.log.last.index, f"commit {commit} behind the log's end"
        raft.commit = commit


def on_heartbeat(raft: "Raft", sender: MemberId, message: PeerMessage) -> None:
    """Answer the leader's sign of life; never past its term."""
    assert isinstance(message, Heartbeat)
    if not _hear_leader(raft, sender, message):
        _tell_deposed(raft, sender)
        return
    _learn_commit(raft, Index(min(message.commit, raft.log.last.index)))
    if not raft.disk_stuck:
        raft.send(sender, HeartbeatReply(term=raft.term, round=message.round))
