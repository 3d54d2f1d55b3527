"""What a simulated node is made of: the production actors behind one small factory, and the simulated ports.

Owns every line that knows a production constructor; the rest of `sim` sees actors only. Tests of the simulator itself
give the world other parts, to see whether the checkers notice.
"""

import random
from typing import TYPE_CHECKING, Any, Final, Protocol

from actors.actor import Actor
from actors.applier import ApplierActor
from actors.raft import RaftActor
from actors.snapshot_exporter import SnapshotExporter
from actors.snapshot_receiver import SnapshotReceiver
from actors.snapshot_sender import SnapshotSender
from actors.wal import WalActor
from gateway.calls import whole
from gateway.core import GatewayCore
from gateway.methods import KEEP_ALIVE, METHODS
from protocol.config import ClusterConfig
from protocol.identity import NodeIdentity
from protocol.local import SpawnRequested
from protocol.types import Millis
from sim.disk import SimDisk
from sim.engine import SimEngine
from storage.hash_kv import hash_slices
from storage.layout import COUNTS_KEY, STATE_KEY, pack_state, unpack_state

if TYPE_CHECKING:
    from sim.clients import Call
    from sim.node import SimNode

_METHODS: Final = {
    "put": METHODS[b"/etcdserverpb.KV/Put"],
    "range": METHODS[b"/etcdserverpb.KV/Range"],
    "delete": METHODS[b"/etcdserverpb.KV/DeleteRange"],
    "txn": METHODS[b"/etcdserverpb.KV/Txn"],
    "compact": METHODS[b"/etcdserverpb.KV/Compact"],
    "grant": METHODS[b"/etcdserverpb.Lease/LeaseGrant"],
    "revoke": METHODS[b"/etcdserverpb.Lease/LeaseRevoke"],
    "keep_alive": KEEP_ALIVE,
    "time_to_live": METHODS[b"/etcdserverpb.Lease/LeaseTimeToLive"],
    "member_list": METHODS[b"/etcdserverpb.Cluster/MemberList"],
    "member_add": METHODS[b"/etcdserverpb.Cluster/MemberAdd"],
    "member_remove": METHODS[b"/etcdserverpb.Cluster/MemberRemove"],
    "member_update": METHODS[b"/etcdserverpb.Cluster/MemberUpdate"],
    "member_promote": METHODS[b"/etcdserverpb.Cluster/MemberPromote"],
    "move_leader": METHODS[b"/etcdserverpb.Maintenance/MoveLeader"],
}


class Parts(Protocol):
    """Makes and touches actors for the world."""

    def make_disk(self, rng: random.Random) -> SimDisk:
        """A new machine's empty disk."""
        ...

    def make_raft(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The consensus actor."""
        ...

    def make_wal(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The log writer."""
        ...

    def make_applier(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The applier, over the simulated engine."""
        ...

    def make_gateway(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The gateway's core."""
        ...

    def make_helper(self, node: "SimNode", identity: NodeIdentity, request: SpawnRequested) -> Actor:
        """A snapshot's sender, receiver or exporter."""
        ...

    def submit(self, gateway: Any, call: "Call", now: Millis) -> None:
        """Hand a call to the gateway."""
        ...

    def drain_answers(self, gateway: Any) -> list[tuple[int, int, bytes]]:
        """Take what the gateway has answered: call id, code, body."""
        ...

    def store_of(self, applier: Any) -> tuple[int, int] | None:
        """Applied index and revision of an open store."""
        ...

    def is_idle(self, applier: Any) -> bool:
        """Whether the store has no work of its own left, such as a compaction."""
        ...

    def dump(self, applier: Any) -> list[tuple[bytes, bytes]]:
        """All rows of a store that must be equal on all members."""
        ...

    def hash_kv(self, applier: Any) -> int:
        """HashKV at the current revision."""
        ...


class ProductionParts:
    """The real actors over the simulated disk and engine."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config

    def make_disk(self, rng: random.Random) -> SimDisk:
        """A new machine's empty disk."""
        return SimDisk(rng)

    def make_raft(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The consensus actor, with luck of its own."""
        return RaftActor(identity, self._config.raft, random.Random(node.rng.getrandbits(64)))

    def make_wal(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The log writer."""
        return WalActor(node.disk_port, self._config.storage, identity)

    def make_applier(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The applier, over the simulated engine on the same disk."""
        disk = node.disk_port
        return ApplierActor(identity, disk, lambda path: SimEngine(disk, path), self._config)

    def make_gateway(self, node: "SimNode", identity: NodeIdentity) -> Actor:
        """The gateway's core."""
        return GatewayCore(identity, self._config)

    def make_helper(self, node: "SimNode", identity: NodeIdentity, request: SpawnRequested) -> Actor:
        """A snapshot sender or receiver."""
        if request.helper == "snapshot_sender":
            return SnapshotSender(identity, node.disk_port, request.arguments)
        if request.helper == "snapshot_exporter":
            disk = node.disk_port
            return SnapshotExporter(disk, lambda path: SimEngine(disk, path), request.arguments)
        assert request.helper == "snapshot_receiver", f"nobody knows a helper {request.helper}"
        return SnapshotReceiver(identity, node.disk_port, request.arguments)

    def submit(self, gateway: GatewayCore, call: "Call", now: Millis) -> None:
        """Hand a call to the gateway."""
        deadline = Millis(now + call.timeout_ms)
        gateway.submit(call.id, _METHODS[call.request.method], call.request.body, now, deadline)

    def drain_answers(self, gateway: GatewayCore) -> list[tuple[int, int, bytes]]:
        """Take what the gateway has answered: call id, code, body."""
        answers = [(call_id, code, whole(body)) for call_id, code, body in gateway.answers]
        gateway.answers.clear()
        return answers

    def store_of(self, applier: ApplierActor) -> tuple[int, int] | None:
        """Applied index and revision of an open store."""
        store = applier.store
        return None if store is None else (store.applied, store.revision)

    def is_idle(self, applier: ApplierActor) -> bool:
        """Whether no compaction has space to give back."""
        return applier.store is not None and not applier.store.compacting

    def dump(self, applier: ApplierActor) -> list[tuple[bytes, bytes]]:
        """All rows but the saved key counts, which each member saves when it flushes, and the size it has taken.

        That depends on what had been compacted away when something was written, which each does in its own time.
        """
        assert applier.store is not None, "a settled store is open"
        rows = [row for row in applier.store.engine.scan(b"", b"\xff" * 8) if row[0] not in (COUNTS_KEY, STATE_KEY)]
        state = unpack_state(applier.store.engine.get(STATE_KEY))
        return [*rows, (STATE_KEY, pack_state(state._replace(size=0)))]

    def hash_kv(self, applier: ApplierActor) -> int:
        """HashKV at the current revision."""
        store = applier.store
        assert store is not None, "a settled store is open"
        slices = hash_slices(store.engine, store.revision, store.compacted, 1000)
        while True:
            try:
                next(slices)
            except StopIteration as stop:
                return int(stop.value)
