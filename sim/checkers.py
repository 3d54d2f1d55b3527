"""Safety, one property per object, watched from outside: checkers see messages and turns, never an actor's inside.

Owns what Raft's figure 3.2 promises (election safety, log matching, leader completeness, state machine safety), what
the WAL promises (what was reported persisted is recovered) and what apply promises (same index, same state). Knows the
local messages only. Invariant: a checker raises `SimulationFailed` at the event that breaks its rule, not later.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from protocol.local import (
    ApplyEntries,
    CutLog,
    EntriesPersisted,
    LeadershipChanged,
    LogCut,
    LogRecovered,
    PersistEntries,
    SnapshotInstalled,
    StoreOpened,
)
from protocol.message import Message
from protocol.peer import RequestVoteReply
from protocol.types import NOBODY, Entry, HardState, MemberId
from sim.trouble import SimulationFailed

if TYPE_CHECKING:
    from sim.process import Process

NO_HARD_STATE: Final = HardState(0, NOBODY, 0)  # type: ignore[arg-type]


@dataclass
class LogImage:
    """What one node's log holds: terms by index above `base`, and the hard state."""

    base: int = 0
    last: int = 0
    terms: dict[int, int] = field(default_factory=dict)
    hard_state: HardState = NO_HARD_STATE

    def persist(self, message: PersistEntries) -> None:
        """Follow one write: entries replace everything from the first one's index on."""
        if message.hard_state is not None:
            self.hard_state = message.hard_state
        for entry in message.entries:
            if entry.index <= self.last:
                for index in range(entry.index, self.last + 1):
                    self.terms.pop(index, None)
            self.terms[entry.index] = entry.term
            self.last = entry.index

    def restart(self, index: int) -> None:
        """The log begins anew behind a snapshot."""
        self.base = self.last = index
        self.terms.clear()

    def holds(self, index: int, term: int) -> bool:
        """Whether the entry is in the log, or below where it begins."""
        return index <= self.base or self.terms.get(index) == term

    def copy(self) -> "LogImage":
        """An independent image."""
        return LogImage(self.base, self.last, dict(self.terms), self.hard_state)


@dataclass
class NodeLogs:
    """One node's log as raft has it in memory, and as its WAL has certainly made it durable."""

    memory: LogImage = field(default_factory=LogImage)
    durable: LogImage = field(default_factory=LogImage)
    pending: list[PersistEntries | CutLog] = field(default_factory=list)
    """Handed to the WAL, not yet reported: after a crash any prefix of these may be on disk."""


class CommittedLog:
    """Every entry any node was told to apply, by index; the one history all nodes must agree on."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.last = 0
        self.last_term = 0
        """The term in which `last` was seen committed; not the term of the entry, which may be older."""

    def add(self, process: "Process", entry: Entry, term: int) -> bool:
        """Record one applied entry; return whether it is the first time. State machine safety (thesis 3.6.3)."""
        known = self.entries.get(entry.index)
        if known is not None:
            if known != entry:
                text = f"{process!r} applies {_short(entry)} where {_short(known)} was applied before"
                raise SimulationFailed("state machine safety", text)
            return False
        self.entries[entry.index] = entry
        if entry.index > self.last:
            self.last, self.last_term = entry.index, term
        return True


class LogChecker:
    """Follows every node's log through its messages; holds consensus and WAL to their word."""

    def __init__(self, members: dict[str, MemberId]) -> None:
        self.committed = CommittedLog()
        self.logs = {name: NodeLogs() for name in members}
        self.leaders: dict[int, MemberId] = {}
        self._members = members
        self._votes: dict[tuple[int, int], int] = {}
        self._entries: dict[tuple[int, int], tuple[int, int, bytes]] = {}
        self._next_apply: dict[str, int] = {}
        self._recovering: dict[str, list[Entry]] = {}

    def on_send(self, process: "Process", to: str, message: Message) -> None:
        """Look at a local message as it leaves."""
        if isinstance(message, PersistEntries):
            self._on_persist(process, message)
        elif isinstance(message, EntriesPersisted | LogCut):
            self._on_persisted(process, message.ticket)
        elif isinstance(message, ApplyEntries):
            self._on_apply(process, message)
        elif isinstance(message, LeadershipChanged):
            self._on_leadership(process, message)
        elif isinstance(message, LogRecovered):
            self._on_recovered(process, message)
        elif isinstance(message, CutLog):
            self._on_cut(process, message)
        elif isinstance(message, StoreOpened) and to == "raft":
            self._next_apply[process.node.name] = message.applied + 1
        elif isinstance(message, SnapshotInstalled):
            self._next_apply[process.node.name] = message.index + 1

    def on_group(self, node: str) -> None:
        """Raft, wal and applier of a node begin a new life."""
        self._recovering.pop(node, None)
        self._next_apply.pop(node, None)

    def on_peer(self, process: "Process", voter: MemberId, message: Message) -> None:
        """One member votes for one candidate per term (thesis 3.4)."""
        if not isinstance(message, RequestVoteReply) or not message.granted or message.pre_vote:
            return
        receiver = process.node.member
        first = self._votes.setdefault((message.term, voter), receiver)
        if first != receiver:
            text = f"{voter:x} voted for {first:x} and for {receiver:x} in term {message.term}"
            raise SimulationFailed("one vote per term", text)

    # --- the log ---------------------------------------------------------------------------------

    def _on_persist(self, process: "Process", message: PersistEntries) -> None:
        logs = self.logs[process.node.name]
        if message.hard_state is not None and message.hard_state.term < logs.memory.hard_state.term:
            raise SimulationFailed("terms only grow", f"{process!r} persists {message.hard_state}")
        self._check_matching(process, logs.memory, message.entries)
        logs.memory.persist(message)
        logs.pending.append(message)
        if message.last.index != logs.memory.last:
            text = f"{process!r} says its log ends at {message.last}, its writes say {logs.memory.last}"
            raise SimulationFailed("last position", text)

    def _check_matching(self, process: "Process", log: LogImage, entries: tuple[Entry, ...]) -> None:
        """Log matching (thesis 3.5): an index and a term name one entry, and one entry before it."""
        for entry in entries:
            committed = self.committed.entries.get(entry.index)
            # A deposed leader that nobody told yet may write another entry there; nobody may drop what is committed.
            if committed is not None and committed != entry and log.terms.get(entry.index) == committed.term:
                text = f"{process!r} writes {_short(entry)} over committed {_short(committed)}"
                raise SimulationFailed("committed entries stay", text)
            if entry.index > log.last + 1 and entry is entries[0]:
                raise SimulationFailed("no holes", f"{process!r} writes {_short(entry)} behind {log.last}")
            before = entry.index - 1
            previous = next((e.term for e in entries if e.index == before), log.terms.get(before, -1))
            known = self._entries.get((entry.index, entry.term))
            if known is None:
                self._entries[entry.index, entry.term] = (previous, entry.kind, entry.data)
                continue
            if known[1:] != (entry.kind, entry.data):
                raise SimulationFailed("log matching", f"{process!r} writes {_short(entry)}, others wrote another")
            if -1 not in (previous, known[0]) and known[0] != previous:
                text = f"{process!r} writes {_short(entry)} behind term {previous}, others behind {known[0]}"
                raise SimulationFailed("log matching", text)

    def _on_persisted(self, process: "Process", ticket: int) -> None:
        logs = self.logs[process.node.name]
        while logs.pending and logs.pending[0].ticket <= ticket:
            _follow(logs.durable, logs.pending.pop(0))

    def _on_cut(self, process: "Process", message: CutLog) -> None:
        logs = self.logs[process.node.name]
        committed = self.committed.entries.get(message.mark.index)
        if committed is not None and committed.term != message.mark.term:
            raise SimulationFailed(
                "mark is committed", f"{process!r} cuts at {message.mark.index} of {message.mark.term}"
            )
        if message.mark.stage:
            logs.memory.restart(message.mark.index)
        logs.pending.append(message)

    def _on_recovered(self, process: "Process", message: LogRecovered) -> None:
        """What was reported persisted is recovered; what was not is there up to some write, whole writes only."""
        name = process.node.name
        self._recovering.setdefault(name, []).extend(message.entries)
        if not message.final:
            return
        entries = self._recovering.pop(name)
        logs = self.logs[name]
        found = LogImage(message.mark.index, message.mark.index, {}, message.hard_state)
        for entry in entries:
            found.terms[entry.index] = entry.term
            found.last = max(found.last, entry.index)
        candidate = logs.durable
        for step in range(len(logs.pending) + 1):
            if _same(found, candidate):
                break
            if step == len(logs.pending):
                text = f"{process!r} recovered {_ends(found)}, persisted was {_ends(logs.durable)}"
                raise SimulationFailed("persisted is recovered", text)
            candidate = candidate.copy()
            _follow(candidate, logs.pending[step])
        logs.durable, logs.memory, logs.pending = found, found.copy(), []

    # --- commit and leadership -------------------------------------------------------------------

    def _on_apply(self, process: "Process", message: ApplyEntries) -> None:
        name = process.node.name
        for entry in message.entries:
            expected = self._next_apply.get(name)
            if entry.index != expected:
                raise SimulationFailed("apply in order", f"{process!r} applies {entry.index}, next is {expected}")
            self._next_apply[name] = entry.index + 1
            if not self.logs[name].durable.holds(entry.index, entry.term):
                raise SimulationFailed("apply what is durable here", f"{process!r} applies {_short(entry)}")
            if self.committed.add(process, entry, self.logs[name].memory.hard_state.term):
                holders = sum(logs.durable.holds(entry.index, entry.term) for logs in self.logs.values())
                if 2 * holders <= len(self.logs):
                    text = f"{process!r} applies {_short(entry)}, durable on {holders} of {len(self.logs)}"
                    raise SimulationFailed("committed is on a majority", text)

    def _on_leadership(self, process: "Process", message: LeadershipChanged) -> None:
        if message.leader == NOBODY:
            return
        first = self.leaders.setdefault(message.term, message.leader)
        if first != message.leader:
            text = f"{process!r} follows {message.leader:x} in term {message.term}, whose leader is {first:x}"
            raise SimulationFailed("election safety", text)
        last = self.committed.entries.get(self.committed.last)
        if message.leader == process.node.member and last is not None and self.committed.last_term < message.term:
            log = self.logs[process.node.name].memory
            if not log.holds(last.index, last.term):
                text = f"{process!r} leads term {message.term} without committed {_short(last)}"
                raise SimulationFailed("leader completeness", text)


class StateChecker:
    """After the same entry every store is at the same revision; a store's applied index never goes back."""

    def __init__(self) -> None:
        self._revisions: dict[int, tuple[int, str]] = {}
        self._applied: dict[tuple[str, int], int] = {}

    def on_store(self, process: "Process", applied: int, revision: int) -> None:
        """Look at a store after a turn."""
        known = self._revisions.setdefault(applied, (revision, repr(process)))
        if known[0] != revision:
            text = f"{process!r} is at revision {revision} after entry {applied}, {known[1]} was at {known[0]}"
            raise SimulationFailed("same entries, same state", text)
        life = (process.node.name, process.incarnation)
        before = self._applied.get(life, 0)
        if applied < before:
            raise SimulationFailed("applied only grows", f"{process!r} went from {before} to {applied}")
        self._applied[life] = applied


def _follow(image: LogImage, message: PersistEntries | CutLog) -> None:
    if isinstance(message, PersistEntries):
        image.persist(message)
    elif message.mark.stage:
        image.restart(message.mark.index)
    else:
        image.base = max(image.base, message.mark.index)


def _same(found: LogImage, expected: LogImage) -> bool:
    """Whether a recovered log is `expected`, but for entries that a cut may or may not have dropped."""
    if found.hard_state != expected.hard_state or found.last != max(expected.last, found.base):
        return False
    if found.base != expected.base:
        return False
    return all(expected.terms.get(index, term) == term for index, term in found.terms.items()) and all(
        index in found.terms for index in expected.terms if index > found.base
    )


def _ends(image: LogImage) -> str:
    return f"base {image.base}, last {image.last} of term {image.terms.get(image.last)}, {image.hard_state}"


def _short(entry: Entry) -> str:
    return f"{entry.index}/{entry.term} kind {entry.kind} ({len(entry.data)} bytes)"
