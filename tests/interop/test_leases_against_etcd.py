"""Leases asked of real etcd and of actd: the same requests over gRPC, the same script of etcdctl, the same answers."""

import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Cluster, running, wait_until
from etcd_server import need_etcd, running_etcd
from google.protobuf.message import Message
from grpc_doors import Door
from kv_answers import comparable

from protocol.wire import rpc_pb2 as rpc

ETCDCTL = shutil.which("etcdctl")
pytestmark = [pytest.mark.processes, pytest.mark.slow]
IDS = (1, 2, 3, -4, (1 << 63) - 1)
KEYS = (b"a", b"a\x00", b"b", b"c")
RESULTS = (rpc.Compare.EQUAL, rpc.Compare.GREATER, rpc.Compare.LESS, rpc.Compare.NOT_EQUAL)
STEPS = 400
SCRIPT = [
    ["lease", "grant", "100"],
    ["put", "l/a", "1", "--lease={0}"],
    ["put", "l/b", "1", "--lease={0}"],
    ["lease", "timetolive", "{0}", "--keys"],
    ["lease", "timetolive", "{0}"],
    ["lease", "keep-alive", "--once", "{0}"],
    ["lease", "grant", "200"],
    ["put", "l/b", "2", "--lease={1}"],
    ["put", "l/a", "--ignore-value", "--lease={1}"],
    ["lease", "timetolive", "{0}", "--keys"],
    ["lease", "list"],
    ["get", "l/", "--prefix", "-w", "fields"],
    ["lease", "revoke", "{1}"],
    ["get", "l/", "--prefix"],
    ["lease", "revoke", "{1}"],
    ["lease", "timetolive", "{1}"],
    ["lease", "keep-alive", "--once", "{1}"],
    ["put", "l/c", "3", "--lease={1}"],
    ["lease", "grant", "9000000001"],
    ["lease", "revoke", "{0}"],
    ["lease", "list"],
]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Cluster]]:
    """A fresh etcd, and a fresh cluster of ours."""
    need_etcd("etcdctl")
    directory = tmp_path_factory.mktemp("leases")
    with running_etcd(directory) as address, running(Cluster(directory / "actd")) as cluster:
        cluster.start()
        yield address, cluster


@pytest.fixture(autouse=True)
def both_begin_alike(addresses: tuple[str, Cluster]) -> None:
    """No lease and no key of another test, and the same revision."""
    etcd, cluster = addresses
    doors = [Door(etcd), Door(cluster.client_address("n1"))]
    for door in doors:
        for status in door.answer(rpc.LeaseLeasesRequest())[1].leases:
            door.answer(rpc.LeaseRevokeRequest(ID=status.ID))
        door.answer(rpc.DeleteRangeRequest(key=b"\x00", range_end=b"\x00"))
    while len(revisions := {_revision(door): door for door in doors}) > 1:
        behind = revisions[min(revisions)]
        behind.answer(rpc.PutRequest(key=b"catches up"))
        if max(revisions) - min(revisions) > 1:
            behind.answer(rpc.DeleteRangeRequest(key=b"catches up"))
    for door in doors:
        door.answer(rpc.PutRequest(key=b"catches up"))
        door.answer(rpc.DeleteRangeRequest(key=b"catches up"))
        door.channel.close()


def _revision(door: Door) -> int:
    return int(door.answer(rpc.RangeRequest(key=b"a", count_only=True))[1].header.revision)


def etcdctl(address: str, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run etcdctl against one endpoint."""
    assert ETCDCTL is not None, "the fixture saw to that"
    command = [ETCDCTL, f"--endpoints={address}", *arguments]
    environment = {"PATH": os.environ["PATH"], "ETCDCTL_API": "3"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


class Script:
    """Plays the script at one endpoint; leases go by the order in which they were granted."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ids: list[str] = []

    def say(self, arguments: list[str]) -> tuple[int, list[str], list[str]]:
        """Run one line; return what both must agree on."""
        done = etcdctl(self._address, [argument.format(*self._ids) for argument in arguments])
        granted = re.match(r"lease (\w{16}) granted with TTL\(\d+s\)\n", done.stdout)
        if granted and arguments[1] == "grant":
            self._ids.append(granted[1])
        # "remaining" is a second less now and then; ids in decimal are those of `-w fields`.
        output = re.sub(r"remaining\(\d+s\)", "remaining", done.stdout)
        output = re.sub(r'"(ClusterID|MemberID|RaftTerm|Lease)" : -?\d+', r'"\1"', output)
        output = output.replace("[l/b l/a]", "[l/a l/b]")  # etcd's come from a map
        for number, lease in enumerate(self._ids):
            output = output.replace(lease, f"<{number}>")
        return done.returncode, sorted(output.splitlines()), re.findall(r"^\s*Error:.*$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_etcdctl_says_the_same_of_leases(addresses: tuple[str, Cluster], node: str) -> None:
    """Whichever member is asked, leader or not."""
    etcd, cluster = addresses
    theirs, ours = Script(etcd), Script(cluster.client_address(node))
    for arguments in SCRIPT:
        assert ours.say(arguments) == theirs.say(arguments), arguments


def test_random_lease_requests_are_answered_alike(addresses: tuple[str, Cluster]) -> None:
    """Grants, revokes, puts that attach and detach, times to live with keys, lists; on every member in turn."""
    etcd, cluster = addresses
    doors = [Door(etcd), *(Door(cluster.client_address(name)) for name in cluster.names)]
    rng = random.Random(7)
    seen: Counter[tuple[str, str]] = Counter()
    for step in range(STEPS):
        request = _request(rng)
        node = doors[1 + step % 3]
        expected = comparable(request, doors[0].answer(request))
        assert comparable(request, node.answer(request)) == expected, f"step {step}: {request}"
        seen[type(request).__name__, str(expected[0])] += 1
        lease = rng.choice(IDS)
        alive = [[(each.ID, each.TTL) for each in door.keep_alive(lease, lease)] for door in (doors[0], node)]
        assert alive[1] == alive[0], f"step {step}: keep-alive of {lease}"
    for door in doors:
        door.channel.close()
    for outcome in ("LeaseGrantRequest", "FAILED_PRECONDITION"), ("LeaseGrantRequest", "OUT_OF_RANGE"):
        assert seen[outcome], seen
    assert len(seen) >= 11, seen


def _request(rng: random.Random) -> Message:
    lease, key = rng.choice(IDS), rng.choice(KEYS)
    roll = rng.random()
    if roll < 0.2:
        return rpc.LeaseGrantRequest(ID=lease, TTL=rng.choice((60, 1000, 9_000_000_000, 9_000_000_001)))
    if roll < 0.3:
        return rpc.LeaseRevokeRequest(ID=lease)
    if roll < 0.6:
        named = rng.choice((lease, lease, 0))
        return rpc.PutRequest(key=key, value=b"v", lease=named, prev_kv=True, ignore_lease=rng.random() < 0.15)
    if roll < 0.65:
        return rpc.DeleteRangeRequest(key=key, prev_kv=True)
    if roll < 0.75:
        put = rpc.PutRequest(key=key, lease=lease)
        result = rng.choice(RESULTS)
        compare = rpc.Compare(key=key, target=rpc.Compare.LEASE, result=result, lease=rng.choice(IDS))
        return rpc.TxnRequest(compare=[compare], success=[rpc.RequestOp(request_put=put)])
    if roll < 0.9:
        return rpc.LeaseTimeToLiveRequest(ID=lease, keys=rng.random() < 0.7)
    if roll < 0.95:
        return rpc.LeaseLeasesRequest()
    return rpc.RangeRequest(key=b"\x00", range_end=b"\x00")


def test_a_lease_lives_as_long_as_it_is_kept_alive_and_then_ends(addresses: tuple[str, Cluster]) -> None:
    """`etcdctl lease keep-alive` through every member; once it stops, the key goes, and not before its time."""
    _, cluster = addresses
    doors = {name: Door(cluster.client_address(name)) for name in cluster.names}
    first = doors["n1"]
    shortest = first.answer(rpc.LeaseGrantRequest(TTL=1))[1]
    ttl_s = shortest.TTL
    assert ttl_s >= 1
    assert first.answer(rpc.PutRequest(key=b"kept", lease=shortest.ID))[0] == "OK"
    began = time.monotonic()
    while time.monotonic() - began < 3 * ttl_s:
        for door in doors.values():
            asked = time.monotonic()
            assert [(each.ID, each.TTL) for each in door.keep_alive(shortest.ID)] == [(shortest.ID, ttl_s)]
    assert first.answer(rpc.RangeRequest(key=b"kept"))[1].count == 1
    wait_until(lambda: not first.answer(rpc.RangeRequest(key=b"kept"))[1].count, 30, "the lease runs out")
    assert time.monotonic() - asked >= ttl_s
    for door in doors.values():
        assert door.keep_alive(shortest.ID)[0].TTL == 0
        door.channel.close()


def test_etcdctl_keeps_a_lease_alive_on_one_stream(addresses: tuple[str, Cluster], tmp_path: Path) -> None:
    """The client library paces itself by the times it is told."""
    _, cluster = addresses
    address = cluster.client_address("n3")
    granted = re.match(r"lease (\w+) ", etcdctl(address, ["lease", "grant", "3"]).stdout)
    assert granted is not None
    assert ETCDCTL is not None
    said = tmp_path / "said"
    command = [ETCDCTL, f"--endpoints={address}", "lease", "keep-alive", granted[1]]
    with said.open("wb") as output, subprocess.Popen(command, stdout=output, env={"ETCDCTL_API": "3"}) as process:
        try:
            wait_until(
                lambda: said.read_text().count("keepalived with TTL(3)") >= 4, 30, "it was kept alive four times"
            )
        finally:
            process.kill()
    wait_until(
        lambda: "already expired" in etcdctl(address, ["lease", "timetolive", granted[1]]).stdout, 30, "it runs out"
    )
