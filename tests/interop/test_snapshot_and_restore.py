"""Backup and restore with tools no one here wrote: `etcdctl snapshot save`, real etcd, and `tools.restore`."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from clusters import Cluster, running
from etcd_server import need_etcd, running_etcd
from grpc_doors import Door

from actd import Client
from protocol.wire import rpc_pb2 as rpc

ETCDCTL = shutil.which("etcdctl")
pytestmark = [pytest.mark.processes, pytest.mark.slow]
EVERYTHING = rpc.RangeRequest(key=b"\x00", range_end=b"\x00")
KEYS = 3000


def etcdctl(*arguments: str) -> str:
    """Run etcdctl; return what it prints."""
    assert ETCDCTL is not None, "the fixture saw to that"
    environment = {"PATH": os.environ["PATH"], "ETCDCTL_API": "3"}
    done = subprocess.run(
        [ETCDCTL, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def restore(snapshot: Path, cluster: Cluster, *options: str) -> str:
    """Run `tools.restore`; return what it prints."""
    command = [
        sys.executable,
        "-m",
        "tools.restore",
        str(snapshot),
        str(cluster.file),
        f"--data-dir={cluster.data}",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else f"refused: {done.stderr}"


def fill(door: Door) -> None:
    """Overwrites, deletions, a compaction, leases with keys."""
    for lease in (7, 8):
        assert door.answer(rpc.LeaseGrantRequest(ID=lease, TTL=3600))[0] == "OK"
    for number in range(0, KEYS, 100):
        puts = [rpc.PutRequest(key=b"k%06d" % each, value=b"v" * (each % 300)) for each in range(number, number + 100)]
        assert door.answer(rpc.TxnRequest(success=[rpc.RequestOp(request_put=put) for put in puts]))[0] == "OK"
    for number in range(20):
        door.answer(rpc.PutRequest(key=b"k%06d" % number, value=b"again"))
        door.answer(rpc.PutRequest(key=b"leased%d" % number, lease=7))
    door.answer(rpc.DeleteRangeRequest(key=b"k0001", range_end=b"k0002"))
    door.answer(rpc.CompactionRequest(revision=40))
    door.answer(rpc.PutRequest(key=b"large", value=b"x" * 100_000))


def read(door: Door) -> tuple[list[object], list[int], list[int]]:
    """Every pair with its revisions, the hash, and the leases."""
    pairs: list[object] = list(door.answer(EVERYTHING)[1].kvs)
    hashed = door.answer(rpc.HashKVRequest())[1]
    leases = sorted(status.ID for status in door.answer(rpc.LeaseLeasesRequest())[1].leases)
    return pairs, [hashed.hash, hashed.compact_revision], leases


class Saved(NamedTuple):
    """A snapshot, what its member says, and where that is asked."""

    snapshot: Path
    wanted: tuple[list[object], list[int], list[int]]
    address: str
    door: str


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    """A snapshot of a filled member of ours, and what that member says."""
    need_etcd("etcdctl")
    directory = tmp_path_factory.mktemp("saved")
    with running(Cluster(directory / "actd", nodes=1)) as cluster:
        cluster.start()
        address = cluster.client_address("n1")
        door = Door(address)
        fill(door)
        snapshot = directory / "snapshot.db"
        etcdctl(f"--endpoints={address}", "snapshot", "save", str(snapshot))
        yield Saved(snapshot, read(door), address, cluster.zmq("n1"))
        door.channel.close()


def test_etcdctl_reads_what_it_has_saved(saved: Saved) -> None:
    """Its digest fits, and it finds every revision in it: the file is a bbolt database."""
    snapshot = saved.snapshot
    data = snapshot.read_bytes()
    assert len(data) % 512 == 32
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    _, revision, keys, _ = etcdctl("snapshot", "status", str(snapshot)).split(", ")
    assert int(revision) > 60
    assert int(keys) > KEYS


def test_our_client_saves_what_etcdctl_saves(saved: Saved, tmp_path: Path) -> None:
    """Through the ZeroMQ door, byte for byte the same file."""
    path = tmp_path / "ours.db"
    with Client(saved.door) as client:
        told = client.snapshot(path)
    assert path.read_bytes() == saved.snapshot.read_bytes()
    assert told.sha256 == path.read_bytes()[-32:]


def test_a_new_cluster_of_ours_begins_with_the_snapshot(saved: Saved, tmp_path: Path) -> None:
    """Three members, other ids, the same pairs, hash and leases; it elects, writes and restarts."""
    snapshot, wanted, _, _ = saved
    with running(Cluster(tmp_path / "restored")) as cluster:
        printed = restore(snapshot, cluster)
        assert printed.count("2 leases") == 3, printed
        assert "is not empty" in restore(snapshot, cluster)
        cluster.start()
        for name in cluster.names:
            door = Door(cluster.client_address(name))
            assert read(door) == wanted
            door.channel.close()
        door = Door(cluster.client_address("n2"))
        assert door.answer(rpc.LeaseRevokeRequest(ID=7))[0] == "OK"
        assert door.answer(rpc.RangeRequest(key=b"leased", range_end=b"leasee"))[1].count == 0
        revision = door.answer(rpc.PutRequest(key=b"new"))[1].header.revision
        assert cluster.stop() == [0]
        cluster.start()
        assert door.answer(rpc.RangeRequest(key=b"new"))[1].kvs[0].mod_revision == revision
        door.channel.close()


def test_real_etcd_begins_with_our_snapshot(saved: Saved, tmp_path: Path) -> None:
    """`etcdctl snapshot restore` takes it: the way back is open."""
    snapshot, wanted, _, _ = saved
    data = tmp_path / "etcd"
    etcdctl("snapshot", "restore", str(snapshot), f"--data-dir={data}")
    with running_etcd(tmp_path, f"--data-dir={data}", "--force-new-cluster") as address:
        door = Door(address)
        pairs, _, leases = read(door)
        assert (pairs, leases) == (wanted[0], wanted[2])
        door.channel.close()


def test_a_cluster_of_ours_begins_with_the_snapshot_of_a_real_etcd(tmp_path: Path) -> None:
    """Migration is a backup and a restore."""
    need_etcd("etcdctl")
    snapshot = tmp_path / "snapshot.db"
    with running_etcd(tmp_path) as address:
        door = Door(address)
        fill(door)
        wanted = read(door)
        etcdctl(f"--endpoints={address}", "snapshot", "save", str(snapshot))
        door.channel.close()
    with running(Cluster(tmp_path / "restored", nodes=1)) as cluster:
        printed = restore(snapshot, cluster, "--bump-revision=1000", "--mark-compacted")
        assert "2 leases" in printed, printed
        cluster.start()
        door = Door(cluster.client_address("n1"))
        pairs, (_, compacted), leases = read(door)
        assert (pairs, leases) == (wanted[0], wanted[2])
        assert compacted == door.answer(EVERYTHING)[1].header.revision > 1000
        door.channel.close()


def test_a_damaged_or_foreign_file_restores_nothing(saved: Saved, tmp_path: Path) -> None:
    """A byte is wrong, the end is missing, it is something else: words, and no data directory."""
    data = bytearray(saved.snapshot.read_bytes())
    data[len(data) // 2] ^= 1
    cluster = Cluster(tmp_path / "restored", nodes=1)
    for name, content, words in (
        ("wrong", bytes(data), "does not fit"),
        ("short", bytes(data[:-100]), "no SHA-256"),
        ("foreign", b"x" * 5000, "no SHA-256"),
        ("empty", b"", "restore:"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert words in restore(path, cluster)
        assert "refused" in restore(path, cluster, "--skip-hash-check") or name in ("wrong", "short")
        shutil.rmtree(tmp_path / "restored" / "data", ignore_errors=True)
    assert "there is no node" in restore(saved.snapshot, cluster, "--node=nobody")


def test_a_client_that_leaves_early_costs_nothing(saved: Saved) -> None:
    """Snapshots asked for and dropped, several at once: the member goes on, and the next one is whole."""
    door = Door(saved.address)
    call = door.channel.unary_stream(
        "/etcdserverpb.Maintenance/Snapshot",
        request_serializer=rpc.SnapshotRequest.SerializeToString,
        response_deserializer=rpc.SnapshotResponse.FromString,
    )
    for _ in range(8):
        stream = call(rpc.SnapshotRequest(), timeout=30)
        next(iter(stream))
        stream.cancel()
    responses = list(call(rpc.SnapshotRequest(), timeout=30))
    blob = b"".join(response.blob for response in responses)
    assert hashlib.sha256(blob[:-32]).digest() == blob[-32:]
    assert responses[0].remaining_bytes == len(blob) - 32 - len(responses[0].blob)
    door.channel.close()
