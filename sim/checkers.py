"""Safety, one property per object, watched from outside: checkers see messages and turns, never an actor's inside.

Owns what Raft's figure 3.2 promises (election safety, log matching, leader completeness, state machine safety), what
the WAL promises (what was reported persisted is recovered) and what apply promises (same index, same state). Knows the
local messages only. Invariants: a checker raises `SimulationFailed` at the event that breaks its rule, not later; it
changes nothing but its own memory, so checkers can be left out one by one.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from actors.actor import Actor
from actors.wal import WalActor
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
from protocol.types import NO_STORE, NOBODY, Entry, MemberId
from raft.configuration import Configuration
from sim.configurations import Configurations
from sim.log_images import LogImage, NodeLogs, image_of, same
from sim.member_rules import CommittedByMajority, ElectedByMajority, GoneForGood, OneStepAtATime
from sim.trouble import SimulationFailed

if TYPE_CHECKING:
    from sim.process import Process


class ElectionSafety:
    """At most one leader a term, whoever says so (thesis 3.4)."""

    def __init__(self) -> None:
        self.leaders: dict[int, MemberId] = {}

    def on_leadership(self, process: "Process", message: LeadershipChanged) -> None:
        """A node says whom it follows."""
        if message.leader == NOBODY:
            return
        first = self.leaders.setdefault(message.term, message.leader)
        if first != message.leader:
            text = f"{process!r} follows {message.leader:x} in term {message.term}, whose leader is {first:x}"
            raise SimulationFailed("election safety", text)


class OneVote:
    """One member votes for one candidate per term (thesis 3.4).

    Votes are told apart by the data directory they come from: what an empty one says in the member's name is for raft
    to refuse, and for the other rules to notice if it does not.
    """

    def __init__(self) -> None:
        self._votes: dict[tuple[int, int, int], int] = {}

    def on_vote(self, process: "Process", voter: MemberId, store: int, message: RequestVoteReply) -> None:
        """A candidate hears a vote; pre-votes bind nobody."""
        if not message.granted or message.pre_vote:
            return
        receiver = process.node.member
        first = self._votes.setdefault((message.term, voter, store), receiver)
        if first != receiver:
            text = f"{voter:x} voted for {first:x} and for {receiver:x} in term {message.term}"
            raise SimulationFailed("one vote per term", text)


class TermsGrow:
    """A hard state's term never falls; a log ends where its raft says it does, and has no hole."""

    def __init__(self, logs: dict[str, NodeLogs]) -> None:
        self._logs = logs

    def before_write(self, process: "Process", message: PersistEntries) -> None:
        """A write is about to be handed to the WAL."""
        log = self._logs[process.node.name].memory
        if message.hard_state is not None and message.hard_state.term < log.hard_state.term:
            raise SimulationFailed("terms only grow", f"{process!r} persists {message.hard_state}")
        if message.entries and message.entries[0].index > log.last + 1:
            text = f"{process!r} writes {_short(message.entries[0])} behind {log.last}"
            raise SimulationFailed("no holes", text)

    def after_write(self, process: "Process", message: PersistEntries) -> None:
        """A write was handed to the WAL."""
        log = self._logs[process.node.name].memory
        if message.last.index != log.last:
            text = f"{process!r} says its log ends at {message.last}, its writes say {log.last}"
            raise SimulationFailed("last position", text)


class LogMatching:
    """An index and a term name one entry, and one entry before it (thesis 3.5)."""

    def __init__(self, logs: dict[str, NodeLogs]) -> None:
        self._logs = logs
        self._entries: dict[tuple[int, int], tuple[int, int, bytes]] = {}

    def before_write(self, process: "Process", message: PersistEntries) -> None:
        """Entries are about to be written."""
        if not message.entries:
            return
        first = message.entries[0]
        previous = self._logs[process.node.name].memory.terms.get(first.index - 1, -1)
        for entry in message.entries:
            self._check(process, entry, previous)
            previous = entry.term

    def _check(self, process: "Process", entry: Entry, previous: int) -> None:
        known = self._entries.setdefault((entry.index, entry.term), (previous, entry.kind, entry.data))
        if known[1:] != (entry.kind, entry.data):
            raise SimulationFailed("log matching", f"{process!r} writes {_short(entry)}, others wrote another")
        if -1 not in (previous, known[0]) and known[0] != previous:
            text = f"{process!r} writes {_short(entry)} behind term {previous}, others behind {known[0]}"
            raise SimulationFailed("log matching", text)


class CommittedLog:
    """State machine safety (thesis 3.6.3): every entry any node was told to apply, one history for all of them."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.last = 0
        self.last_term = 0
        """The term in which `last` was seen committed; not the term of the entry, which may be older."""

    def add(self, process: "Process", entry: Entry, term: int) -> bool:
        """Record one applied entry; return whether it is the first time."""
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


class CommittedStay:
    """Nobody drops a committed entry it has, and marks are made of committed entries."""

    def __init__(self, logs: dict[str, NodeLogs], committed: CommittedLog) -> None:
        self._logs = logs
        self._committed = committed

    def before_write(self, process: "Process", message: PersistEntries) -> None:
        """Entries are about to replace what the log holds from their index on.

        A deposed leader that nobody told yet may write another entry there, as long as it has not the committed one.
        """
        log = self._logs[process.node.name].memory
        for entry in message.entries:
            committed = self._committed.entries.get(entry.index)
            if committed is not None and committed != entry and log.terms.get(entry.index) == committed.term:
                text = f"{process!r} writes {_short(entry)} over committed {_short(committed)}"
                raise SimulationFailed("committed entries stay", text)

    def before_cut(self, process: "Process", message: CutLog) -> None:
        """A log is about to be cut."""
        committed = self._committed.entries.get(message.mark.index)
        if committed is not None and committed.term != message.mark.term:
            text = f"{process!r} cuts at {message.mark.index} of {message.mark.term}"
            raise SimulationFailed("mark is committed", text)


class LeaderCompleteness:
    """A leader holds what was committed in earlier terms (thesis 3.6.3)."""

    def __init__(self, logs: dict[str, NodeLogs], committed: CommittedLog) -> None:
        self._logs = logs
        self._committed = committed

    def on_leadership(self, process: "Process", message: LeadershipChanged) -> None:
        """A node says that it leads."""
        committed = self._committed
        last = committed.entries.get(committed.last)
        if message.leader != process.node.member or last is None or committed.last_term >= message.term:
            return
        if not self._logs[process.node.name].memory.holds(last.index, last.term):
            text = f"{process!r} leads term {message.term} without committed {_short(last)}"
            raise SimulationFailed("leader completeness", text)


class PersistedIsRecovered:
    """What was reported persisted is recovered; what was not is there up to some write, whole writes only."""

    def __init__(self, logs: dict[str, NodeLogs]) -> None:
        self._logs = logs
        self._parts: dict[str, list[Entry]] = {}

    def on_group(self, node: str) -> None:
        """A new life begins; what the last one was reading is void."""
        self._parts.pop(node, None)

    def on_recovered(self, process: "Process", message: LogRecovered) -> None:
        """A part of a log was read back."""
        name = process.node.name
        self._parts.setdefault(name, []).extend(message.entries)
        if not message.final:
            return
        found = image_of(message, self._parts.pop(name))
        logs = self._logs[name]
        if not any(same(found, candidate) for candidate in logs.possible()):
            text = f"{process!r} recovered {_ends(found)}, persisted was {_ends(logs.durable)}"
            raise SimulationFailed("persisted is recovered", text)
        logs.recovered(found)


class ApplyWhatIsDurable:
    """Entries are applied in order and durable in the node's own log; the first time, whoever wants to know is told."""

    def __init__(
        self,
        logs: dict[str, NodeLogs],
        committed: CommittedLog,
        on_first: Callable[["Process", Entry, int], None],
    ) -> None:
        """`on_first` hears who applies an entry first, and in which term that node is."""
        self._logs = logs
        self._committed = committed
        self._on_first = on_first
        self._next: dict[str, int] = {}

    def on_group(self, node: str) -> None:
        """A new life begins; where it goes on, its store will say."""
        self._next.pop(node, None)

    def on_store(self, process: "Process", applied: int) -> None:
        """A store was opened, or replaced by a snapshot: apply goes on behind it."""
        self._next[process.node.name] = applied + 1

    def on_apply(self, process: "Process", message: ApplyEntries) -> None:
        """Entries are handed to the applier."""
        name = process.node.name
        for entry in message.entries:
            expected = self._next.get(name)
            if entry.index != expected:
                raise SimulationFailed("apply in order", f"{process!r} applies {entry.index}, next is {expected}")
            self._next[name] = entry.index + 1
            if not self._logs[name].durable.holds(entry.index, entry.term):
                raise SimulationFailed("apply what is durable here", f"{process!r} applies {_short(entry)}")
            term = self._logs[name].memory.hard_state.term
            if self._committed.add(process, entry, term):
                self._on_first(process, entry, term)


class SameState:
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


class Checkers:
    """All rules about logs and leaders, in the order in which each message has to pass them."""

    def __init__(self, members: dict[str, MemberId], founding: Configuration | None = None) -> None:
        """Without `founding` all of `members` vote."""
        self.logs = {name: NodeLogs() for name in members}
        self.committed = CommittedLog()
        self.configurations = Configurations(members, founding or Configuration(tuple(sorted(members.values()))))
        self._elections = ElectionSafety()
        self._votes = OneVote()
        self._recovery = PersistedIsRecovered(self.logs)
        self._aside: dict[str, NodeLogs] = {}
        self._applies = ApplyWhatIsDurable(self.logs, self.committed, self._on_first_applied)
        self._majority = CommittedByMajority(self.logs, self._aside, self.configurations)
        self._elected = ElectedByMajority(self.configurations)
        self._gone = GoneForGood(self.configurations)
        steps = OneStepAtATime(self.logs, self.configurations, self._majority)
        terms, matching = TermsGrow(self.logs), LogMatching(self.logs)
        stay = CommittedStay(self.logs, self.committed)
        complete = LeaderCompleteness(self.logs, self.committed)
        self._rules: dict[type[Message], tuple[Callable[[Process, Any], None], ...]] = {
            PersistEntries: (
                stay.before_write,
                terms.before_write,
                matching.before_write,
                steps.before_write,
                self._follow_write,
                terms.after_write,
                self.configurations.after_write,
            ),
            EntriesPersisted: (self._follow_persisted,),
            LogCut: (self._follow_persisted,),
            CutLog: (stay.before_cut, self._follow_cut, self.configurations.on_cut),
            LogRecovered: (self._recovery.on_recovered, self.configurations.on_recovered),
            ApplyEntries: (self._applies.on_apply, self._elected.on_apply, self._gone.on_apply),
            SnapshotInstalled: (lambda process, message: self._applies.on_store(process, message.index),),
            LeadershipChanged: (
                self._elections.on_leadership,
                complete.on_leadership,
                self._elected.on_leadership,
                self._majority.on_leadership,
                self._gone.on_leadership,
            ),
        }

    def add_log(self, node: str) -> None:
        """There is one more node, with an empty disk; it does not know yet who it is."""
        self.logs[node] = NodeLogs()

    def join(self, node: str, member: MemberId, told: Configuration) -> None:
        """A node has learnt that it is `member`, and starts from what it was told of the others."""
        self.configurations.join(node, member, told)

    def _on_first_applied(self, process: "Process", entry: Entry, term: int) -> None:
        self.configurations.commit(entry)
        self._gone.on_committed(entry)
        self._majority.check(process, entry, term)

    def set_aside(self, node: str) -> None:
        """A node goes on with an empty disk: its own log still counts for majorities, and is expected back."""
        self._aside[node] = self.logs[node]
        self.logs[node] = NodeLogs()
        self.configurations.restart(node)

    def bring_back(self, node: str) -> None:
        """The node has its own disk again."""
        self.logs[node] = self._aside.pop(node)

    def on_send(self, process: "Process", to: str, message: Message) -> None:
        """Look at a local message as it leaves."""
        for rule in self._rules.get(type(message), ()):
            rule(process, message)
        if isinstance(message, StoreOpened) and to == "raft":
            self._applies.on_store(process, message.applied)

    def on_send_peer(self, node: str, actor: Actor) -> None:
        """Note what is durable: the log writer may let a message go to a peer long before it answers its raft."""
        if isinstance(actor, WalActor):
            self.logs[node].persisted(actor.durable_ticket)

    def on_peer(self, process: "Process", sender: MemberId, message: Message, store: int = NO_STORE) -> None:
        """Look at a peer's message as it is handled."""
        if isinstance(message, RequestVoteReply):
            self._votes.on_vote(process, sender, store, message)
            self._elected.on_vote(process, sender, message)

    def on_group(self, node: str) -> None:
        """Raft, wal and applier of a node begin a new life."""
        self._recovery.on_group(node)
        self.configurations.on_group(node)
        self._applies.on_group(node)

    def _follow_write(self, process: "Process", message: PersistEntries) -> None:
        self.logs[process.node.name].handed(message)

    def _follow_persisted(self, process: "Process", message: EntriesPersisted | LogCut) -> None:
        self.logs[process.node.name].persisted(message.ticket)

    def _follow_cut(self, process: "Process", message: CutLog) -> None:
        self.logs[process.node.name].cut(message)


def _ends(image: LogImage) -> str:
    return f"base {image.base}, last {image.last} of term {image.terms.get(image.last)}, {image.hard_state}"


def _short(entry: Entry) -> str:
    return f"{entry.index}/{entry.term} kind {entry.kind} ({len(entry.data)} bytes)"
