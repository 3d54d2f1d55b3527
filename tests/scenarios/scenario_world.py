"""The world of a transcript: nodes, the messages between them, one clock. Nothing happens unless a verb makes it."""

from typing import NamedTuple

from scenario_node import Node

from protocol.config import RaftConfig
from protocol.identity import FoundingMember
from protocol.message import Message
from protocol.types import Entry, MemberId, Millis

STEPS_MAX = 5000
"""A transcript that does more at one instant never comes to rest."""


class Parcel(NamedTuple):
    """A message under way between nodes."""

    sender: MemberId
    to: MemberId
    message: Message
    actor: str


class World:
    """What verbs act on; `lines` is what they have caused since the last command."""

    def __init__(self) -> None:
        self.config = RaftConfig(commit_news_delay_ms=0, unattended_delay_ms=0)
        self.now = Millis(0)
        self.founders: tuple[FoundingMember, ...] = ()
        self.nodes: dict[MemberId, Node] = {}
        self.wire: list[Parcel] = []
        self.links_cut: set[frozenset[MemberId]] = set()
        self.later: list[tuple[Node, Message]] = []
        """What helpers and supervisors will say when their turn comes."""
        self.stages: dict[str, list[Entry]] = {}
        self.kept: list[Parcel] = []
        """Messages set aside by a verb, to arrive much later."""
        self.sequence = 0
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        """Add a line to the transcript."""
        self.lines.append(line)

    def node(self, name: str) -> Node:
        """The node called `name`."""
        return self.nodes[MemberId(int(name.removeprefix("n")))]

    def found(self, size: int) -> None:
        """Make the founding members and start them."""
        self.founders = tuple(
            FoundingMember(MemberId(each), f"n{each}", (f"http://n{each}:2380",), (f"http://n{each}:2379",))
            for each in range(1, size + 1)
        )
        for founder in self.founders:
            self.nodes[founder.member] = Node(self, founder.member)
        for node in self.nodes.values():
            node.start()

    def put(self, sender: MemberId, to: MemberId, message: Message, actor: str) -> None:
        """A message leaves; it is lost where the link is cut."""
        if to in self.nodes and frozenset((sender, to)) not in self.links_cut and actor == "raft":
            self.wire.append(Parcel(sender, to, message, actor))

    def arrive(self, parcel: Parcel) -> None:
        """Hand a message to its node, if that is up."""
        node = self.nodes[parcel.to]
        if node.up:
            node.hand(parcel.message, "raft", parcel.sender)

    def settle(self) -> None:
        """Let everything happen that can happen at this instant: messages, syncs, the applier, helpers, timers."""
        for _ in range(STEPS_MAX):
            if not self._step():
                return
        raise AssertionError(f"the world does not come to rest in {STEPS_MAX} steps")

    def _step(self) -> bool:
        if self.wire:
            self.arrive(self.wire.pop(0))
            return True
        for node in self.nodes.values():
            if node.up and (node.sync() or node.work()):
                return True
        if self.later:
            node, message = self.later.pop(0)
            if node.up:
                node.hand(message, "supervisor")
            return True
        return any(node.up and node.wake() for node in self.nodes.values())

    def pass_time(self, elapsed_ms: int) -> None:
        """Let time pass from deadline to deadline, settling at each."""
        end = self.now + elapsed_ms
        self.settle()
        while True:
            deadlines = [node.actor.deadline for node in self.nodes.values() if node.up]
            due = min((each for each in deadlines if each is not None), default=end + 1)
            if due > end:
                break
            self.now = Millis(max(due, self.now))
            self.settle()
        self.now = Millis(end)
