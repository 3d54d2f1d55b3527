"""A simulated machine that does not know yet who it is: it asks the members until one tells it.

Owns what `actors.joining` does with sockets: the question, its pace, its patience; packets are read by the production
reader. Knows no membership. Invariants: it asks under a head that names nobody; what it was told is on its disk before
its actors start; a machine that was refused, or that nobody knew for too long, ends and is started again by whoever
looks after it.
"""

from typing import TYPE_CHECKING, Final

from actors.joining import ASK_INTERVAL_MS, JOIN_PATIENCE_S, JOINER, Joined, read_answer
from actors.links import pack_packet
from protocol.codec import encode
from protocol.errors import StartRefused
from protocol.peer import PEER_WIRE_VERSION, JoinAsked, PeerHeader
from protocol.types import NO_STORE, NOBODY, ClusterId, Incarnation

if TYPE_CHECKING:
    from sim.node import SimNode

ASK_INTERVAL_US: Final = ASK_INTERVAL_MS * 1000
PATIENCE_US: Final = int(JOIN_PATIENCE_S * 1_000_000)
NOWHERE: Final = PeerHeader(PEER_WIRE_VERSION, ClusterId(0), NOBODY, NOBODY, NO_STORE, Incarnation(0), "raft").pack()


class Newcomer:
    """The asking of one machine in one life."""

    def __init__(self, node: "SimNode") -> None:
        self._node = node
        self._world = node.world
        self._until_us = self._world.now_us + PATIENCE_US
        self._question = encode(JoinAsked(peer_urls=node.peer_urls))

    def ask(self) -> None:
        """Ask every contact, again and again."""
        node = self._node
        if node.newcomer is not self:
            return
        if self._world.now_us >= self._until_us:
            self._fail("nobody knows it")
            return
        for url in node.contacts:
            self._world.peers.ask_to_join(node, url, (NOWHERE, self._question))
        self._world.at(self._world.now_us + ASK_INTERVAL_US, self.ask)

    def hear(self, head: bytes, body: bytes) -> None:
        """A packet arrives at the machine's peer port."""
        try:
            joined = read_answer(pack_packet(head, [body]))
        except StartRefused as refused:
            self._fail(str(refused))
            return
        if joined is not None:
            self._node.newcomer = None
            latency_us = 1 + self._node.sync_latency_us()
            self._world.at(self._world.now_us + latency_us, self._enter, joined, self._node.lives)

    def _enter(self, joined: Joined, life: int) -> None:
        """The identity is on disk."""
        node = self._node
        if node.powered and node.lives == life:
            node.become(joined)

    def _fail(self, reason: str) -> None:
        self._world.counts["join_failed"] += 1
        self._world.note(self._node.name, JOINER, f"failed:{reason}")
        self._node.lose_power("not_joined")
