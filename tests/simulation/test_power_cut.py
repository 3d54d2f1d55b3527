"""Power cut at every single disk operation: WAL, store and stage together lose nothing that was acknowledged."""

import contextlib
import random
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from actors.actor import Actor, Source
from actors.applier import ApplierActor
from actors.effects import Halt, RunInBackground, Send, SendPeer
from actors.snapshot_receiver import SnapshotReceiver
from actors.snapshot_sender import SnapshotSender
from actors.wal import WalActor
from protocol import codec, local
from protocol.command import CommandKind, Origin, encode_batch
from protocol.config import ClusterConfig, NodeConfig, StorageConfig
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.peer import OfferSnapshot
from protocol.types import (
    ClusterId,
    Entry,
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
from protocol.wire import rpc_pb2 as rpc
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.faulty_disk import FaultyDisk
from sim.trouble import PowerCut

CONFIG = ClusterConfig(
    nodes=(NodeConfig(name="n", client="127.0.0.1:1", peer="127.0.0.1:2", zmq="127.0.0.1:3"),),
    storage=StorageConfig(wal_segment_bytes=4096),
)
IDENTITY = NodeIdentity(ClusterId(1), MemberId(2), "n", StoreId(3), Incarnation(1), ())
TERM = Term(1)
DONOR_INDEX = 60


def put_entry(index: int, term: int = 1) -> Entry:
    """An entry with one put whose key and value name the index."""
    body = rpc.PutRequest(key=b"key%d" % index, value=b"value%d" % index).SerializeToString()
    origin = Origin(MemberId(2), Incarnation(1), index)
    return Entry(Term(term), Index(index), 1, encode_batch(origin, [int(CommandKind.PUT), body]))


M = TypeVar("M", bound=Message)


class Failed(Exception):
    """The node refused to start or halted, which it never may here."""


@dataclass
class Machine:
    """WAL and applier of one node on one disk, driven step by step as raft would."""

    disk: SimDisk
    fuse: FaultyDisk = field(init=False)
    wal: WalActor = field(init=False)
    applier: ApplierActor = field(init=False)
    inbox: list[Message] = field(default_factory=list)
    ticket: int = 0
    entries: dict[int, Entry] = field(default_factory=dict)
    applied: int = 0

    def boot(self, fuse: int | None) -> None:
        """Start both actors and bring the store up to the end of the log."""
        self.fuse = FaultyDisk(self.disk, lambda: 0)
        if fuse is not None:
            self.fuse.light_fuse(fuse)
        disk = self.fuse
        self.wal = WalActor(disk, CONFIG.storage, IDENTITY)
        self.applier = ApplierActor(IDENTITY, disk, lambda path: SimEngine(disk, path), CONFIG)
        self.inbox = []
        self.ticket = 0
        self.perform(self.wal, self.wal.start(Millis(0)))
        self.tell(self.wal, local.RecoverLog())
        recovered = [message for message in self.inbox if isinstance(message, local.LogRecovered)]
        self.entries = {entry.index: entry for part in recovered for entry in part.entries}
        mark = recovered[-1].mark
        self.tell(self.applier, local.OpenStore(mark=mark))
        opened = self.last(local.StoreOpened)
        assert mark.index <= opened.applied, "the store fell behind the log's mark"
        last = max(self.entries, default=mark.index)
        assert opened.applied <= last, "the store is ahead of the log"
        self.applied = opened.applied
        self.apply([self.entries[index] for index in sorted(self.entries) if index > opened.applied])

    def perform(self, actor: Actor, effects: list[object]) -> None:
        """Carry effects out at once; what is meant for raft or the gateway lands in the inbox."""
        for effect in effects:
            if isinstance(effect, Send):
                self.inbox.append(codec.decode(codec.encode(effect.message)))
            elif isinstance(effect, RunInBackground):
                self.perform(actor, list(actor.handle(effect.job(), Source(actor.name), Millis(0))))
            elif isinstance(effect, Halt):
                raise Failed(effect.reason)

    def tell(self, actor: Actor, message: Message) -> None:
        """One message, one turn."""
        self.perform(actor, list(actor.handle(message, Source("raft"), Millis(0))))
        self.perform(actor, list(actor.end_turn(Millis(0))))

    def last(self, kind: type[M]) -> M:
        """The newest message of a kind."""
        return next(message for message in reversed(self.inbox) if isinstance(message, kind))

    def persist(self, entries: list[Entry]) -> None:
        """Have entries written and synced."""
        self.ticket += 1
        last = LogPosition(entries[-1].term, entries[-1].index)
        self.tell(
            self.wal,
            local.PersistEntries(
                ticket=self.ticket,
                hard_state=HardState(TERM, MemberId(2), Index(entries[0].index - 1)),
                entries=tuple(entries),
                last=last,
                outbound=(),
            ),
        )
        assert self.last(local.EntriesPersisted).ticket == self.ticket
        for entry in entries:
            self.entries = {index: held for index, held in self.entries.items() if index < entry.index}
            self.entries[entry.index] = entry

    def apply(self, entries: list[Entry]) -> None:
        """Have entries applied."""
        if entries:
            self.tell(self.applier, local.ApplyEntries(entries=tuple(entries), commit=entries[-1].index))
            self.applied = entries[-1].index

    def cut(self, behind: int) -> None:
        """Flush the store, then cut the log so many entries behind what is durable."""
        self.tell(self.applier, local.FlushStore(ticket=1))
        durable = self.last(local.StoreFlushed).durable
        mark = LogMark(Index(durable - behind), TERM, b"configuration", "")
        self.tell(self.wal, local.CutLog(ticket=1, mark=mark, keep_after=mark.index))

    def value(self, index: int) -> bytes | None:
        """What the store holds for an index's key."""
        store = self.applier.store
        assert store is not None, "the store is open"
        response = rpc.RangeResponse.FromString(self.read(b"key%d" % index))
        return response.kvs[0].value if response.kvs else None

    def read(self, key: bytes) -> bytes:
        """Serve one local range."""
        body = rpc.RangeRequest(key=key, serializable=True).SerializeToString()
        payload = encode_batch(Origin(MemberId(2), Incarnation(1), 1), [101, body])
        self.tell(self.applier, local.ServeReads(sequence=1, payload=payload))
        _, code, answer = self.last(local.ReadsServed).results[0]
        assert code == 0, f"the read failed with {code}"
        return answer


def donor_transfer() -> tuple[OfferSnapshot, list[Message]]:
    """A snapshot at `DONOR_INDEX` of another member's store, as offer and chunks."""
    donor = Machine(SimDisk(random.Random(99)))
    donor.boot(None)
    for index in range(1, DONOR_INDEX + 1):
        donor.persist([put_entry(index)])
        donor.apply([put_entry(index)])
    donor.tell(donor.applier, local.BuildSnapshot(name="given"))
    built = donor.last(local.SnapshotBuilt)
    assert built.index == DONOR_INDEX
    arguments = {"to": 2, "name": "given", "index": built.index, "term": built.term, "configuration": b"configuration"}
    sender = SnapshotSender(IDENTITY, donor.fuse, arguments)
    sender.start(Millis(0))
    said: list[Message] = []
    offer = None
    for turn in range(1000):
        effects = sender.wake(Millis(turn))
        said += [codec.decode(effect.body) for effect in effects if isinstance(effect, SendPeer)]
        offer = next((message for message in said if isinstance(message, OfferSnapshot)), None)
        if offer is not None:
            break
    assert offer is not None, "the sender offers once it has hashed its files"
    progress = codec.decode(codec.encode(_progress(offer.transfer)))
    chunks = [
        codec.decode(effect.body)
        for effect in sender.handle(progress, Source("snapshot_receiver", MemberId(2)), Millis(1001))
        if isinstance(effect, SendPeer)
    ]
    return offer, chunks


def _progress(transfer: int) -> Message:
    from protocol.peer import SnapshotProgress

    return SnapshotProgress(transfer=transfer, next_sequence=0, state="receiving")


OFFER, CHUNKS = donor_transfer()


def workload(machine: Machine, acknowledged: list[Entry]) -> None:
    """Appends, a conflict, two cuts, a snapshot install, and appends behind it."""

    def write(index: int) -> None:
        machine.persist([put_entry(index)])
        acknowledged.append(put_entry(index))
        machine.apply([put_entry(index)])

    for index in range(1, 13):
        write(index)
    machine.persist([put_entry(13, term=1), put_entry(14, term=1)])  # never acknowledged
    machine.persist([put_entry(13, term=2)])  # another leader's entry takes its place
    machine.cut(0)
    machine.persist([put_entry(13, term=1)])
    acknowledged.append(put_entry(13))
    machine.apply([put_entry(13)])
    for index in range(14, 30):
        write(index)
    machine.cut(2)
    install(machine)
    acknowledged[:] = [put_entry(index) for index in range(1, DONOR_INDEX + 1)]
    for index in range(DONOR_INDEX + 1, DONOR_INDEX + 6):
        write(index)


def install(machine: Machine) -> None:
    """Receive the donor's snapshot and put it in the store's place, in the order raft prescribes."""
    receiver = SnapshotReceiver(IDENTITY, machine.fuse, {**OFFER.__dict__, "sender": 9})
    machine.perform(receiver, list(receiver.start(Millis(0))))
    for chunk in CHUNKS:
        machine.perform(receiver, list(receiver.handle(chunk, Source("raft"), Millis(0))))
    staged = machine.last(local.SnapshotStaged)
    mark = LogMark(staged.index, staged.term, staged.configuration, staged.stage)
    machine.tell(machine.wal, local.CutLog(ticket=2, mark=mark, keep_after=mark.index))
    machine.last(local.LogCut)
    machine.entries = {}
    machine.tell(machine.applier, local.InstallSnapshot(stage=staged.stage, index=staged.index, term=staged.term))
    assert machine.last(local.SnapshotInstalled).index == DONOR_INDEX
    machine.applied = DONOR_INDEX


def operations_of_the_workload() -> int:
    """How many times the disk is changed when nothing goes wrong."""
    count = 0

    class Counting(FaultyDisk):
        def burn(self) -> None:
            nonlocal count
            count += 1
            super().burn()

    machine = Machine(SimDisk(random.Random(1)))
    machine.boot(None)
    machine.fuse.__class__ = Counting
    workload(machine, [])
    return count


OPERATIONS = operations_of_the_workload()
CHUNK = 40


def survive(seed: int, cut_at: int, cut_again_at: int | None) -> None:
    """Run the workload, cut the power, recover (perhaps cut again), and look for every acknowledged write."""
    machine = Machine(SimDisk(random.Random(seed)))
    machine.boot(None)
    machine.fuse.light_fuse(cut_at)
    acknowledged: list[Entry] = []
    with contextlib.suppress(PowerCut):
        workload(machine, acknowledged)
    machine.disk.crash()
    if cut_again_at is not None:
        with contextlib.suppress(PowerCut):
            machine.boot(cut_again_at)
        machine.disk.crash()
    machine.boot(None)
    highest = max((entry.index for entry in acknowledged), default=0)
    assert machine.applied >= highest, f"acknowledged up to {highest}, recovered {machine.applied}"
    for entry in acknowledged:
        assert machine.value(entry.index) == b"value%d" % entry.index, f"write {entry.index} is gone"
    # The node must go on as if nothing had happened.
    following = machine.applied + 1
    machine.persist([put_entry(following, term=3)])
    machine.apply([put_entry(following, term=3)])
    assert machine.value(following) == b"value%d" % following


@pytest.mark.parametrize("first", range(0, OPERATIONS, CHUNK))
def test_a_power_cut_at_every_step_loses_nothing_acknowledged(first: int) -> None:
    """Whatever the disk does with what was not synced, recovery holds everything acknowledged."""
    for cut_at in range(first, min(first + CHUNK, OPERATIONS)):
        for seed in (1, 2, 3):
            survive(seed, cut_at, None)


@pytest.mark.parametrize("first", range(0, OPERATIONS, CHUNK))
def test_a_second_power_cut_during_recovery_loses_nothing_either(first: int) -> None:
    """Recovery itself may be cut short at any of its first steps."""
    for cut_at in range(first, min(first + CHUNK, OPERATIONS), 3):
        for again in range(5):
            survive(4, cut_at, again)
