"""A gateway's core over a real store, turn by turn and in virtual time: what tests of the services stand on."""

import random
from typing import Any

from google.protobuf.message import Message
from zmq_node import SoloCore

from actors.actor import Source
from gateway.calls import whole
from gateway.methods import METHODS, STREAM_METHODS
from gateway.streams import StreamHead
from protocol import local
from protocol.config import ClusterConfig, LimitsConfig, NodeConfig, WatchConfig
from protocol.errors import ErrorCode
from protocol.identity import NodeIdentity
from protocol.types import ClusterId, Incarnation, MemberId, Millis, StoreId, Term
from protocol.wire import election_pb2 as election
from protocol.wire import lock_pb2 as lock
from protocol.wire import rpc_pb2 as rpc
from sim.disk import SimDisk
from sim.engine import SimEngine
from storage.mvcc import MvccStore

FORMS: dict[type[Message], tuple[str, type[Any]]] = {
    lock.LockRequest: ("v3lockpb.Lock/Lock", lock.LockResponse),
    lock.UnlockRequest: ("v3lockpb.Lock/Unlock", lock.UnlockResponse),
    election.CampaignRequest: ("v3electionpb.Election/Campaign", election.CampaignResponse),
    election.ProclaimRequest: ("v3electionpb.Election/Proclaim", election.ProclaimResponse),
    election.LeaderRequest: ("v3electionpb.Election/Leader", election.LeaderResponse),
    election.ResignRequest: ("v3electionpb.Election/Resign", election.ResignResponse),
    rpc.PutRequest: ("etcdserverpb.KV/Put", rpc.PutResponse),
    rpc.RangeRequest: ("etcdserverpb.KV/Range", rpc.RangeResponse),
    rpc.CompactionRequest: ("etcdserverpb.KV/Compact", rpc.CompactionResponse),
    rpc.LeaseGrantRequest: ("etcdserverpb.Lease/LeaseGrant", rpc.LeaseGrantResponse),
    rpc.LeaseRevokeRequest: ("etcdserverpb.Lease/LeaseRevoke", rpc.LeaseRevokeResponse),
    rpc.LeaseLeasesRequest: ("etcdserverpb.Lease/LeaseLeases", rpc.LeaseLeasesResponse),
}
Answer = tuple[ErrorCode, Any]


class ServiceWorld:
    """One member that leads itself."""

    def __init__(self, *, watchers_max: int = 1000, **limits: int) -> None:
        node = NodeConfig(name="n", client="127.0.0.1:1", peer="127.0.0.1:2", zmq="127.0.0.1:3")
        config = ClusterConfig(
            nodes=(node,), limits=LimitsConfig(**limits), watch=WatchConfig(watchers_max=watchers_max)
        )
        identity = NodeIdentity(ClusterId(1), MemberId(2), "n", StoreId(3), Incarnation(1), ())
        store = MvccStore(
            SimEngine(SimDisk(random.Random(1)), "store"), ClusterId(1), MemberId(2), response_bytes_max=1 << 26
        )
        self.core = SoloCore(identity, config, store)
        self.now = Millis(0)
        self.answers: dict[int, Answer] = {}
        self.told: dict[int, list[election.LeaderResponse]] = {}
        """By stream, what observers have heard."""
        self.ended: dict[int, ErrorCode] = {}
        self._forms: dict[int, type[Any]] = {}
        self._calls = 0

    # --- clients -----------------------------------------------------------------------------------

    def start(self, *requests: Message, patience_ms: int | None = None) -> int:
        """Begin calls, and let everything come to rest; return the id of the last."""
        deadline = None if patience_ms is None else Millis(self.now + patience_ms)
        for request in requests:
            self._calls += 1
            path, form = FORMS[type(request)]
            self._forms[self._calls] = form
            method = METHODS[f"/{path}".encode()]
            self.core.submit(self._calls, method, request.SerializeToString(), self.now, deadline)
        self.run()
        return self._calls

    def call(self, request: Message) -> Answer:
        """Make a call that is answered at once."""
        return self.answers.pop(self.start(request))

    def do(self, request: Message) -> Any:
        """Make a call that succeeds; return the response."""
        code, response = self.call(request)
        assert not code, code.name
        return response

    def waits(self, call_id: int) -> bool:
        """Whether a call has no answer yet."""
        return call_id not in self.answers

    def cancel(self, call_id: int) -> None:
        """The client is gone."""
        self.core.cancel(call_id)
        self.run()

    def observe(self, name: bytes) -> int:
        """Open a stream of leaders."""
        self._calls += 1
        self.told[self._calls] = []
        method = STREAM_METHODS[b"/v3electionpb.Election/Observe"]
        self.core.streams.open(self._calls, method, StreamHead(), self.now)
        body = election.LeaderRequest(name=name).SerializeToString()
        self.core.streams.message(self._calls, body, self.now)
        self.core.streams.half_close(self._calls, self.now)
        self.run()
        return self._calls

    def grant(self, ttl_s: int = 60) -> int:
        """Grant a lease."""
        return int(self.do(rpc.LeaseGrantRequest(TTL=ttl_s)).ID)

    def revoke(self, lease: int) -> None:
        """End a lease, as its end of time would."""
        self.do(rpc.LeaseRevokeRequest(ID=lease))

    def keys(self, prefix: bytes) -> list[bytes]:
        """Every key under a prefix, the oldest first."""
        found = self.do(rpc.RangeRequest(key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1])))
        return [pair.key for pair in sorted(found.kvs, key=lambda pair: pair.create_revision)]

    # --- the node ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Take turns until nothing moves."""
        core = self.core
        for _ in range(1000):
            core.end_turn(self.now)
            moved = bool(core.answers or core.streams.dirty)
            for call_id, code, body in core.answers:
                response = self._forms[call_id].FromString(whole(body)) if not code else None
                self.answers[call_id] = (ErrorCode(code), response)
            core.answers = []
            dirty, core.streams.dirty = core.streams.dirty, []
            for stream in dirty:
                messages, outcome = core.streams.take(stream)
                told = self.told.get(stream.call_id, [])
                told += [election.LeaderResponse.FromString(b"".join(pieces)) for pieces in messages]
                if outcome is not None:
                    self.ended[stream.call_id] = outcome
            core.check_invariants()
            if not moved and not core.watches.outbox and not (core.serving and core.waiting):
                return
        raise AssertionError("it never comes to rest")

    def pass_time(self, duration_ms: int) -> None:
        """Let time pass; what falls due happens."""
        until = Millis(self.now + duration_ms)
        while (due := self.core.deadline) is not None and due <= until:
            self.now = max(self.now, due)
            self.core.wake(self.now)
            self.run()
        self.now = until

    def lead(self, term: int, leader: int) -> None:
        """Raft says who leads."""
        message = local.LeadershipChanged(term=Term(term), leader=MemberId(leader), members=self.core.members.views)
        self.core.handle(message, Source("raft"), self.now)
        self.run()
