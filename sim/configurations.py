"""Which configurations each node's log holds, and which are committed, as the nodes' messages tell.

Owns what rules about members compare with; judges nothing. Knows the local messages only. Invariant: the configurations
of a log follow every write in the order in which it was handed to the WAL, as `sim.log_images` follows the entries.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protocol.errors import Corruption
from protocol.local import CutLog, LogRecovered, PersistEntries
from protocol.types import Entry, EntryKind, LogMark, MemberId
from raft.configuration import Configuration
from sim.trouble import SimulationFailed

if TYPE_CHECKING:
    from sim.process import Process


@dataclass(frozen=True, slots=True)
class Placed:
    """A configuration and the entry that holds it; index 0: what a node starts from."""

    index: int
    term: int
    configuration: Configuration


class Configurations:
    """The configurations of every log, and the committed ones."""

    def __init__(self, members: dict[str, MemberId], founding: Configuration) -> None:
        """Begin with founders: `members` by node name."""
        self.committed = [Placed(0, 0, founding)]
        self.names = {member: name for name, member in members.items()}
        """Member to the name of its machine."""
        self._first: dict[str, Placed] = dict.fromkeys(members, Placed(0, 0, founding))
        self._logs: dict[str, list[Placed]] = {name: [first] for name, first in self._first.items()}
        self._recovering: dict[str, list[Placed]] = {}

    def join(self, name: str, member: MemberId, told: Configuration) -> None:
        """A machine has learnt who it is, and whom to start with."""
        self.names[member] = name
        self._first[name] = Placed(0, 0, told)
        self._logs[name] = [self._first[name]]

    def restart(self, name: str) -> None:
        """A node goes on with an empty disk, in the name of the member it was."""
        self._logs[name] = [self._first[name]]

    def of(self, name: str) -> list[Placed]:
        """Return what a node's log holds, in order; the first may be that of its mark. Not to be changed."""
        return self._logs[name]

    def latest(self, name: str) -> Configuration:
        """Return the configuration in force at a node: the last in its log."""
        return self._logs[name][-1].configuration

    def before(self, name: str, index: int) -> Placed:
        """Return the configuration in force at a node right before an entry."""
        placed = self._logs[name]
        return next((each for each in reversed(placed) if each.index < index), placed[0])

    # --- following the logs ------------------------------------------------------------------------

    def on_group(self, name: str) -> None:
        """A new life begins; what the last one was reading is void."""
        self._recovering.pop(name, None)

    def after_write(self, process: "Process", message: PersistEntries) -> None:
        """Entries were handed to the WAL."""
        entries = message.entries
        if not entries:
            return
        placed = self._logs[process.node.name]
        while placed[-1].index >= entries[0].index:
            placed.pop()
        placed += _placed(entries)

    def on_cut(self, process: "Process", message: CutLog) -> None:
        """A cut, or a restart behind a snapshot, was handed to the WAL."""
        if message.mark.stage:
            name = process.node.name
            self._logs[name] = [self._of_mark(name, message.mark)]

    def on_recovered(self, process: "Process", message: LogRecovered) -> None:
        """A part of a log was read back."""
        name = process.node.name
        found = self._recovering.setdefault(name, [])
        found += _placed(message.entries)
        if message.final:
            self._logs[name] = [self._of_mark(name, message.mark), *self._recovering.pop(name)]

    def _of_mark(self, name: str, mark: LogMark) -> Placed:
        if not mark.configuration:
            return self._first[name]
        return Placed(mark.index, mark.term, Configuration.decode(mark.configuration))

    # --- what is committed -------------------------------------------------------------------------

    def commit(self, entry: Entry) -> None:
        """An entry was applied somewhere for the first time."""
        if entry.kind == EntryKind.CONFIGURATION:
            self.committed += _placed((entry,))


def _placed(entries: tuple[Entry, ...]) -> list[Placed]:
    return [
        Placed(entry.index, entry.term, _decoded(entry)) for entry in entries if entry.kind == EntryKind.CONFIGURATION
    ]


def _decoded(entry: Entry) -> Configuration:
    try:
        return Configuration.decode(entry.data)
    except Corruption as error:
        raise SimulationFailed("persisted is recovered", f"entry {entry.index}/{entry.term}: {error}") from error
