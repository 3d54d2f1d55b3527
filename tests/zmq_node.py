"""A node without consensus, in a thread: the real ZeroMQ door, loop, gateway core and store, one member that leads.

Tests of the door talk to it with a `Peer`, which is a bare socket; tests of the client with the client. A node can be
told to hold its answers, to answer with an error, to go silent, to drain, to die, and to start again.
"""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from random import Random
from typing import Any

import uvloop
import zmq
from clusters import free_ports, wait_until

from actors.actor import Source
from actors.effects import Effect, Send
from actors.event_feed import EventFeed
from gateway.core import GatewayCore
from gateway.credentials import NO_CREDENTIALS, Credentials
from gateway.loop import GatewayLoop
from gateway.methods import Method
from gateway.zmq_door import ZmqDoor
from protocol import codec, exports, local
from protocol.client import ClientHello, ClientHelloReply
from protocol.command import ReadKind, decode_batch
from protocol.config import ClusterConfig, LimitsConfig, NodeConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import ClusterId, Incarnation, MemberId, Millis, StoreId
from protocol.wire import rpc_pb2 as rpc
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.solo import commands_applied, lead, reads_served
from storage.lease import lease_record
from storage.mvcc import MvccStore

CLUSTER = ClusterId(0xC1)
TIMEOUT_S = 20.0


class SoloCore(GatewayCore):
    """A gateway whose raft, wal and applier are one store in the same process."""

    def __init__(self, identity: NodeIdentity, config: ClusterConfig, store: MvccStore) -> None:
        super().__init__(identity, config)
        self.holding = False
        """Nothing that is asked for is carried out."""
        self.refusals: list[ErrorCode] = []
        """The next calls are answered with these, and not carried out."""
        self.asked: list[str] = []
        """The methods of all calls that came."""
        self.cancelled = 0
        self.snapshot = b""
        """What its store is as one file; nothing: it cannot be written."""
        self.exports = 0
        """How often that file was wanted."""
        self._store = store
        self._feed = EventFeed()
        self._feed.attach(store)
        self.held: list[Message] = []
        self._view = lead(self, identity)

    def submit(
        self,
        call_id: int,
        method: Method,
        body: bytes,
        now: Millis,
        deadline: Millis | None,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """Take a call, or refuse it as the test wants it."""
        self.asked.append(method.name)
        if self.refusals:
            self.answers.append((call_id, self.refusals.pop(0), b""))
        else:
            super().submit(call_id, method, body, now, deadline, credentials)

    def cancel(self, call_id: int) -> None:
        """Count, and forget the call."""
        self.cancelled += 1
        super().cancel(call_id)

    def end_turn(self, now: Millis) -> list[Effect]:
        """Carry out what the turn asks for, and what that makes it ask for in turn."""
        while effects := super().end_turn(now):
            for effect in effects:
                assert isinstance(effect, Send)
                self.held.append(effect.message)
            if self.holding:
                break
            self.carry_out(now)
            self.answers += self._stepped.collect()
        return []

    @property
    def serving(self) -> bool:
        """Whether what is asked for is carried out."""
        return self.leader != 0 and not self.holding

    @property
    def waiting(self) -> bool:
        """Whether something has been asked for since the last turn."""
        return any(lane.queue for lane in self._lanes)

    def carry_out(self, now: Millis) -> None:
        """Do what was held."""
        held, self.held = self.held, []
        for message in held:
            if isinstance(message, local.ProposeBatch):
                self.handle(commands_applied(self._store, message), Source("applier"), now)
            elif isinstance(message, local.RequestReads | local.ServeReads):
                self.handle(reads_served(self._store, message), Source("applier"), now)
            elif isinstance(message, local.AskLessor):
                self._keep_alive(message, now)
            elif isinstance(message, local.ListMembers):
                known = local.MembersAnswered(sequence=message.sequence, code=0, members=(self._view,))
                self.handle(known, Source("raft"), now)
            elif isinstance(message, exports.ExportSnapshot | exports.ReadExport | exports.DropExport):
                self._export(message, now)
            else:
                self._feed_events(message, now)
        for event in self._feed.publish(self._store):
            self.handle(event, Source("applier"), now)
        while requests := self.watches.take():
            for request in requests:
                self._feed_events(request, now)

    def _export(self, message: exports.ExportSnapshot | exports.ReadExport | exports.DropExport, now: Millis) -> None:
        """Make the file `snapshot`, or hand out a piece of it."""
        file = self.snapshot
        if isinstance(message, exports.ExportSnapshot):
            self.exports += 1
            failure = "" if file else "the disk is full"
            made = exports.SnapshotExported(sequence=message.sequence, size=len(file), failure=failure)
            self.handle(made, Source("applier"), now)
        elif isinstance(message, exports.ReadExport):
            data = file[message.offset : message.offset + message.size]
            piece = exports.ExportPiece(sequence=message.sequence, offset=message.offset, data=data)
            self.handle(piece, Source("applier"), now)

    def _keep_alive(self, message: local.AskLessor, now: Millis) -> None:
        """Answer keep-alives: here a lease lives until it is revoked."""
        results = []
        for kind, body in decode_batch(message.payload)[1]:
            assert kind == ReadKind.LEASE_KEEP_ALIVE
            lease = rpc.LeaseKeepAliveRequest.FromString(body).ID
            record = lease_record(self._store.engine, lease)
            answer = rpc.LeaseKeepAliveResponse(ID=lease, TTL=record.ttl_s if record else 0)
            results.append((0, answer.SerializeToString()))
        answered = local.LessorAnswered(sequence=message.sequence, results=tuple(results))
        self.handle(answered, Source("raft"), now)

    def _feed_events(self, message: Message, now: Millis) -> None:
        """Do what the applier does for watches."""
        store = self._store
        answers: list[local.LocalMessage] = []
        if isinstance(message, local.FollowEvents):
            answers = self._feed.follow(message, store)
        elif isinstance(message, local.UnfollowEvents):
            self._feed.unfollow(message.session, store)
        elif isinstance(message, local.EventsTaken):
            self._feed.taken(message.session, message.size)
        elif isinstance(message, local.ReadEvents):
            answers = [self._feed.read(message, store)]
        for answer in answers:
            self.handle(answer, Source("applier"), now)


class _Nudge:
    """A connection with nothing to say, whose turn makes the loop take what the core has answered."""

    def flush(self) -> None:
        """Nothing."""


class SoloNode:
    """One node; its store outlives its restarts."""

    def __init__(self, name: str = "n1", *others: str, **limits: int) -> None:
        """`others` are the addresses of further doors that its hello names."""
        (self.port,) = free_ports(1)
        self.address = f"127.0.0.1:{self.port}"
        nodes = [NodeConfig(name=name, client="127.0.0.1:1", peer="127.0.0.1:2", zmq=self.address)]
        for number, other in enumerate(others):
            ports = (f"127.0.0.1:{port}" for port in (2 * number + 3, 2 * number + 4))
            nodes.append(NodeConfig(name=f"other{number}", client=next(ports), peer=next(ports), zmq=other))
        if len(nodes) % 2 == 0:
            nodes.append(NodeConfig(name="odd", client="127.0.0.1:90", peer="127.0.0.1:91", zmq=nodes[-1].zmq[:-1]))
        self.config = ClusterConfig(nodes=tuple(nodes), limits=LimitsConfig(**limits))
        self.name = name
        self.cluster = CLUSTER
        self.member = MemberId(sum(name.encode()))
        disk = SimDisk(Random(1))
        self.store = MvccStore(SimEngine(disk, "store"), self.cluster, self.member, response_bytes_max=1 << 26)
        self.life = Incarnation(0)
        self._thread: threading.Thread | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"tcp://{self.address}"

    def start(self) -> "SoloNode":
        """Serve, in a new life."""
        self.life = Incarnation(self.life + 1)
        identity = NodeIdentity(self.cluster, self.member, self.name, StoreId(3), self.life, ())
        self.core = SoloCore(identity, self.config, self.store)
        self.asyncio_loop = uvloop.new_event_loop()
        self.loop = GatewayLoop(self.core, self.asyncio_loop)
        self.door = ZmqDoor(self.loop, self._context, identity, self.config, self.address, self.core.metrics)
        self.loop.doors.append(self.door)
        self._thread = threading.Thread(target=self.loop.run, name=f"node {self.name}")
        self._thread.start()
        return self

    def on_loop(self, step: Callable[[], Any]) -> Any:
        """Do something in the node's thread, at the beginning of a turn, and return what comes of it."""
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(step())
            except BaseException as error:
                done.set_exception(error)
                raise
            self.loop.mark_dirty(_Nudge())

        self.asyncio_loop.call_soon_threadsafe(run)
        return done.result(TIMEOUT_S)

    def hold(self) -> None:
        """Carry nothing out from now on."""
        self.on_loop(lambda: setattr(self.core, "holding", True))

    def release(self) -> None:
        """Carry out what was held, and what comes."""

        def release() -> None:
            self.core.holding = False
            self.core.carry_out(self.loop.now_ms())

        self.on_loop(release)

    def await_asked(self, count: int) -> None:
        """Wait until so many calls have reached the core."""
        wait_until(lambda: len(self.core.asked) >= count, TIMEOUT_S, f"{count} calls have come")

    def drain(self) -> None:
        """Stop in the orderly way; return at once."""
        self.asyncio_loop.call_soon_threadsafe(self.loop.stop)

    def kill(self) -> None:
        """End without a word to anybody."""
        if self._thread is not None:
            if self._thread.is_alive():
                self.asyncio_loop.call_soon_threadsafe(self._end)
            self.join()

    def _end(self) -> None:
        from actors.effects import Halt

        self.loop._halt = Halt("killed")
        self.asyncio_loop.stop()

    def join(self) -> None:
        """Wait until it has ended."""
        assert self._thread is not None, "it was started"
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "the loop did not end"
        self.asyncio_loop.close()
        self._thread = None
        # ZeroMQ closes a listening socket behind our back; the next life wants its address.
        wait_until(self._address_is_free, TIMEOUT_S, f"{self.address} is given back")

    def _address_is_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                return False
        return True

    def close(self) -> None:
        """End for good."""
        self.kill()
        self._context.destroy(linger=0)


class Peer:
    """A bare DEALER socket: says what the test wants said."""

    def __init__(self, endpoint: str, identity: bytes = b"") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if identity:
            self.socket.setsockopt(zmq.ROUTING_ID, identity)
        self.socket.connect(endpoint)

    def say(self, *messages: Message) -> None:
        """Send messages, a frame each."""
        for message in messages:
            self.socket.send(codec.encode(message))

    def hears(self, timeout_s: float = TIMEOUT_S) -> Message | None:
        """Return the next message, or None if none comes in time."""
        if not self.socket.poll(int(timeout_s * 1000)):
            return None
        return codec.decode(self.socket.recv())

    def greet(self, cluster: int = 0) -> ClientHelloReply:
        """Say hello and return the answer."""
        self.say(ClientHello(protocol_version=1, client="test", cluster=ClusterId(cluster)))
        reply = self.hears()
        assert isinstance(reply, ClientHelloReply), reply
        return reply

    def close(self) -> None:
        """Hang up."""
        self._context.destroy(linger=0)
