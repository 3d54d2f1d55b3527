"""How a new node learns which cluster and which member it is: it asks the members at their peer addresses.

Runs in a forked process before any actor does, so that the supervisor holds no ZeroMQ context. A node that was added at
runtime cannot work its id out from its file; whoever has it in the member table answers to the peer URL that stands
there, so that an answer also proves that the node is reached where others will dial it.

Owns the question and its answer. Invariant: nothing is believed that is not addressed to this node's own peer URLs.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import zmq

from actors.curve import PEERS, Context, Curve
from actors.links import bodies_of, pack_packet
from protocol import codec, peer
from protocol.addresses import Address
from protocol.errors import PeerFault, StartRefused
from protocol.identity import Founding, FoundingMember
from protocol.peer import PEER_HEADER_BYTES, PEER_WIRE_VERSION, PeerHeader
from protocol.types import NO_STORE, NOBODY, ClusterId, Incarnation, MemberId

JOINER: Final = "joiner"
ASK_INTERVAL_MS: Final = 300
JOIN_PATIENCE_S: Final = 30.0
"""How long a new node asks before it gives up."""


class Joined:
    """What a newcomer was told: who it is, and the members to begin with."""

    def __init__(self, founding: Founding, member: MemberId) -> None:
        self.founding = founding
        self.member = member

    @classmethod
    def told(cls, header: PeerHeader, described: peer.ClusterDescribed) -> "Joined":
        """Read an answer; the newcomer itself is a learner until its log says otherwise."""
        founders = tuple(
            FoundingMember(
                view.member,
                view.name,
                view.peer_urls,
                view.client_urls,
                is_learner=view.is_learner or view.member == header.receiver,
                promised=view.member == header.receiver and not view.is_learner,
            )
            for view in described.members
        )
        return cls(Founding(header.cluster, founders), header.receiver)

    def pack(self) -> bytes:
        """Return the bytes that `unpack` reads, for the way through a pipe."""
        return json.dumps([self.founding.cluster, self.member, self.founding.founders]).encode()

    @classmethod
    def unpack(cls, data: bytes) -> "Joined":
        """Return what `pack` was called on."""
        cluster, member, founders = json.loads(data)
        listed = tuple(
            FoundingMember(MemberId(each), name, tuple(peers), tuple(clients), is_learner, promised)
            for each, name, peers, clients, is_learner, promised in founders
        )
        return cls(Founding(ClusterId(cluster), listed), MemberId(member))


def ask_members(
    peer_urls: tuple[str, ...],
    listeners: Sequence[Address],
    contacts: Sequence[str],
    dial: Callable[[str], str],
    patience_s: float = JOIN_PATIENCE_S,
    secure: Callable[[Context], Curve | None] = lambda _context: None,
) -> Joined:
    """Ask until a member answers.

    Args:
        peer_urls: this node's own, as they were given to `member add`.
        listeners: where this node listens for its peers.
        contacts: peer URLs of members.
        dial: makes an address of a peer URL.
        patience_s: how long to ask.
        secure: returns the CURVE of a context, where members speak it.

    Raises:
        StartRefused: nobody answers in time, or the member is not to be joined; the text says what to do.
    """
    context: Context = zmq.Context()
    curve = secure(context)
    try:
        inbox = context.socket(zmq.PULL)
        if curve is not None:
            curve.secure_door(inbox, PEERS)
        for listener in listeners:
            inbox.bind(listener.zmq_bind())
        outboxes = [_Outbox(context, dial(url), curve) for url in contacts]
        nowhere = PeerHeader(PEER_WIRE_VERSION, ClusterId(0), NOBODY, NOBODY, NO_STORE, Incarnation(0), "raft")
        question = pack_packet(nowhere.pack(), [codec.encode(peer.JoinAsked(peer_urls=peer_urls))])
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            for outbox in outboxes:
                outbox.send(question)
            asked_again_at = time.monotonic() + ASK_INTERVAL_MS / 1000
            while (left_s := asked_again_at - time.monotonic()) > 0:
                if inbox.poll(int(left_s * 1000) + 1):
                    joined = read_answer(inbox.recv())
                    if joined is not None:
                        return joined
    finally:
        if curve is not None:
            curve.close()
        context.destroy(linger=0)
    raise StartRefused(
        f"no member at {', '.join(contacts) or 'any address'} knows a new member at {', '.join(peer_urls)}: add it "
        "first, `etcdctl member add` with exactly these peer URLs, and see that members can reach them"
    )


class _Outbox:
    """The way to one member; opened anew when the member, or we, would not have it."""

    def __init__(self, context: Context, address: str, curve: Curve | None) -> None:
        self._context = context
        self._address = address
        self._curve = curve
        self._failed = threading.Event()
        self._socket: zmq.Socket[bytes] | None = None

    def send(self, question: bytes) -> None:
        """Ask, if the member can be reached."""
        if self._failed.is_set() and self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        if self._socket is None:
            self._failed.clear()
            self._socket = self._open()
        if self._socket is not None:
            with suppress(zmq.Again):
                self._socket.send(question, zmq.NOBLOCK)

    def _open(self) -> "zmq.Socket[bytes] | None":
        socket = self._context.socket(zmq.PUSH)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.IPV6, 1)
        if self._curve is not None and not self._curve.secure_link(socket, self._address, self._failed.set):
            socket.close(linger=0)
            return None
        socket.connect(self._address)
        return socket


def read_answer(packet: bytes) -> Joined | None:
    """Return what a packet tells, if it is an answer; the leader's first appends arrive here as well.

    Raises:
        StartRefused: the member is not to be joined.
    """
    try:
        header = PeerHeader.unpack(packet[:PEER_HEADER_BYTES])
        if header.version != PEER_WIRE_VERSION or header.actor != JOINER:
            return None
        for body in bodies_of(packet, PEER_HEADER_BYTES):
            described = codec.decode(body, ("ClusterDescribed",))
            assert isinstance(described, peer.ClusterDescribed), "nothing else was allowed"
            if described.refusal:
                raise StartRefused(described.refusal)
            return Joined.told(header, described)
    except (PeerFault, ValueError):
        return None
    return None


def ask_in_a_process(ask: Callable[[], Joined], stopping: Callable[[], bool]) -> Joined:
    """Run `ask` in a process of its own and return what it was told.

    Raises:
        StartRefused: it was refused, or this node is stopped meanwhile.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            try:
                told = b"1" + ask().pack()
            except StartRefused as refused:
                told = b"0" + str(refused).encode()
            except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
                told = b"0" + f"{type(error).__name__}: {error}".encode()
            os.write(writing, told)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        told = _listen(reading, stopping)
    finally:
        os.close(reading)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    if told[:1] == b"1":
        return Joined.unpack(told[1:])
    raise StartRefused(told[1:].decode(errors="replace") or "stopped before it had joined")


def _listen(reading: int, stopping: Callable[[], bool]) -> bytes:
    import select

    told = b""
    poller = select.poll()
    poller.register(reading, select.POLLIN)
    while not stopping():
        if poller.poll(200):
            part = os.read(reading, 65536)
            if not part:
                break
            told += part
    return told
