"""Planted bugs of leases: no promise may be cut short, and none be kept much longer."""

import random
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
from lease_model import LEASES, TTLS_S, LeaseModel
from lease_world import LeaseWorld
from plants import planted

from actors.lessor import Lessor
from protocol.lease import decode_upkeep
from protocol.types import Entry, Millis
from sim.lease_run import run_lease_seed
from sim.parts import ProductionParts
from sim.run import Options, Report
from sim.trouble import SimulationFailed
from storage.layout import LeaseRecord
from storage.mvcc import MvccStore

STEPS = 150


class DeposedWorld(LeaseWorld):
    """A deposed leader does not know it, and what its lessor wants still finds its way into the log."""

    deposed: Lessor | None = None

    def elect(self, *, outage_ms: int = 0, upkeep_survives: bool = False) -> None:
        """Another member leads beside the one that led."""
        deposed = deepcopy(self.lessor)
        super().elect(outage_ms=outage_ms, upkeep_survives=upkeep_survives)
        self.deposed = deposed

    def run(self, duration_ms: int) -> None:
        """Let time pass for both."""
        super().run(duration_ms)
        upkeep = self.deposed.advance(self.driver.store.engine, self.now) if self.deposed is not None else None
        if upkeep is not None:
            self._apply(upkeep)
            self._follow()
            self.settle()


@dataclass(frozen=True)
class Leases:
    """A lessor, its store and its successors, and the promises that clients heard."""

    name: str = "leases and leaders"

    def run(self, seed: int, parts: type[ProductionParts] | None) -> Report:
        """Let a seed choose what happens."""
        assert parts is None, "leases have no nodes"
        report = Report(seed)
        model, rng = LeaseModel(), random.Random(f"{seed}/leases")
        model.world = DeposedWorld()
        try:
            for _ in range(STEPS):
                _step(model, rng)
            model.teardown()
        except AssertionError as error:
            report.failure = SimulationFailed("leases keep their promises", str(error))
        return report


def _step(model: LeaseModel, rng: random.Random) -> None:
    lease = rng.choice(LEASES)
    chosen = rng.randrange(7)
    if chosen == 0:
        model.grant(lease, rng.choice(TTLS_S))
    elif chosen == 1 and rng.random() < 0.3:
        model.revoke(lease)
    elif chosen in (2, 3):
        model.keep_alive(lease, patient=rng.random() < 0.5)
    elif chosen == 4:
        model.time_passes(rng.choice((1, 300, 999, 1000, 4000, 18_000, 20_000)))
    elif chosen == 5 and rng.random() < 0.3:
        model.time_passes_for_a_stuck_leader(rng.choice((1, 500, 5000)))
        if model.world.under_way is not None and rng.random() < 0.5:
            model.refuse()
    elif chosen == 6:
        model.elect(rng.choice((0, 1500, 3000)), upkeep_survives=rng.random() < 0.5)


@dataclass(frozen=True)
class LeaseNodes:
    """Whole nodes whose clients hold leases."""

    name: str = "nodes and leases"

    def run(self, seed: int, parts: type[ProductionParts] | None) -> Report:
        """Run the simulator."""
        assert parts is None, "clients with leases bring what they need"
        return run_lease_seed(seed, Options(nodes=3))


LEASE_NODES = LeaseNodes()
LEASE_WORLD = Leases()
KEPT = "leases keep their promises"


@planted("a lease expired by a deposed leader", LEASE_WORLD, KEPT, 50, first=7)
def believes_deposed_leaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The word of an earlier office is taken in a later one, which has answered keep-alives meanwhile."""

    def apply_lease_upkeep(store: MvccStore, entry: Entry) -> None:
        upkeep = decode_upkeep(entry.data)
        for lease, granted, remaining_ms in upkeep.recorded:
            store.leases.record_remaining(lease, granted, remaining_ms)
        store.revision = store.leases.expire(upkeep.expired, store.revision)

    monkeypatch.setattr(MvccStore, "_apply_lease_upkeep", apply_lease_upkeep)


@planted("a new leader that goes on from what was recorded, without grace", LEASE_WORLD, KEPT, 30, first=4)
def inherits_without_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was kept alive since the record was made is cut short."""
    honest = Lessor._inherit

    def inherit(lessor: Lessor, lease: Any, record: LeaseRecord) -> Any:
        left_ms = record.remaining_ms if record.remaining_ms >= 0 else record.ttl_s * 500
        return honest(lessor, lease, record._replace(remaining_ms=left_ms))

    monkeypatch.setattr(Lessor, "_inherit", inherit)


@planted("a keep-alive answered although less is recorded", LEASE_WORLD, KEPT, 150, first=4)
def answers_before_taking_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next leader goes on from the record."""
    honest = Lessor.keep_alive

    def keep_alive(lessor: Lessor, lease: int, reader: Any, confirmed_at: Millis, now: Millis) -> int | None:
        timer = lessor._timer(lease, reader, now)  # type: ignore[arg-type]
        if timer is not None:
            timer.recorded = False
        return honest(lessor, lease, reader, confirmed_at, now)

    monkeypatch.setattr(Lessor, "keep_alive", keep_alive)


@planted("a lease that nobody ends after a change of leader", LEASE_WORLD, KEPT, 8)
def forgets_inherited_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new leader knows only what is granted in its own time."""
    monkeypatch.setattr(Lessor, "_take_over", lambda lessor, _reader: setattr(lessor, "_cursor", None))


@planted("a lease given up a little before its time", LEASE_NODES, "no lease is cut short", 4)
def gives_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader's timer runs out 400 ms before what was granted is over."""
    honest = Lessor._add

    def add(lessor: Lessor, lease: Any, record: LeaseRecord, expires_at: Millis, record_at: Millis) -> Any:
        return honest(lessor, lease, record, Millis(expires_at - 400), record_at)

    monkeypatch.setattr(Lessor, "_add", add)


@planted("a keep-alive answered for a lease that has ended", LEASE_NODES, "an end is an end", 12)
def revives_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks is promised a time."""
    honest = Lessor.keep_alive

    def keep_alive(lessor: Lessor, lease: int, reader: Any, confirmed_at: Millis, now: Millis) -> int | None:
        ttl_s = honest(lessor, lease, reader, confirmed_at, now)
        return ttl_s if ttl_s != 0 else 2

    monkeypatch.setattr(Lessor, "keep_alive", keep_alive)


@planted("a remaining time told shorter than was promised", LEASE_NODES, "remaining is never short", 10)
def tells_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds less than are left."""
    honest = Lessor.remaining

    def remaining(lessor: Lessor, lease: int, reader: Any, confirmed_at: Millis, now: Millis) -> Any:
        left = honest(lessor, lease, reader, confirmed_at, now)
        return left if left is None or left[0] < 0 else (max(0, left[0] - 2), left[1])

    monkeypatch.setattr(Lessor, "remaining", remaining)
