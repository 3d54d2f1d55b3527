"""The simulated world: virtual time, one event heap, the tree of random sources, and everything that watches.

Owns the order of all events; composes nodes, network, faults, clients and checkers. Knows no actor's inside.
Invariants: time never goes back; events of one instant happen in the order in which they were planned; every random
source is derived from the seed by name, so one part's use of luck never changes another's.
"""

import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final

from actors.actor import Source
from actors.effects import Log
from protocol.config import ClusterConfig
from protocol.identity import FoundingMember
from protocol.local import LeadershipChanged, LogRecovered, StoreOpened
from protocol.message import Message
from protocol.types import NOBODY, EntryKind, MemberId
from raft.configuration import Configuration, founding_configuration
from sim.checkers import Checkers, SameState
from sim.clients import History, SimClient
from sim.faults import FaultInjector
from sim.network import PeerNetwork
from sim.node import SimNode
from sim.peer_traffic import PeerTraffic
from sim.process import Process
from sim.status import StatusLine
from sim.trace import Trace
from sim.trouble import SimulationFailed
from sim.weather import Weather

if TYPE_CHECKING:
    from sim.parts import Parts


CALLS_PER_TIMEOUT: Final = (4, 8, 8, 16, 30)
"""Calls of all clients together in one election timeout: few, so that a run is cheap and its faults are dense."""


class World:
    """One cluster, its clients and its misfortunes, from one seed."""

    def __init__(
        self,
        seed: int,
        config: ClusterConfig,
        weather: Weather,
        parts: "Parts",
        *,
        clients_max: int | None = None,
        show: Callable[[str], None] | None = None,
    ) -> None:
        self.seed = seed
        self.config = config
        self.weather = weather
        self.parts = parts
        self.now_us = 0
        self.faulty = True
        self.trace = Trace()
        self.counts: Counter[str] = Counter()
        self.history = History()
        self.calls_open: dict[int, SimClient] = {}
        self.cluster = config.cluster_id
        self.founders = config.founding().founders
        self.ended: list[SimNode] = []
        """Machines that were removed, or never joined, and have stopped for good."""
        self.known: list[SimNode] | None = None
        """Where clients believe the members to be; None: wherever there is a node."""
        self._links = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0
        luck = self.rng("world")
        self.validate_chance = luck.choice((0.02, 0.02, 0.1, 0.5))
        self.sync_us_mean = luck.choice((100, 300, 3000))
        self.clock_drift = luck.choice((0, 1, 10))
        self.background_us_max = luck.choice((500, 20_000, 300_000))
        self.network = PeerNetwork(self.rng("network"), weather.network)
        self.nodes = [SimNode(self, founder, self.rng(f"node:{founder.name}")) for founder in self.founders]
        founding = founding_configuration(self.founders)
        self.logs = Checkers({node.name: node.member for node in self.nodes}, founding)
        self.states = SameState()
        self.listeners: list[Callable[[Process, Message], None]] = []
        """Whoever else looks at local messages as they leave."""
        self.peers = PeerTraffic(self, self.rng("peers"))
        self.faults = FaultInjector(self)
        count = luck.randint(2, 8)
        self.think_us = int(count * config.raft.election_timeout_ms * 1000 / luck.choice(CALLS_PER_TIMEOUT))
        """Mean time between two calls of one client."""
        self.clients = [
            SimClient(self, number, self.rng(f"client:{number}")) for number in range(min(count, clients_max or count))
        ]
        self.status = StatusLine(show) if show is not None else None
        self._by_member: dict[MemberId, SimNode] = {node.member: node for node in self.nodes}
        self._leader: tuple[int, MemberId] = (0, NOBODY)

    # --- time ------------------------------------------------------------------------------------

    def rng(self, name: str) -> random.Random:
        """A random source of its own for each name; text seeds do not depend on the hash seed."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, at_us: int, run: Callable[..., None], *arguments: Any) -> None:
        """Plan `run(*arguments)` for an instant that is not in the past."""
        assert at_us >= self.now_us, f"planned for {at_us}, it is {self.now_us}"
        self._planned += 1
        heappush(self._heap, (at_us, self._planned, run, arguments))

    def run_until(self, until_us: int, done: Callable[[], bool] | None = None) -> bool:
        """Let events happen up to an instant, or until `done`; return whether `done` was reached."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            at_us, _, run, arguments = heappop(heap)
            self.now_us = at_us
            run(*arguments)
            if done is not None and done():
                return True
        self.now_us = max(self.now_us, until_us)
        return False

    # --- machines --------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[SimNode]:
        """Where clients look for members."""
        return self.known or self.nodes

    def next_link(self) -> int:
        """Return the number of one more end of the network's links."""
        self._links += 1
        return self._links

    def add_machine(self, newcomer: FoundingMember, contacts: tuple[str, ...], listens_at: tuple[str, ...]) -> SimNode:
        """Put a machine with an empty disk beside the others; it is off, and knows only its contacts."""
        node = SimNode(self, newcomer, self.rng(f"node:{newcomer.name}"), contacts)
        node.listens_at = listens_at
        self.nodes = [*self.nodes, node]
        self.logs.add_log(node.name)
        self.peers.listen(node)
        self.note(node.name, "supervisor", "made")
        return node

    def on_joined(self, node: SimNode) -> None:
        """A machine knows who it is."""
        self.counts["joined"] += 1
        self.note(node.name, "supervisor", f"joined:{node.member:x}")
        self._by_member[node.member] = node
        self.logs.join(node.name, node.member, founding_configuration(node.founders))

    # --- what nodes report -----------------------------------------------------------------------

    def note(self, node: str, actor: str, what: str) -> None:
        """Record an event that is no message."""
        self.trace.note(self.now_us, node, actor, what)
        if self.status is not None:
            self.status.event(self, node, actor, what)

    def on_node_down(self, node: SimNode) -> None:
        """A machine lost its current."""
        self.on_gateway_down(node)
        if not node.ended:
            self.faults.on_node_down(node)
        elif node not in self.ended:
            self.note(node.name, "supervisor", "ended")
            self.nodes = [each for each in self.nodes if each is not node]
            self.ended.append(node)

    def on_gateway_down(self, node: SimNode) -> None:
        """Reset the connections of a gateway that is gone."""
        for client in list(self.calls_open.values()):
            client.on_gateway_lost(node.name)

    def on_answer(self, process: Process, call_id: int, code: int, body: bytes) -> None:
        """An answer leaves a gateway."""
        if not process.alive:
            return
        client = self.calls_open.get(call_id)
        if client is None:
            self.counts["answers_late"] += 1
            return
        client.answer_leaves(call_id, code, body)

    # --- what checkers see -----------------------------------------------------------------------

    def observe_send(self, process: Process, to: str, message: Message) -> None:
        """A local message leaves."""
        self.logs.on_send(process, to, message)
        for listener in self.listeners:
            listener(process, message)
        if isinstance(message, LeadershipChanged):
            self._on_leadership(process, message)
        elif isinstance(message, LogRecovered | StoreOpened):
            self._on_read_back(process, message)

    def observe_handled(self, process: Process, source: Source, message: Message) -> None:
        """A message is handled."""
        if source.member != NOBODY:
            self.logs.on_peer(process, source.member, message, source.store)
        if self.status is not None:
            self.status.message(self, process, message)

    def observe_store(self, process: Process) -> None:
        """A turn of an applier is over."""
        store = self.parts.store_of(process.actor)
        if store is not None:
            self.states.on_store(process, *store)

    def observe_group(self, node: SimNode) -> None:
        """Raft, wal and applier of a node begin a new life."""
        self.logs.on_group(node.name)

    def observe_log(self, process: Process, effect: Log) -> None:
        """An actor logs something."""
        self.counts[f"log_{effect.event}"] += 1
        self.trace.note(self.now_us, process.node.name, process.name, f"log:{effect.event}")
        if self.status is not None:
            words = " ".join(f"{key}={value}" for key, value in effect.fields.items())
            self.status.event(self, process.node.name, process.name, f"{effect.event} {words}")

    def _on_read_back(self, process: Process, message: LogRecovered | StoreOpened) -> None:
        """A log that was read back had no rot in it; a store may have been replaced unread."""
        rot = process.node.rot
        if rot is None or rot.actor != process.name:
            return
        if isinstance(message, LogRecovered):
            raise SimulationFailed("rot is noticed", f"{process!r} recovered from a log with a bad bit at {rot.where}")
        process.node.rot = None

    def _on_leadership(self, process: Process, message: LeadershipChanged) -> None:
        if message.leader == process.node.member and message.term > self._leader[0]:
            self._leader = (message.term, message.leader)
            self.counts["leaders"] += 1
            self.note(process.node.name, "raft", f"leads:{message.term}")

    def store_is_known(self, node: SimNode) -> bool:
        """Whether every member's log says which data directory `node` speaks from."""
        for entry in self.logs.committed.entries.values():
            if entry.kind == EntryKind.CONFIGURATION:
                record = Configuration.decode(entry.data).members.get(node.member)
                if record is not None and record.store == node.store:
                    logs = [self.logs.logs[each.name] for each in self.nodes]
                    return all(log.durable.holds(entry.index, entry.term) for log in logs)
        return False

    def leader(self) -> SimNode | None:
        """The node that was last seen to become leader, if it is on."""
        node = self._by_member.get(self._leader[1])
        return node if node is not None and node.powered else None
