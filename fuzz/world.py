"""A gateway without a cluster behind it: the real loop, core and store, one member that leads, no consensus, no disk.

What strangers send goes through the doors, the core and the store as in a node. Invariants: each input begins with an
empty store, so that one input alone shows what it does; whatever they send, the loop goes on: an exception that would
end the gateway's process ends the turn in which it happened.
"""

from random import Random
from typing import Final

import uvloop

from actors.actor import Source
from actors.effects import Effect, Send
from fuzz.target import Broken
from gateway.core import GatewayCore
from gateway.loop import GatewayLoop
from protocol import local
from protocol.command import decode_batch
from protocol.config import ClusterConfig, LimitsConfig, NodeConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import ClusterId, Incarnation, MemberId, Millis, StoreId
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.solo import commands_applied, lead, reads_served
from storage.mvcc import MvccStore

CLUSTER: Final = ClusterId(7)
TURNS_PER_INPUT: Final = 3
"""A call is taken in one turn, answered in the next, and what is said then leaves in one more at the latest."""
NODE: Final = NodeConfig(name="n", client="127.0.0.1:1", peer="127.0.0.1:2", zmq="127.0.0.1:3")
CONFIG: Final = ClusterConfig(nodes=(NODE,), limits=LimitsConfig())
IDENTITY: Final = NodeIdentity(CLUSTER, MemberId(2), "n", StoreId(3), Incarnation(1), ())


class AnsweringCore(GatewayCore):
    """A core whose neighbours are a store in the same process."""

    def __init__(self) -> None:
        super().__init__(IDENTITY, CONFIG)
        self._store: MvccStore | None = None
        self.renew()
        self._view = lead(self, IDENTITY)

    def end_turn(self, now: Millis) -> list[Effect]:
        """Answer what the turn asks for."""
        while effects := super().end_turn(now):
            for effect in effects:
                if isinstance(effect, Send):
                    self._answer(effect.message, now)
        return []

    def renew(self) -> None:
        """Begin with an empty store, if the last one was written to."""
        if self._store is None or self._store.applied > 0:
            disk = SimDisk(Random(1))
            self._store = MvccStore(SimEngine(disk, "store"), CLUSTER, IDENTITY.member, response_bytes_max=1 << 20)

    def _answer(self, message: Message, now: Millis) -> None:
        store = self._store
        assert store is not None, "it was renewed"
        if isinstance(message, local.ProposeBatch):
            self.handle(commands_applied(store, message), Source("applier"), now)
        elif isinstance(message, local.RequestReads | local.ServeReads):
            self.handle(reads_served(store, message), Source("applier"), now)
        elif isinstance(message, local.AskLessor):
            results = tuple((int(ErrorCode.LEASE_NOT_FOUND), b"") for _ in decode_batch(message.payload).commands)
            self.handle(local.LessorAnswered(sequence=message.sequence, results=results), Source("raft"), now)
        elif isinstance(message, local.ListMembers):
            known = local.MembersAnswered(sequence=message.sequence, code=0, members=(self._view,))
            self.handle(known, Source("raft"), now)


class GatewayWorld:
    """One gateway, used for many inputs."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.core = AnsweringCore()
        self.gateway = GatewayLoop(self.core, self.loop)
        self._failed: list[BaseException] = []
        self.loop.set_exception_handler(
            lambda _loop, context: self._failed.append(context.get("exception") or Broken(str(context["message"])))
        )

    def turn(self) -> None:
        """Let the loop do what it has to do now; raise what would have ended it."""
        for _ in range(TURNS_PER_INPUT):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        failed, self._failed = self._failed, []
        for error in failed:
            raise error

    def check(self) -> None:
        """Raise unless a gateway that nobody talks to any more holds nothing of anybody."""
        self.turn()
        if self.gateway.calls_open:
            raise Broken(f"{self.gateway.calls_open} calls are open that nobody waits for")
        self.core.check_invariants()
