"""Clients in virtual time, and the record of what they asked and were told.

Owns calls, their time-outs and the history; knows a gateway only as something that takes calls. A client has one call
open at a time. Invariant: every call ends once: answered, refused before it was sent, or given up with its outcome
unknown; a gateway that lives and runs answers every call soon after its deadline at the latest.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from actors.actor import Source
from protocol.errors import ErrorCode
from protocol.wire.rpc_pb2 import RangeResponse
from sim.process import Parcel, Process
from sim.trouble import SimulationFailed
from sim.workload import RESPONSES, Request, Seen, Workload

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

PROBES: Final = 3
"""Puts a node must have served to count as live."""
ANSWER_GRACE_US: Final = 300_000
"""How long after a call's deadline its answer may come at most, clock drift and a busy gateway included."""


@dataclass
class Call:
    """One call: what was asked, of whom, when, and how it ended. `begin` and `end` order all events of the history."""

    id: int
    client: int
    request: Request
    begin: int
    timeout_ms: int
    begin_us: int = 0
    end_us: int = 0
    node: str = ""
    gateway: tuple[str, int] = ("", 0)
    submitted: bool = False
    end: int | None = None
    code: int | None = None
    body: bytes = b""
    silent: bool = False
    """The client stopped waiting: the outcome is unknown."""


class History:
    """Every call of a run, in the order in which they began."""

    def __init__(self, first_id: int = 0) -> None:
        self.calls: list[Call] = []
        self._first_id = first_id
        self._clock = 0

    def begin(self, client: int, request: Request, timeout_ms: int) -> Call:
        """Record that a client asks."""
        call = Call(self._first_id + len(self.calls), client, request, self._tick(), timeout_ms)
        self.calls.append(call)
        return call

    def end(self, call: Call, code: int | None, body: bytes) -> None:
        """Record how it ended; code None: nobody knows."""
        assert call.end is None, f"call {call.id} ends twice"
        call.end = self._tick()
        call.code = code
        call.body = body
        call.silent = code is None

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


class SimClient:
    """One client: asks, waits, thinks, asks again; changes the node when it is disappointed."""

    def __init__(self, world: "World", number: int, rng: random.Random) -> None:
        self.world = world
        self.history = world.history
        self.number = number
        self.stopped = False
        self.probing = False
        self.probe_answers = 0
        self._rng = rng
        self._workload = self.make_workload(rng)
        self._seen = Seen(mod_revisions={})
        self._node: SimNode = rng.choice(world.endpoints)
        self._open: Call | None = None
        unit_us = world.config.raft.election_timeout_ms * 1000
        self._think_us = int(world.think_us * rng.uniform(0.5, 1.5))
        self._burst = rng.choice((1, 1, 3, 8))
        """Calls it makes one after another before it thinks for as many times as long."""
        self._calls_in_burst = 0
        self._timeout_ms = max(50, int(unit_us * rng.choice((0.5, 2, 5)) / 1000))

    def make_workload(self, rng: random.Random) -> Workload:
        """Return what this client asks for."""
        return Workload(rng, self.number)

    @property
    def waiting(self) -> bool:
        """Whether a call is open."""
        return self._open is not None

    def begin(self) -> None:
        """Plan the first call."""
        self._later(self._rng.randrange(1 + self._think_us))

    def probe(self, node: "SimNode") -> None:
        """From now on ask only plain puts, of this node only, until `PROBES` of them are answered."""
        self.probing = True
        self._node = node
        self._think_us = min(self._think_us, 20_000)
        self._burst = 1
        self._timeout_ms = 200 + 2 * self.world.config.raft.election_timeout_ms

    def _on_answer(self, call: Call, code: int, body: bytes) -> None:
        """The answer has travelled back."""
        if call is not self._open:
            return
        self._note("answer", b"%d %d " % (call.id, code) + body)
        call.end_us = self.world.now_us
        self.history.end(call, code, body)
        self._close()
        if code == ErrorCode.OK:
            self._learn(call, body)
            self.probe_answers += self.probing
            self.stopped = self.stopped or self.probe_answers >= PROBES
            self._later(self._pause_us())
        else:
            self.world.counts[f"answer_{ErrorCode(code).name.lower()}"] += 1
            self._go_elsewhere()

    def on_gateway_lost(self, node: str) -> None:
        """The gateway died: its connection is reset."""
        if self._open is not None and self._open.gateway[0] == node:
            self._give_up(self._open)

    def answer_leaves(self, call_id: int, code: int, body: bytes) -> None:
        """The answer leaves the gateway and reaches the client a little later."""
        assert self._open is not None, "an answer is looked up by the open call"
        assert self._open.id == call_id, "an answer is looked up by the open call"
        self.world.calls_open.pop(call_id)
        self.world.at(self.world.now_us + self._travel_us(), self._on_answer, self._open, code, body)

    # --- within ----------------------------------------------------------------------------------

    def _later(self, delay_us: int) -> None:
        self.world.at(self.world.now_us + 50 + delay_us, self._ask)

    def _ask(self) -> None:
        if self.stopped or self._open is not None:
            return
        self._send(self._workload.probe() if self.probing else self._workload.next(self._seen))

    def _send(self, request: Request) -> None:
        """Ask the node it is at."""
        call = self.history.begin(self.number, request, self._timeout_ms)
        self._open = call
        call.node = self._node.name
        call.begin_us = self.world.now_us
        self.world.at(self.world.now_us + self._travel_us(), self._arrive, call, self._node)

    def _arrive(self, call: Call, node: "SimNode") -> None:
        """The call reaches the node's port."""
        process = node.processes.get("gateway")
        if process is None or not process.alive:
            self._note("refused", b"%d" % call.id)
            self.world.counts["call_refused"] += 1
            self.history.end(call, int(ErrorCode.NO_LEADER), b"")
            self._close()
            self._go_elsewhere()
            return
        call.submitted = True
        call.gateway = (node.name, process.incarnation)
        self._note("call", b"%d " % call.id + call.request.body)
        process.deliver(Parcel(Source("client"), b"", call))
        self.world.calls_open[call.id] = self
        give_up_us = self.world.now_us + call.timeout_ms * 1000 + ANSWER_GRACE_US
        self.world.at(give_up_us, self._expect_answer, call, process)

    def _expect_answer(self, call: Call, process: Process) -> None:
        if call is not self._open:
            return
        if process.alive and not process.excused_lately(call.timeout_ms * 1000 + ANSWER_GRACE_US):
            text = f"call {call.id} ({call.request.method}) to {process!r} had {call.timeout_ms} ms and no answer"
            raise SimulationFailed("every call is answered", text)
        self._give_up(call)

    def _give_up(self, call: Call) -> None:
        self._note("gave_up", b"%d" % call.id)
        self.world.counts["outcome_unknown"] += 1
        self.history.end(call, None, b"")
        self._close()
        self._go_elsewhere()

    def _close(self) -> None:
        if self._open is not None:
            self.world.calls_open.pop(self._open.id, None)
        self._open = None

    def _go_elsewhere(self) -> None:
        """Try again after a moment, mostly at another node."""
        if not self.probing and self._rng.random() < 0.7:
            self._node = self._rng.choice(self.world.endpoints)
        self._later(self._pause_us() + self._rng.randrange(1000, 30_000))

    def _pause_us(self) -> int:
        """How long it thinks now: not at all within a burst."""
        self._calls_in_burst += 1
        if self._calls_in_burst < self._burst:
            return 0
        self._calls_in_burst = 0
        return int(self._rng.expovariate(1.0) * self._think_us * self._burst)

    def _learn(self, call: Call, body: bytes) -> None:
        response = RESPONSES[call.request.method].FromString(body)
        self._seen.revision = max(self._seen.revision, response.header.revision)  # type: ignore[attr-defined]
        if isinstance(response, RangeResponse) and self._seen.mod_revisions is not None:
            for pair in response.kvs:
                self._seen.mod_revisions[pair.key] = pair.mod_revision

    def _travel_us(self) -> int:
        return 20 + int(self._rng.expovariate(1.0) * 100)

    def _note(self, what: str, detail: bytes) -> None:
        self.world.trace.note(self.world.now_us, "-", f"client{self.number}", what, detail)
        if self.world.status is not None:
            self.world.status.event(self.world, "-", f"client{self.number}", f"{what} {detail[:60]!r}")
