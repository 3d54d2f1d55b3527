"""Leases against two numbers each: until when a lease was promised to some client, and until when it may live at most.

Owns the model and the steps that a test may take, in whatever order; `lease_world` owns the store, the office and the
time. The second number grows with each election by no more than a checkpoint interval and two election timeouts.
Invariant: a step raises `AssertionError` at the promise it finds broken.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from lease_world import ELECTION_TIMEOUT_MS, LeaseWorld

from actors.lessor import REFUSED_PAUSE_MS
from protocol.types import Millis

LEASES = (1, -2, 3)
TTLS_S = (2, 5, 15, 40, 200)
leases = st.sampled_from(LEASES)


class Promise:
    """What clients were told of a lease, and what that allows."""

    def __init__(self, ttl_ms: int, now: int) -> None:
        self.ttl_ms = ttl_ms
        self.until = now + ttl_ms
        self.at_most = now + ttl_ms


class LeaseModel(RuleBasedStateMachine):
    """The lessor against the model."""

    def __init__(self) -> None:
        super().__init__()
        self.world = LeaseWorld()
        self.promises: dict[int, Promise] = {}

    @rule(lease=leases, ttl_s=st.sampled_from(TTLS_S))
    def grant(self, lease: int, ttl_s: int) -> None:
        """Grant one that is not there."""
        if lease not in self.promises:
            self.world.grant(lease, ttl_s)
            self.world.attach(lease, b"%d" % lease)
            self.promises[lease] = Promise(ttl_s * 1000, self.world.now)

    @rule(lease=leases)
    def revoke(self, lease: int) -> None:
        """Revoke one that is there."""
        if self.promises.pop(lease, None) is not None:
            self.world.revoke(lease)

    @rule(lease=leases, patient=st.booleans())
    def keep_alive(self, lease: int, *, patient: bool) -> None:
        """Ask once, or until there is an answer."""
        ttl_s = self.world.keep_alive(lease) if patient else self.world.ask_keep_alive(lease)
        promise = self.promises.get(lease)
        if ttl_s is None:
            return
        if promise is None:
            assert ttl_s == 0
        elif ttl_s:
            assert ttl_s * 1000 == promise.ttl_ms
            promise.until = self.world.now + promise.ttl_ms
            promise.at_most = max(promise.at_most, promise.until)
        else:
            assert self.world.now >= promise.until, "told that it is over before it was"

    @rule(duration_ms=st.sampled_from([1, 300, 999, 1000, 4000, 18_000, 20_000, 100_000]))
    def time_passes(self, duration_ms: int) -> None:
        """Under a leader that gets everything committed."""
        self.world.run(duration_ms)
        self._compare()

    @rule(duration_ms=st.sampled_from([1, 500, 5000, 30_000]))
    def time_passes_for_a_stuck_leader(self, duration_ms: int) -> None:
        """Its proposals go nowhere for a while; it may propose, and ends nothing."""
        before = self.world.leases
        self.world.now = Millis(self.world.now + duration_ms)
        self.world.wake()
        assert self.world.leases == before
        self._allow(REFUSED_PAUSE_MS)

    @precondition(lambda self: self.world.under_way is not None)
    @rule()
    def refuse(self) -> None:
        """Raft does not take the upkeep."""
        upkeep, self.world.under_way = self.world.under_way, None
        assert upkeep is not None
        self.world.lessor.refused(upkeep.term, self.world.now)
        self.world.lessor.check()
        self._allow(REFUSED_PAUSE_MS)

    @rule(outage_ms=st.sampled_from([0, 1500, 3000]), upkeep_survives=st.booleans())
    def elect(self, outage_ms: int, *, upkeep_survives: bool) -> None:
        """Another member leads, with what the log holds and nothing else."""
        # A leader that is stuck lets time pass in which it cannot record; what counts is what it could do.
        self.world.run(0)
        died_at = self.world.now
        self._compare()
        self.world.elect(outage_ms=outage_ms, upkeep_survives=upkeep_survives)
        longer = self.world.config.checkpoint_interval_ms + 2 * ELECTION_TIMEOUT_MS
        for promise in self.promises.values():
            left = max(0, promise.at_most - died_at)
            promise.at_most = self.world.now + left + longer
        self._compare()

    def _allow(self, longer_ms: int) -> None:
        """What could not be committed while its time was over may last so much longer than until now."""
        for promise in self.promises.values():
            promise.at_most = max(promise.at_most, self.world.now + longer_ms)

    def _compare(self) -> None:
        there = self.world.leases
        keys = [pair.key for pair in self.world.driver.range(b"\x00", b"\x00").response.kvs]
        assert keys == sorted(b"%d" % lease for lease in there), "keys go with their lease, and only with it"
        assert set(there) <= set(self.promises), "a revoked lease is gone"
        for lease, promise in list(self.promises.items()):
            if lease in there:
                assert self.world.now <= promise.at_most, f"lease {lease} lives too long"
            else:
                assert self.world.now >= promise.until, f"lease {lease} was cut short"
                del self.promises[lease]

    def teardown(self) -> None:
        """In the end every lease runs out."""
        self.world.run(1_000_000)
        assert self.world.leases == []
