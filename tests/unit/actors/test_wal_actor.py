"""The log writer: what leaves behind which sync, what a failed disk means, and what it tells raft at a start."""

import random

import pytest

from actors.actor import Source
from actors.effects import Effect, Halt, Send, SendPeer
from actors.wal import RECOVERED_BYTES_MAX, WalActor
from protocol import local
from protocol.config import StorageConfig
from protocol.identity import NodeIdentity
from protocol.types import (
    ClusterId,
    Entry,
    EntryKind,
    HardState,
    Incarnation,
    Index,
    LogMark,
    LogPosition,
    MemberId,
    Millis,
    StoreId,
    Term,
)
from sim.disk import SimDisk
from sim.faulty_disk import FaultyDisk

NOW = Millis(0)
RAFT = Source("raft")
NO_MARK = LogMark(Index(0), Term(0), b"", "")
IDENTITY = NodeIdentity(ClusterId(1), MemberId(2), "n1", StoreId(3), Incarnation(4), ())


def started(disk: SimDisk) -> WalActor:
    """A log writer that has read its disk."""
    wal = WalActor(disk, StorageConfig(wal_segment_bytes=16 << 20), IDENTITY)
    assert wal.start(NOW) == []
    return wal


def asked(wal: WalActor) -> local.LogRecovered:
    """What it answers to raft, which asks for the next part."""
    (effect,) = wal.handle(local.RecoverLog(), RAFT, NOW)
    assert isinstance(effect, Send)
    assert effect.to == "raft"
    assert isinstance(effect.message, local.LogRecovered)
    return effect.message


def written(disk: SimDisk, sizes: list[int]) -> list[Entry]:
    """Entries of these sizes, on disk."""
    entries = [
        Entry(Term(1), Index(number), EntryKind.COMMANDS, bytes([number]) * size)
        for number, size in enumerate(sizes, start=1)
    ]
    wal = started(disk)
    asked(wal)
    for ticket, entry in enumerate(entries, start=1):
        persist = local.PersistEntries(
            ticket=ticket, hard_state=None, entries=(entry,), last=entry.position, outbound=()
        )
        wal.handle(persist, RAFT, NOW)
        wal.end_turn(NOW)
    wal.handle(local.StopActor(), Source("supervisor"), NOW)
    return entries


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ([], [0]),
        ([10, 10], [2]),
        ([RECOVERED_BYTES_MAX - 10, 10, 10], [2, 1]),
        ([RECOVERED_BYTES_MAX + 1, RECOVERED_BYTES_MAX + 1, 10], [1, 1, 1]),
    ],
)
def test_a_log_is_told_in_parts_one_for_each_time_it_is_asked(sizes: list[int], counts: list[int]) -> None:
    """No part is larger than its bound unless one entry is, nothing is told twice, and only the last part is final."""
    disk = SimDisk(random.Random(1))
    entries = written(disk, sizes)
    wal = started(disk)
    parts = [asked(wal)]
    while not parts[-1].final:
        parts.append(asked(wal))
    assert [len(part.entries) for part in parts] == counts
    assert [entry for part in parts for entry in part.entries] == entries


def asking(ticket: int, *indexes: int) -> local.PersistEntries:
    """A request to persist, with a vote and a message that waits for the sync."""
    entries = tuple(Entry(Term(2), Index(index), EntryKind.COMMANDS, b"x" * 50) for index in indexes)
    held = local.PeerOutbound(to=MemberId(9), bulk=False, body=b"persisted %d" % ticket)
    state = HardState(Term(2), MemberId(2), Index(0))
    last = LogPosition(Term(2), Index(indexes[-1]))
    return local.PersistEntries(ticket=ticket, hard_state=state, entries=entries, last=last, outbound=(held,))


def test_a_turn_is_one_sync_and_all_that_waited_leaves_behind_it_in_order() -> None:
    """Before the sync nothing leaves; behind it go the messages of every ticket, and one acknowledgement."""
    disk = FaultyDisk(SimDisk(random.Random(1)), lambda: 0)
    wal = WalActor(disk, StorageConfig(wal_segment_bytes=1 << 20), IDENTITY)
    wal.start(NOW)
    asked(wal)
    syncs = disk.syncs
    for ticket in (1, 2, 3):
        assert wal.handle(asking(ticket, ticket), RAFT, NOW) == []
    assert disk.syncs == syncs
    effects = wal.end_turn(NOW)
    assert disk.syncs == syncs + 1
    assert [effect.body for effect in effects[:-1] if isinstance(effect, SendPeer)] == [
        b"persisted 1", b"persisted 2", b"persisted 3"
    ]  # fmt: skip
    told = local.EntriesPersisted(ticket=3, last=LogPosition(Term(2), Index(3)))
    assert effects[-1] == Send("raft", told)
    assert wal.end_turn(NOW) == []
    assert disk.syncs == syncs + 1


def later(ticket: int, answer_within_ms: int) -> local.PersistEntries:
    """A request whose answer may take so long."""
    return asking(ticket, ticket).model_copy(update={"answer_within_ms": answer_within_ms})


def answers(effects: list[Effect]) -> list[int]:
    """The tickets that raft is told of."""
    return [
        effect.message.ticket
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, local.EntriesPersisted)
    ]


def test_an_answer_that_may_wait_is_shared_and_what_was_held_never_waits() -> None:
    """Peers are told behind each sync; raft is told once, when the first of the answers is due."""
    wal = started(SimDisk(random.Random(1)))
    asked(wal)
    for ticket, at in ((1, 0), (2, 4), (3, 9)):
        wal.handle(later(ticket, 10), RAFT, Millis(NOW + at))
        effects = wal.end_turn(Millis(NOW + at))
        assert [effect.body for effect in effects if isinstance(effect, SendPeer)] == [b"persisted %d" % ticket]
        assert answers(effects) == []
    assert wal.deadline == NOW + 10
    assert wal.wake(Millis(NOW + 9)) == []
    assert answers(wal.wake(Millis(NOW + 10))) == [3]
    assert wal.deadline is None
    assert wal.wake(Millis(NOW + 11)) == []


def test_an_answer_that_may_not_wait_takes_the_others_with_it() -> None:
    """Tickets are answered in order: who asks for an answer at once gets it for all before."""
    wal = started(SimDisk(random.Random(1)))
    asked(wal)
    wal.handle(later(1, 10), RAFT, NOW)
    wal.end_turn(NOW)
    wal.handle(later(2, 10), RAFT, NOW)
    wal.handle(later(3, 0), RAFT, NOW)
    assert answers(wal.end_turn(NOW)) == [3]
    assert wal.deadline is None


@pytest.mark.parametrize("ending", [local.StopActor(), local.CutLog(ticket=2, mark=NO_MARK, keep_after=Index(0))])
def test_a_cut_and_a_stop_leave_no_answer_behind(ending: local.LocalMessage) -> None:
    """What waited is told before what follows it."""
    wal = started(SimDisk(random.Random(1)))
    asked(wal)
    wal.handle(later(1, 10), RAFT, NOW)
    wal.end_turn(NOW)
    assert answers(wal.handle(ending, RAFT, NOW)) == [1]
    assert wal.deadline is None


def test_a_failed_sync_lets_nothing_leave_and_is_the_end() -> None:
    """Neither the messages nor the acknowledgement of a turn whose sync failed are said, then or later."""
    disk = FaultyDisk(SimDisk(random.Random(1)), lambda: 0)
    wal = WalActor(disk, StorageConfig(wal_segment_bytes=1 << 20), IDENTITY)
    wal.start(NOW)
    asked(wal)
    disk.fail_next_sync()
    wal.handle(asking(1, 1), RAFT, NOW)
    [halt] = wal.end_turn(NOW)
    assert isinstance(halt, Halt)
    assert (halt.failed, halt.fatal) == (True, True)
    assert halt.reason == "planted: sync failed"
    assert wal.end_turn(NOW) == []


def test_a_cut_comes_behind_what_was_asked_before_it() -> None:
    """What waits in the same turn is written before the mark, and each is acknowledged."""
    disk = SimDisk(random.Random(1))
    wal = started(disk)
    asked(wal)
    wal.handle(asking(1, 1, 2, 3), RAFT, NOW)
    mark = LogMark(Index(2), Term(2), b"configuration", "")
    effects = wal.handle(local.CutLog(ticket=7, mark=mark, keep_after=Index(2)), RAFT, NOW)
    kinds = [effect.message.kind for effect in effects if isinstance(effect, Send)]
    assert kinds == ["EntriesPersisted", "LogCut"]
    assert wal.end_turn(NOW) == []
    disk.crash()
    told = asked(started(disk))
    assert told.mark == mark
    assert [entry.index for entry in told.entries] == [3]


def test_a_stop_writes_what_waits() -> None:
    """What was asked for before the stop is durable and acknowledged."""
    disk = SimDisk(random.Random(1))
    wal = started(disk)
    asked(wal)
    wal.handle(asking(1, 1), RAFT, NOW)
    effects = wal.handle(local.StopActor(), Source("supervisor"), NOW)
    assert effects[-1] == Halt("stopped")
    assert isinstance(effects[0], SendPeer)
    disk.crash()
    assert [entry.index for entry in asked(started(disk)).entries] == [1]


def test_a_damaged_log_is_refused_for_good() -> None:
    """The reason names file and offset, and no restart is asked for."""
    disk = SimDisk(random.Random(1))
    written(disk, [100, 100, 100])
    [name] = disk.list("wal")
    disk.flip_bit(f"wal/{name}", 200)
    wal = WalActor(disk, StorageConfig(wal_segment_bytes=16 << 20), IDENTITY)
    [halt] = wal.start(NOW)
    assert isinstance(halt, Halt)
    assert (halt.failed, halt.fatal) == (True, True)
    assert halt.reason.startswith(f"wal/{name}: offset ")
