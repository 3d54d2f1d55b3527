"""What goes wrong in one run: the weather a seed draws, the hostile values it configures, and the hand that acts.

Owns every fault kind, its rate and its length; knows nodes and links, no actor's inside. Two coins: a kind is active in
a run or not (first coin), and when it is, it strikes at random instants (second coin), so each seed has a coherent
weather of its own. Invariant: after `heal` nothing new goes wrong and everything that was broken is mended.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from protocol.config import ClusterConfig, LimitsConfig, NodeConfig, RaftConfig, StorageConfig
from protocol.types import MemberId
from sim.network import CALM, NetworkWeather

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

ACTIVE: Final = 0.4
"""Chance that a fault kind is active in a run."""
REQUEST_BYTES_MAX: Final = 3000
"""Simulated requests are small, so that the bounds which must hold the largest request can be tight."""
HOSTILE: Final = 0.3
"""Chance that a configured value is the hostile one."""


@dataclass(frozen=True)
class Weather:
    """The faults of one run. `rates` are strikes per election timeout, by kind; absent kinds never strike."""

    network: NetworkWeather
    rates: dict[str, float]
    disk_stall: float = 0.0
    disk_stall_us_max: int = 0
    recovery_cut: float = 0.0
    """Chance that a machine that boots loses its current again while it recovers."""


FAIR: Final = Weather(CALM, {})
"""No faults at all."""

_KINDS: Final[dict[str, float]] = {
    "partition": 0.25,
    "one_way": 0.25,
    "bulk_cut": 0.2,
    "swizzle": 0.1,
    "kill_group": 0.25,
    "kill_gateway": 0.2,
    "kill_helpers": 0.3,
    "stop": 0.15,
    "pause": 0.4,
    "power_cut": 0.2,
    "mid_write_cut": 0.25,
    "cluster_cut": 0.08,
    "leader_cut": 0.15,
    "disk_failure": 0.1,
}
"""Mean strikes per election timeout of an active kind."""


def draw_weather(rng: random.Random, election_timeout_ms: int) -> Weather:
    """Return the weather of a seed."""

    def active() -> bool:
        return rng.random() < ACTIVE

    rates = {kind: rate * rng.uniform(0.3, 1.5) for kind, rate in _KINDS.items() if active()}
    network = NetworkWeather(
        delay_us_mean=rng.choice((100, 300, 2000, 20_000)),
        loss=rng.choice((0.01, 0.05, 0.25)) if active() else 0.0,
        duplicate=rng.choice((0.01, 0.05, 0.3)) if active() else 0.0,
        late=rng.choice((0.005, 0.02, 0.1)) if active() else 0.0,
        late_us_max=rng.choice((20_000, election_timeout_ms * 1000, 3 * election_timeout_ms * 1000)),
        reorder=active(),
    )
    return Weather(
        network,
        rates,
        disk_stall=rng.choice((0.001, 0.01, 0.05)) if active() else 0.0,
        disk_stall_us_max=rng.choice((20_000, 2 * election_timeout_ms * 1000)),
        recovery_cut=0.3 if active() else 0.0,
    )


def draw_config(rng: random.Random, node_count: int) -> ClusterConfig:
    """Return a cluster file as a seed would write it: default and hostile value beside each other."""

    def knob(default: int, *hostile: int) -> int:
        return rng.choice(hostile) if rng.random() < HOSTILE else default

    heartbeat_ms = knob(100, 10, 30)
    raft = RaftConfig(
        heartbeat_interval_ms=heartbeat_ms,
        election_timeout_ms=heartbeat_ms * knob(10, 5, 7),
        snapshot_count=knob(50, 1, 5, 20, 10_000),
        catchup_entries=knob(20, 0, 1, 5_000),
        append_bytes_max=knob(1 << 20, 1, 300),
        append_entries_max=knob(128, 1, 2),
        inflight_appends_max=knob(64, 1, 2),
        unapplied_entries_max=knob(5_000, 1, 3),
        unapplied_bytes_max=knob(64 << 20, REQUEST_BYTES_MAX, 2 * REQUEST_BYTES_MAX),
        uncommitted_bytes_max=knob(64 << 20, REQUEST_BYTES_MAX, 2 * REQUEST_BYTES_MAX),
    )
    limits = LimitsConfig(pending_requests_max=knob(20_000, 1, 3), request_bytes_max=REQUEST_BYTES_MAX)
    storage = StorageConfig(wal_segment_bytes=knob(65_536, 4096))
    nodes = tuple(_node_config(number) for number in range(1, node_count + 1))
    return ClusterConfig(nodes=nodes, raft=raft, limits=limits, storage=storage)


def plain_config(node_count: int) -> ClusterConfig:
    """Return a cluster file of defaults."""
    return ClusterConfig(nodes=tuple(_node_config(number) for number in range(1, node_count + 1)))


def _node_config(number: int) -> NodeConfig:
    host = f"127.0.0.{number}"
    return NodeConfig(name=f"n{number}", client=f"{host}:2379", peer=f"{host}:2380", zmq=f"{host}:2381")


class FaultInjector:
    """Strikes at random while faults last."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.world = world
        self._rng = rng
        self._active = True
        self._unit_us = world.config.raft.election_timeout_ms * 1000
        self._strikes: dict[str, Callable[[], None]] = {
            "partition": self._partition,
            "one_way": self._one_way,
            "bulk_cut": self._bulk_cut,
            "swizzle": self._swizzle,
            "kill_group": lambda: self._some_node().kill_group("fault"),
            "kill_gateway": lambda: self._some_node().kill_gateway("fault"),
            "kill_helpers": self._kill_helpers,
            "stop": lambda: self._some_node().stop(),
            "pause": self._pause,
            "power_cut": lambda: self._cut_power(self._some_node()),
            "mid_write_cut": self._mid_write_cut,
            "cluster_cut": self._cluster_cut,
            "leader_cut": self._leader_cut,
            "disk_failure": self._disk_failure,
        }

    def begin(self) -> None:
        """Plan the first strike of every active kind."""
        for kind, rate in self.world.weather.rates.items():
            self._plan(kind, rate)

    def heal(self) -> None:
        """Stop for good; mend links, let every disk be sound and switch every machine on."""
        self._active = False
        self.world.network.heal()
        for node in self.world.nodes:
            node.disk_port.mend()
            if not node.powered:
                node.boot()

    def on_node_down(self, node: "SimNode") -> None:
        """Switch a machine on again after a while."""
        delay_us = self._duration(3.0)
        self.world.at(self.world.now_us + delay_us, self._boot, node)

    # --- strikes ---------------------------------------------------------------------------------

    def _plan(self, kind: str, rate: float) -> None:
        delay_us = 1 + int(self._rng.expovariate(rate) * self._unit_us)
        self.world.at(self.world.now_us + delay_us, self._strike, kind, rate)

    def _strike(self, kind: str, rate: float) -> None:
        if not self._active:
            return
        self.world.counts[kind] += 1
        self.world.note("-", "fault", kind)
        self._strikes[kind]()
        self._plan(kind, rate)

    def _duration(self, units_max: float) -> int:
        """Some time, short more often than long."""
        return 1000 + int(self._rng.random() ** 2 * units_max * self._unit_us)

    def _some_node(self) -> "SimNode":
        return self._rng.choice(self.world.nodes)

    def _boot(self, node: "SimNode") -> None:
        if node.powered:
            return
        node.boot()
        if self._active and self._rng.random() < self.world.weather.recovery_cut:
            self.world.counts["recovery_cut"] += 1
            node.disk_port.light_fuse(self._rng.randrange(12))

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

    def _disk_failure(self) -> None:
        node = self._some_node()
        if node.powered:
            node.disk_port.fail_next_sync()

    def _kill_helpers(self) -> None:
        for node in self.world.nodes:
            node.kill_helpers()

    def _pause(self) -> None:
        node = self._some_node()
        names = ["raft", "wal", "applier", "gateway"]
        chosen = names if self._rng.random() < 0.3 else [self._rng.choice(names)]
        duration_us = self._duration(3.0)
        for name in chosen:
            node.pause(name, duration_us)

    # --- links -----------------------------------------------------------------------------------

    def _members(self) -> list[MemberId]:
        return [node.member for node in self.world.nodes]

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
        members = self._members()
        leader = self.world.leader()
        if leader is not None and self._rng.random() < 0.4:
            side = [leader.member]
        else:
            side = self._rng.sample(members, self._rng.randrange(1, len(members))) if len(members) > 1 else members
        rest = [member for member in members if member not in side]
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
        members = self._members()
        return [(one, other) for one in members for other in members if one != other]


def describe(config: ClusterConfig) -> dict[str, Any]:
    """The values of a drawn configuration that are not the defaults, by dotted name."""
    plain = {"raft": RaftConfig(), "limits": LimitsConfig(), "storage": StorageConfig()}
    drawn = {"raft": config.raft, "limits": config.limits, "storage": config.storage}
    return {
        f"{section}.{key}": value
        for section, model in drawn.items()
        for key, value in model.model_dump().items()
        if value != getattr(plain[section], key)
    }
