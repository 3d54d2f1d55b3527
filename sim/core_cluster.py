"""Consensus cores in one process, over a wire and disks that do only what they are told.

Owns message passing, the disks' images and the clock of a small cluster of `raft.core.Raft`, for tests of consensus
alone; whole nodes with actors are `sim.world`'s. Nothing happens by itself: a message travels when it is delivered, a
write is durable when it is persisted. Invariant: after every turn the core's own invariants and the cluster's safety
hold, or an `AssertionError` names what broke.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from protocol.config import RaftConfig
from protocol.identity import FoundingMember
from protocol.peer import PeerMessage
from protocol.types import NOBODY, Entry, HardState, Index, LogMark, LogPosition, MemberId, Millis, Term
from raft import invariants, snapshots
from raft.configuration import Configuration, founding_configuration
from raft.core import Raft, Recovered
from raft.durability import PersistBatch
from raft.read_index import ReleasedRead
from raft.transitions import Role
from sim.core_safety import CoreSafety

NO_MARK: Final = LogMark(Index(0), Term(0), b"", "")
NO_STATE: Final = HardState(Term(0), NOBODY, Index(0))


class Wire(NamedTuple):
    """A message under way."""

    sender: MemberId
    to: MemberId
    message: PeerMessage


class DiskImage:
    """What a member's log directory would hold after a power cut now."""

    def __init__(self) -> None:
        self.mark = NO_MARK
        self.hard_state = NO_STATE
        self.entries: list[Entry] = []

    def write(self, item: PersistBatch | LogMark) -> None:
        """Make one write durable, as the WAL would."""
        if isinstance(item, LogMark):
            keep = [] if item.stage else [entry for entry in self.entries if entry.index > item.index]
            self.mark, self.entries = item, keep
            return
        if item.hard_state is not None:
            self.hard_state = item.hard_state
        if item.entries:
            first = item.entries[0].index
            self.entries = [entry for entry in self.entries if entry.index < first] + list(item.entries)

    def holds(self, position: LogPosition) -> bool:
        """Whether the entry at `position` is on disk, or below the mark."""
        if position.index <= self.mark.index:
            return True
        offset = position.index - self.mark.index - 1
        return offset < len(self.entries) and self.entries[offset].term == position.term


class CoreMember:
    """One core with its disk and what it gave to its applier."""

    def __init__(self, cluster: "CoreCluster", member: MemberId) -> None:
        self.cluster = cluster
        self.member = member
        self.disk = DiskImage()
        self.writes: deque[PersistBatch | LogMark] = deque()
        self.applied: list[Entry] = []
        """What the store holds; it is durable at once, which only makes recovery harder."""
        self.snapshot_index = Index(0)
        self.unapplied: deque[tuple[Entry, ...]] = deque()
        self.reads: list[ReleasedRead] = []
        self.refused_reads: list[tuple[int, int]] = []
        self.refused: list[tuple[int, int]] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.lives = 0
        self.up = False
        self.core: Raft = None  # type: ignore[assignment]  # set by `start`

    @property
    def applied_index(self) -> Index:
        """The last entry in the store."""
        return self.applied[-1].index if self.applied else self.snapshot_index

    def start(self) -> None:
        """Begin a life with what the disk holds."""
        cluster, disk = self.cluster, self.disk
        self.lives += 1
        self.up = True
        self.unapplied.clear()
        self.writes.clear()
        recovered = Recovered(disk.mark, disk.hard_state, tuple(disk.entries), self.applied_index)
        rng = random.Random(f"{cluster.seed}/{self.member}/{self.lives}")
        self.core = Raft(self.member, cluster.config, cluster.founding, recovered, rng, cluster.now, self.lives)
        self.core.log_event = lambda event, fields: self.events.append((event, fields))

    def crash(self) -> None:
        """Lose everything but the disk."""
        self.up = False
        self.writes.clear()
        self.unapplied.clear()

    def turn(self) -> None:
        """End the core's turn: let out what it has to write, to send and to apply."""
        core, cluster = self.core, self.cluster
        drained = core.end_turn(cluster.now)
        for outbound in drained.messages:
            cluster.put(self.member, outbound.to, outbound.message)
        self.writes.extend(drained.writes)
        entries = core.take_committed()
        if entries:
            cluster.safety.on_committed(self, entries)
            self.unapplied.append(entries)
        self.reads.extend(core.take_reads())
        self.refused_reads.extend(core.reads.take_refused())
        self.refused.extend(core.proposals.take_refused())
        invariants.check(core)
        cluster.safety.on_turn(self)

    def persist(self) -> bool:
        """Let the disk finish one write; False if it has none."""
        if not self.writes:
            return False
        item = self.writes.popleft()
        self.disk.write(item)
        if isinstance(item, LogMark):
            if item.stage:
                snapshots.mark_durable(self.core)
            return True
        for outbound in item.held:
            self.cluster.put(self.member, outbound.to, outbound.message)
        self.core.persisted(item.ticket, item.last, self.cluster.now)
        self.turn()
        return True

    def apply(self) -> bool:
        """Let the applier work through one hand-over; False if it has none."""
        if not self.unapplied:
            return False
        self.applied.extend(self.unapplied.popleft())
        self.core.applied_to(self.applied_index, self.cluster.now)
        self.turn()
        return True

    def cut_log(self) -> None:
        """Cut the log as far as the store allows."""
        mark = snapshots.cut(self.core, self.applied_index)
        if mark is not None:
            self.writes.append(mark)

    def install_from(self, donor: "CoreMember") -> bool:
        """Take over the donor's store as a snapshot; False if this member does not need it."""
        index = donor.applied_index
        entry_term = donor.core.log.term_at(index)
        configuration = snapshots.configuration_for(donor.core, index, entry_term) if entry_term is not None else None
        if entry_term is None or configuration is None:
            return False
        mark = snapshots.install(self.core, "stage", LogPosition(entry_term, index), configuration)
        if mark is None:
            snapshots.tell_position(self.core)
            self.turn()
            return False
        self.writes.append(mark)
        self.unapplied.clear()
        # The swap of the stores belongs to the mark: both happen, or the stage is thrown away.
        while self.writes:
            self.persist()
        self.applied = list(donor.applied)
        self.snapshot_index = donor.snapshot_index
        snapshots.tell_position(self.core)
        self.turn()
        return True


class CoreCluster:
    """Members 1 to `size`, a wire between them, and one clock."""

    def __init__(
        self, size: int = 3, *, seed: int = 0, config: RaftConfig | None = None, learners: Sequence[int] = ()
    ) -> None:
        self.seed = seed
        self.config = config or RaftConfig(commit_news_delay_ms=0, unattended_delay_ms=0)
        self.now = Millis(1000)
        self.wire: list[Wire] = []
        self.on_put: Callable[[Wire], object] = lambda _wire: None
        """Called with every message that leaves; for tests that count."""
        self.cut_off: set[frozenset[MemberId]] = set()
        ids = [MemberId(number) for number in range(1, size + 1)]
        founders = tuple(
            FoundingMember(each, f"n{each}", (f"http://n{each}:2380",), (f"http://n{each}:2379",)) for each in ids
        )
        everyone = founding_configuration(founders)
        silent = tuple(MemberId(each) for each in learners)
        voters = tuple(each for each in ids if each not in silent)
        self.founding = Configuration(voters, learners=silent, members=everyone.members)
        self.safety = CoreSafety(self)
        self.members = {each: CoreMember(self, each) for each in ids}
        for member in self.members.values():
            member.start()

    def __getitem__(self, number: int) -> CoreMember:
        return self.members[MemberId(number)]

    def core(self, number: int) -> Raft:
        """The core of member `number`."""
        return self.members[MemberId(number)].core

    def add_member(self, number: int) -> CoreMember:
        """Start an empty member that is in no configuration yet."""
        member = self.members[MemberId(number)] = CoreMember(self, MemberId(number))
        member.start()
        return member

    @property
    def leader(self) -> CoreMember:
        """The live leader of the highest term."""
        leaders = [each for each in self.members.values() if each.up and each.core.role is Role.LEADER]
        assert leaders, "nobody leads"
        return max(leaders, key=lambda each: each.core.term)

    # --- the wire --------------------------------------------------------------------------------

    def put(self, sender: MemberId, to: MemberId, message: PeerMessage) -> None:
        """A message leaves; it is lost where the link is cut."""
        if frozenset((sender, to)) not in self.cut_off and to in self.members:
            wire = Wire(sender, to, message)
            self.on_put(wire)
            self.wire.append(wire)

    def deliver(self, position: int = 0, *, keep: bool = False) -> bool:
        """Hand over one message (`keep`: a copy of it); False if there is none."""
        if not self.wire:
            return False
        wire = self.wire[position] if keep else self.wire.pop(position)
        member = self.members[wire.to]
        if member.up:
            self.step(member, wire.sender, wire.message)
        return True

    def step(self, member: CoreMember, sender: MemberId, message: PeerMessage) -> None:
        """Hand a message to a member, and end its turn."""
        member.core.step(sender, message, self.now)
        member.turn()

    def deliver_to(self, number: int) -> int:
        """Hand over everything that is under way to one member now; return how many messages that were."""
        mine = [wire for wire in self.wire if wire.to == number]
        self.wire = [wire for wire in self.wire if wire.to != number]
        for wire in mine:
            if self[number].up:
                self.step(self[number], wire.sender, wire.message)
        return len(mine)

    def isolate(self, *numbers: int) -> None:
        """Cut these members off from all others, not from each other."""
        inside = {MemberId(number) for number in numbers}
        for one in self.members:
            for other in self.members:
                if (one in inside) != (other in inside):
                    self.cut_off.add(frozenset((one, other)))
        self.wire = [wire for wire in self.wire if frozenset((wire.sender, wire.to)) not in self.cut_off]

    def heal(self) -> None:
        """Mend all links."""
        self.cut_off.clear()

    # --- time ------------------------------------------------------------------------------------

    def settle(self, rounds_max: int = 10_000) -> None:
        """Deliver, persist and apply until nothing is left to do at this instant."""
        for _ in range(rounds_max):
            busy = self.deliver()
            for member in self._alive():
                busy = member.persist() or busy
                busy = member.apply() or busy
            if not busy and not self._wake():
                return
        raise AssertionError(f"the cluster does not settle in {rounds_max} rounds")

    def advance(self, elapsed_ms: int) -> None:
        """Let time pass, from one deadline to the next, settling at each."""
        end = self.now + elapsed_ms
        self.settle()
        while True:
            due = min((member.core.deadline for member in self._alive()), default=Millis(end))
            if due > end:
                break
            self.now = Millis(max(due, self.now))
            self._wake()
            self.settle()
        self.now = Millis(end)

    def _wake(self) -> bool:
        woken = False
        for member in self._alive():
            if member.core.deadline <= self.now:
                member.core.tick(self.now)
                member.turn()
                woken = True
        return woken

    def _alive(self) -> Iterable[CoreMember]:
        return [member for member in self.members.values() if member.up]

    # --- what tests ask for ----------------------------------------------------------------------

    def elect(self, number: int) -> CoreMember:
        """Make member `number` the leader, as a timeout of its own would."""
        return self.elect_among(number, *(each for each in self.members if each != number))

    def elect_among(self, number: int, *others: int) -> CoreMember:
        """The same with the votes of these members only; the rest may believe what they want."""
        member = self[number]
        for each in (number, *others):
            # Nobody else gets impatient meanwhile, and nobody protects a leader of the past.
            if self[each].up:
                self.core(each).election_due = Millis(self.now + 10 * self.config.election_timeout_ms)
                self.core(each).heard_leader_at = None
        member.core.election_due = self.now
        member.core.tick(self.now)
        member.turn()
        self.settle()
        assert member.core.role is Role.LEADER, f"{number} was not elected"
        return member

    def propose(self, number: int, payload: bytes, sequence: int = 1) -> None:
        """Submit a batch at member `number`."""
        member = self[number]
        member.core.submit(sequence, payload, self.now)
        member.turn()

    def read(self, number: int, sequence: int) -> None:
        """Ask for a linearizable read at member `number`."""
        member = self[number]
        self.safety.on_read(member, sequence)
        member.core.read(sequence, b"", self.now)
        member.turn()

    def crash(self, number: int) -> None:
        """Cut a member's power; what was under way to it is lost."""
        self[number].crash()
        self.wire = [wire for wire in self.wire if wire.to != number]

    def restart(self, number: int) -> CoreMember:
        """Switch a member on again."""
        member = self[number]
        member.start()
        return member

    def commands(self, number: int) -> list[bytes]:
        """The commands that member `number` has applied, in order."""
        return [entry.data for entry in self[number].applied if entry.kind == 1]
