"""The gate between messages and writes."""

from protocol.peer import AppendEntriesReply, HeartbeatReply
from protocol.types import LOG_START, NOBODY, Entry, EntryKind, HardState, Index, LogPosition, MemberId, Millis, Term
from raft import durability
from raft.durability import DurabilityGate, Outbound
from raft.log import Log

N1, N2 = MemberId(1), MemberId(2)
EMPTY = HardState(Term(0), NOBODY, Index(0))
NOW = Millis(100)


def entry(index: int, term: int = 1, size: int = 1) -> Entry:
    """A commands entry."""
    return Entry(Term(term), Index(index), EntryKind.COMMANDS, b"x" * size)


def acknowledgement(matched: int, to: MemberId = N1, *, rejected: bool = False) -> Outbound:
    """An append answer that promises durability."""
    message = AppendEntriesReply(term=Term(1), matched=Index(matched), rejected=rejected, conflict=LOG_START)
    return Outbound(to, message, False, not rejected)


def state(term: int = 1, vote: int = 0, commit: int = 0) -> HardState:
    """A hard state."""
    return HardState(Term(term), MemberId(vote), Index(commit))


def test_idle_gate_lets_messages_pass() -> None:
    """With everything on disk a message that waits for a sync need not wait."""
    gate = DurabilityGate(EMPTY, Index(0))
    drained = gate.drain(EMPTY, Log(), [acknowledgement(0)], NOW)
    assert (drained.writes, len(drained.messages)) == ((), 1)


def test_turn_makes_one_write_with_everything() -> None:
    """Entries, hard state and held messages of a turn share one write; other messages leave at once."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    log.append([entry(1), entry(2)])
    heartbeat = Outbound(N2, HeartbeatReply(term=Term(1), round=3), False, False)
    drained = gate.drain(state(1, 1), log, [acknowledgement(2), heartbeat], NOW)

    (write,) = drained.writes
    assert write.hard_state == state(1, 1)
    assert [each.index for each in write.entries] == [1, 2]
    assert write.last == LogPosition(Term(1), Index(2))
    assert write.held == (acknowledgement(2),)
    assert drained.messages == (heartbeat,)


def test_commit_alone_is_not_worth_a_write() -> None:
    """A commit index that moved is written along with the next entries."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    log.append([entry(1)])
    gate.drain(state(1), log, [], NOW)
    assert gate.drain(state(1, 0, 1), log, [], NOW).writes == ()
    log.append([entry(2)])
    assert gate.drain(state(1, 0, 1), log, [], NOW).writes[0].hard_state == state(1, 0, 1)


def test_held_message_keeps_its_place_behind_writes_in_flight() -> None:
    """A message without a write of its own waits behind those under way, in a write of nothing."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    log.append([entry(1)])
    gate.drain(state(1), log, [], NOW)
    (write,) = gate.drain(state(1), log, [acknowledgement(1)], NOW).writes
    assert (write.ticket, write.hard_state, write.entries, len(write.held)) == (2, None, (), 1)
    gate.acknowledge(1)
    assert not gate.idle
    gate.acknowledge(2)
    assert gate.idle


def test_mark_in_flight_holds_messages() -> None:
    """While the mark of a snapshot is on its way nothing is promised without a write behind it."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    gate.mark_in_flight = True
    assert len(gate.drain(EMPTY, log, [acknowledgement(0)], NOW).writes) == 1


def test_newest_acknowledgement_covers_the_others() -> None:
    """Of several acknowledgements to one leader only the last leaves; rejections all do."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    log.append([entry(1), entry(2)])
    outbox = [acknowledgement(1), acknowledgement(9, rejected=True), acknowledgement(2), acknowledgement(1, N2)]
    drained = gate.drain(state(1), log, outbox, NOW)
    assert drained.writes[0].held == (acknowledgement(2), acknowledgement(1, N2))
    assert drained.messages == (acknowledgement(9, rejected=True),)


def test_rewritten_entries_are_written_again() -> None:
    """What takes the place of truncated entries goes to the disk, from the first one on."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    log.append([entry(1), entry(2), entry(3)])
    gate.drain(state(1), log, [], NOW)
    log.truncate(Index(2))
    gate.truncated(Index(2))
    log.append([entry(2, 2)])
    (write,) = gate.drain(state(2), log, [], NOW).writes
    assert [(each.index, each.term) for each in write.entries] == [(2, 2)]
    assert write.last == LogPosition(Term(2), Index(2))


def test_overtaken_write_makes_nothing_durable() -> None:
    """An index rewritten while its first write is in flight is durable only when the second write is."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    log.append([entry(1), entry(2)])
    (first,) = gate.drain(state(1), log, [], NOW).writes
    log.truncate(Index(2))
    gate.truncated(Index(2))
    log.append([entry(2, 2)])
    (second,) = gate.drain(state(2), log, [], NOW).writes

    assert not log.persisted(first.last), "the disk confirms entry 2 of term 1, the log holds one of term 2"
    assert log.durable == 0
    assert log.persisted(second.last)
    assert log.durable == 2


def test_large_turn_makes_several_writes() -> None:
    """No write is larger than its bound; held messages wait for the last one."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    half = durability.WRITE_BYTES_MAX // 2
    log.append([entry(index, 1, half) for index in (1, 2, 3)])
    drained = gate.drain(state(1, 2, 3), log, [acknowledgement(3)], NOW)

    assert [len(write.entries) for write in drained.writes] == [2, 1]
    assert [len(write.held) for write in drained.writes] == [0, 1]
    assert drained.writes[0].hard_state == state(1, 2, 2), "no commit index past what the same write holds"
    assert drained.writes[0].last.index == 2


def test_oldest_write_tells_how_long_the_disk_is_silent() -> None:
    """The wait is counted from the oldest write that is not on disk."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    assert gate.waiting_since() is None
    for at in (1, 2):
        log.append([entry(at)])
        gate.drain(state(1), log, [], Millis(at * 10))
    assert gate.waiting_since() == 10
    gate.acknowledge(1)
    assert gate.waiting_since() == 20
    gate.acknowledge(2)
    assert gate.waiting_since() is None


def test_word_of_a_vote_never_waits() -> None:
    """Entries may be answered late where the owner allows it; a write with a new term or vote may not."""
    gate, log = DurabilityGate(EMPTY, Index(0)), Log()
    log.append([entry(1)])
    writes = gate.drain(state(1, 1), log, [], NOW, 20).writes
    log.append([entry(2)])
    writes += gate.drain(state(1, 1), log, [], NOW, 20).writes
    writes += gate.drain(state(1, 1), log, [acknowledgement(2)], NOW, 20).writes
    assert [write.answer_within_ms for write in writes] == [0, 20, 20]
