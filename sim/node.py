"""One simulated machine: its disk, its clock, and the supervisor that starts and ends its actors.

Owns what `actors.supervisor` does with real processes: raft, wal and applier live and die together under a growing
incarnation, a gateway is restarted alone, helpers end with their group. Knows no fault kinds; faults call it.
Invariants: no incarnation number is used twice; a machine without current runs nothing and remembers only its disk.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from actors.actor import Actor, Source
from actors.effects import Halt, SpawnHelper
from protocol.codec import decode, encode
from protocol.identity import FoundingMember, NodeIdentity
from protocol.local import ActorStalled, ActorStarted, HelperEnded, SpawnRequested, StopActor
from protocol.types import Incarnation, MemberId, Millis, StoreId
from sim.faulty_disk import FaultyDisk
from sim.process import Parcel, Process
from sim.trouble import SimulationFailed

if TYPE_CHECKING:
    from sim.clients import Call
    from sim.world import World

GROUP: Final = ("wal", "applier", "raft")
"""The actors that live and die together, in the order in which they are started: raft speaks first, to both others."""
STOP_ORDER: Final = (("gateway", "snapshot_sender", "snapshot_receiver"), ("raft",), ("wal", "applier"))
"""Doors first, then consensus, then what it writes to."""
BACKOFF_US_MAX: Final = 200_000
"""The longest a supervisor waits before it starts a dead group again."""


class SimNode:
    """A machine with its actors."""

    def __init__(self, world: "World", founder: FoundingMember, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.name = founder.name
        self.member: MemberId = founder.member
        self.store = StoreId(rng.getrandbits(63))
        self.disk = world.parts.make_disk(random.Random(rng.getrandbits(64)))
        self.disk_port = FaultyDisk(self.disk, self.sync_latency_us)
        self.processes: dict[str, Process] = {}
        self.powered = False
        self.lives = 0
        self._stopping: list[tuple[str, ...]] = []
        self._incarnation = 0
        self._clock_origin_us = 0
        self._clock_rate = 1000

    # --- clock and disk --------------------------------------------------------------------------

    def now_ms(self) -> Millis:
        """This machine's monotonic clock: its own origin, its own rate."""
        return Millis((self._clock_origin_us + self.world.now_us * self._clock_rate // 1000) // 1000)

    def world_time_us(self, deadline: Millis) -> int:
        """The first instant at which `now_ms` is at least `deadline`."""
        return -((self._clock_origin_us - deadline * 1000) * 1000 // self._clock_rate)

    def sync_latency_us(self) -> int:
        """What the next sync takes."""
        weather = self.world.weather
        latency = 100 + int(self.rng.expovariate(1.0) * self.world.sync_us_mean)
        if self.world.faulty and weather.disk_stall and self.rng.random() < weather.disk_stall:
            self.world.counts["disk_stall"] += 1
            latency += self.rng.randrange(weather.disk_stall_us_max)
        return latency

    # --- power -----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch the machine on and start its actors."""
        assert not self.powered, f"{self.name} is already on"
        self.powered = True
        self.lives += 1
        self._clock_origin_us = self.rng.randrange(10**9)
        self._clock_rate = self.rng.randrange(1000 - self.world.clock_drift, 1001 + self.world.clock_drift)
        self.disk_port = FaultyDisk(self.disk, self.sync_latency_us)
        self.world.note(self.name, "supervisor", "boot")
        self.start_group()
        if self.powered:
            self.start_gateway()

    def lose_power(self, why: str) -> None:
        """Cut the current: every actor is gone, and of the disk only what was synced is certain."""
        assert self.powered, f"{self.name} is already off"
        self.world.note(self.name, "supervisor", f"power_cut:{why}")
        self.disk.crash()
        self._go_down()

    def stop(self) -> None:
        """Ask every actor to finish, in order; the disk keeps what the kernel has."""
        if not self.powered or self._stopping:
            return
        self.world.note(self.name, "supervisor", "stop")
        self._stopping = list(STOP_ORDER)
        bound_us = self.world.config.supervision.stop_timeout_ms * 1000
        self.world.at(self.world.now_us + bound_us, self._expect_stopped, self.lives, bound_us)
        self._stop_next()

    def _stop_next(self) -> None:
        while self._stopping:
            running = [process for name, process in self.processes.items() if name in self._stopping[0]]
            for process in running:
                process.deliver(Parcel(Source("supervisor"), encode(StopActor())))
            if running:
                return
            self._stopping.pop(0)
        self.world.note(self.name, "supervisor", "stopped")
        self._go_down()

    def _expect_stopped(self, life: int, bound_us: int) -> None:
        if not self._stopping or self.lives != life:
            return
        if any(process.paused_lately(bound_us) for process in self.processes.values()):
            self.lose_power("stopped_too_slowly")
            return
        raise SimulationFailed("stops when asked", f"{self.name} still runs {sorted(self.processes)}")

    def _go_down(self) -> None:
        self.powered = False
        self._stopping = []
        for process in self.processes.values():
            process.die()
        self.processes.clear()
        self.world.on_node_down(self)

    # --- actors ----------------------------------------------------------------------------------

    def start_group(self) -> None:
        """Start wal, applier and raft under a new incarnation."""
        self._incarnation += 1
        incarnation = Incarnation(self._incarnation)
        self.world.note(self.name, "supervisor", f"start_group:{incarnation}")
        identity = self._identity(incarnation)
        parts = self.world.parts
        started = [
            self._spawn(parts.make_wal(self, identity), incarnation),
            self._spawn(parts.make_applier(self, identity), incarnation),
            self._spawn(parts.make_raft(self, identity), incarnation),
        ]
        for process in started:
            process.links.update({name: incarnation for name in GROUP if name != process.name})
        self.world.observe_group(self)
        for process in started:
            if process.alive:
                process.start()
        if not self.powered:
            return
        gateway = self.processes.get("gateway")
        if gateway is not None:
            for name in GROUP:
                self._announce(name, incarnation, gateway)

    def start_gateway(self) -> None:
        """Start a gateway under an incarnation of its own."""
        self._incarnation += 1
        incarnation = Incarnation(self._incarnation)
        self.world.note(self.name, "supervisor", f"start_gateway:{incarnation}")
        process = self._spawn(self.world.parts.make_gateway(self, self._identity(incarnation)), incarnation)
        process.start()
        for name in GROUP:
            if name in self.processes:
                self._announce("gateway", incarnation, self.processes[name])

    def kill_group(self, why: str) -> None:
        """Kill and reap wal, applier, raft and their helpers; start them again after a while."""
        if not all(name in self.processes for name in GROUP):
            return
        if self._stopping:
            self.lose_power(why)
            return
        self.world.note(self.name, "supervisor", f"kill_group:{why}")
        for name in list(self.processes):
            if name != "gateway":
                self.processes.pop(name).die()
        self._later(self.start_group)

    def kill_gateway(self, why: str) -> None:
        """Kill the gateway alone; start another after a while."""
        if "gateway" not in self.processes or self._stopping:
            return
        self.world.note(self.name, "supervisor", f"kill_gateway:{why}")
        self.processes.pop("gateway").die()
        self.world.on_gateway_down(self)
        self._later(self.start_gateway)

    def kill_helpers(self) -> None:
        """Kill whatever snapshot helpers run."""
        for name in ("snapshot_sender", "snapshot_receiver"):
            if name in self.processes:
                self._end_helper(self.processes[name], "killed by signal 9", clean=False)

    def pause(self, name: str, duration_us: int) -> None:
        """Stop one actor for a while; raft is told once it has missed its beats, and again when it is back."""
        process = self.processes.get(name)
        if process is None:
            return
        self.world.note(self.name, name, f"pause:{duration_us}")
        process.pause(duration_us)
        beat_us = self.world.config.raft.election_timeout_ms * 1000
        if name != "raft" and duration_us > beat_us:
            self.world.at(self.world.now_us + beat_us, self._tell_stalled, process, True)
            self.world.at(self.world.now_us + duration_us, self._tell_stalled, process, False)

    def on_halt(self, process: Process, halt: Halt) -> None:
        """An actor ended itself."""
        if self._stopping and not halt.failed:
            process.die(clean=True)
            del self.processes[process.name]
            if process.name == "gateway":
                self.world.on_gateway_down(self)
            if not any(name in self.processes for name in self._stopping[0]):
                self._stop_next()
            return
        if process.name not in (*GROUP, "gateway"):
            self._end_helper(process, halt.reason if halt.failed else "")
            return
        if halt.failed and not self.world.expects_halt(process, halt):
            raise SimulationFailed("no actor halts", f"{process!r}: {halt.reason}")
        if halt.fatal:
            self.lose_power("halted")
        elif process.name == "gateway":
            self.kill_gateway("halted")
        else:
            self.kill_group("halted")

    def spawn_helper(self, asker: Process, effect: SpawnHelper) -> None:
        """Start a short-lived helper for `asker`; one of the same kind that still runs is killed for it."""
        if not asker.alive or self._stopping:
            return
        old = self.processes.pop(effect.helper, None)
        if old is not None:
            old.die()
        self.world.counts[effect.helper] += 1
        self._incarnation += 1
        incarnation = Incarnation(self._incarnation)
        request = decode(encode(SpawnRequested(helper=effect.helper, arguments=effect.arguments)))
        assert isinstance(request, SpawnRequested), "what is encoded is decoded"
        actor = self.world.parts.make_helper(self, self._identity(incarnation), request)
        process = self._spawn(actor, incarnation)
        self._announce(process.name, incarnation, asker)
        process.start()

    def _end_helper(self, process: Process, failure: str, *, clean: bool = True) -> None:
        """A helper has ended: raft hears of it once the supervisor has reaped it."""
        process.die(clean=clean)
        if self.processes.get(process.name) is not process:
            return
        del self.processes[process.name]
        raft = self.processes.get("raft")
        if raft is not None:
            ended = Parcel(Source("supervisor"), encode(HelperEnded(helper=process.name, failure=failure)))
            self.world.at(self.world.now_us + self.rng.randrange(200, 5000), raft.deliver, ended)

    # --- clients ---------------------------------------------------------------------------------

    def submit(self, call: "Call", now: Millis) -> None:
        """Hand a client's call to the gateway within its turn."""
        gateway = self.processes["gateway"]
        self.world.parts.submit(gateway.actor, call, now)

    def drain_answers(self, process: Process, leave_us: int) -> None:
        """Take the answers the gateway made in this turn and let them travel to the clients."""
        if process.name == "gateway":
            for call_id, code, body in self.world.parts.drain_answers(process.actor):
                self.world.at(leave_us, self.world.on_answer, process, call_id, code, body)

    # --- within ----------------------------------------------------------------------------------

    def _spawn(self, actor: Actor, incarnation: Incarnation) -> Process:
        links = {name: sibling.incarnation for name, sibling in self.processes.items()}
        process = Process(self, actor, incarnation, links)
        assert process.name not in self.processes, f"{process.name} of {self.name} runs already"
        self.processes[process.name] = process
        return process

    def _identity(self, incarnation: Incarnation) -> NodeIdentity:
        world = self.world
        return NodeIdentity(world.cluster, self.member, self.name, self.store, incarnation, world.founders)

    def _announce(self, actor: str, incarnation: Incarnation, receiver: Process) -> None:
        message = ActorStarted(actor=actor, incarnation=incarnation)
        at_us = self.world.now_us + self.rng.randrange(500)
        self.world.at(at_us, receiver.deliver, Parcel(Source("supervisor"), encode(message)))

    def _tell_stalled(self, process: Process, stalled: bool) -> None:
        raft = self.processes.get("raft")
        if raft is not None and process.alive:
            message = ActorStalled(actor=process.name, stalled=stalled)
            raft.deliver(Parcel(Source("supervisor"), encode(message)))

    def _later(self, start: Callable[[], None]) -> None:
        """Start something after the supervisor's back-off, unless the machine lost its current meanwhile."""
        life = self.lives
        delay_us = self.rng.randrange(1000, BACKOFF_US_MAX)
        self.world.at(self.world.now_us + delay_us, self._start_if_on, start, life)

    def _start_if_on(self, start: Callable[[], None], life: int) -> None:
        if self.powered and self.lives == life and not self._stopping:
            start()
