"""What a seed decides before it runs: which faults strike how often, and which configured values are hostile.

Owns the list of fault kinds, their rates and the hostile values; knows no node and no actor. Two coins: a kind is
active in a run or not (first coin), and when it is, it strikes at random instants (second coin), so each seed has a
coherent weather of its own. Invariant: every kind and every knob is drawn from a random source of its own, so leaving
one out, as a minimizer does, changes none of the others.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from protocol.config import ClusterConfig, LimitsConfig, NodeConfig, RaftConfig, StorageConfig
from sim.network import CALM, NetworkWeather

ACTIVE: Final = 0.3
"""Chance that a fault kind is active in a run."""
HOSTILE: Final = 0.3
"""Chance that a configured value is a hostile one."""
REQUEST_BYTES_MAX: Final = 3000
"""Simulated requests are small, so that the bounds which must hold the largest request can be tight."""

STRIKES: Final[dict[str, float]] = {
    "partition": 0.3,
    "one_way": 0.25,
    "bulk_cut": 0.2,
    "swizzle": 0.1,
    "wrong_frames": 0.5,
    "kill_raft": 0.15,
    "kill_wal": 0.15,
    "kill_applier": 0.15,
    "kill_gateway": 0.2,
    "kill_group": 0.15,
    "kill_helpers": 0.3,
    "kill_everything": 0.08,
    "stop": 0.15,
    "pause": 0.4,
    "pause_node": 0.15,
    "pause_everything": 0.08,
    "power_cut": 0.2,
    "mid_write_cut": 0.25,
    "leader_cut": 0.15,
    "cluster_cut": 0.08,
    "disk_failure": 0.12,
    "disk_full": 0.15,
    "wal_rot": 0.1,
    "store_rot": 0.1,
    "impostor": 0.15,
    "clock_jump": 0.2,
    "clock_skew": 0.15,
    "clock_stall": 0.15,
}
"""Faults that strike at an instant: mean strikes per election timeout of an active kind."""
CONDITIONS: Final = ("loss", "duplicate", "late", "reorder", "disk_stall", "recovery_cut", "chunk_rot")
"""Faults that meet each frame, sync, boot or chunk with some chance."""
KINDS: Final = (*STRIKES, *CONDITIONS)
"""Every fault kind there is."""


@dataclass(frozen=True)
class Weather:
    """The faults of one run. `rates` are strikes per election timeout, by kind; absent kinds never strike."""

    network: NetworkWeather
    rates: dict[str, float]
    disk_stall: float = 0.0
    """Chance that a sync takes up to `disk_stall_us_max` longer."""
    disk_stall_us_max: int = 0
    recovery_cut: float = 0.0
    """Chance that a machine that boots loses its current again while it recovers."""
    chunk_rot: float = 0.0
    """Chance that one bit of a snapshot chunk flips on its way."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are active."""
        conditions = [kind for kind in CONDITIONS if getattr(self, kind, getattr(self.network, kind, False))]
        return (*self.rates, *conditions)


FAIR: Final = Weather(CALM, {})
"""No faults at all."""


class _Coins:
    """The first coin of each kind."""

    def __init__(self, seed: int, kinds: Collection[str] | None) -> None:
        self._seed = seed
        self._kinds = kinds

    def luck(self, kind: str) -> random.Random | None:
        """The random source for the kind's values if it is active, else None."""
        rng = random.Random(f"{self._seed}/weather:{kind}")
        coin = rng.random() < ACTIVE
        active = coin if self._kinds is None else kind in self._kinds
        return rng if active else None

    def chance(self, kind: str, *chances: float) -> float:
        """One of `chances` if the kind is active, else 0."""
        rng = self.luck(kind)
        return rng.choice(chances) if rng is not None else 0.0


def draw_weather(seed: int, election_timeout_ms: int, kinds: Collection[str] | None = None) -> Weather:
    """Return the weather of a seed; `kinds` replaces the first coins: these are active, and no others."""
    coins = _Coins(seed, kinds)
    unit_us = election_timeout_ms * 1000
    rates = {
        kind: rate * luck.uniform(0.5, 1.5) for kind, rate in STRIKES.items() if (luck := coins.luck(kind)) is not None
    }
    luck = random.Random(f"{seed}/weather")
    network = NetworkWeather(
        delay_us_mean=luck.choice((100, 300, 2000, 20_000)),
        loss=coins.chance("loss", 0.01, 0.05, 0.25),
        duplicate=coins.chance("duplicate", 0.01, 0.05, 0.3),
        late=coins.chance("late", 0.005, 0.02, 0.1),
        late_us_max=luck.choice((20_000, unit_us, 3 * unit_us)),
        reorder=coins.luck("reorder") is not None,
    )
    return Weather(
        network,
        rates,
        disk_stall=coins.chance("disk_stall", 0.001, 0.01, 0.05),
        disk_stall_us_max=luck.choice((20_000, 2 * unit_us)),
        recovery_cut=coins.chance("recovery_cut", 0.3),
        chunk_rot=coins.chance("chunk_rot", 0.05, 0.3),
    )


# --- configuration ---------------------------------------------------------------------------------

KNOBS: Final[dict[str, tuple[int, tuple[int, ...]]]] = {
    "raft.heartbeat_interval_ms": (100, (10, 30, 500)),
    "raft.election_timeout_ms": (10, (5, 7)),
    "raft.commit_news_delay_ms": (5, (0, 100)),
    "raft.unattended_delay_ms": (20, (0, 200)),
    "raft.snapshot_count": (20, (1, 5, 50, 10_000)),
    "raft.catchup_entries": (5, (0, 1, 20, 5_000)),
    "raft.append_bytes_max": (1 << 20, (1, 300)),
    "raft.append_entries_max": (128, (1, 2)),
    "raft.inflight_appends_max": (64, (1, 2)),
    "raft.inflight_bytes_max": (16 << 20, (1, 1000)),
    "raft.unapplied_entries_max": (5_000, (1, 3)),
    "raft.unapplied_bytes_max": (64 << 20, (REQUEST_BYTES_MAX, 2 * REQUEST_BYTES_MAX)),
    "raft.uncommitted_bytes_max": (64 << 20, (REQUEST_BYTES_MAX, 2 * REQUEST_BYTES_MAX)),
    "limits.pending_requests_max": (20_000, (1, 3)),
    "limits.txn_operations_max": (128, (3,)),
    "storage.wal_segment_bytes": (65_536, (4096, 8192)),
}
"""Each configured value: the default, and the hostile ones. The election timeout is in heartbeats."""


def draw_config(seed: int, node_count: int, knobs: Collection[str] | None = None) -> ClusterConfig:
    """Return a cluster file as a seed would write it; `knobs` replaces the coins: these are hostile, and no others."""
    drawn = {name: _draw_knob(seed, name, knobs) for name in KNOBS}
    drawn["raft.election_timeout_ms"] *= drawn["raft.heartbeat_interval_ms"]

    def section(name: str) -> dict[str, int]:
        return {key.partition(".")[2]: value for key, value in drawn.items() if key.startswith(f"{name}.")}

    return ClusterConfig(
        nodes=_nodes(node_count),
        raft=RaftConfig(**section("raft")),
        limits=LimitsConfig(request_bytes_max=REQUEST_BYTES_MAX, **section("limits")),
        storage=StorageConfig(**section("storage")),
    )


def _draw_knob(seed: int, name: str, knobs: Collection[str] | None) -> int:
    default, hostile = KNOBS[name]
    rng = random.Random(f"{seed}/knob:{name}")
    coin = rng.random() < HOSTILE
    chosen = coin if knobs is None else name in knobs
    return rng.choice(hostile) if chosen else default


def hostile_knobs(seed: int, knobs: Collection[str] | None = None) -> tuple[str, ...]:
    """The knobs that a seed turns to a hostile value."""
    return tuple(name for name, (default, _) in KNOBS.items() if _draw_knob(seed, name, knobs) != default)


def plain_config(node_count: int) -> ClusterConfig:
    """Return a cluster file of defaults."""
    return ClusterConfig(nodes=_nodes(node_count))


def _nodes(count: int) -> tuple[NodeConfig, ...]:
    return tuple(_node(number) for number in range(1, count + 1))


def _node(number: int) -> NodeConfig:
    host = f"127.0.0.{number}"
    return NodeConfig(name=f"n{number}", client=f"{host}:2379", peer=f"{host}:2380", zmq=f"{host}:2381")


def describe(config: ClusterConfig) -> dict[str, Any]:
    """The values of a drawn configuration that are not the defaults, by dotted name."""
    plain: dict[str, BaseModel] = {"raft": RaftConfig(), "limits": LimitsConfig(), "storage": StorageConfig()}
    drawn: dict[str, BaseModel] = {"raft": config.raft, "limits": config.limits, "storage": config.storage}
    return {
        f"{section}.{key}": value
        for section, model in drawn.items()
        for key, value in model.model_dump().items()
        if value != getattr(plain[section], key)
    }
