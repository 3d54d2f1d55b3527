"""One seed with changing members: an administrator grows and shrinks the cluster under load and faults, then all heals.

Owns the run and its verdict: what the administrator and its observers were told is what the log says, the cluster comes
to rest with members that all agree on who they are, and every machine that was removed has ended. Knows the raft actor
only to compare what each member holds for the truth.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from actors.actor import Actor
from gateway.core import GatewayCore
from protocol.config import ClusterConfig
from protocol.identity import NodeIdentity
from protocol.types import NOBODY
from raft import membership
from raft.configuration import Configuration
from sim.administrator import FIRST_CALL_ID, Administrator, Observer, addresses
from sim.clients import History, SimClient
from sim.member_checkers import WrittenTimes, check_members
from sim.node import SimNode
from sim.parts import Parts, ProductionParts
from sim.run import (
    LIVE_WITHIN_TIMEOUTS,
    Options,
    Report,
    active,
    bound_us,
    converge,
    fill,
    judge,
    mend,
    storm,
    wait_until_live,
)
from sim.trouble import SimulationFailed
from sim.weather import describe, draw_config, draw_weather, hostile_knobs
from sim.world import World

FOUNDERS: Final = (1, 1, 3, 3, 3, 5)
"""What a seed chooses the number of founders from."""
OBSERVERS: Final = 2
FIRST_NUMBER: Final = 500
"""Number of the administrator; its observers follow."""
TICKS: Final = 120
"""A change of members takes a while: a little more time than other runs have."""
NOT_HERE: Final = ("impostor",)
"""An operator who puts an empty disk into a member is another one's subject."""
UNIX_S: Final = 1_700_000_000


class MemberParts(ProductionParts):
    """Production parts whose gateways have a clock for the ids of new members, as those of a real node do."""

    def make_gateway(self, node: SimNode, identity: NodeIdentity) -> Actor:
        """The gateway's core."""
        core = super().make_gateway(node, identity)
        assert isinstance(core, GatewayCore), "the production part is a gateway"
        core.members.calls.unix_s = lambda: UNIX_S + node.world.now_us // 1_000_000
        return core


def run_member_seed(
    seed: int,
    options: Options | None = None,
    *,
    parts: type[MemberParts] = MemberParts,
    show: Callable[[str], None] | None = None,
) -> Report:
    """Run one seed with changing members to its verdict; a broken promise is in the report."""
    options = options or Options()
    options = replace(options, ticks=TICKS if options.ticks == Options().ticks else options.ticks)
    config = options.config or draw_member_config(seed, options.nodes, options.knobs)
    unit_ms = config.raft.election_timeout_ms
    drawn = draw_weather(seed, unit_ms, options.faults)
    weather = options.weather or draw_weather(seed, unit_ms, frozenset(drawn.kinds) - frozenset(NOT_HERE))
    world = World(seed, config, weather, _parts(parts, config), clients_max=options.clients, show=show)
    for node in world.nodes:
        node.advertised = config.node(node.name).client_urls
        node.listens_at = addresses(int(node.name[1:]))
        world.peers.listen(node)
    history, written = History(FIRST_CALL_ID), WrittenTimes(world)
    administrator = Administrator(world, FIRST_NUMBER, world.rng("administrator"), history)
    observers = [
        Observer(world, FIRST_NUMBER + number, world.rng(f"observer:{number}"), history)
        for number in range(1, OBSERVERS + 1)
    ]
    report = Report(
        seed,
        nodes=len(config.nodes),
        clients=len(world.clients),
        tick_us=unit_ms * 100,
        kinds=list(weather.kinds),
        knobs=list(hostile_knobs(seed, options.knobs)) if options.config is None else [],
        settings={**describe(config), **active(weather)},
    )
    world.clients = [*world.clients, administrator, *observers]
    try:
        storm(world, options)
        mend(world)
        healed_us = world.now_us
        _let_finish(world, administrator, observers)
        wait_until_live(world, report)
        report.live_after_us = world.now_us - healed_us
        converge(world, report)
        judge(world)
        world.counts.update(check_members(history, world.logs.configurations.committed, written.by_entry))
        _check_agreement(world)
    except SimulationFailed as failure:
        report.failure = failure
        report.story = world.trace.story()
    fill(world, report)
    return report


def _parts(parts: type[MemberParts], config: ClusterConfig) -> Parts:
    return parts(config)


def draw_member_config(seed: int, nodes: int | None, knobs: frozenset[str] | None = None) -> ClusterConfig:
    """Return a cluster file whose rules for changes are etcd's, or laxer."""
    luck = random.Random(f"{seed}/members")
    founders = luck.choice(FOUNDERS)
    config = draw_config(seed, nodes or founders, knobs)
    rules = {"strict_reconfig_check": luck.random() < 0.6, "learners_max": luck.choice((1, 1, 3))}
    return config.model_copy(update={"raft": config.raft.model_copy(update=rules)})


def _let_finish(world: World, administrator: Administrator, observers: list[Observer]) -> None:
    """Everything is sound: the administrator ends what it has begun, and whoever was removed ends."""
    administrator.finish()
    end_us = world.now_us + 2 * bound_us(world, LIVE_WITHIN_TIMEOUTS)
    if not world.run_until(end_us, lambda: administrator.done):
        raise SimulationFailed("changes come to an end", "the administrator is not done although everything is sound")
    if not world.run_until(end_us, lambda: _at_rest(world, end_us)):
        states = {node.name: (f"{node.member:x}", node.powered) for node in world.nodes}
        last = world.logs.configurations.committed[-1].configuration
        raise SimulationFailed("who was removed ends", f"machines {states}, members {last}")
    for client in (administrator, *observers):
        client.stopped = True
    waiting: list[SimClient] = [administrator, *observers]
    if not world.run_until(end_us, lambda: not any(client.waiting for client in waiting)):
        raise SimulationFailed("every call is answered", "calls about members are still open after the healing")


def _at_rest(world: World, end_us: int) -> bool:
    """Whether exactly the members run, and nobody waits for a promised vote.

    Who was removed and knows nobody that is left is told by nobody: its operator takes it out of service, late.
    """
    last = world.logs.configurations.committed[-1].configuration
    if last.joint or any(record.promised for record in last.members.values()):
        return False
    if end_us - world.now_us < bound_us(world, LIVE_WITHIN_TIMEOUTS):
        for node in world.nodes:
            known = world.logs.configurations.latest(node.name).everyone_voting() if node.member != NOBODY else ()
            if node.member not in last.members and known and not set(known) & set(last.members):
                world.counts["removed_told_by_nobody"] += 1
                node.withdraw()
    return {node.member for node in world.nodes} == set(last.members)


def _check_agreement(world: World) -> None:
    """Every member holds the last committed configuration for the truth, and every other machine has ended."""
    committed = world.logs.configurations.committed[-1].configuration
    for node in world.nodes:
        held = _held(node)
        if held != committed:
            raise SimulationFailed("members agree on who they are", f"{node.name} holds {held}, the log {committed}")
    running = [node.name for node in world.ended if node.powered]
    if running:
        raise SimulationFailed("who was removed ends", f"{', '.join(running)} still run")


def _held(node: SimNode) -> Configuration:
    actor: Any = node.processes["raft"].actor
    return membership.committed_configuration(actor.core)
