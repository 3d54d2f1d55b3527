"""What runs in each forked process: build the actor of a role, its links and its shell, and turn until it halts.

Owns the wiring. Imports nothing of the gateway: its entry point is handed to the supervisor from above.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import zmq

from actors.actor import Actor
from actors.curve import Curve, open_curve
from actors.lifeline import Lifeline
from actors.links import LocalLinks, PeerDoor, PeerLinks
from actors.metrics import ActorMetrics
from actors.shell import Shell, now_ms
from protocol.addresses import parse_url
from protocol.config import ClusterConfig, NodeConfig
from protocol.identity import NodeIdentity
from protocol.membership import dialled_url
from protocol.types import Incarnation, MemberId, Millis

GROUP: tuple[str, ...] = ("wal", "applier", "raft")
"""Actors that live and die together."""


@dataclass(frozen=True)
class ProcessContext:
    """Everything a forked process needs to know."""

    identity: NodeIdentity
    config: ClusterConfig
    node: NodeConfig
    data_dir: Path
    lifeline: Lifeline
    siblings: dict[str, Incarnation]
    """The other actors to talk to, with their incarnations."""
    arguments: dict[str, object]
    """What a helper was asked to do."""

    def peer_addresses(self) -> dict[MemberId, str]:
        """Return where members are dialled until the log says more; of a helper, the one it was made for."""
        urls = {founder.member: dialled_url(founder.peer_urls) for founder in self.identity.founders}
        if "peer_url" in self.arguments:
            other = cast("MemberId", self.arguments["to"] if "to" in self.arguments else self.arguments["sender"])
            urls[other] = str(self.arguments["peer_url"])
        return {member: self.dial(url) for member, url in urls.items() if url is not None}

    def dial(self, peer_url: str) -> str:
        """Return the address that a peer URL stands for."""
        return parse_url(peer_url).zmq_connect()

    def clock(self) -> Millis:
        """Return the time that the process goes by."""
        return now_ms()

    def open_curve(self, context: "zmq.Context[zmq.Socket[bytes]]", actor: str, metrics: ActorMetrics) -> Curve | None:
        """Return what secures a process's TCP sockets; None where they speak plain text."""
        members = {founder.member: founder.name for founder in self.identity.founders}
        names = {address: members.get(member, "") for member, address in self.peer_addresses().items()}
        return open_curve(self.node.curve, context, metrics, actor, names)


Role = Callable[[ProcessContext], int]
"""A role's entry point; returns the exit status."""


def run_shell(context: ProcessContext, actor: Actor, *, peers: bool, door: bool) -> int:
    """Run `actor` in this process until it halts; return 0 if it was asked to."""
    zmq_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    curve = context.open_curve(zmq_context, actor.name, actor.metrics) if peers or door else None
    links = LocalLinks(zmq_context, actor.name, context.identity.incarnation)
    for sibling, incarnation in context.siblings.items():
        links.connect(sibling, incarnation)
    peer_links = None
    if peers:
        addresses = context.peer_addresses()
        peer_links = PeerLinks(zmq_context, context.identity, addresses, actor.metrics, context.dial, curve)
        peer_links.connect_all()
    peer_door = None
    if door:
        listeners = [address.zmq_bind() for address in context.node.peer_listeners]
        peer_door = PeerDoor(zmq_context, context.identity, listeners[0], actor.metrics, curve)
        for more in listeners[1:]:
            peer_door.listen(more)
    halt = Shell(actor, context.lifeline, links, peer_links, peer_door, context.clock).run()
    if curve is not None:
        curve.close()
    zmq_context.term()
    return 1 if halt.failed else 0


def run_raft(context: ProcessContext) -> int:
    """Run consensus."""
    from actors.raft import RaftActor

    rng = random.Random(os.urandom(16))
    return run_shell(context, RaftActor(context.identity, context.config.raft, rng), peers=True, door=True)


def run_wal(context: ProcessContext) -> int:
    """Run the log writer."""
    from actors.wal import WalActor
    from storage.posix_disk import PosixDisk

    disk = PosixDisk(context.data_dir, lambda seconds: actor.metrics.observe(FSYNC_SECONDS, seconds))
    actor = WalActor(disk, context.config.storage, context.identity)
    return run_shell(context, actor, peers=True, door=False)


FSYNC_SECONDS = "etcd_disk_wal_fsync_duration_seconds"


def run_applier(context: ProcessContext) -> int:
    """Run the store."""
    from actors.applier import ApplierActor
    from storage.posix_disk import PosixDisk
    from storage.rocks import RocksEngine

    disk = PosixDisk(context.data_dir)

    def open_engine(path: str) -> RocksEngine:
        return RocksEngine(context.data_dir, path, context.config.storage)

    actor = ApplierActor(context.identity, disk, open_engine, context.config)
    return run_shell(context, actor, peers=False, door=False)


def run_snapshot_sender(context: ProcessContext) -> int:
    """Send one snapshot to one follower."""
    from actors.snapshot_sender import SnapshotSender
    from storage.posix_disk import PosixDisk

    actor = SnapshotSender(context.identity, PosixDisk(context.data_dir), context.arguments)
    return run_shell(context, actor, peers=True, door=False)


def run_snapshot_receiver(context: ProcessContext) -> int:
    """Receive one snapshot."""
    from actors.snapshot_receiver import SnapshotReceiver
    from storage.posix_disk import PosixDisk

    actor = SnapshotReceiver(context.identity, PosixDisk(context.data_dir), context.arguments)
    return run_shell(context, actor, peers=True, door=False)


def run_snapshot_exporter(context: ProcessContext) -> int:
    """Write one snapshot for a client, with what the other processes leave of the processor."""
    from actors.snapshot_exporter import SnapshotExporter
    from storage.posix_disk import PosixDisk
    from storage.rocks import RocksEngine

    def open_engine(path: str) -> RocksEngine:
        return RocksEngine(context.data_dir, path, context.config.storage, read_only=True)

    os.nice(EXPORTER_NICENESS)
    actor = SnapshotExporter(PosixDisk(context.data_dir), open_engine, context.arguments)
    return run_shell(context, actor, peers=False, door=False)


EXPORTER_NICENESS = 10
ROLES: dict[str, Role] = {
    "raft": run_raft,
    "wal": run_wal,
    "applier": run_applier,
    "snapshot_sender": run_snapshot_sender,
    "snapshot_receiver": run_snapshot_receiver,
    "snapshot_exporter": run_snapshot_exporter,
}
