"""Frames between simulated nodes: packed with the production header, admitted by the production door's rule.

Owns what the shell's peer port does beside sockets: who is reached at which address, heads, admission, refusals with
their pace, frames relayed to helpers; and what a bad wire adds: chunks with a flipped bit, and frames that nobody of
this cluster sent. Delay and loss are `sim.network`'s. Invariant: a frame that this cluster did not send reaches no
actor but as the bytes of a peer's message, or as a stranger's question.
"""

import random
from typing import TYPE_CHECKING, Final

from actors.actor import Source
from actors.effects import SendPeer
from protocol.codec import decode, encode
from protocol.errors import PeerFault
from protocol.local import EntriesPersisted, StopActor
from protocol.peer import (
    PEER_WIRE_VERSION,
    STRANGER_KINDS,
    Heartbeat,
    PeerHeader,
    PeerRefused,
    SnapshotChunk,
    from_stranger,
    refusal,
)
from protocol.types import NOBODY, ClusterId, Incarnation, Index, LogPosition, MemberId, Term
from sim.process import HELPERS, Parcel, Process

if TYPE_CHECKING:
    from sim.node import SimNode
    from sim.world import World

REFUSAL_INTERVAL_US: Final = 5_000_000
"""A flood of wrong frames makes no flood of answers."""


class PeerTraffic:
    """Everything that passes between the nodes of one world."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._listening: dict[str, SimNode] = {}
        for node in world.nodes:
            self.listen(node)
        self._welcome: dict[tuple[MemberId, bytes], PeerHeader] = {}
        """Heads that were found good, by receiver: members repeat theirs."""
        self._refused_us: dict[tuple[MemberId, MemberId], int] = {}

    def listen(self, node: "SimNode") -> None:
        """Let a machine be reached at its addresses; whoever was reached there before is not any more."""
        self._listening.update(dict.fromkeys(node.listens_at, node))

    def listener(self, url: str) -> "SimNode | None":
        """The machine at an address, whether it is on or not."""
        return self._listening.get(url)

    def ask_to_join(self, node: "SimNode", url: str, packet: tuple[bytes, bytes]) -> None:
        """Let a machine that does not know who it is ask whoever is at `url`; `packet` is head and body."""
        receiver = self._listening.get(url)
        if receiver is None or receiver is node:
            return
        for at_us in self._world.network.arrivals(self._world.now_us, node.link, receiver.link, bulk=False):
            self._world.at(at_us, self.receive, receiver, *packet)

    def send(self, process: Process, effect: SendPeer, leave_us: int) -> None:
        """Put a frame on the network."""
        world = self._world
        sender = process.node.member
        assert effect.to != sender, f"{process!r} sends itself a peer message"
        receiver = self._listening.get(process.addresses.get(effect.to, ""))
        if receiver is None:
            world.counts["frames_to_nobody"] += 1
            return
        world.counts["frames"] += 1
        body = effect.body
        if effect.actor == "snapshot_receiver" and world.weather.chunk_rot:
            body = self._rotten(body)
        head = process.peer_heads.get((effect.to, effect.actor))
        if head is None:
            head = process.peer_heads[effect.to, effect.actor] = PeerHeader(
                PEER_WIRE_VERSION,
                world.cluster,
                sender,
                effect.to,
                process.node.store,
                process.incarnation,
                effect.actor,
            ).pack()
        link = (process.node.link, receiver.link)
        for at_us in world.network.arrivals(leave_us, *link, bulk=effect.bulk):
            world.at(at_us, self._arrive, process, receiver, head, body, leave_us)

    def _rotten(self, body: bytes) -> bytes:
        """Maybe flip one bit of the data of a snapshot chunk: the transport's own checksums are weak."""
        if self._rng.random() >= self._world.weather.chunk_rot:
            return body
        message = decode(body)
        if not isinstance(message, SnapshotChunk) or not message.data:
            return body
        assert body.endswith(message.data), "the data is what a chunk's encoding ends with"
        self._world.counts["fault_chunk_rot"] += 1
        rotten = bytearray(body)
        rotten[-1 - self._rng.randrange(len(message.data))] ^= 1 << self._rng.randrange(8)
        return bytes(rotten)

    def _arrive(self, sender: Process, receiver: "SimNode", head: bytes, body: bytes, left_us: int) -> None:
        if sender.alive or sender.died_us >= left_us:
            self.receive(receiver, head, body)

    def receive(self, receiver: "SimNode", head: bytes, body: bytes) -> None:
        """A frame arrives at a node's peer port."""
        world = self._world
        if receiver.newcomer is not None:
            receiver.newcomer.hear(head, body)
            return
        raft = receiver.processes.get("raft")
        if raft is None or not raft.alive:
            world.counts["frames_unheard"] += 1
            return
        header = self._welcome.get((receiver.member, head)) or self._examine(raft, head)
        if header is None:
            return
        if from_stranger(header):
            self._hear_stranger(raft, body)
        elif header.actor == "raft":
            raft.deliver(Parcel(Source("raft", header.sender, header.store), body))
        elif header.actor in HELPERS:
            raft.relay(header.actor, body)
        else:
            world.counts["frame_faults"] += 1

    def _hear_stranger(self, raft: Process, body: bytes) -> None:
        """Hand over what may be said under a head that names nobody."""
        try:
            decode(body, STRANGER_KINDS)
        except PeerFault:
            self._world.counts["frame_faults"] += 1
        else:
            raft.deliver(Parcel(Source("raft"), body))

    def _examine(self, raft: Process, head: bytes) -> PeerHeader | None:
        """Return what a head says; None if whoever sent it is refused."""
        here = raft.node.member
        try:
            header = PeerHeader.unpack(head)
        except PeerFault:
            self._world.counts["frame_faults"] += 1
            return None
        if from_stranger(header):
            return header
        problem = refusal(header, self._world.cluster, here)
        if problem:
            self._world.counts["frame_refusals"] += 1
            self._refuse(raft, header.sender, problem)
            return None
        self._welcome[here, head] = header
        return header

    def _refuse(self, raft: Process, member: MemberId, problem: str) -> None:
        """Tell a stranger why, but not too often."""
        world = self._world
        here = raft.node.member
        spoken_us = self._refused_us.get((here, member))
        if member not in raft.addresses or member == here:
            return
        if spoken_us is None or world.now_us - spoken_us >= REFUSAL_INTERVAL_US:
            self._refused_us[here, member] = world.now_us
            self.send(raft, SendPeer(member, encode(PeerRefused(reason=problem))), world.now_us)

    # --- frames that nobody of this cluster sent ---------------------------------------------------

    def send_wrong_frames(self, rng: random.Random) -> None:
        """Let one node hear a few frames of another cluster, another version, another member, or of nonsense."""
        known = [node for node in self._world.nodes if node.member != NOBODY]
        receiver = rng.choice(known)
        others = [node for node in known if node is not receiver] or [receiver]
        for _ in range(rng.randint(1, 5)):
            head, body = self._wrong_frame(rng, rng.choice(others), receiver)
            self.receive(receiver, head, body)

    def _wrong_frame(self, rng: random.Random, sender: "SimNode", receiver: "SimNode") -> tuple[bytes, bytes]:
        """A head that must be refused with a body that would do harm, or a right head with a body that must be."""
        right = PeerHeader(
            PEER_WIRE_VERSION, self._world.cluster, sender.member, receiver.member, sender.store, Incarnation(1), "raft"
        )
        harmful = encode(Heartbeat(term=Term(1_000_000), commit=Index(1_000_000), round=0))
        heads = (
            right._replace(cluster=ClusterId(right.cluster ^ 1)),
            right._replace(version=PEER_WIRE_VERSION + 1),
            right._replace(receiver=MemberId(receiver.member ^ 1)),
            right._replace(sender=receiver.member),
            right._replace(actor="wal"),
        )
        bodies = (
            encode(StopActor()),
            encode(EntriesPersisted(ticket=1 << 40, last=LogPosition(Term(9), Index(1 << 40)))),
            harmful[: rng.randrange(len(harmful))],
            harmful.replace(b"commit", b"cOmmit"),
            rng.randbytes(rng.randrange(100)),
        )
        shape = rng.randrange(12)
        if shape < len(heads):
            return heads[shape].pack(), harmful
        if shape < 10:
            return right.pack(), bodies[shape - len(heads)]
        if shape == 10:
            return right._replace(actor=rng.choice(HELPERS)).pack(), rng.randbytes(20)
        return rng.randbytes(rng.randrange(90)), harmful
