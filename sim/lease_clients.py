"""Clients with leases in virtual time: holders, who grant, attach, keep alive and let go, and owners of a lock.

Owns what they ask for; how calls travel and are recorded is `sim.clients`'s. An owner of the lock writes under it with
the fencing token, the lock key's create revision, and sleeps now and then for longer than its lease lives.
"""

import random
from typing import Any, Final

from google.protobuf.message import Message as ProtoMessage

from protocol.wire import rpc_pb2 as rpc
from sim.clients import Call, SimClient
from sim.workload import RESPONSES, Request, Seen, Workload, written

PREFIX: Final = b"l/"
PREFIX_END: Final = b"l0"
LOCK: Final = b"lock"
GUARDED: Final = b"guarded"
"""What only the owner of the lock writes; the value is the owner's token."""
HELD_MAX: Final = 3


def ttl_s_min(election_timeout_ms: int) -> int:
    """Return the shortest time a gateway grants without raising it."""
    return -(-3 * election_timeout_ms // 2000)


class LeaseWorkload(Workload):
    """A holder of a few leases, with keys that now and then go from one to another."""

    def __init__(self, rng: random.Random, client: int, ttl_s: int) -> None:
        super().__init__(rng, client)
        self._ttl_s = ttl_s
        self._held: list[int] = []
        self._let_go: list[int] = []
        """Those that nobody keeps alive any more."""
        self._granted = 0

    def next(self, seen: Seen) -> Request:
        """Return the next request."""
        del seen
        self._made += 1
        rng = self._rng
        if not self._held or (len(self._held) < HELD_MAX and rng.random() < 0.15):
            return self._grant(rng.choice((1, 1, 2, 4)) * self._ttl_s)
        lease = rng.choice(self._held)
        shape = rng.random()
        if shape < 0.3:
            return _asked("keep_alive", rpc.LeaseKeepAliveRequest(ID=lease))
        if shape < 0.45:
            asked = rng.choice([*self._held, *self._let_go[-HELD_MAX:]])
            return _asked("time_to_live", rpc.LeaseTimeToLiveRequest(ID=asked, keys=rng.random() < 0.5))
        if shape < 0.7:
            return written("put", rpc.PutRequest(key=self._name(), value=self._unique(), lease=lease))
        if shape < 0.85:
            return _asked("range", rpc.RangeRequest(key=PREFIX, range_end=PREFIX_END))
        if shape < 0.92:
            self._held.remove(lease)
            self._let_go.append(lease)
            return _asked("time_to_live", rpc.LeaseTimeToLiveRequest(ID=lease))
        if shape < 0.95:
            self._held.remove(lease)
            return written("revoke", rpc.LeaseRevokeRequest(ID=lease), self._unique())
        if shape < 0.98:
            return written("put", rpc.PutRequest(key=self._name(), value=self._unique()))
        return written("delete", rpc.DeleteRangeRequest(key=self._name()), self._unique())

    def learn(self, request: ProtoMessage, response: Any) -> None:
        """Take an answer."""
        if isinstance(request, rpc.LeaseGrantRequest):
            self._held.append(request.ID)
        elif isinstance(request, rpc.LeaseKeepAliveRequest) and not response.TTL and request.ID in self._held:
            self._held.remove(request.ID)

    def pause_us(self) -> int:
        """Return how long it thinks before its next call beside what every client does."""
        return 0

    def _grant(self, ttl_s: int) -> Request:
        self._granted += 1
        return written("grant", rpc.LeaseGrantRequest(ID=self._client << 20 | self._granted, TTL=ttl_s))

    def _name(self) -> bytes:
        return PREFIX + b"%d" % self._rng.randrange(4)


class LockWorkload(LeaseWorkload):
    """Somebody who wants the lock, and writes while it believes to own it."""

    def __init__(self, rng: random.Random, client: int, ttl_s: int) -> None:
        super().__init__(rng, client, ttl_s)
        self._lease = 0
        self._token = 0
        self._answered = True
        self._sleeps = False

    def next(self, seen: Seen) -> Request:
        """Go one step further; what was not answered begins anew, under another lease."""
        del seen
        self._made += 1
        if not self._answered:
            self._lease = self._token = 0
        self._answered = False
        if not self._lease:
            return self._grant(self._ttl_s)
        if not self._token:
            return self._under(0, rpc.PutRequest(key=LOCK, value=self._unique(), lease=self._lease))
        luck = self._rng.random()
        self._sleeps = luck < 0.3
        if luck > 0.6:
            return _asked("keep_alive", rpc.LeaseKeepAliveRequest(ID=self._lease))
        return self._under(self._token, rpc.PutRequest(key=GUARDED, value=b"%d %s" % (self._token, self._unique())))

    def _under(self, create_revision: int, put: rpc.PutRequest) -> Request:
        """Put if the lock key was created at this revision; 0: if there is none."""
        compare = rpc.Compare(key=LOCK, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL)
        compare.create_revision = create_revision
        return written("txn", rpc.TxnRequest(compare=[compare], success=[rpc.RequestOp(request_put=put)]))

    def learn(self, request: ProtoMessage, response: Any) -> None:
        """Take an answer; a lease that is said to be over does not end belief in the lock: a careless owner."""
        self._answered = True
        if isinstance(request, rpc.LeaseGrantRequest):
            self._lease = request.ID
        elif isinstance(request, rpc.TxnRequest) and not self._token:
            self._token = response.header.revision if response.succeeded else 0
            self._lease = self._lease if response.succeeded else 0
        elif isinstance(request, rpc.TxnRequest) and not response.succeeded:
            self._lease = self._token = 0

    def pause_us(self) -> int:
        """Return a time longer than the lease lives, where it falls asleep."""
        sleeps, self._sleeps = self._sleeps, False
        return int(self._ttl_s * 1_000_000 * self._rng.uniform(1.1, 2)) if sleeps else 0


class LeaseClient(SimClient):
    """One client of either kind."""

    lease_workload: LeaseWorkload

    def make_workload(self, rng: random.Random) -> Workload:
        """Return what this client asks for."""
        ttl_s = ttl_s_min(self.world.config.raft.election_timeout_ms)
        # Leases have ids above those that the usual workload makes up.
        make = LockWorkload if self.number % 2 else LeaseWorkload
        self.lease_workload = make(rng, self.number + 1, ttl_s)
        return self.lease_workload

    def _learn(self, call: Call, body: bytes) -> None:
        self.lease_workload.learn(call.request.message, RESPONSES[call.request.method].FromString(body))

    def _pause_us(self) -> int:
        return super()._pause_us() + self.lease_workload.pause_us()


def _asked(method: str, message: ProtoMessage) -> Request:
    return Request(method, message, message.SerializeToString(), writes=False)
