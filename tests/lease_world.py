"""One replicated store and a lessor that may change hands, in virtual time: what tests of leases stand on.

The store stands for the stores of all members, which are equal. An upkeep that is proposed is under way until a test
commits it, or it is lost with its office.
"""

import random

from actors.lessor import Lessor
from protocol.config import LeasesConfig
from protocol.lease import LeaseUpkeep, encode_upkeep
from protocol.types import EntryKind, Millis, Term
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.store_driver import StoreDriver
from storage.lease import leases_from

ELECTION_TIMEOUT_MS = 1000


class LeaseWorld:
    """Time, the store, and the office."""

    def __init__(self, config: LeasesConfig | None = None) -> None:
        self.config = config or LeasesConfig(checkpoint_interval_ms=20_000, expiries_per_second_max=3000)
        disk = SimDisk(random.Random(0))
        self.driver = StoreDriver(lambda: SimEngine(disk, "store"))
        self.now = Millis(1000)
        self.lessor = Lessor(self.config, ELECTION_TIMEOUT_MS)
        self.under_way: LeaseUpkeep | None = None
        self.upkeeps: list[LeaseUpkeep] = []
        self.driver.term = Term(0)
        self.elect()

    @property
    def leases(self) -> list[int]:
        """The leases of the store."""
        return sorted(lease for lease, _ in self._rows())

    def _rows(self) -> list[tuple[int, int]]:
        found, _ = leases_from(self.driver.store.engine, b"", 1 << 30)
        return [(lease, record.remaining_ms) for lease, record in found]

    def recorded_ms(self, lease: int) -> int:
        """What the store says is left of a lease, or -1."""
        return dict(self._rows())[lease]

    # --- the office ------------------------------------------------------------------------------

    def elect(self, *, outage_ms: int = 0, upkeep_survives: bool = False) -> None:
        """Another member leads, after a time in which nobody did; what was under way is committed by it, or lost."""
        if self.under_way is not None and upkeep_survives:
            self._apply(self.under_way)
        self.under_way = None
        self.now = Millis(self.now + outage_ms)
        self.driver.term = Term(self.driver.term + 1)
        self.lessor.dismissed()
        self.driver.store.leases.followed = False
        self.driver.store.leases.take_changes()
        self.lessor = Lessor(self.config, ELECTION_TIMEOUT_MS)
        self.lessor.appointed(self.driver.term)
        self.driver.apply(EntryKind.NOOP, b"")
        self.lessor.begin(self.now)
        self.driver.store.leases.followed = True

    def _follow(self) -> None:
        for lease, record in self.driver.store.leases.take_changes():
            self.lessor.changed(lease, record, self.now)
        self.lessor.check()

    def _apply(self, upkeep: LeaseUpkeep) -> None:
        self.driver.apply(EntryKind.LEASE_UPKEEP, encode_upkeep(upkeep))

    def commit(self) -> None:
        """The upkeep under way is committed and applied."""
        assert self.under_way is not None, "an upkeep is under way"
        upkeep, self.under_way = self.under_way, None
        self._apply(upkeep)
        self._follow()
        self.lessor.settled()
        self.lessor.check()

    # --- clients ---------------------------------------------------------------------------------

    def grant(self, lease: int, ttl_s: int) -> None:
        """Grant a lease."""
        assert not self.driver.grant(lease, ttl_s).code
        self._follow()

    def revoke(self, lease: int) -> None:
        """Revoke a lease."""
        assert not self.driver.revoke(lease).code
        self._follow()

    def attach(self, lease: int, *keys: bytes) -> None:
        """Attach keys."""
        for key in keys:
            assert not self.driver.put(key, lease=lease).code

    def ask_keep_alive(self, lease: int, *, confirmed_ms_ago: int = 0) -> int | None:
        """Ask once."""
        confirmed_at = Millis(self.now - confirmed_ms_ago)
        return self.lessor.keep_alive(lease, self.driver.store.engine, confirmed_at, self.now)

    def keep_alive(self, lease: int) -> int:
        """Ask as often as is needed, as a gateway does."""
        for _ in range(5):
            ttl_s = self.ask_keep_alive(lease)
            if ttl_s is not None:
                return ttl_s
            self.settle()
        raise AssertionError("the lessor has no answer")

    def remaining(self, lease: int) -> int | None:
        """Seconds left, -1 for no such lease."""
        left = self.lessor.remaining(lease, self.driver.store.engine, self.now, self.now)
        return None if left is None else left[0]

    # --- time ------------------------------------------------------------------------------------

    def wake(self) -> bool:
        """Let the lessor do what is due now; False if nothing was."""
        due = self.lessor.deadline
        if due is None or due > self.now:
            return False
        upkeep = self.lessor.advance(self.driver.store.engine, self.now)
        if upkeep is not None:
            assert self.under_way is None, "one upkeep at a time"
            self.under_way = upkeep
            self.upkeeps.append(upkeep)
        self.lessor.check()
        return True

    def settle(self) -> None:
        """Wake and commit until nothing is due at this instant."""
        for _ in range(10_000):
            if self.under_way is not None:
                self.commit()
            elif not self.wake():
                return
        raise AssertionError("the lessor never rests")

    def run(self, duration_ms: int) -> None:
        """Let time pass; what falls due is proposed and committed at once."""
        until = Millis(self.now + duration_ms)
        while True:
            self.settle()
            due = self.lessor.deadline
            if due is None or due > until:
                break
            self.now = max(self.now, due)
        self.now = until
        self.settle()
