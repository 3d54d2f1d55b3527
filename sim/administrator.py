"""An administrator in virtual time: grows and shrinks a cluster through the API that operators use, runs its machines.

Owns what is wished for and when; how calls travel and are recorded is `sim.clients`'s, what a machine does is
`sim.node`'s. It asks for one thing at a time, at any member, and believes nobody but the linearizable member list when
an answer is missing. Invariants: the machine of a removed member is never started again under the same data directory;
a peer URL is given to another machine only after the one before it has ended.
"""

import random
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import Message as ProtoMessage

from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.identity import FoundingMember
from protocol.types import NOBODY
from protocol.wire import rpc_pb2 as rpc
from raft.member_changes import PATIENCE_TIMEOUTS
from sim.clients import Call, History, SimClient
from sim.workload import RESPONSES, Request, Seen, Workload

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

FIRST_CALL_ID: Final = 1 << 42
"""Above every id that other histories give."""
MACHINES_MAX: Final = 12
"""Machines that are ever added to a run."""
SIZES: Final = (1, 3, 3, 5)
"""How many voters an administrator wants, until it has them."""
LATE_UNITS_MAX: Final = 2.0
"""A machine is started so many election timeouts after it was added, at most."""


class MemberWorkload(Workload):
    """Asks for member lists, or for what an administrator has decided."""

    def next(self, seen: Seen) -> Request:
        """Return a request for the members, mostly a linearizable one."""
        del seen
        return asked("member_list", rpc.MemberListRequest(linearizable=self._rng.random() < 0.8))


class Observer(SimClient):
    """A client that lists the members, of whom it knows."""

    def __init__(self, world: "World", number: int, rng: random.Random, history: History) -> None:
        super().__init__(world, number, rng)
        self.history = history

    def make_workload(self, rng: random.Random) -> Workload:
        """Return what this client asks for."""
        return MemberWorkload(rng, self.number)

    def _learn(self, call: Call, body: bytes) -> None:
        """Nothing of an answer matters to it."""


class Administrator(Observer):
    """Adds, promotes, updates, removes and replaces members, and moves the leadership."""

    def __init__(self, world: "World", number: int, rng: random.Random, history: History) -> None:
        super().__init__(world, number, rng, history)
        unit_us = world.config.raft.election_timeout_ms * 1000
        self.finishing = False
        """It only brings to an end what it has begun."""
        self.done = False
        """Nothing is left to do: every member votes, and its machine is on."""
        self._members: list[Any] | None = None
        """What it was told last; None: it has to ask."""
        self._goal = rng.choice(SIZES)
        self._made = len(world.nodes)
        self._adding: tuple[str, ...] = ()
        """Peer URLs of the member it tries to add."""
        self._starting: set[str] = set()
        self._unsure_until_us = 0
        """Until when a change of unknown outcome may still be made."""
        self._asked: Call | None = None
        self._think_us = unit_us // 3
        self._burst = 1
        self._timeout_ms = int(unit_us * rng.choice((2, 12)) / 1000) + 50

    def finish(self) -> None:
        """From now on only end what is under way."""
        self.finishing = True
        self._members = None
        self._adding = ()
        self._think_us = min(self._think_us, 50_000)

    # --- deciding ----------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self.stopped or self._open is not None:
            return
        if self._members is None:
            self._node = self._rng.choice(self.world.endpoints)
            self._send(asked("member_list", rpc.MemberListRequest(linearizable=True)))
            return
        self._look_after_machines(self._members)
        request = self._finish(self._members) if self.finishing else self._decide(self._members)
        if request is None:
            self._members = None
            self._later(self._pause_us())
        else:
            self._send(request)

    def _send(self, request: Request) -> None:
        super()._send(request)
        self._asked = self._open

    def _decide(self, members: list[Any]) -> Request | None:
        rng = self._rng
        learners = [member for member in members if member.isLearner]
        voters = [member for member in members if not member.isLearner]
        self._node = rng.choice(self.world.endpoints)
        if learners and rng.random() < 0.7:
            chosen = rng.choice(learners)
            if rng.random() < 0.8:
                return asked("member_promote", rpc.MemberPromoteRequest(ID=chosen.ID))
            return self._remove(chosen)
        if rng.random() < 0.2:
            return self._update(rng.choice(members))
        if rng.random() < 0.15:
            return self._move_leader(rng.choice(voters))
        if len(voters) < self._goal:
            return self._add(is_learner=not learners and rng.random() < 0.4)
        if len(voters) > self._goal or rng.random() < 0.4:
            # At the wanted size: one is replaced, and the goal makes another take its place.
            return self._remove(self._victim(members))
        self._goal = rng.choice(SIZES)
        return None

    def _finish(self, members: list[Any]) -> Request | None:
        learners = [member for member in members if member.isLearner]
        if learners:
            self._node = self._rng.choice(self.world.endpoints)
            return asked("member_promote", rpc.MemberPromoteRequest(ID=learners[0].ID))
        sure = self.world.now_us >= self._unsure_until_us
        self.done = sure and all(self._machine(member) is not None for member in members)
        return None

    def _victim(self, members: list[Any]) -> Any:
        """The leader, the member it talks to, or any."""
        luck = self._rng.random()
        leader = self.world.leader()
        wanted = leader if luck < 0.3 else self._node if luck < 0.5 else None
        for member in members:
            if wanted is not None and wanted.member == member.ID:
                return member
        return self._rng.choice(members)

    def _remove(self, member: Any) -> Request:
        return asked("member_remove", rpc.MemberRemoveRequest(ID=member.ID))

    def _update(self, member: Any) -> Request | None:
        machine = self._machine(member)
        if machine is None:
            return None
        urls = self._rng.choice((machine.listens_at[:1], machine.listens_at[1:], machine.listens_at))
        return asked("member_update", rpc.MemberUpdateRequest(ID=member.ID, peerURLs=urls))

    def _move_leader(self, member: Any) -> Request:
        self._node = self.world.leader() or self._node
        return asked("move_leader", rpc.MoveLeaderRequest(targetID=member.ID))

    def _add(self, *, is_learner: bool) -> Request | None:
        if not self._adding:
            if self._made >= MACHINES_MAX:
                self._goal = 1
                return None
            self._adding = self._free_address()
            if self._rng.random() < 0.3:
                self._start(self._adding)
        return asked("member_add", rpc.MemberAddRequest(peerURLs=self._adding[:1], isLearner=is_learner))

    def _free_address(self) -> tuple[str, ...]:
        """That of a machine that has ended, or a new one; each is reached at two peer URLs."""
        world = self.world
        ended = [node.listens_at for node in world.ended if world.peers.listener(node.listens_at[0]) is node]
        listed = {url for member in self._members or () for url in member.peerURLs}
        free = [urls for urls in ended if not listed & set(urls)]
        if free and self._rng.random() < 0.4:
            return self._rng.choice(free)
        self._made += 1
        return addresses(self._made)

    # --- machines ----------------------------------------------------------------------------------

    def _machine(self, member: Any) -> "SimNode | None":
        """The machine at a member's address, unless it has ended."""
        for url in member.peerURLs:
            node = self.world.peers.listener(url)
            if node is not None and not node.ended:
                return node
        return None

    def _look_after_machines(self, members: list[Any]) -> None:
        """See to it that every member has a machine that knows its address, and no machine waits for nothing."""
        for member in members:
            machine = self._machine(member)
            if machine is None:
                self._start_late(tuple(member.peerURLs))
            elif machine.member == NOBODY:
                urls = tuple(member.peerURLs)
                contacts = tuple(other.peerURLs[0] for other in members if other.ID != member.ID and other.name)
                if (machine.peer_urls, machine.contacts) != (urls, contacts):
                    machine.correct(urls, contacts)
        listed = {url for member in members for url in member.peerURLs}
        for node in self.world.nodes:
            if node.member == NOBODY and not listed & set(node.listens_at) and node.listens_at != self._adding:
                node.withdraw()
        self._starting = {url for url in self._starting if listed & set(_both(url))}
        known = [machine for member in members if (machine := self._machine(member)) is not None]
        self.world.known = known or None

    def _start_late(self, urls: tuple[str, ...]) -> None:
        both = _both(urls[0])
        if both[0] in self._starting:
            return
        self._starting.add(both[0])
        unit_us = self.world.config.raft.election_timeout_ms * 1000
        late_us = 0 if self.finishing else int(self._rng.random() ** 2 * LATE_UNITS_MAX * unit_us)
        self.world.at(self.world.now_us + 1 + late_us, self._start_if_wanted, both)

    def _start_if_wanted(self, urls: tuple[str, ...]) -> None:
        """Unless its member was removed meanwhile."""
        if urls[0] in self._starting:
            self._start(urls)

    def _start(self, urls: tuple[str, ...]) -> None:
        """Put a machine with an empty disk there, and switch it on."""
        self._starting.discard(urls[0])
        world = self.world
        there = world.peers.listener(urls[0])
        if there is not None and not there.ended:
            return
        world.counts["machines"] += 1
        name = f"m{world.counts['machines']}"
        contacts = [node.peer_urls[0] for node in world.endpoints if node.member != NOBODY]
        newcomer = FoundingMember(NOBODY, name, urls[:1], (f"http://{name}:2379",))
        node = world.add_machine(newcomer, tuple(contacts), urls)
        node.advertised = newcomer.client_urls
        node.boot()

    # --- answers -----------------------------------------------------------------------------------

    def _learn(self, call: Call, body: bytes) -> None:
        response: Any = RESPONSES[call.request.method].FromString(body)
        self.world.counts[f"members_{call.request.method}"] += 1
        if call.request.method == "move_leader":
            return
        self._members = list(response.members)
        listed = {url for member in self._members for url in member.peerURLs}
        if listed & set(self._adding):
            self._adding = ()

    def _go_elsewhere(self) -> None:
        """Whatever went wrong: look how things are before anything else is tried."""
        self._members = None
        if self._asked is not None and self._asked.request.method != "member_list" and may_be_done(self._asked):
            patience_ms = (PATIENCE_TIMEOUTS + 1) * self.world.config.raft.election_timeout_ms
            self._unsure_until_us = self.world.now_us + patience_ms * 1000
        self._later(self._pause_us() + self._rng.randrange(1000, 30_000))


def addresses(number: int) -> tuple[str, ...]:
    """Return the peer URLs at which a machine of that number is reached."""
    return (f"http://127.0.0.{number}:2380", f"http://127.0.0.{number}:2390")


def _both(url: str) -> tuple[str, ...]:
    """Return all peer URLs at which the machine with this one is reached."""
    host = url.rpartition(":")[0]
    return addresses(int(host.rpartition(".")[2]))


def asked(method: str, message: ProtoMessage) -> Request:
    """Return a request that is no write of the store."""
    return Request(method, message, message.SerializeToString(), writes=False)


def may_be_done(call: Call) -> bool:
    """Whether what was asked for was done, or may have been, or may still be."""
    if call.end is None or call.code is None:
        return True
    code = ErrorCode(call.code)
    return code == ErrorCode.OK or WIRE_ERRORS[code].outcome_unknown
