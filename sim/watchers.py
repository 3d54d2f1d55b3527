"""Watching clients in virtual time: they watch, fall behind, ask for progress, cancel, lose their member and resume.

Owns the streams of all watching clients and how what is said on them travels. It joins a world through the parts of its
nodes, so that a run without it is the same run as before. Invariant: everything a client was told is in a record.
"""

import random
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from actors.actor import Actor, Source
from gateway.core import GatewayCore
from gateway.methods import WATCH
from gateway.streams import StreamHead
from protocol.config import ClusterConfig
from protocol.identity import NodeIdentity
from protocol.types import Millis
from protocol.wire.rpc_pb2 import (
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from sim.parts import ProductionParts
from sim.process import Parcel, Process
from sim.watch_checkers import WatchRecord
from sim.workload import PREFIX, PREFIX_END

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

FIRST_CALL_ID: Final = 1 << 40
"""Above every id the history gives."""
LOOK_US: Final = 50_000
"""How often a client looks whether its member still lives."""


class Step:
    """One thing a client does within a gateway's turn; stands where a call would."""

    def __init__(self, run: Any) -> None:
        self.run = run


class WatchParts(ProductionParts):
    """Production parts whose gateways also serve the fleet."""

    def __init__(self, config: ClusterConfig, watchers: int) -> None:
        super().__init__(config)
        self.fleet = Fleet(watchers)

    def make_gateway(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The gateway's core."""
        core = GatewayCore(identity, self._config)
        self.fleet.join(node.world)
        return core

    def submit(self, gateway: GatewayCore, call: Any, now: Millis) -> None:
        """Hand a call to the gateway, or let a watching client do what it came for."""
        if isinstance(call, Step):
            call.run(gateway, now)
        else:
            super().submit(gateway, call, now)

    def drain_answers(self, gateway: GatewayCore) -> list[tuple[int, int, bytes]]:
        """Take answers, and what streams have to say."""
        self.fleet.drain(gateway)
        return super().drain_answers(gateway)


class Fleet:
    """All watching clients of a world."""

    def __init__(self, count: int) -> None:
        self.records: list[WatchRecord] = []
        self.watchers: list[Watcher] = []
        self.world: World | None = None
        self._count = count
        self._open: dict[int, Watcher] = {}
        self._call_id = FIRST_CALL_ID

    def join(self, world: "World") -> None:
        """Begin, once the first gateway of the world is made."""
        if self.world is not None:
            return
        self.world = world
        for number in range(self._count):
            watcher = Watcher(self, world, number, world.rng(f"watcher:{number}"))
            self.watchers.append(watcher)
            watcher.begin()

    def open_id(self, watcher: "Watcher") -> int:
        """Return a fresh call id for a stream of `watcher`."""
        self._call_id += 1
        self._open[self._call_id] = watcher
        return self._call_id

    def forget(self, call_id: int) -> None:
        """The stream is nobody's any more."""
        self._open.pop(call_id, None)

    def drain(self, gateway: GatewayCore) -> None:
        """Take what the turn has for clients and let it travel."""
        table = gateway.streams
        while table.dirty:
            dirty, table.dirty = table.dirty, []
            for stream in dirty:
                messages, outcome = table.take(stream)
                watcher = self._open.get(stream.call_id)
                if watcher is None:
                    continue
                bodies = [b"".join(pieces) for pieces in messages]
                held = watcher.sent(stream.call_id, bodies, ended=outcome is not None)
                if outcome is None:
                    table.held(stream.call_id, held, Millis(0))

    def finish(self) -> list[WatchRecord]:
        """Mark what must be complete now that the world is at rest; return all records."""
        for watcher in self.watchers:
            watcher.mark_whole()
        return self.records


class Watcher:
    """One client: a watcher at a time, resumed wherever it can be, sometimes replaced by another."""

    def __init__(self, fleet: Fleet, world: "World", number: int, rng: random.Random) -> None:
        self._fleet = fleet
        self._world = world
        self._number = number
        self._rng = rng
        self._call_id = 0
        self._process: Process | None = None
        self._record: WatchRecord | None = None
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._read_planned = False
        self._read_us_max = rng.choice((100, 2_000, 100_000))
        """How long a client takes for one message: most are quick, some fall behind."""
        self._request = self._draw(0)
        self._next = 0
        self._opened = 0

    def begin(self) -> None:
        """Plan the first stream."""
        self._later(self._rng.randrange(1, 500_000), self._open)

    def _later(self, delay_us: int, run: Any, *arguments: Any) -> None:
        self._world.at(self._world.now_us + 1 + delay_us, run, *arguments)

    def _draw(self, start: int) -> WatchCreateRequest:
        rng = self._rng
        shape = rng.randrange(4)
        key, end = (PREFIX, PREFIX_END) if shape < 2 else (b"\0", b"\0") if shape == 2 else (PREFIX + b"0", b"")
        request = WatchCreateRequest(key=key, range_end=end, start_revision=start)
        request.prev_kv = rng.random() < 0.5
        request.fragment = rng.random() < 0.3
        if rng.random() < 0.2:
            request.filters.append(rng.choice((WatchCreateRequest.NOPUT, WatchCreateRequest.NODELETE)))
        return request

    # --- the stream --------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open a stream at some member, from where this client is."""
        node = self._rng.choice(self._world.nodes)
        process = node.processes.get("gateway")
        if process is None or not process.alive:
            self._later(self._rng.randrange(20_000, 200_000), self._open)
            return
        self._opened += 1
        self._process = process
        self._call_id = call_id = self._fleet.open_id(self)
        self._unread.clear()
        self._unread_bytes = 0
        request = WatchCreateRequest()
        request.CopyFrom(self._request)
        request.start_revision = self._next
        self._record = WatchRecord(f"watcher {self._number}.{self._opened} on {node.name}", request)
        self._fleet.records.append(self._record)
        body = WatchRequest(create_request=request).SerializeToString()

        def run(gateway: GatewayCore, now: Millis) -> None:
            gateway.streams.open(call_id, WATCH, StreamHead(require_leader=True), now)
            gateway.streams.message(call_id, body, now)

        self._world.counts["watches_opened"] += 1
        self._step(process, run)
        self._later(LOOK_US, self._look, call_id)
        self._later(self._rng.randrange(50_000, 3_000_000), self._do_something, call_id)

    @staticmethod
    def _step(process: Process, run: Any) -> None:
        process.deliver(Parcel(Source("client"), b"", Step(run)))  # type: ignore[arg-type]

    def _say(self, request: WatchRequest) -> None:
        call_id, body = self._call_id, request.SerializeToString()
        if self._process is not None:
            self._step(self._process, lambda gateway, now: gateway.streams.message(call_id, body, now))

    def _look(self, call_id: int) -> None:
        """Notice that the member is gone."""
        if call_id != self._call_id:
            return
        if self._process is None or not self._process.alive:
            self._lose()
        else:
            self._later(LOOK_US, self._look, call_id)

    def _do_something(self, call_id: int) -> None:
        """Ask for progress, cancel and begin anew, or hang up; then again after a while."""
        if call_id != self._call_id:
            return
        luck = self._rng.random()
        if luck < 0.5 or not self._world.faulty:
            self._say(WatchRequest(progress_request=WatchProgressRequest()))
        elif luck < 0.65:
            self._say(WatchRequest(cancel_request=WatchCancelRequest(watch_id=0)))
        elif luck < 0.85:
            self._hang_up()
            return
        self._later(self._rng.randrange(50_000, 3_000_000), self._do_something, call_id)

    def _hang_up(self) -> None:
        call_id, process = self._call_id, self._process
        assert process is not None, "there is a stream to hang up"
        self._step(process, lambda gateway, _now: gateway.streams.cancel(call_id))
        self._lose()

    def _lose(self) -> None:
        """The stream is gone: open another from the first revision that was not heard whole."""
        self._fleet.forget(self._call_id)
        self._call_id = 0
        self._process = None
        self._later(self._rng.randrange(1_000, 100_000), self._open)

    # --- what it is told ---------------------------------------------------------------------------

    def sent(self, call_id: int, bodies: list[bytes], *, ended: bool) -> int:
        """Messages leave the gateway; return what this client has not taken."""
        if call_id != self._call_id:
            return 0
        self._unread.extend(bodies)
        self._unread_bytes += sum(map(len, bodies))
        if ended:
            self._later(self._rng.randrange(20, 500), self._end, call_id)
        elif not self._read_planned and self._unread:
            self._read_planned = True
            self._later(self._rng.randrange(20, self._read_us_max), self._read)
        return self._unread_bytes

    def _end(self, call_id: int) -> None:
        """The member ended the stream; what had been sent before still arrives."""
        if call_id != self._call_id:
            return
        while self._unread and call_id == self._call_id:
            self._take()
        if call_id == self._call_id:
            self._lose()

    def _read(self) -> None:
        self._read_planned = False
        if not self._unread or not self._call_id:
            return
        call_id, process = self._call_id, self._process
        self._take()
        held = self._unread_bytes
        if process is not None and call_id == self._call_id:
            self._step(process, lambda gateway, now: gateway.streams.held(call_id, held, now))
        if self._unread:
            self._read_planned = True
            self._later(self._rng.randrange(20, self._read_us_max), self._read)

    def _take(self) -> None:
        """Hear one message."""
        body = self._unread.popleft()
        self._unread_bytes -= len(body)
        response = WatchResponse.FromString(body)
        record = self._record
        assert record is not None, "a stream has a record"
        self._world.trace.note(self._world.now_us, "-", f"watcher{self._number}", "heard", body)
        record.responses.append(response)
        self._world.counts["watch_events"] += len(response.events)
        if response.canceled:
            self._world.counts["watch_compacted" if response.compact_revision else "watch_canceled"] += 1
            self._next = max(self._next, response.compact_revision)
            if not response.compact_revision:
                self._request = self._draw(0)
                self._next = self._rng.choice((0, 1, max(1, self._next - 5)))
            self._hang_up()
        elif response.created:
            self._next = self._next or response.header.revision + 1
        elif response.events:
            last = response.events[-1].kv.mod_revision
            self._next = max(self._next, last if response.fragment else last + 1)

    @property
    def settled(self) -> bool:
        """Whether it watches at a member that lives, and has read everything that came."""
        process, record = self._process, self._record
        if process is None or record is None:
            return False
        return process.alive and record.created is not None and not self._unread

    def mark_whole(self) -> None:
        """The world is at rest: whatever was to be told has been told, if it was read."""
        record = self._record
        if record is None or not self.settled:
            return
        if not any(response.canceled for response in record.responses):
            record.whole = True
            self._world.counts["watches_whole"] += 1
