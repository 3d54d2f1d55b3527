"""One seed with leases: holders and owners of a lock under faults, then everything heals and every lease runs out.

Owns the run and its verdict: what clients were told is what the log says, no promise of time is broken, the members
hold the leases that the log leaves, and in the end there are none. Knows no actor.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from protocol.config import ClusterConfig, LeasesConfig
from sim.lease_checkers import LeaseChecker, LogTimes, fenced
from sim.lease_clients import LeaseClient, ttl_s_min
from sim.parts import ProductionParts
from sim.replay import Replay, check_history
from sim.run import NODE_COUNTS, SLACK_US, Options, Report, converge, fill, heal, storm
from sim.trouble import SimulationFailed
from sim.weather import draw_config, draw_weather, hostile_knobs
from sim.world import World
from storage.layout import KV, key_value_bytes
from storage.lease import leases_from

CLIENTS: Final = 6
TICKS: Final = 120
CLOCKS: Final = ("clock_jump", "clock_skew", "clock_stall")
"""A leader whose clock runs wild may end leases early, as etcd's may: no such weather here."""
STRETCH_MAX: Final = 4
"""Times the shortest lease that is granted, the longest lives."""


def run_lease_seed(
    seed: int, options: Options | None = None, *, show: Callable[[str], None] | None = None, clients: int = CLIENTS
) -> Report:
    """Run one seed with leases to its verdict; a broken promise is in the report."""
    options = options or Options()
    options = replace(options, ticks=TICKS if options.ticks == Options().ticks else options.ticks)
    clients = min(clients, options.clients or clients)
    config = options.config or draw_lease_config(seed, options.nodes, options.knobs)
    unit_ms = config.raft.election_timeout_ms
    drawn = draw_weather(seed, unit_ms, options.faults)
    weather = options.weather or draw_weather(seed, unit_ms, frozenset(drawn.kinds) - frozenset(CLOCKS))
    world = World(seed, config, weather, ProductionParts(config), show=show)
    times = LogTimes(world)
    world.clients = [LeaseClient(world, number, world.rng(f"lease:{number}")) for number in range(clients)]
    report = Report(
        seed,
        nodes=len(config.nodes),
        clients=clients,
        tick_us=unit_ms * 100,
        kinds=list(weather.kinds),
        knobs=_knobs(seed, options.knobs) if options.config is None else [],
    )
    try:
        storm(world, options)
        heal(world, report)
        _await_ends(world)
        converge(world, report)
        replay = check_history(world.history, world.logs.committed.entries)
        world.counts.update(LeaseChecker(world, times, replay).check())
        world.counts["lease_fenced"] += fenced(world.history)
        _check_stores(world, replay)
    except SimulationFailed as failure:
        report.failure = failure
        report.story = world.trace.story()
    fill(world, report)
    return report


def draw_lease_config(seed: int, nodes: int | None, knobs: frozenset[str] | None = None) -> ClusterConfig:
    """Return a cluster file whose leases are short, and whose longer ones are recorded often, sometimes."""
    luck = random.Random(f"{seed}/setting")
    node_count = nodes or luck.choice(NODE_COUNTS)
    config = draw_config(seed, node_count, frozenset(_knobs(seed, knobs)))
    interval = random.Random(f"{seed}/leases").choice((1000, 3000, 60_000))
    return config.model_copy(update={"leases": LeasesConfig(checkpoint_interval_ms=interval)})


def _knobs(seed: int, knobs: frozenset[str] | None) -> list[str]:
    """Return the values that are hostile.

    Shortest leases are of whole seconds: with very short election timeouts nearly nothing would ever run out.
    """
    return [name for name in hostile_knobs(seed, knobs) if name != "raft.heartbeat_interval_ms"]


def _await_ends(world: World) -> None:
    """Nobody keeps anything alive: every lease runs out in time, on every member."""
    unit_ms = world.config.raft.election_timeout_ms
    length_us = STRETCH_MAX * ttl_s_min(unit_ms) * 1_000_000
    until_us = world.now_us + length_us * 102 // 100 + 2 * unit_ms * 1000 + SLACK_US
    while any(_leases(node) != {} for node in world.nodes):
        if world.now_us >= until_us:
            left = {node.name: _leases(node) for node in world.nodes}
            raise SimulationFailed("every lease ends", f"nobody keeps them alive, but there are {left}")
        world.run_until(world.now_us + 100_000)


def _leases(node: Any) -> dict[int, int] | None:
    """Return the leases of a member, each with the index of its grant; None while its store is closed."""
    process = node.processes.get("applier")
    store = process.actor.store if process is not None else None
    if store is None:
        return None
    return {lease: record.granted for lease, record in leases_from(store.engine, b"", 1 << 30)[0]}


def _check_stores(world: World, replay: Replay) -> None:
    """Members hold the leases and keys that the log leaves."""
    for node in world.nodes:
        if _leases(node) != replay.model.leases:
            text = f"{node.name} holds leases {_leases(node)}, the log leaves {replay.model.leases}"
            raise SimulationFailed("stores are the model's", text)
        store: Any = node.processes["applier"].actor.store  # type: ignore[attr-defined]
        for key, pair in replay.model.live.items():
            record = store.engine.get(KV + key)
            if record is None or key_value_bytes(record) != pair.SerializeToString():
                raise SimulationFailed("stores are the model's", f"{node.name} holds another pair of {key!r}")
