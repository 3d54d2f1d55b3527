"""Planted bugs of the store: what is atomic, what is repeated, what a compaction may take."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from plants import CALM_WEATHER, FLUSHES, PARTITIONS, planted

from actors.actor import Actor
from actors.applier import ApplierActor
from actors.effects import Effect, Send
from gateway.core import GatewayCore
from protocol.identity import NodeIdentity
from protocol.local import ApplyEntries, OpenStore, ProposeBatch
from protocol.types import Index, Millis
from sim.engine import SimEngine
from sim.node import SimNode
from sim.parts import ProductionParts
from storage import dedupe, mvcc, range_read, txn
from storage.dedupe import Windows
from storage.layout import STATE_KEY, TOMBSTONE, log_key, old_key, parse_log_key, record_key, trailer
from storage.mvcc import MvccStore, PhysicalWait

REST_MS = 500
DIFFERS = {
    "same entries, same state",
    "equal stores",
    "equal hashes",
    "answers are the model's",
    "stores are the model's",
    "real-time order",
    "reads show what is committed",
    "no actor raises",
    "no actor halts",
}


def _engine_parts(engine: type[SimEngine], only: str = "") -> type[ProductionParts]:
    """Parts whose appliers, or one node's, use another engine."""

    class Parts(ProductionParts):
        def make_applier(self, node: SimNode, identity: NodeIdentity) -> Actor:
            if only and node.name != only:
                return super().make_applier(node, identity)
            disk = node.disk_port
            return ApplierActor(identity, disk, lambda path: engine(disk, path), self._config)

    return Parts


class _RottenEngine(SimEngine):
    """Never deletes a live pair."""

    def write(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        listed = list(changes)
        super().write([change for change in listed if change[1] is not None or not change[0].startswith(b"k")])


@planted("a member whose store loses deletes", CALM_WEATHER, DIFFERS, 8)
def loses_deletes(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """One store of three goes on with pairs that are gone."""
    return _engine_parts(_RottenEngine, only="n3")


class _SplitEngine(SimEngine):
    """Flushes the bookkeeping of the entry before: data and applied index are not one write."""

    def __init__(self, *arguments: Any) -> None:
        self._before: bytes | None = None
        super().__init__(*arguments)

    def write(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._before = self._values.get(STATE_KEY)
        super().write(changes)

    def _write_image(self, path: str) -> None:
        now = self._values.get(STATE_KEY)
        if now is None or self._before is None:
            super()._write_image(path)
            return
        self._values[STATE_KEY] = self._before
        super()._write_image(path)
        self._values[STATE_KEY] = now


@planted("an applied index that is not atomic with its data", FLUSHES, DIFFERS, 50)
def splits_the_write(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """A restart applies to a store that has the entry's effects already (etcd#13766)."""
    return _engine_parts(_SplitEngine)


class _RepeatingApplier(ApplierActor):
    """Forgets the last entries' indexes, not their effects, whenever it opens its store."""

    def _on_open_store(self, message: OpenStore) -> list[Effect]:
        self._behind = message.mark.index
        return super()._on_open_store(message)

    def _open(self) -> MvccStore:
        store = super()._open()
        store.applied = max(Index(store.applied - 3), min(store.applied, getattr(self, "_behind", store.applied)))
        store._windows = Windows()
        return store


class _AppliesTwice(ProductionParts):
    def make_applier(self, node: SimNode, identity: NodeIdentity) -> Actor:
        disk = node.disk_port
        return _RepeatingApplier(identity, disk, lambda path: SimEngine(disk, path), self._config)


@planted("entries applied a second time after a restart", FLUSHES, DIFFERS, 6)
def applies_twice(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """The store says less than it has applied."""
    return _AppliesTwice


class _AgeingApplier(ApplierActor):
    """Goes on from a revision that was given out already."""

    def _open(self) -> MvccStore:
        store = super()._open()
        if store.revision > max(store.compacted, 1):
            store.revision -= 1
        return store


class _ReusesRevisions(ProductionParts):
    def make_applier(self, node: SimNode, identity: NodeIdentity) -> Actor:
        disk = node.disk_port
        return _AgeingApplier(identity, disk, lambda path: SimEngine(disk, path), self._config)


@planted("a revision used again after a restart", FLUSHES, DIFFERS, 4)
def reuses_revisions(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """The counter goes back by one when the store is opened (etcd#17780)."""
    return _ReusesRevisions


class _StutteringGateway(GatewayCore):
    """Proposes every batch twice."""

    def end_turn(self, now: Millis) -> list[Effect]:
        effects = super().end_turn(now)
        return [*effects, *(e for e in effects if isinstance(e, Send) and isinstance(e.message, ProposeBatch))]


class ProposesTwice(ProductionParts):
    """Every gateway proposes every batch twice: apply must recognise the repeat."""

    def make_gateway(self, node: SimNode, identity: NodeIdentity) -> Actor:
        """The gateway that stutters."""
        return _StutteringGateway(identity, self._config)


@planted("repeats that are applied", PARTITIONS, DIFFERS, 4)
def never_dedupes(monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """Batches are proposed twice, and the windows are switched off."""
    monkeypatch.setattr(dedupe.Window, "admit", lambda _self, _incarnation, _sequence: True)
    return ProposesTwice


@planted("dedupe windows that are lost at a restart", FLUSHES, DIFFERS, 8)
def forgets_windows(monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """A repeat that comes after the restart counts as new."""
    monkeypatch.setattr(Windows, "load", lambda _self, _key, _data: None)
    return ProposesTwice


@planted("a compaction that takes what is still live", CALM_WEATHER, DIFFERS, 50)
def compacts_live_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version at or below the compacted revision goes, the newest too."""
    honest = mvcc.compaction_slice

    def compaction_slice(engine: Any, cursor: int, target: int, rows: int) -> Any:
        step = honest(engine, cursor, target, rows)
        for row_key, record in engine.scan(log_key(max(cursor, 0), 0), log_key(step.cursor, 0)):
            if trailer(record).kind != TOMBSTONE:
                step.changes[row_key] = None
        return step

    monkeypatch.setattr(mvcc, "compaction_slice", compaction_slice)


class _LossyStore(MvccStore):
    """Gives back the tombstone at the compacted revision too."""

    def compact_step(self, rows: int) -> list[PhysicalWait]:
        begin, target = max(self.cursor, 0), self.compacted
        ended = super().compact_step(rows)
        for row_key, record in list(self.engine.scan(log_key(begin, 0), log_key(target + 1, 0))):
            if trailer(record).kind == TOMBSTONE:
                stone = old_key(record_key(record), *parse_log_key(row_key))
                self.engine.write([(row_key, None), (stone, None)])
        return ended


class _LosingApplier(ApplierActor):
    def _open(self) -> MvccStore:
        store = super()._open()
        store.__class__ = _LossyStore
        return store


class _LosesTombstones(ProductionParts):
    def make_applier(self, node: SimNode, identity: NodeIdentity) -> Actor:
        if node.name != "n3":
            return super().make_applier(node, identity)
        disk = node.disk_port
        return _LosingApplier(identity, disk, lambda path: SimEngine(disk, path), self._config)


@planted("a tombstone lost at compaction", CALM_WEATHER, DIFFERS, 50, first=4)
def loses_tombstones(_monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """A deletion at the compacted revision itself must stay for those who watch from there (etcd#19179)."""
    return _LosesTombstones


class _BusyApplier(ApplierActor):
    """Compacts only where nothing was applied for a while, as a member with long reads does."""

    _applied_at = Millis(0)

    @property
    def deadline(self) -> Millis | None:
        due = super().deadline
        if self.store is None or not self.store.compacting:
            return due
        rested = Millis(self._applied_at + REST_MS)
        return rested if due is None or rested < due else due

    def _on_apply_entries(self, message: ApplyEntries) -> list[Effect]:
        self._applied_at = self._now
        return super()._on_apply_entries(message)

    def _may_compact(self, store: MvccStore) -> bool:
        return self._now >= self._applied_at + REST_MS and super()._may_compact(store)


class _CompactsLate(ProductionParts):
    def make_applier(self, node: SimNode, identity: NodeIdentity) -> Actor:
        if node.name != "n3":
            return super().make_applier(node, identity)
        disk = node.disk_port
        return _BusyApplier(identity, disk, lambda path: SimEngine(disk, path), self._config)


@planted(
    "a txn's old revisions checked against what a member has given back so far", CALM_WEATHER, DIFFERS, 60, first=10
)
def checks_txns_by_progress(monkeypatch: pytest.MonkeyPatch) -> type[ProductionParts]:
    """Members whose compactions have come differently far go on differently (etcd#18667)."""
    honest = txn._check_ranges

    def check_ranges(path: Any, store: Any) -> None:
        honest(path, SimpleNamespace(revision=store.revision, compacted=getattr(store, "finished", store.compacted)))

    monkeypatch.setattr(txn, "_check_ranges", check_ranges)
    return _CompactsLate


@planted("a read of the future that is answered with the present", CALM_WEATHER, DIFFERS, 20, first=4)
def reads_the_future(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range at a revision that does not exist yet is served (etcd#20221)."""

    def check_revision(wanted: int, current: int, compacted: int) -> None:
        honest(min(wanted, current), current, compacted)

    honest = range_read.check_revision
    monkeypatch.setattr(range_read, "check_revision", check_revision)
