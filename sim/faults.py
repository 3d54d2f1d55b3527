"""The hand that acts: each fault kind's strike, when it comes, and how all of it heals.

Owns the strikes and their lengths; what is active and how often is `sim.weather`'s, what a machine does with it is
`sim.node`'s. Invariants: each kind has luck of its own, so that leaving one out moves none of the others; after `heal`
nothing new goes wrong and everything that was broken is mended.
"""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

ACTORS: Final = ("raft", "wal", "applier", "gateway")


class FaultInjector:
    """Strikes at random while faults last."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self._rng = world.rng("faults")
        """The luck of the kind that is striking."""
        self._boot_luck = world.rng("fault:recovery_cut")
        self._active = True
        self._unit_us = world.config.raft.election_timeout_ms * 1000
        self._strikes: dict[str, Callable[[], None]] = {
            "partition": self._partition,
            "one_way": self._one_way,
            "bulk_cut": self._bulk_cut,
            "swizzle": self._swizzle,
            "wrong_frames": lambda: world.peers.send_wrong_frames(self._rng),
            "kill_raft": lambda: self._some_node().kill_actor("raft", "fault"),
            "kill_wal": lambda: self._some_node().kill_actor("wal", "fault"),
            "kill_applier": lambda: self._some_node().kill_actor("applier", "fault"),
            "kill_gateway": lambda: self._some_node().kill_gateway("fault"),
            "kill_group": lambda: self._some_node().kill_group("fault"),
            "kill_helpers": self._kill_helpers,
            "kill_everything": self._kill_everything,
            "stop": lambda: self._some_node().stop(),
            "pause": lambda: self._pause(self._some_node(), [self._rng.choice(ACTORS)]),
            "pause_node": lambda: self._pause(self._some_node(), ACTORS),
            "pause_everything": self._pause_everything,
            "power_cut": lambda: self._cut_power(self._some_node()),
            "mid_write_cut": self._mid_write_cut,
            "leader_cut": self._leader_cut,
            "cluster_cut": self._cluster_cut,
            "disk_failure": self._disk_failure,
            "disk_full": self._disk_full,
            "wal_rot": lambda: self._rot("wal"),
            "store_rot": lambda: self._rot("store"),
            "impostor": self._impostor,
            "clock_jump": self._clock_jump,
            "clock_skew": self._clock_skew,
            "clock_stall": self._clock_stall,
        }

    def begin(self) -> None:
        """Plan the first strike of every active kind."""
        for kind, rate in self.world.weather.rates.items():
            self._plan(kind, rate, self.world.rng(f"fault:{kind}"))

    def heal(self) -> None:
        """Stop for good; mend links, let every machine be sound and switch it on."""
        self._active = False
        self.world.network.heal()
        for node in self.world.nodes:
            node.mend()
            if not node.powered:
                node.boot()

    def on_node_down(self, node: "SimNode") -> None:
        """Switch a machine on again after a while."""
        delay_us = self._duration(3.0)
        self.world.at(self.world.now_us + delay_us, self._boot, node)

    # --- strikes ---------------------------------------------------------------------------------

    def _plan(self, kind: str, rate: float, luck: random.Random) -> None:
        delay_us = 1 + int(luck.expovariate(rate) * self._unit_us)
        self.world.at(self.world.now_us + delay_us, self._strike, kind, rate, luck)

    def _strike(self, kind: str, rate: float, luck: random.Random) -> None:
        if not self._active:
            return
        self.world.counts[f"fault_{kind}"] += 1
        self.world.note("-", "fault", kind)
        ours, self._rng = self._rng, luck
        self._strikes[kind]()
        self._rng = ours
        self._plan(kind, rate, luck)

    def _duration(self, units_max: float) -> int:
        """Some time, short more often than long."""
        return 1000 + int(self._rng.random() ** 2 * units_max * self._unit_us)

    def _later(self, duration_us: int, end: Callable[[], None]) -> None:
        """End a fault after a while, unless everything has healed before."""
        self.world.at(self.world.now_us + duration_us, lambda: end() if self._active else None)

    def _some_node(self) -> "SimNode":
        return self._rng.choice(self.world.nodes)

    # --- machines --------------------------------------------------------------------------------

    def _boot(self, node: "SimNode") -> None:
        if node.powered or node.ended:
            return
        node.boot()
        if self._active and self._boot_luck.random() < self.world.weather.recovery_cut:
            self.world.counts["fault_recovery_cut"] += 1
            node.disk_port.light_fuse(self._boot_luck.randrange(12))

    def _cut_power(self, node: "SimNode") -> None:
        if node.powered:
            node.lose_power("fault")

    def _mid_write_cut(self) -> None:
        node = self._some_node()
        if node.powered:
            node.disk_port.light_fuse(self._rng.randrange(20))

    def _cluster_cut(self) -> None:
        for node in self.world.nodes:
            self._cut_power(node)

    def _leader_cut(self) -> None:
        leader = self.world.leader()
        if leader is not None:
            self._cut_power(leader)

    def _kill_helpers(self) -> None:
        for node in self.world.nodes:
            node.kill_helpers()

    def _kill_everything(self) -> None:
        for node in self.world.nodes:
            node.kill_group("fault")
            node.kill_gateway("fault")

    def _pause(self, node: "SimNode", names: Sequence[str]) -> None:
        duration_us = self._duration(3.0)
        for name in names:
            node.pause(name, duration_us)

    def _pause_everything(self) -> None:
        for node in self.world.nodes:
            self._pause(node, ACTORS)

    # --- disks and clocks ------------------------------------------------------------------------

    def _disk_failure(self) -> None:
        node = self._some_node()
        if node.powered:
            node.disk_port.fail_next_sync()

    def _disk_full(self) -> None:
        """Leave a little room, until somebody tidies up."""
        node = self._some_node()
        node.disk.capacity_bytes = node.disk.used_bytes() + self._rng.randrange(8000)
        self._later(self._duration(4.0), lambda: setattr(node.disk, "capacity_bytes", None))

    def _rot(self, where: str) -> None:
        node = self._some_node()
        self._cut_power(node)
        node.let_rot(where)

    def _impostor(self) -> None:
        """A member starts with an empty disk, as after a mistake of its operator; later its own is found again.

        Nobody can tell before the cluster has written down which data directory the member speaks from; and against a
        majority of such members nothing helps.
        """
        node = self._some_node()
        taken = any(each.kept is not None for each in self.world.nodes)
        if taken or len(self.world.nodes) < 3 or not self.world.store_is_known(node):
            return
        self.world.counts["impostors"] += 1
        self._cut_power(node)
        node.put_empty_disk()
        self._later(self._duration(8.0), lambda: self._end_impostor(node))

    def _end_impostor(self, node: "SimNode") -> None:
        self._cut_power(node)
        node.put_own_disk()

    def _clock_jump(self) -> None:
        """The clock leaps ahead, as after a machine was suspended."""
        self._some_node().set_clock(ahead_us=self._duration(5.0))

    def _clock_skew(self) -> None:
        """The clock runs up to twice as fast, or half as fast, as all others."""
        self._run_clock(self._some_node(), self._rng.choice((500, 800, 1200, 2000)), self._duration(6.0))

    def _clock_stall(self) -> None:
        """The clock stands still, or as good as."""
        self._run_clock(self._some_node(), 1, self._duration(2.0))

    def _run_clock(self, node: "SimNode", rate: int, duration_us: int) -> None:
        node.set_clock(rate=rate, odd_us=duration_us)
        self._later(duration_us, node.set_clock)

    # --- links -----------------------------------------------------------------------------------

    def _ends(self) -> list[int]:
        return [node.link for node in self.world.nodes]

    def _cut_links(self, links: Sequence[tuple[int, int, bool]], duration_us: int) -> None:
        for sender, receiver, bulk in links:
            self.world.network.cut(sender, receiver, bulk=bulk)
        self.world.at(self.world.now_us + duration_us, self._mend_links, links)

    def _mend_links(self, links: Sequence[tuple[int, int, bool]]) -> None:
        if not self._active:
            return
        for sender, receiver, bulk in links:
            self.world.network.mend(sender, receiver, bulk=bulk)

    def _partition(self) -> None:
        """Two sides that hear nothing of each other; often the leader alone on one."""
        ends = self._ends()
        leader = self.world.leader()
        if leader is not None and self._rng.random() < 0.4:
            side = [leader.link]
        else:
            side = self._rng.sample(ends, self._rng.randrange(1, len(ends))) if len(ends) > 1 else ends
        rest = [end for end in ends if end not in side]
        pairs = [(one, other) for one in side for other in rest]
        links = [(*pair, bulk) for a, b in pairs for pair in ((a, b), (b, a)) for bulk in (False, True)]
        self._cut_links(links, self._duration(6.0))

    def _one_way(self) -> None:
        """Some directed links are dead, whatever they carry."""
        pairs = self._pairs()
        chosen = self._rng.sample(pairs, self._rng.randint(min(1, len(pairs)), len(pairs)))
        self._cut_links([(*pair, bulk) for pair in chosen for bulk in (False, True)], self._duration(6.0))

    def _bulk_cut(self) -> None:
        """Appends and chunks are lost while heartbeats go through."""
        pairs = self._pairs()
        chosen = self._rng.sample(pairs, self._rng.randint(min(1, len(pairs)), len(pairs)))
        bulk = self._rng.random() < 0.8
        self._cut_links([(*pair, bulk) for pair in chosen], self._duration(6.0))

    def _swizzle(self) -> None:
        """Clog a random subset of links one by one, and free them in another order."""
        links = [(*pair, bulk) for pair in self._pairs() for bulk in (False, True) if self._rng.random() < 0.5]
        self._rng.shuffle(links)
        step_us = self._duration(0.3)
        lengths = [step_us * (len(links) + place) for place in range(len(links))]
        self._rng.shuffle(lengths)
        for place, (link, length) in enumerate(zip(links, lengths, strict=True)):
            self.world.at(self.world.now_us + place * step_us, self._clog, [link], length - place * step_us)

    def _clog(self, links: Sequence[tuple[int, int, bool]], duration_us: int) -> None:
        if self._active:
            self._cut_links(links, max(1, duration_us))

    def _pairs(self) -> list[tuple[int, int]]:
        ends = self._ends()
        return [(one, other) for one in ends for other in ends if one != other]
