"""Locks and elections asked of real etcd and of actd: the services over gRPC, and `etcdctl lock` and `elect`."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from clusters import Cluster, running, wait_until
from etcd_server import need_etcd, running_etcd
from google.protobuf.message import Message
from grpc_doors import CALL_S, Door, answer_of

from protocol.wire import election_pb2 as election
from protocol.wire import lock_pb2 as lock
from protocol.wire import rpc_pb2 as rpc

pytestmark = [pytest.mark.processes, pytest.mark.slow]
ETCDCTL = shutil.which("etcdctl")
LEASES = (0x70, 0x71, 0x72, 0x73)
PATHS: dict[type[Message], tuple[str, type[Any]]] = {
    lock.LockRequest: ("v3lockpb.Lock/Lock", lock.LockResponse),
    lock.UnlockRequest: ("v3lockpb.Lock/Unlock", lock.UnlockResponse),
    election.CampaignRequest: ("v3electionpb.Election/Campaign", election.CampaignResponse),
    election.ProclaimRequest: ("v3electionpb.Election/Proclaim", election.ProclaimResponse),
    election.LeaderRequest: ("v3electionpb.Election/Leader", election.LeaderResponse),
    election.ResignRequest: ("v3electionpb.Election/Resign", election.ResignResponse),
}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Cluster]]:
    """A fresh etcd, and a fresh cluster of ours."""
    need_etcd("etcdctl")
    directory = tmp_path_factory.mktemp("services")
    with running_etcd(directory) as address, running(Cluster(directory / "actd")) as cluster:
        cluster.start()
        yield address, cluster


@pytest.fixture
def shops(addresses: tuple[str, Cluster]) -> Iterator[list["Shop"]]:
    """Both, with fresh leases and no keys, at one revision."""
    etcd, cluster = addresses
    both = [Shop(etcd), Shop(cluster.client_address("n2"))]
    for shop in both:
        for status in shop.kv(rpc.LeaseLeasesRequest()).leases:
            shop.kv(rpc.LeaseRevokeRequest(ID=status.ID))
        shop.kv(rpc.DeleteRangeRequest(key=b"\x00", range_end=b"\x00"))
    target = 2 + max(shop.revision for shop in both)
    for shop in both:
        while shop.revision < target:
            shop.kv(rpc.PutRequest(key=b"catches up"))
        for lease in LEASES:
            shop.kv(rpc.LeaseGrantRequest(ID=lease, TTL=300))
    yield both
    for shop in both:
        shop.close()


class Shop:
    """One store's services."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.door = Door(address)
        self.waiting: dict[str, Any] = {}
        self.leaders: dict[str, election.LeaderKey] = {}
        self.observer: Any = None

    def close(self) -> None:
        """End what waits, and the connection."""
        for call in [*self.waiting.values(), *([self.observer] if self.observer else [])]:
            call.cancel()
        self.door.channel.close()

    def kv(self, request: Message) -> Any:
        """Ask the store itself."""
        status, response = self.door.answer(request)
        assert status == "OK", response
        return response

    @property
    def revision(self) -> int:
        """Where the store stands."""
        return int(self.kv(rpc.RangeRequest(key=b"a", count_only=True)).header.revision)

    def begin(self, name: str, request: Message, timeout_s: float = CALL_S) -> None:
        """Make a call that may wait."""
        path, form = PATHS[type(request)]
        method: Any = self.door.channel.unary_unary(
            f"/{path}", request_serializer=type(request).SerializeToString, response_deserializer=form.FromString
        )
        self.waiting[name] = method.future(request, timeout=timeout_s)

    def end(self, name: str) -> list[object]:
        """Return what both must agree on of a call's answer."""
        status, response = answer_of(self.waiting.pop(name))
        if status != "OK":
            # etcd's services lose the code of what the store refuses them: all of it is UNKNOWN.
            return ["UNKNOWN" if status in ("NOT_FOUND", "INVALID_ARGUMENT") else status, response]
        if isinstance(response, election.CampaignResponse):
            self.leaders[name] = response.leader
        response.header.ClearField("cluster_id")
        response.header.ClearField("member_id")
        response.header.ClearField("raft_term")
        return [status, response]

    def call(self, request: Message) -> list[object]:
        """Make a call that is answered at once."""
        self.begin("once", request)
        return self.end("once")

    def keys(self, prefix: bytes) -> list[tuple[bytes, int, bytes]]:
        """What is under a prefix."""
        found = self.kv(rpc.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0"))
        return [(pair.key, pair.lease, pair.value) for pair in found.kvs]

    def await_keys(self, prefix: bytes, count: int) -> list[tuple[bytes, int, bytes]]:
        """Wait until so many stand in line."""
        wait_until(lambda: len(self.keys(prefix)) == count, 20, f"{count} keys under {prefix!r}")
        return self.keys(prefix)

    def observe(self, name: bytes) -> None:
        """Open a stream of leaders."""
        method: Any = self.door.channel.unary_stream(
            "/v3electionpb.Election/Observe",
            request_serializer=election.LeaderRequest.SerializeToString,
            response_deserializer=election.LeaderResponse.FromString,
        )
        self.observer = method(election.LeaderRequest(name=name), timeout=CALL_S)

    def told(self) -> tuple[bytes, bytes, int, int]:
        """Return the next leader that is told of."""
        pair = next(self.observer).kv
        return pair.key, pair.value, pair.create_revision, pair.mod_revision


def both_say(shops: list[Shop], step: Callable[[Shop], object]) -> object:
    """Do the same at both; the answers must be equal. Returns actd's."""
    theirs, ours = (step(shop) for shop in shops)
    assert ours == theirs
    return ours


def test_locks_are_passed_on_alike(shops: list[Shop]) -> None:
    """Three wait behind a holder: one gives up, one loses its lease, one gets the lock."""
    for shop in shops:
        shop.begin("a", lock.LockRequest(name=b"x", lease=LEASES[0]))
    both_say(shops, lambda shop: shop.end("a"))
    both_say(shops, lambda shop: shop.call(lock.LockRequest(name=b"x", lease=LEASES[0])))
    for place, name in enumerate("bcd", 1):
        for shop in shops:
            shop.begin(name, lock.LockRequest(name=b"x", lease=LEASES[place]))
        both_say(shops, lambda shop, count=place + 1: shop.await_keys(b"x/", count))  # type: ignore[misc]
    for shop in shops:
        shop.waiting.pop("b").cancel()
    both_say(shops, lambda shop: shop.await_keys(b"x/", 3))
    for shop in shops:
        shop.kv(rpc.LeaseRevokeRequest(ID=LEASES[2]))
    both_say(shops, lambda shop: shop.call(lock.UnlockRequest(key=b"x/70")))
    assert both_say(shops, lambda shop: shop.end("d")) is not None
    ours = shops[1].end("c")
    assert ours == ["UNKNOWN", "mutex: session is expired"], "etcd 3.4 answers as if it had the lock"
    both_say(shops, lambda shop: shop.await_keys(b"x/", 1))
    both_say(shops, lambda shop: shop.call(lock.UnlockRequest(key=b"x/nobody")))


def test_a_lock_that_waits_too_long_ends_alike(shops: list[Shop]) -> None:
    """The client's deadline ends the call, and the key."""
    for shop in shops:
        shop.begin("a", lock.LockRequest(name=b"x", lease=LEASES[0]))
        shop.end("a")
        shop.begin("b", lock.LockRequest(name=b"x", lease=LEASES[1]), timeout_s=0.5)
    assert both_say(shops, lambda shop: shop.end("b")[:1]) == ["DEADLINE_EXCEEDED"]
    both_say(shops, lambda shop: shop.await_keys(b"x/", 1))


def test_what_cannot_be_locked_is_refused_alike(shops: list[Shop]) -> None:
    """An unknown lease; no name; no key to unlock; a negative lease."""
    for request in (
        lock.LockRequest(name=b"x", lease=99),
        lock.LockRequest(lease=LEASES[0]),
        lock.LockRequest(name=b"bin\xff\x00", lease=LEASES[1]),
        lock.UnlockRequest(),
        lock.LockRequest(name=b"x", lease=-5),
    ):
        both_say(shops, lambda shop, asked=request: shop.call(asked))  # type: ignore[misc]


def test_without_a_lease_both_grant_one_of_a_minute(shops: list[Shop]) -> None:
    """The key names it."""

    def lock_it(shop: Shop) -> int:
        shop.begin("a", lock.LockRequest(name=b"x"))
        status, response = answer_of(shop.waiting.pop("a"))
        assert status == "OK"
        lease = int(response.key.removeprefix(b"x/"), 16)
        return int(shop.kv(rpc.LeaseTimeToLiveRequest(ID=lease)).grantedTTL)

    assert both_say(shops, lock_it) == 60


def test_elections_go_alike(shops: list[Shop]) -> None:
    """Campaign, proclaim, observe, resign, lose the lease, with every refusal there is."""
    both_say(shops, lambda shop: shop.call(election.LeaderRequest(name=b"e")))
    for request in (election.ProclaimRequest(value=b"v"), election.ResignRequest()):
        both_say(shops, lambda shop, asked=request: shop.call(asked))  # type: ignore[misc]
    for shop in shops:
        shop.begin("a", election.CampaignRequest(name=b"e", lease=LEASES[0], value=b"one"))
    both_say(shops, lambda shop: shop.end("a"))
    for shop in shops:
        shop.observe(b"e")
    both_say(shops, lambda shop: shop.told())
    for shop in shops:
        shop.begin("b", election.CampaignRequest(name=b"e", lease=LEASES[1], value=b"two"))
    both_say(shops, lambda shop: shop.await_keys(b"e/", 2))
    both_say(shops, lambda shop: shop.call(election.ProclaimRequest(leader=shop.leaders["a"], value=b"more")))
    both_say(shops, lambda shop: shop.told())
    both_say(shops, lambda shop: shop.call(election.LeaderRequest(name=b"e")))
    again = election.CampaignRequest(name=b"e", lease=LEASES[0], value=b"again")
    both_say(shops, lambda shop: shop.call(again))
    both_say(shops, lambda shop: shop.told())
    both_say(shops, lambda shop: shop.call(election.ResignRequest(leader=shop.leaders["a"])))
    both_say(shops, lambda shop: shop.end("b"))
    both_say(shops, lambda shop: shop.told())
    both_say(shops, lambda shop: shop.call(election.ProclaimRequest(leader=shop.leaders["a"], value=b"late")))
    both_say(shops, lambda shop: shop.call(election.ResignRequest(leader=shop.leaders["a"])))
    for shop in shops:
        shop.kv(rpc.LeaseRevokeRequest(ID=LEASES[1]))
        shop.begin("c", election.CampaignRequest(name=b"e", lease=LEASES[2], value=b"three"))
    both_say(shops, lambda shop: shop.end("c"))
    both_say(shops, lambda shop: shop.told())
    both_say(shops, lambda shop: shop.call(election.CampaignRequest(name=b"e", lease=99, value=b"v")))


def test_a_lock_waits_across_a_change_of_leader(addresses: tuple[str, Cluster]) -> None:
    """The leader's consensus is killed while a call waits on another member: it is answered once the lock is free."""
    _, cluster = addresses
    leader = cluster.await_leader()
    here = next(name for name in cluster.names if name != leader)
    shop = Shop(cluster.client_address(here))
    for lease in LEASES[:2]:
        shop.door.answer(rpc.LeaseGrantRequest(ID=lease, TTL=300))
    shop.begin("holder", lock.LockRequest(name=b"survives", lease=LEASES[0]))
    assert shop.end("holder")[0] == "OK"
    shop.begin("waiter", lock.LockRequest(name=b"survives", lease=LEASES[1]), timeout_s=120)
    shop.await_keys(b"survives/", 2)
    cluster.kill("raft", leader)
    cluster.await_leader(60)
    shop.begin("unlock", lock.UnlockRequest(key=b"survives/70"), timeout_s=60)
    assert shop.end("unlock")[0] == "OK"
    assert shop.end("waiter")[0] == "OK"
    shop.close()
    cluster.await_serving(leader, 60)


# --- etcdctl ---------------------------------------------------------------------------------------


class Etcdctl:
    """An etcdctl that runs while a test goes on."""

    def __init__(self, address: str, *arguments: str) -> None:
        assert ETCDCTL is not None, "the fixture saw to that"
        command = ["setpriv", "--pdeathsig=KILL", ETCDCTL, f"--endpoints={address}", *arguments]
        environment = {"PATH": os.environ["PATH"], "ETCDCTL_API": "3"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, bufsize=1
        )

    def line(self) -> str:
        """Return its next line, with the lease in a key left out."""
        assert self.process.stdout is not None
        return re.sub(r"/[0-9a-f]{12,16}\b", "/<lease>", self.process.stdout.readline().rstrip("\n"))

    def end(self) -> tuple[int, list[str], list[str]]:
        """Wait for its end; return what both must agree on."""
        output, errors = self.process.communicate(timeout=60)
        lines = [re.sub(r"/[0-9a-f]{12,16}\b", "/<lease>", line) for line in output.splitlines()]
        # Whether its logger warns of what the interrupt cut short is chance.
        told = [line for line in errors.splitlines() if not line.startswith('{"level":"warn"')]
        return self.process.returncode, lines, told

    def interrupt(self) -> tuple[int, list[str], list[str]]:
        """Send it Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.end()


def test_etcdctl_locks_alike(shops: list[Shop]) -> None:
    """A holder, one that waits, a command under a lock, and what is left."""
    holders = [Etcdctl(shop.address, "lock", "x") for shop in shops]
    assert [holder.line() for holder in holders] == ["x/<lease>"] * 2
    assert [holder.line() for holder in holders] == [""] * 2, "the value"
    waiters = [Etcdctl(shop.address, "lock", "--ttl=5", "x", "printenv", "ETCD_LOCK_KEY") for shop in shops]
    for shop in shops:
        shop.await_keys(b"x/", 2)
    theirs, ours = (holder.interrupt() for holder in holders)
    assert ours == theirs
    theirs, ours = (waiter.end() for waiter in waiters)
    assert ours == theirs
    assert ours[:2] == (0, ["x/<lease>"])
    for shop in shops:
        shop.await_keys(b"x/", 0)


def test_etcdctl_elects_alike(shops: list[Shop]) -> None:
    """Two candidates in turn, and one who listens."""
    first = [Etcdctl(shop.address, "elect", "e", "one") for shop in shops]
    assert [each.line() for each in first] == ["e/<lease>"] * 2
    assert [each.line() for each in first] == ["one"] * 2
    listeners = [Etcdctl(shop.address, "elect", "-l", "e") for shop in shops]
    assert [each.line() for each in listeners] == ["e/<lease>"] * 2
    assert [each.line() for each in listeners] == ["one"] * 2
    second = [Etcdctl(shop.address, "elect", "e", "two") for shop in shops]
    for shop in shops:
        shop.await_keys(b"e/", 2)
    theirs, ours = (each.interrupt() for each in first)
    assert ours == theirs
    for each in (*second, *listeners):
        assert (each.line(), each.line()) == ("e/<lease>", "two")
    for group in (second, listeners):
        theirs, ours = (each.interrupt() for each in group)
        assert ours == theirs


def test_grpc_knows_the_services(shops: list[Shop]) -> None:
    """A method that the service does not have is refused in the same words."""
    for path in ("/v3lockpb.Lock/Steal", "/v3electionpb.Election/Coup"):
        both_say(shops, lambda shop, named=path: shop.door.raw(named, b"", CALL_S))  # type: ignore[misc]
    assert grpc.StatusCode.UNIMPLEMENTED.name == shops[1].door.raw("/v3lockpb.Lock/Steal", b"")[0]
