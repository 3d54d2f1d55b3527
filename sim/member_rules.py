"""Safety of clusters whose members change: who elects, who commits, how configurations follow each other, who is gone.

Owns the rules in which a configuration counts; every mode passes them, with fixed members too. Knows the local messages
only. Invariants: as in `sim.checkers`; a rule looks at the configuration that raft itself must go by (thesis, chapter
4): the last in the log of whoever acts, committed or not, and both halves of a joint one.
"""

from typing import TYPE_CHECKING, Final

from protocol.local import ApplyEntries, LeadershipChanged, PersistEntries
from protocol.peer import RequestVoteReply
from protocol.types import Entry, EntryKind, MemberId
from raft.configuration import Configuration
from raft.membership import PROMOTION_LAG_ENTRIES_MAX
from raft.quorum import VoteResult, vote_result
from sim.configurations import Configurations, Placed
from sim.log_images import NodeLogs
from sim.trouble import SimulationFailed

if TYPE_CHECKING:
    from sim.process import Process

NOT_YET: Final = 1 << 62


def _won(configuration: Configuration, members: set[MemberId]) -> bool:
    votes = dict.fromkeys(members, True)
    return vote_result(configuration.voters, configuration.outgoing, votes) is VoteResult.WON


class CommittedByMajority:
    """What is applied for the first time is durable on a majority of the configuration it was committed under.

    That is, of the last configuration in the log of the leader that committed it, which no rule here can see; but it is
    one of few: the one in force at the entry, or a later one in the log of a leader of a term since the entry's.
    """

    def __init__(self, logs: dict[str, NodeLogs], aside: dict[str, NodeLogs], configurations: Configurations) -> None:
        self._logs = logs
        self._aside = aside
        self._configurations = configurations
        self._at_election: dict[int, list[Placed]] = {}
        """By term: what the leader's log held when it was elected."""
        self._appended: dict[int, list[Placed]] = {}
        """By term: what its leader has appended."""

    def on_leadership(self, process: "Process", message: LeadershipChanged) -> None:
        """A node says that it leads."""
        if message.leader == process.node.member and message.term not in self._at_election:
            self._at_election[message.term] = list(self._configurations.of(process.node.name))

    def on_appended(self, placed: Placed) -> None:
        """A configuration was written for the first time, by the leader of its term."""
        self._appended.setdefault(placed.term, []).append(placed)

    def check(self, process: "Process", entry: Entry, term: int) -> None:
        """An entry is applied for the first time, by a node that is in `term`; it is on record as committed."""
        holders = {member for member, name in self._configurations.names.items() if self._holds(name, entry)}
        base = self._configurations.committed[-1]
        if _won(base.configuration, holders):
            return
        later = [
            placed
            for since in range(entry.term, term + 1)
            for placed in (*self._at_election.get(since, ()), *self._appended.get(since, ()))
            if placed.index > base.index
        ]
        if not any(_won(placed.configuration, holders) for placed in later):
            names = sorted(self._configurations.names[member] for member in holders)
            held = f"durable on {', '.join(names)} of {_told(self._configurations, base.configuration)}"
            text = f"{process!r} applies {entry.index}/{entry.term} kind {entry.kind}, {held}"
            raise SimulationFailed("committed is on a majority", text)

    def _holds(self, name: str, entry: Entry) -> bool:
        kept = self._aside.get(name)
        found = self._logs[name].durable.holds(entry.index, entry.term)
        return found or (kept is not None and kept.durable.holds(entry.index, entry.term))


class ElectedByMajority:
    """A leader was elected by a majority of its configuration, and votes in it or did in one that it knows no end of.

    The latter lets a member stand that others may still need: whoever alone has the entry that removes it.
    """

    def __init__(self, configurations: Configurations) -> None:
        self._configurations = configurations
        self._votes: dict[tuple[int, MemberId], set[MemberId]] = {}
        self._seen: set[int] = set()
        self._handed: dict[str, int] = {}

    def on_vote(self, process: "Process", voter: MemberId, message: RequestVoteReply) -> None:
        """A candidate hears a vote; pre-votes elect nobody."""
        if message.granted and not message.pre_vote:
            self._votes.setdefault((message.term, process.node.member), set()).add(voter)

    def on_apply(self, process: "Process", message: ApplyEntries) -> None:
        """A node knows that entries are committed."""
        self._handed[process.node.name] = message.entries[-1].index

    def on_leadership(self, process: "Process", message: LeadershipChanged) -> None:
        """A node says that it leads."""
        member, name = process.node.member, process.node.name
        if message.leader != member or message.term in self._seen:
            return
        self._seen.add(message.term)
        placed = self._configurations.of(name)
        known = self._configurations.before(name, self._handed.get(name, 0) + 1)
        if not any(each.configuration.is_voter(member) for each in placed if each.index >= known.index):
            text = f"{process!r} leads term {message.term}: {_told(self._configurations, placed[-1].configuration)}"
            raise SimulationFailed("leaders vote", text)
        votes = self._votes.get((message.term, member), set()) | {member}
        if not _won(placed[-1].configuration, votes):
            voters = ", ".join(sorted(self._configurations.names.get(each, f"{each:x}") for each in votes))
            told = _told(self._configurations, placed[-1].configuration)
            raise SimulationFailed(
                "elected by a majority", f"{process!r} leads term {message.term} by {voters} of {told}"
            )


class OneStepAtATime:
    """Configurations follow each other as the thesis has them (4.3), newcomers vote when they have caught up (4.2.1).

    A change of voters goes through a joint configuration whose outgoing half is what was in force; anything else leaves
    the voters as they are. Who gets a vote holds the leader's log, but for a bounded rest.
    """

    def __init__(
        self, logs: dict[str, NodeLogs], configurations: Configurations, majority: CommittedByMajority
    ) -> None:
        self._logs = logs
        self._configurations = configurations
        self._majority = majority
        self._seen: set[tuple[int, int]] = set()

    def before_write(self, process: "Process", message: PersistEntries) -> None:
        """Entries are about to be handed to the WAL; a leader writes its own before anybody else can."""
        name = process.node.name
        earlier: Placed | None = None
        for entry in message.entries:
            if entry.kind != EntryKind.CONFIGURATION:
                continue
            placed = Placed(entry.index, entry.term, Configuration.decode(entry.data))
            if (entry.index, entry.term) not in self._seen:
                self._seen.add((entry.index, entry.term))
                before = earlier or self._configurations.before(name, entry.index)
                self._check(process, before.configuration, placed)
                self._majority.on_appended(placed)
            earlier = placed

    def _check(self, process: "Process", before: Configuration, placed: Placed) -> None:
        after = placed.configuration
        expected = before.voters if not after.joint else after.outgoing
        if (before.joint and after.joint) or tuple(sorted(expected)) != tuple(
            sorted(after.voters if not after.joint else before.voters)
        ):
            told = (
                f"{_told(self._configurations, after)} at {placed.index} behind {_told(self._configurations, before)}"
            )
            raise SimulationFailed("one step at a time", f"{process!r} appends {told}")
        for member in after.voters:
            if not before.is_voter(member):
                self._check_caught_up(process, member, placed)

    def _check_caught_up(self, process: "Process", member: MemberId, placed: Placed) -> None:
        name = self._configurations.names.get(member)
        last = self._logs[name].durable.last if name is not None else -1
        if last < placed.index - 1 - PROMOTION_LAG_ENTRIES_MAX or name is None:
            text = f"{process!r} promotes {name or 'who never ran'} at {placed.index}, which holds {last}"
            raise SimulationFailed("who gets a vote has caught up", text)


class GoneForGood:
    """Who was removed never comes back under its id, and its part in the cluster is over once it knows.

    In the life in which it hands its own removal to its applier, a member hands over nothing beyond what was committed
    then, so it answers no write that was made after it left; and from then on it does not say that it leads.
    """

    def __init__(self, configurations: Configurations) -> None:
        self._configurations = configurations
        self._gone: set[MemberId] = set()
        self._left: dict[tuple[str, int], int] = {}
        """Node and incarnation to the commit index under which it learnt that it is gone."""

    def on_committed(self, entry: Entry) -> None:
        """An entry is applied for the first time."""
        if entry.kind != EntryKind.CONFIGURATION:
            return
        now, before = self._configurations.committed[-1].configuration, self._configurations.committed[-2].configuration
        back = sorted(self._gone & set(now.members))
        if back:
            raise SimulationFailed("ids are never reused", f"{back[0]:x} was removed and is a member at {entry.index}")
        self._gone |= set(before.members) - set(now.members)

    def on_apply(self, process: "Process", message: ApplyEntries) -> None:
        """Entries are handed to an applier."""
        life = (process.node.name, process.incarnation)
        left = self._left.get(life, NOT_YET)
        if message.entries[-1].index > left:
            text = f"{process!r} was removed when {left} was committed, and applies {message.entries[-1].index}"
            raise SimulationFailed("the removed are out", text)
        for entry in message.entries:
            if entry.kind != EntryKind.CONFIGURATION:
                continue
            if process.node.member in Configuration.decode(entry.data).removed:
                self._left.setdefault(life, message.commit)

    def on_leadership(self, process: "Process", message: LeadershipChanged) -> None:
        """A node says whom it follows."""
        if message.leader == process.node.member and (process.node.name, process.incarnation) in self._left:
            raise SimulationFailed("the removed are out", f"{process!r} was removed and leads term {message.term}")


def _told(configurations: Configurations, configuration: Configuration) -> str:
    def names(members: tuple[MemberId, ...]) -> str:
        return "{" + ", ".join(configurations.names.get(member, f"{member:x}") for member in members) + "}"

    halves = [names(half) for half in (configuration.outgoing, configuration.voters) if half]
    return " -> ".join(halves) + (f" with learners {names(configuration.learners)}" if configuration.learners else "")
