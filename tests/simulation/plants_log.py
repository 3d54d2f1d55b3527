"""Planted bugs of the write-ahead log and of what waits for its syncs."""

from typing import Any, cast

import pytest
from plants import BLACKOUTS, CUTS, FLUSHES, Nodes, planted

from actors.actor import Actor
from actors.applier import ApplierActor
from actors.effects import Effect, Send
from actors.snapshot_receiver import SnapshotReceiver
from actors.wal import WalActor
from protocol import local
from protocol.identity import NodeIdentity
from protocol.local import LogRecovered, SpawnRequested
from protocol.types import NOBODY, HardState, MemberId, Millis
from raft.core import Raft
from raft.durability import DurabilityGate
from raft.log import Log
from sim.engine import SimEngine
from sim.network import NetworkWeather
from sim.node import SimNode
from sim.parts import ProductionParts
from storage import wal_recovery
from storage.disk import Disk, DiskFile
from storage.wal_format import FRAME_HEAD_BYTES, RawFrame, frame_head

SNAPSHOTS = Nodes(
    "nodes that need snapshots",
    rates={"partition": 0.6, "pause_node": 0.3, "power_cut": 0.5},
    conditions={"chunk_rot": 0.3},
    raft=CUTS,
)


class _LyingFile:
    """An open file whose sync returns at once and does nothing."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def sync(self) -> None:
        """Promise, and not keep it."""


class _LyingDisk:
    """A disk of lying files."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def open(self, path: str, *, create: bool = False) -> _LyingFile:
        """Open a file that lies."""
        return _LyingFile(self._disk.open(path, create=create))


class _SyncsNothing(ProductionParts):
    def make_wal(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return WalActor(cast("Disk", _LyingDisk(node.disk_port)), self._config.storage, identity)


@planted("a sync that returns without having synced", BLACKOUTS, {"persisted is recovered", "no actor halts"}, 6)
def syncs_nothing(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """The disk lies to the log."""
    return _SyncsNothing


class _HastyWal(WalActor):
    """Says at once that a turn's requests are persisted, and writes them in the next turn."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._owed: list[local.PersistEntries] = []

    def _write_pending(self, now: Millis) -> list[Effect]:
        pending, self._pending = self._pending, self._owed
        self._owed = pending
        super()._write_pending(now)
        self._pending = [message.model_copy(update={"hard_state": None, "entries": ()}) for message in pending]
        return super()._write_pending(now)


class _AcknowledgesFirst(ProductionParts):
    def make_wal(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return _HastyWal(node.disk_port, self._config.storage, identity)


@planted("entries acknowledged before their fsync", BLACKOUTS, {"persisted is recovered", "no actor halts"}, 10)
def acknowledges_before_fsync(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """A power cut between the acknowledgement and the write loses what was promised."""
    return _AcknowledgesFirst


@planted("a follower's acknowledgement that does not wait for its fsync", BLACKOUTS, "committed is on a majority", 10)
def acknowledges_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that must follow a write leave at once."""
    honest = Raft.send

    def send(core: Raft, to: MemberId, message: Any, *, bulk: bool = False, after_sync: bool = False) -> None:
        assert after_sync in (False, True)
        honest(core, to, message, bulk=bulk)

    monkeypatch.setattr(Raft, "send", send)


@planted(
    "a leader that counts its own entries before its fsync",
    Nodes(rates={"partition": 0.3}),
    {"committed is on a majority", "apply what is durable here"},
    4,
)
def counts_itself_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Appended is taken for durable."""
    honest = Log.append

    def append(log: Log, entries: Any) -> None:
        honest(log, entries)
        log.durable = log.last.index

    monkeypatch.setattr(Log, "append", append)


class _ForgetfulWal(WalActor):
    """Recovers the entries but not the vote."""

    def _tell_recovered(self) -> list[Effect]:
        effects = super()._tell_recovered()
        forgotten: list[Effect] = []
        for effect in effects:
            assert isinstance(effect, Send)
            assert isinstance(effect.message, LogRecovered)
            state = effect.message.hard_state._replace(voted_for=NOBODY)
            forgotten.append(Send(effect.to, effect.message.model_copy(update={"hard_state": state})))
        return forgotten


class _ForgetsVotes(ProductionParts):
    def make_wal(self, node: SimNode, identity: NodeIdentity) -> Actor:
        return _ForgetfulWal(node.disk_port, self._config.storage, identity)


@planted("a vote that is not recovered", BLACKOUTS, "persisted is recovered", 6)
def forgets_votes(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """The log comes back without its vote."""
    return _ForgetsVotes


@planted(
    "a vote that is not persisted",
    Nodes(rates={"kill_raft": 4.0, "leader_cut": 1.0}, network=NetworkWeather(delay_us_mean=150_000), size=5),
    {"one vote per term", "election safety"},
    120,
    first=6,
)
def never_persists_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever restarts within an election votes again."""
    honest = DurabilityGate._write

    def write(gate: DurabilityGate, state: HardState | None, *rest: Any) -> Any:
        return honest(gate, None if state is None else state._replace(voted_for=NOBODY), *rest)

    monkeypatch.setattr(DurabilityGate, "_write", write)


@planted(
    "a torn tail that recovery accepts",
    Nodes(rates={"mid_write_cut": 2.0}),
    {"persisted is recovered", "no actor halts", "no actor raises", "state machine safety"},
    120,
    first=4,
)
def accepts_torn_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame counts as soon as its head is there, whatever the checksum of its payload says."""

    def read_frame(data: bytes, offset: int, head_crc: int) -> RawFrame | None:
        found = frame_head(data, offset, head_crc)
        if found is None:
            return None
        length, chain, crc = found
        start = offset + FRAME_HEAD_BYTES
        return RawFrame(chain, crc, data[start : start + length], start + length + (-length % 8))

    monkeypatch.setattr(wal_recovery, "read_frame", read_frame)


class _NeverFlushes(ProductionParts):
    def make_applier(self, node: SimNode, identity: NodeIdentity) -> Actor:
        disk = node.disk_port
        return ApplierActor(identity, disk, lambda path: _IdleEngine(disk, path), self._config)


class _IdleEngine(SimEngine):
    """Says that it has flushed."""

    def flush(self) -> None:
        """Do nothing."""


@planted("a log that is cut although the store was not flushed", FLUSHES, {"no actor halts", "no actor raises"}, 4)
def cuts_without_flush(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """After a power cut log and store do not meet."""
    return _NeverFlushes


class _AnyChecksum:
    """Equal to whatever was computed."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class _BelievesChunks(ProductionParts):
    """Snapshots are staged whatever arrived."""

    def make_helper(self, node: SimNode, identity: NodeIdentity, request: SpawnRequested) -> Actor:
        helper = super().make_helper(node, identity, request)
        if isinstance(helper, SnapshotReceiver):
            helper._files = [(name, size, cast("int", _AnyChecksum())) for name, size, _ in helper._files]
        return helper


@planted("a snapshot chunk that arrived damaged and is believed", SNAPSHOTS, {"no actor halts", "no actor raises"}, 50)
def believes_chunks(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """No file is compared with its checksum."""
    return _BelievesChunks
