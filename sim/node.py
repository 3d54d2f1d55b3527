"""One simulated machine: its disk, its clock, and the supervisor that starts and ends its actors.

Owns what `actors.supervisor` does with real processes: raft, wal and applier live and die together under a growing
incarnation, a gateway is restarted alone, helpers end with their group, a machine without data that is no founder asks
who it is, and one that was removed ends. Knows no fault kinds; faults call it.
Invariants: no incarnation number is used twice; a machine without current runs nothing and remembers only its disk.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from actors.actor import Actor, Source
from actors.effects import Halt, SpawnHelper
from actors.joining import Joined
from actors.shell import HELPER_ASKERS
from protocol.codec import decode, encode
from protocol.identity import FoundingMember, NodeIdentity
from protocol.local import ActorStalled, ActorStarted, HelperEnded, SpawnRequested, StopActor
from protocol.membership import dialled_url
from protocol.types import NOBODY, Incarnation, MemberId, Millis, StoreId
from sim.disk import SimDisk
from sim.faulty_disk import FaultyDisk
from sim.newcomer import Newcomer
from sim.process import HELPERS, Parcel, Process
from sim.rot import Rot, rot_log, rot_store
from sim.trouble import SimulationFailed

if TYPE_CHECKING:
    from sim.clients import Call
    from sim.world import World

GROUP: Final = ("wal", "applier", "raft")
"""The actors that live and die together, in the order in which they are started: raft speaks first, to both others."""
STOP_ORDER: Final = (("gateway", *HELPERS), ("raft",), ("wal", "applier"))
"""Doors first, then consensus, then what it writes to."""
BACKOFF_US_MAX: Final = 200_000
"""The longest a supervisor waits before it starts a dead group again."""


class SimNode:
    """A machine with its actors."""

    def __init__(
        self, world: "World", founder: FoundingMember, rng: random.Random, contacts: tuple[str, ...] | None = None
    ) -> None:
        """With `contacts`, peer URLs of members, it is no founder: it asks them who it is when it is switched on."""
        self.world = world
        self.rng = rng
        self.name = founder.name
        self.member: MemberId = founder.member
        """NOBODY until it has joined."""
        self.founders = () if contacts is not None else world.founders
        """Whom it starts with while its log says nothing."""
        self.contacts = contacts or ()
        self.newcomer: Newcomer | None = None
        """Its question, while it does not know who it is."""
        self.peer_urls = founder.peer_urls
        """What its cluster file says."""
        self.listens_at = founder.peer_urls
        """Every peer URL at which it is reached."""
        self.advertised: tuple[str, ...] = ()
        """The client URLs that it publishes; none: it publishes nothing."""
        self.link = int(founder.member) if contacts is None else world.next_link()
        """Which end of the network's links it is."""
        self.ended = False
        """It was removed and has stopped for good, or was taken out of service; nobody switches it on again."""
        self.store = StoreId(rng.getrandbits(63))
        self.disk = world.parts.make_disk(random.Random(rng.getrandbits(64)))
        self.disk_port = FaultyDisk(self.disk, self.sync_latency_us)
        self.processes: dict[str, Process] = {}
        self.powered = False
        self.rot: Rot | None = None
        """A bit of the disk that rotted while the machine was off; whoever reads it must notice."""
        self.kept: tuple[SimDisk, StoreId] | None = None
        """The member's own disk and store id while an empty disk stands in its place."""
        self.lives = 0
        self._stopping: list[tuple[str, ...]] = []
        self._incarnation = 0
        self.clock_odd_until_us = 0
        """Until when the clock ran in a way that no promise about time can be held against it."""
        self._clock_us = 0
        """What the clock showed when it was last set."""
        self._clock_set_us = 0
        """When that was, in the world's time."""
        self._clock_rate = 1000

    # --- clock and disk --------------------------------------------------------------------------

    def now_ms(self) -> Millis:
        """This machine's monotonic clock: its own origin, its own rate."""
        return Millis((self._clock_us + (self.world.now_us - self._clock_set_us) * self._clock_rate // 1000) // 1000)

    def world_time_us(self, deadline: Millis) -> int:
        """The first instant at which `now_ms` is at least `deadline`."""
        return self._clock_set_us - (self._clock_us - deadline * 1000) * 1000 // self._clock_rate

    def set_clock(self, *, ahead_us: int = 0, rate: int | None = None, odd_us: int = 0) -> None:
        """Let the clock jump ahead, or run at another rate (per mille); no promise about time binds for `odd_us`."""
        passed_us = (self.world.now_us - self._clock_set_us) * self._clock_rate // 1000
        self._clock_us += passed_us + ahead_us
        self._clock_set_us = self.world.now_us
        self._clock_rate = self._drift() if rate is None else rate
        self.clock_odd_until_us = max(self.clock_odd_until_us, self.world.now_us + odd_us)
        for process in self.processes.values():
            process.plan_wake()

    def _drift(self) -> int:
        return self.rng.randrange(1000 - self.world.clock_drift, 1001 + self.world.clock_drift)

    def sync_latency_us(self) -> int:
        """What the next sync takes."""
        weather = self.world.weather
        latency = 100 + int(self.rng.expovariate(1.0) * self.world.sync_us_mean)
        if self.world.faulty and weather.disk_stall and self.rng.random() < weather.disk_stall:
            self.world.counts["fault_disk_stall"] += 1
            latency += self.rng.randrange(weather.disk_stall_us_max)
        return latency

    def let_rot(self, where: str) -> None:
        """Let a bit of the log or of the store rot, if the machine is off and there is something to rot."""
        if self.powered or self.rot is not None or self.kept is not None:
            return
        self.rot = rot_log(self.disk, self.rng) if where == "wal" else rot_store(self.disk, self.rng)
        if self.rot is not None:
            self.world.note(self.name, "disk", f"rot:{self.rot.where}")

    def excuses(self, process: Process) -> bool:
        """Whether an actor that fails was given a reason; damage that was noticed is repaired by the operator."""
        if self.rot is not None and self.rot.actor == process.name:
            self.world.counts["rot_noticed"] += 1
            self._repair_rot()
            return True
        return self.disk_port.failed

    def put_empty_disk(self) -> None:
        """Take the disk out and put an empty one in: what boots next speaks in the member's name without its memory."""
        assert not self.powered, f"{self.name} is on"
        assert self.kept is None, f"{self.name} has an empty disk already"
        self._repair_rot()
        self.kept = (self.disk, self.store)
        self.disk = self.world.parts.make_disk(random.Random(self.rng.getrandbits(64)))
        self.store = StoreId(self.rng.getrandbits(63))
        self.world.logs.set_aside(self.name)
        self.world.note(self.name, "disk", "empty")

    def put_own_disk(self) -> None:
        """Put the member's own disk back."""
        assert not self.powered, f"{self.name} is on"
        if self.kept is not None:
            self.disk, self.store = self.kept
            self.kept = None
            self.world.logs.bring_back(self.name)
            self.world.note(self.name, "disk", "own")

    def mend(self) -> None:
        """Make the machine sound: its own disk with room, no rot, no fuse, a clock that only drifts."""
        if self.kept is not None:
            if self.powered:
                self.lose_power("empty_disk")
            self.put_own_disk()
        self.disk.capacity_bytes = None
        self.disk_port.mend()
        if not self.powered:
            self._repair_rot()
        self.set_clock()

    def _repair_rot(self) -> None:
        if self.rot is not None:
            self.rot.undo()
            self.rot = None

    # --- power -----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch the machine on and start its actors."""
        assert not self.powered, f"{self.name} is already on"
        self.powered = True
        self.lives += 1
        self.set_clock(ahead_us=self.rng.randrange(10**9))
        self.disk_port = FaultyDisk(self.disk, self.sync_latency_us)
        self.world.note(self.name, "supervisor", "boot")
        if self.member == NOBODY:
            self.newcomer = Newcomer(self)
            self.newcomer.ask()
            return
        self._start_all()

    def become(self, joined: Joined) -> None:
        """Start as the member that this machine was told it is."""
        assert self.member == NOBODY, f"{self.name} is {self.member:x} already"
        assert joined.founding.cluster == self.world.cluster, f"{self.name} was told of another cluster"
        self.member, self.founders = joined.member, joined.founding.founders
        self.world.on_joined(self)
        self._start_all()

    def _start_all(self) -> None:
        self.start_group()
        if self.powered:
            self.start_gateway()

    def lose_power(self, why: str) -> None:
        """Cut the current: every actor is gone, and of the disk only what was synced is certain."""
        assert self.powered, f"{self.name} is already off"
        self.world.note(self.name, "supervisor", f"power_cut:{why}")
        self.disk.crash()
        self._go_down()

    def correct(self, peer_urls: tuple[str, ...], contacts: tuple[str, ...]) -> None:
        """Correct the cluster file of a machine that has not joined; it is started anew with that."""
        assert self.member == NOBODY, f"{self.name} has joined"
        self.peer_urls, self.contacts = peer_urls, contacts
        if self.newcomer is not None:
            self.newcomer = Newcomer(self)
            self.newcomer.ask()

    def withdraw(self) -> None:
        """Take the machine out of service, for good."""
        self.ended = True
        if self.powered:
            self.lose_power("withdrawn")
        else:
            self.world.on_node_down(self)

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
        if any(process.excused_lately(bound_us) for process in self.processes.values()):
            self.lose_power("stopped_too_slowly")
            return
        raise SimulationFailed("stops when asked", f"{self.name} still runs {sorted(self.processes)}")

    def _go_down(self) -> None:
        self.powered = False
        self.newcomer = None
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
        if self._stopping:
            # Some have ended already, and nobody starts the others again: the stop would wait for ever.
            self.lose_power(why)
            return
        if not all(name in self.processes for name in GROUP):
            return
        self.world.note(self.name, "supervisor", f"kill_group:{why}")
        for name in list(self.processes):
            if name != "gateway":
                self.processes.pop(name).die()
        self._later(self.start_group)

    def kill_actor(self, name: str, why: str) -> None:
        """Kill one actor of the group alone; its siblings go on until the supervisor has noticed."""
        process = self.processes.get(name)
        if process is None or not process.alive:
            return
        self.world.note(self.name, name, f"kill:{why}")
        process.die()
        self.world.at(self.world.now_us + self.rng.randrange(5000), self._reap_group, process, why)

    def _reap_group(self, process: Process, why: str) -> None:
        if self.processes.get(process.name) is process:
            self.kill_group(why)

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
        for name in HELPERS:
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
        if halt.failed and not self.excuses(process):
            raise SimulationFailed("no actor halts", f"{process!r}: {halt.reason}")
        if halt.fatal and not halt.failed:
            # It was removed: the supervisor gives up, stops the other actors in order, and ends.
            self.ended = True
            process.die(clean=True)
            del self.processes[process.name]
            self.stop()
        elif halt.fatal:
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
        if "peer_url" in request.arguments:
            other = request.arguments["to" if "to" in request.arguments else "sender"]
            process.addresses[cast("MemberId", other)] = str(request.arguments["peer_url"])
        self._announce(process.name, incarnation, asker)
        process.start()

    def _end_helper(self, process: Process, failure: str, *, clean: bool = True) -> None:
        """A helper has ended: raft hears of it once the supervisor has reaped it."""
        process.die(clean=clean)
        if self.processes.get(process.name) is not process:
            return
        del self.processes[process.name]
        asker = self.processes.get(HELPER_ASKERS.get(process.name, "raft"))
        if asker is not None:
            ended = Parcel(Source("supervisor"), encode(HelperEnded(helper=process.name, failure=failure)))
            self.world.at(self.world.now_us + self.rng.randrange(200, 5000), asker.deliver, ended)

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
        urls = {founder.member: dialled_url(founder.peer_urls) for founder in self.founders}
        process.addresses = {member: url for member, url in urls.items() if url is not None}
        assert process.name not in self.processes, f"{process.name} of {self.name} runs already"
        self.processes[process.name] = process
        return process

    def _identity(self, incarnation: Incarnation) -> NodeIdentity:
        world = self.world
        return NodeIdentity(
            world.cluster, self.member, self.name, self.store, incarnation, self.founders, self.advertised
        )

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
