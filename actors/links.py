"""ZeroMQ between actors: lossless links inside a node, lossy ones between nodes.

Owns sockets, sequence numbers and the form of packets. Knows no message kind.
A packet is one ZeroMQ frame: a head, then the bodies of one turn, each behind its length (four bytes, big-endian).
One frame, and not a part for each body, because the calls around a part cost more than a body of usual size.
Invariants: inside a node packets of one sender arrive without a gap, or `LinkBroken` is raised and the incarnation
ends; between nodes what cannot be sent at once is dropped and counted. An inbox's descriptor is edge-triggered: it is
read until it is empty, or says that it is `pending`.
"""

import random
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import zmq
from zmq.backend import Socket as BackendSocket

from actors.curve import PEERS, Curve
from actors.metrics import ActorMetrics
from protocol.codec import MESSAGE_BYTES_MAX
from protocol.errors import InvariantViolation, PeerFault, StartRefused
from protocol.identity import NodeIdentity
from protocol.peer import PEER_HEADER_BYTES, PEER_WIRE_VERSION, PeerHeader, from_stranger, refusal
from protocol.types import Incarnation, MemberId

RUN_DIR: Final = "run"
PEER_QUEUE_MESSAGES_MAX: Final = 256
"""High-water mark of one peer link: small, because raft repeats what is lost and old news is worthless."""
PEER_SILENCE_MS_MAX: Final = 5000
"""A connection on which nothing is acknowledged for so long is opened anew, instead of after TCP's own many minutes."""
LINGER_ON_STOP_MS: Final = 500
FORMER_MEMBERS_MAX: Final = 16
"""Addresses kept of those that were removed."""
LINK_RENEWAL_S: Final = 1.0
"""A link whose handshake has failed is opened anew after so long."""
PACKET_BYTES_MAX: Final = 2 * 1024 * 1024
"""Bodies of one turn share a packet up to about this size: whoever receives it copies it in one go."""
RECEIVED_BYTES_PER_TURN_MAX: Final = 4 * 1024 * 1024
"""Bytes taken in one turn, but for the last packet."""
RECEIVES_PER_TURN_MAX: Final = 256
"""Packets taken in one turn, so that a flood cannot keep an actor from its timers."""
HEADERS_REMEMBERED_MAX: Final = 1000

_HEAD: Final = struct.Struct(">QQ24s")
_SIZE: Final = struct.Struct(">I")
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_NOBLOCK: Final = int(zmq.NOBLOCK)
# The bare call: the method of pyzmq's `Socket` looks for options that nobody here gives, on every send.
_send: Final = BackendSocket.send


class LinkBroken(InvariantViolation):
    """A local link lost something: the group must start anew under another incarnation."""


def pack_packet(head: bytes, bodies: Sequence[bytes | memoryview]) -> bytes:
    """Return the frame that carries `bodies` behind `head`."""
    parts: list[bytes | memoryview] = [head]
    for body in bodies:
        parts.append(_SIZE.pack(len(body)))
        parts.append(body)
    return b"".join(parts)


def bodies_of(packet: bytes, at: int) -> list[memoryview]:
    """Return the bodies that stand in `packet` from offset `at` on.

    Raises:
        ValueError: it does not end where a body ends.
    """
    bodies: list[memoryview] = []
    view = memoryview(packet)
    end = len(packet)
    while at < end:
        begin = at + 4
        at = begin + int.from_bytes(view[at:begin], "big")
        if at > end:
            raise ValueError("a packet ends within a body")
        bodies.append(view[begin:at])
    return bodies


def _packets(bodies: list[bytes | memoryview]) -> list[list[bytes | memoryview]]:
    """Share bodies out to packets of a bounded size; each body stays whole."""
    if sum(map(len, bodies)) <= PACKET_BYTES_MAX:
        return [bodies]
    packets: list[list[bytes | memoryview]] = []
    size = PACKET_BYTES_MAX
    for body in bodies:
        size += len(body)
        if size > PACKET_BYTES_MAX:
            packets.append([])
            size = len(body)
        packets[-1].append(body)
    return packets


def _events(socket: zmq.Socket[bytes]) -> int:
    """Return what `socket` is ready for; what has come for it meanwhile is taken in."""
    ready = socket.get(_EVENTS)
    assert type(ready) is int, "events are bits"
    return ready


def local_address(actor: str, incarnation: Incarnation) -> str:
    """Return where `actor` listens, relative to the node's data directory, which is every actor's directory."""
    return f"ipc://{RUN_DIR}/{actor}.{incarnation}"


class LocalLinks:
    """One actor's links to the others of its node."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], actor: str, incarnation: Incarnation) -> None:
        self._context = context
        self._actor = actor.encode()
        self.incarnation = incarnation
        self.inbox = context.socket(zmq.PULL)
        self.inbox.set_hwm(0)
        self.inbox.bind(local_address(actor, incarnation))
        self.pending = True
        """Whether more may be there than `receive` has returned; the descriptor will not say so."""
        self._outboxes: dict[str, zmq.Socket[bytes]] = {}
        self._sent: dict[str, int] = {}
        self._staged: dict[str, list[bytes | memoryview]] = {}
        self._received: dict[bytes, tuple[int, int]] = {}
        self._names: dict[bytes, str] = {}

    def connect(self, actor: str, incarnation: Incarnation) -> None:
        """Talk to this incarnation of `actor` from now on; what waits for an older one is dropped."""
        self.disconnect(actor)
        socket = self._context.socket(zmq.PUSH)
        socket.set_hwm(0)
        socket.setsockopt(zmq.RECONNECT_IVL, 5)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        socket.connect(local_address(actor, incarnation))
        self._outboxes[actor] = socket
        self._sent[actor] = 0

    def disconnect(self, actor: str) -> None:
        """Forget an actor that has ended: what is staged for it from now on goes nowhere, instead of piling up."""
        old = self._outboxes.pop(actor, None)
        if old is not None:
            old.close(linger=0)
        self._staged.pop(actor, None)

    def fileno(self) -> int:
        """The descriptor that becomes readable when something arrives at an inbox that was empty."""
        return int(self.inbox.getsockopt(zmq.FD))

    def stage(self, to: str, body: bytes | memoryview) -> None:
        """Queue `body` for the end of the turn; nothing is sent to an actor that was never connected."""
        staged = self._staged.get(to)
        if staged is None:
            self._staged[to] = [body]
        else:
            staged.append(body)

    def flush(self) -> None:
        """Send one packet to each actor that has something staged."""
        if not self._staged:
            return
        staged, self._staged = self._staged, {}
        for actor, bodies in staged.items():
            socket = self._outboxes.get(actor)
            if socket is None:
                continue
            for part in _packets(bodies) if len(bodies) > 1 else (bodies,):
                sequence = self._sent[actor] = self._sent[actor] + 1
                _send(socket, pack_packet(_HEAD.pack(sequence, self.incarnation, self._actor), part))

    def relay(self, to: str, bodies: Iterable[memoryview]) -> None:
        """Pass on bodies that were never decoded."""
        for body in bodies:
            self.stage(to, body)

    def receive(self) -> list[tuple[str, list[memoryview]]]:
        """Return what has arrived, per packet: the sending actor and the bodies.

        Raises:
            LinkBroken: a sequence number is missing.
        """
        arrived: list[tuple[str, list[memoryview]]] = []
        inbox = self.inbox
        self.pending = False
        received_bytes = 0
        while _events(inbox) & _POLLIN:
            if len(arrived) >= RECEIVES_PER_TURN_MAX or received_bytes > RECEIVED_BYTES_PER_TURN_MAX:
                self.pending = True
                break
            packet = inbox.recv(_NOBLOCK)
            received_bytes += len(packet)
            sequence, incarnation, name = _HEAD.unpack_from(packet)
            known, last = self._received.get(name, (0, 0))
            if incarnation < known:
                continue
            if incarnation > known:
                last = 0
            if sequence != last + 1:
                raise LinkBroken(f"from {self._name(name)}: packet {sequence} after {last}")
            self._received[name] = (incarnation, sequence)
            arrived.append((self._name(name), bodies_of(packet, _HEAD.size)))
        return arrived

    def _name(self, padded: bytes) -> str:
        name = self._names.get(padded)
        if name is None:
            name = self._names[padded] = padded.rstrip(b"\0").decode()
        return name

    def close(self, *, drain: bool) -> None:
        """Close all sockets; with `drain` give what was sent a moment to arrive."""
        self.inbox.close(linger=0)
        Path(local_address(self._actor.decode(), self.incarnation).removeprefix("ipc://")).unlink(missing_ok=True)
        for socket in self._outboxes.values():
            socket.close(linger=LINGER_ON_STOP_MS if drain else 0)
        self._outboxes = {}


def addresses_known(before: dict[MemberId, str], members: dict[MemberId, str]) -> dict[MemberId, str]:
    """Return where members are, and former ones were, once the table says `members`.

    Who is no longer a member keeps its address, so that it can be told so, until somebody else has that address.
    """
    taken = set(members.values())
    gone = {member: address for member, address in before.items() if member not in members and address not in taken}
    return {**dict(list(gone.items())[-FORMER_MEMBERS_MAX:]), **members}


class PeerLinks:
    """Links to the other members: to each a control link and a bulk link of this process's own."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: NodeIdentity,
        addresses: dict[MemberId, str],
        metrics: ActorMetrics,
        dial: Callable[[str], str] = str,
        curve: Curve | None = None,
    ) -> None:
        """With `dial` an address is made of the URLs that `know` is given."""
        self._context = context
        self._curve = curve
        self._failed: deque[tuple[MemberId, bool]] = deque()
        """Links whose handshake has failed, as another thread tells."""
        self._renew_at: dict[tuple[MemberId, bool], float] = {}
        self._identity = identity
        self._addresses = addresses
        self._dial = dial
        self._metrics = metrics
        self._sockets: dict[tuple[MemberId, bool], zmq.Socket[bytes]] = {}
        self._staged: dict[tuple[MemberId, bool, str], list[bytes]] = {}
        self._heads: dict[tuple[MemberId, str], tuple[bytes, str, str]] = {}
        """For each addressee the head of its packets, and the counters of what was sent to it and what was not."""

    def stage(self, to: MemberId, body: bytes, *, bulk: bool, actor: str) -> None:
        """Queue `body` for `actor` of member `to` until the end of the turn."""
        key = (to, bulk, actor)
        staged = self._staged.get(key)
        if staged is None:
            self._staged[key] = [body]
        else:
            staged.append(body)

    def flush(self) -> None:
        """Send what is staged; what a link does not take at once is dropped and counted."""
        if not self._staged:
            return
        if self._failed or self._renew_at:
            self._renew()
        staged, self._staged = self._staged, {}
        for (to, bulk, actor), bodies in staged.items():
            socket = self._socket(to, bulk=bulk)
            if socket is None:
                continue
            head, sent_key, failed_key = self._heads.get((to, actor)) or self._head(to, actor)
            packet = pack_packet(head, bodies)
            try:
                _send(socket, packet, _NOBLOCK)
            except zmq.Again:
                self._metrics.count(failed_key)
            else:
                self._metrics.count(sent_key, len(packet))

    def _head(self, to: MemberId, actor: str) -> tuple[bytes, str, str]:
        identity = self._identity
        header = PeerHeader(
            PEER_WIRE_VERSION, identity.cluster, identity.member, to, identity.store, identity.incarnation, actor
        )
        made = self._heads[to, actor] = (
            header.pack(),
            f'etcd_network_peer_sent_bytes_total{{To="{to:x}"}}',
            f'etcd_network_peer_sent_failures_total{{To="{to:x}"}}',
        )
        return made

    def _socket(self, to: MemberId, *, bulk: bool) -> zmq.Socket[bytes] | None:
        socket = self._sockets.get((to, bulk))
        if socket is None and to in self._addresses and (to, bulk) not in self._renew_at:
            socket = self._context.socket(zmq.PUSH)
            socket.setsockopt(zmq.SNDHWM, PEER_QUEUE_MESSAGES_MAX)
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.IPV6, 1)
            socket.setsockopt(zmq.TCP_MAXRT, PEER_SILENCE_MS_MAX)
            # libzmq has no jitter of its own under a maximum: not all of a cluster should knock at one instant.
            socket.setsockopt(zmq.RECONNECT_IVL, random.randrange(50, 100))
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, random.randrange(1500, 2500))
            on_failed = partial(self._failed.append, (to, bulk))
            if self._curve is not None and not self._curve.secure_link(socket, self._addresses[to], on_failed):
                socket.close(linger=0)
                self._failed.append((to, bulk))
                return None
            socket.connect(self._addresses[to])
            self._sockets[(to, bulk)] = socket
        return socket

    def know(self, peers: dict[MemberId, str]) -> None:
        """Dial these members at these URLs from now on, and former ones where they were (`addresses_known`)."""
        addresses = {member: self._dial(url) for member, url in peers.items()}
        for member, bulk in list(self._sockets):
            if addresses.get(member) != self._addresses[member]:
                # What was sent a moment ago, its removal for one, should still arrive.
                self._sockets.pop((member, bulk)).close(linger=LINGER_ON_STOP_MS)
        self._addresses = addresses_known(self._addresses, addresses)
        self.connect_all(addresses)

    def _renew(self) -> None:
        """Open links anew whose handshake has failed: libzmq never tries again once it was refused, nor other keys."""
        now = time.monotonic()
        while self._failed:
            self._renew_at.setdefault(self._failed.popleft(), now + LINK_RENEWAL_S)
        for link, due in list(self._renew_at.items()):
            if now >= due:
                del self._renew_at[link]
                socket = self._sockets.pop(link, None)
                if socket is not None:
                    socket.close(linger=0)

    def connect_all(self, members: Iterable[MemberId] | None = None) -> None:
        """Open every link ahead of its first use, so that the first election need not wait for it."""
        for member in sorted(self._addresses if members is None else members):
            if member != self._identity.member:
                self._socket(member, bulk=False)
                self._socket(member, bulk=True)

    def close(self) -> None:
        """Close all links."""
        for socket in self._sockets.values():
            socket.close(linger=0)
        self._sockets = {}


class PeerDoor:
    """Where other members' frames arrive; bound by the raft process."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: NodeIdentity,
        address: str,
        metrics: ActorMetrics,
        curve: Curve | None = None,
    ) -> None:
        self._identity = identity
        self._metrics = metrics
        self.inbox = context.socket(zmq.PULL)
        if curve is not None:
            curve.secure_door(self.inbox, PEERS)
        self.inbox.setsockopt(zmq.RCVHWM, 4 * PEER_QUEUE_MESSAGES_MAX)
        self.inbox.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
        self.inbox.setsockopt(zmq.LINGER, 0)
        self.inbox.setsockopt(zmq.IPV6, 1)
        self.listen(address)
        self.pending = True
        """As `LocalLinks.pending`."""
        self.refused: list[tuple[MemberId, str]] = []
        """Members whose packets were refused since the last turn, and why."""
        self._welcome: dict[bytes, tuple[PeerHeader, str]] = {}
        """Heads that were found good, with the counter of what came under them: members repeat theirs."""

    def listen(self, address: str) -> None:
        """Listen at one more address.

        Raises:
            StartRefused: it cannot be had.
        """
        try:
            self.inbox.bind(address)
        except zmq.ZMQError as error:
            raise StartRefused(f"peer address {address}: {error.strerror}") from error

    def fileno(self) -> int:
        """As `LocalLinks.fileno`."""
        return int(self.inbox.getsockopt(zmq.FD))

    def receive(self) -> list[tuple[PeerHeader, list[memoryview]]]:
        """Return packets that are meant for this member of this cluster; others are dropped and counted."""
        arrived: list[tuple[PeerHeader, list[memoryview]]] = []
        inbox = self.inbox
        self.pending = False
        received = 0
        while _events(inbox) & _POLLIN:
            if received >= RECEIVES_PER_TURN_MAX:
                self.pending = True
                break
            packet = inbox.recv(_NOBLOCK)
            received += 1
            head = packet[:PEER_HEADER_BYTES]
            try:
                known = self._welcome.get(head) or self._examine(head)
                if known is None:
                    continue
                header, key = known
                arrived.append((header, bodies_of(packet, PEER_HEADER_BYTES)))
            except (PeerFault, ValueError):
                self._metrics.count("actd_peer_faults_total")
                continue
            self._metrics.count(key, len(packet))
        return arrived

    def _examine(self, head: bytes) -> tuple[PeerHeader, str] | None:
        """Return what a head says; None if whoever sent it is refused."""
        header = PeerHeader.unpack(head)
        if from_stranger(header):
            return header, "actd_peer_join_questions_bytes_total"
        problem = refusal(header, self._identity.cluster, self._identity.member)
        if problem:
            self._metrics.count("actd_peer_refused_total")
            self.refused.append((header.sender, problem))
            return None
        if len(self._welcome) >= HEADERS_REMEMBERED_MAX:
            self._welcome.clear()
        known = self._welcome[head] = (header, f'etcd_network_peer_received_bytes_total{{From="{header.sender:x}"}}')
        return known

    def close(self) -> None:
        """Stop listening."""
        self.inbox.close(linger=0)
