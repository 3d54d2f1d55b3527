"""The log writer: how it tells raft what the disk held."""

import random

import pytest

from actors.actor import Source
from actors.effects import Send
from actors.wal import RECOVERED_BYTES_MAX, WalActor
from protocol import local
from protocol.config import StorageConfig
from protocol.identity import NodeIdentity
from protocol.types import ClusterId, Entry, EntryKind, Incarnation, Index, MemberId, Millis, StoreId, Term
from sim.disk import SimDisk

NOW = Millis(0)
RAFT = Source("raft")
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
