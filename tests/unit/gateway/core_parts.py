"""What tests of the gateway's core share: a core, the messages of its neighbours, requests."""

from actors.actor import Source
from actors.effects import Send
from gateway.auth_desk import Doorman
from gateway.core import GatewayCore
from gateway.methods import METHODS, Method
from protocol import local
from protocol.config import ClusterConfig, CompactionConfig, LimitsConfig, NodeConfig, RaftConfig, StorageConfig
from protocol.identity import NodeIdentity
from protocol.rights import AuthChanged
from protocol.types import ClusterId, Incarnation, Index, MemberId, Millis, Revision, StoreId, Term
from protocol.wire import rpc_pb2 as rpc

ME = MemberId(2)
OTHER = MemberId(7)
LIFE = Incarnation(4)
TIMEOUT_MS = 7000
"""etcd's 5 s and two election timeouts of 1 s."""


def make_core(
    *,
    quota_bytes: int = 0,
    compaction: CompactionConfig | None = None,
    doorman: Doorman | None = None,
    told: bool = True,
    **limits: int,
) -> GatewayCore:
    """A gateway that has heard of nobody yet, but (unless not `told`) that rights do not matter."""
    node = NodeConfig(name="n", client="127.0.0.1:1", peer="127.0.0.1:2", zmq="127.0.0.1:3")
    config = ClusterConfig(
        nodes=(node,),
        raft=RaftConfig(election_timeout_ms=1000),
        limits=LimitsConfig(**limits),
        storage=StorageConfig(quota_bytes=quota_bytes),
        compaction=compaction or CompactionConfig(),
    )
    core = GatewayCore(NodeIdentity(ClusterId(1), ME, "n", StoreId(3), LIFE, ()), config, doorman)
    if told:
        core.handle(rights_off(), Source("applier"), Millis(0))
    return core


def rights_off() -> AuthChanged:
    """What the applier tells of a store without authentication."""
    return AuthChanged(applied=Index(0), enabled=False, revision=1, roots=(), token_news=())


def view(member: MemberId, name: str) -> local.MemberView:
    """A member as raft tells of it."""
    urls = (f"http://{name}",)
    return local.MemberView(member=member, name=name, peer_urls=urls, client_urls=urls, is_learner=False)


MEMBERS = (view(ME, "n"), view(OTHER, "other"))


def tell(gateway: GatewayCore, source: str, message: local.LocalMessage, now: int = 0) -> None:
    """Hand a message of a neighbour over."""
    assert gateway.handle(message, Source(source), Millis(now)) == []


def lead(gateway: GatewayCore, term: int, leader: int = ME, now: int = 0) -> None:
    """Tell who leads."""
    message = local.LeadershipChanged(term=Term(term), leader=MemberId(leader), members=MEMBERS)
    tell(gateway, "raft", message, now)


def progress(gateway: GatewayCore, applied: int, logical_bytes: int = 0) -> None:
    """Tell where the store stands."""
    message = local.StoreProgressed(
        applied=Index(applied), revision=Revision(applied), compacted=Revision(0), logical_bytes=logical_bytes
    )
    tell(gateway, "applier", message)


def method(name: str, service: str = "KV") -> Method:
    """A method by its short name."""
    return METHODS[f"/etcdserverpb.{service}/{name}".encode()]


def ask(gateway: GatewayCore, call_id: int, name: str, body: bytes, now: int = 0, until: int | None = None) -> None:
    """Submit a request of KV."""
    gateway.submit(call_id, method(name), body, Millis(now), None if until is None else Millis(until))


def put(key: bytes = b"k", value: bytes = b"v") -> bytes:
    """A PutRequest."""
    return rpc.PutRequest(key=key, value=value).SerializeToString()


def get(key: bytes = b"k", *, serializable: bool = False) -> bytes:
    """A RangeRequest."""
    return rpc.RangeRequest(key=key, serializable=serializable).SerializeToString()


def turn(gateway: GatewayCore, now: int = 0) -> list[local.ProposeBatch | local.RequestReads | local.ServeReads]:
    """End a turn as the loop does; return the batches that leave it."""
    if gateway.deadline is not None and gateway.deadline <= now:
        gateway.wake(Millis(now))
    found: list[local.ProposeBatch | local.RequestReads | local.ServeReads] = []
    for effect in gateway.end_turn(Millis(now)):
        assert isinstance(effect, Send)
        if isinstance(effect.message, local.ClientsAttended):
            continue
        assert isinstance(effect.message, local.ProposeBatch | local.RequestReads | local.ServeReads)
        found.append(effect.message)
    gateway.check_invariants()
    return found


def only_turn(gateway: GatewayCore, now: int = 0) -> local.ProposeBatch | local.RequestReads | local.ServeReads:
    """End a turn that sends one batch."""
    (message,) = turn(gateway, now)
    return message


def applied(sequence: int, *codes: int, index: int = 9) -> local.CommandsApplied:
    """The applier's answers to a batch."""
    results = tuple((code, b"" if code else b"response") for code in codes)
    return local.CommandsApplied(
        incarnation=LIFE, sequence=sequence, results=results, applied=Index(index), revision=Revision(index)
    )


def served(sequence: int, *results: tuple[int, int, bytes], index: int = 9) -> local.ReadsServed:
    """The applier's answers to reads."""
    return local.ReadsServed(
        incarnation=LIFE, sequence=sequence, results=results, applied=Index(index), revision=Revision(index)
    )
