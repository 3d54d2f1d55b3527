"""One seed from start to verdict: faults and safety first, then everything heals and must become live and converge.

Owns the two phases, their bounds and the report. Knows the world, no actor. Invariant: the verdict and the digest
depend on the seed and the options alone.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocol.config import ClusterConfig
from sim.clients import PROBES, SimClient
from sim.linear import check_linearizable
from sim.parts import Parts, ProductionParts
from sim.replay import check_history
from sim.trouble import SimulationFailed
from sim.weather import Weather, describe, draw_config, draw_weather, hostile_knobs
from sim.world import World

LIVE_WITHIN_TIMEOUTS: Final = 60
"""Election timeouts after the healing within which every node serves writes."""
CONVERGED_WITHIN_TIMEOUTS: Final = 60
"""Election timeouts after the last call within which all stores are equal."""
NODE_COUNTS: Final = (1, 3, 3, 3, 3, 3, 3, 5, 5, 7)
"""What a seed chooses its number of nodes from."""
SLACK_US: Final = 8_000_000
"""Added to both bounds: what slow disks, back-offs and background jobs may take, however short the time-outs are."""


@dataclass(frozen=True)
class Options:
    """What may be chosen about a run. None leaves it to the seed."""

    core: bool = False
    """Consensus alone with changes of membership (`sim.core_run`); no other option but the next concerns it."""
    wishes: bool = False
    """The changes are asked for as clients ask (`sim.core_wishes`)."""
    leases: bool = False
    """Clients hold leases (`sim.lease_run`), if not for so many ticks then for a time of its own."""
    members: bool = False
    """An administrator changes the members (`sim.member_run`); `nodes` is then the number of founders."""
    nodes: int | None = None
    ticks: int = 100
    """Length of the fault phase; a tick is a tenth of an election timeout."""
    clients: int | None = None
    """At most so many clients."""
    faults: frozenset[str] | None = None
    """Exactly these fault kinds are active; empty: none."""
    knobs: frozenset[str] | None = None
    """Exactly these configured values are hostile."""
    weather: Weather | None = None
    """Faults to suffer instead of what the seed draws."""
    config: ClusterConfig | None = None
    """A cluster file to run instead of what the seed draws; `nodes` is then ignored."""


@dataclass
class Report:
    """What a run was and how it ended; `failure` is None when all promises held."""

    seed: int
    digest: str = ""
    nodes: int = 0
    clients: int = 0
    tick_us: int = 1
    kinds: list[str] = field(default_factory=list)
    """The fault kinds that were active."""
    knobs: list[str] = field(default_factory=list)
    """The configured values that were hostile."""
    virtual_us: int = 0
    events: int = 0
    calls: int = 0
    acknowledged: int = 0
    entries: int = 0
    live_after_us: int = 0
    converged_after_us: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    cpu_s: float = 0.0
    """Processor time the run took; no part of the digest."""
    failure: SimulationFailed | None = None
    story: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """One line of JSON; `from_json` gives the report back."""
        fields = dict(self.__dict__)
        fields["failure"] = None if self.failure is None else [self.failure.rule, self.failure.text]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, line: str) -> "Report":
        """Return the report that `line` holds."""
        fields = json.loads(line)
        if fields["failure"] is not None:
            fields["failure"] = SimulationFailed(*fields["failure"])
        return cls(**fields)


def run_seed(
    seed: int,
    options: Options | None = None,
    *,
    parts: Parts | None = None,
    show: Callable[[str], None] | None = None,
) -> Report:
    """Run one seed to its verdict; never raises for a broken promise, which is in the report."""
    options = options or Options()
    luck = random.Random(f"{seed}/setting")
    node_count = options.nodes or luck.choice(NODE_COUNTS)
    config = options.config or draw_config(seed, node_count, options.knobs)
    weather = options.weather or draw_weather(seed, config.raft.election_timeout_ms, options.faults)
    parts = parts or ProductionParts(config)
    world = World(seed, config, weather, parts, clients_max=options.clients, show=show)
    report = Report(
        seed,
        nodes=len(config.nodes),
        clients=len(world.clients),
        tick_us=config.raft.election_timeout_ms * 100,
        kinds=list(weather.kinds),
        knobs=list(hostile_knobs(seed, options.knobs)) if options.config is None else [],
        settings={**describe(config), **active(weather)},
    )
    try:
        storm(world, options)
        heal(world, report)
        converge(world, report)
        judge(world)
    except SimulationFailed as failure:
        report.failure = failure
        report.story = world.trace.story()
    fill(world, report)
    return report


def storm(world: World, options: Options) -> None:
    """Safety: boot, load, and whatever the weather brings."""
    unit_us = world.config.raft.election_timeout_ms * 1000
    luck = world.rng("storm")
    for node in world.nodes:
        world.at(luck.randrange(1 + unit_us // 2), node.boot)
    for client in world.clients:
        client.begin()
    world.at(luck.randrange(1, 2 * unit_us), world.faults.begin)
    world.run_until(options.ticks * unit_us // 10)


def heal(world: World, report: Report) -> None:
    """Liveness: with every machine and link sound, every node serves writes within a bound."""
    mend(world)
    wait_until_live(world, report)


def mend(world: World) -> None:
    """Nothing goes wrong any more, and what is broken is made sound."""
    world.faulty = False
    world.note("-", "fault", "heal")
    world.faults.heal()


def wait_until_live(world: World, report: Report) -> None:
    """Every node serves writes within a bound; then the load ends, and every call is answered."""
    healed_us = world.now_us
    bound = bound_us(world, LIVE_WITHIN_TIMEOUTS)
    probes = [SimClient(world, 1000 + number, world.rng(f"probe:{number}")) for number in range(len(world.nodes))]
    for probe, node in zip(probes, world.nodes, strict=True):
        probe.probe(node)
        probe.begin()
    live = world.run_until(healed_us + bound, lambda: all(probe.probe_answers >= PROBES for probe in probes))
    if not live:
        answers = {probe.number - 1000: probe.probe_answers for probe in probes}
        raise SimulationFailed("becomes live", f"after {bound / 1e6:.1f} s the probes were answered {answers} times")
    report.live_after_us = world.now_us - healed_us
    clients = [*world.clients, *probes]
    for client in clients:
        client.stopped = True
    if not world.run_until(world.now_us + bound, lambda: not any(client.waiting for client in clients)):
        raise SimulationFailed("every call is answered", "calls are still open after the healing")


def converge(world: World, report: Report) -> None:
    """Convergence: without load all nodes have applied the same entries and hold the same bytes within a bound."""
    began_us = world.now_us
    end_us = began_us + bound_us(world, CONVERGED_WITHIN_TIMEOUTS)
    while not _settled(world):
        if world.now_us >= end_us:
            states = {node.name: _state(world, node.name) for node in world.nodes}
            raise SimulationFailed("converges", f"applied and revision after the bound: {states}")
        world.run_until(world.now_us + 20_000)
    report.converged_after_us = world.now_us - began_us
    dumps = {node.name: world.parts.dump(node.processes["applier"].actor) for node in world.nodes}
    first_name, first = next(iter(dumps.items()))
    for name, dump in dumps.items():
        if dump != first:
            place = next((at for at, (a, b) in enumerate(zip(first, dump, strict=False)) if a != b), "the end")
            text = f"{name} and {first_name} applied the same and differ, first at row {place}: {_differ(first, dump)}"
            raise SimulationFailed("equal stores", text)


def judge(world: World) -> None:
    """What the clients were told is what the log says."""
    replay = check_history(world.history, world.logs.committed.entries)
    world.counts["batches_repeated"] += replay.batches_repeated
    world.counts["judged_with_log"] += check_linearizable(world.history, replay)
    for node in world.nodes:
        applied, revision = _state(world, node.name)
        if revision != replay.model.revision:
            text = f"{node.name} is at revision {revision}, the model at {replay.model.revision}"
            raise SimulationFailed("stores are the model's", text)
        if applied < world.logs.committed.last:
            raise SimulationFailed("converges", f"{node.name} applied {applied} of {world.logs.committed.last}")
    hashes = {world.parts.hash_kv(node.processes["applier"].actor) for node in world.nodes}
    if len(hashes) != 1:
        raise SimulationFailed("equal hashes", f"HashKV differs between members: {sorted(hashes)}")


def _settled(world: World) -> bool:
    if not all("applier" in node.processes and "raft" in node.processes for node in world.nodes):
        return False
    states = [_state(world, node.name) for node in world.nodes]
    idle = all(world.parts.is_idle(node.processes["applier"].actor) for node in world.nodes)
    return idle and states[0][0] >= world.logs.committed.last and all(state == states[0] for state in states)


def _state(world: World, name: str) -> tuple[int, int]:
    node = next(node for node in world.nodes if node.name == name)
    applier = node.processes.get("applier")
    store = world.parts.store_of(applier.actor) if applier is not None else None
    return store or (0, 0)


def _differ(one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]) -> str:
    left, right = dict(one), dict(other)
    names = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    return ", ".join(f"{key!r}: {left.get(key)!r} / {right.get(key)!r}" for key in names[:3])


def bound_us(world: World, timeouts: int) -> int:
    """Return how long something may take that needs so many election timeouts, and some slack."""
    return timeouts * world.config.raft.election_timeout_ms * 1000 + SLACK_US


def active(weather: Weather) -> dict[str, object]:
    """Return the faults of a weather in words short enough for one line each."""
    shown: dict[str, object] = {}
    for kind in weather.kinds:
        value = weather.rates.get(kind, getattr(weather, kind, getattr(weather.network, kind, None)))
        shown[f"fault.{kind}"] = round(value, 3) if isinstance(value, float) else value
    return shown


def fill(world: World, report: Report) -> None:
    """Put into the report what the world has met."""
    report.digest = world.trace.digest
    report.virtual_us = world.now_us
    report.events = world.trace.count
    report.calls = len(world.history.calls)
    report.acknowledged = sum(call.code == 0 for call in world.history.calls)
    report.entries = world.logs.committed.last
    for kind, count in world.network.met.items():
        world.counts[kind] += count
    report.counts = {kind: count for kind, count in sorted(world.counts.items()) if count}
