"""What the launcher promises: starting, refusing, surviving the death of any part, and stopping."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import ACTORS, Cluster, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow]
MakeCluster = Callable[..., Cluster]


def refused(cluster: Cluster, *names: str, **options: Path) -> str:
    """Start a launcher that must end by itself with a failure; return what it said."""
    launcher = cluster.launch(*names, **options)
    assert launcher.wait(30) != 0, "it must not claim success"
    return cluster.log_of(launcher)


def write(cluster: Cluster, count: int, prefix: str = "k") -> None:
    """Put `count` keys; all are acknowledged when this returns."""
    with cluster.client() as client:
        # One by one: each is an entry and a frame of its own in the logs.
        for number in range(count):
            client.put(f"{prefix}/{number:04d}", f"value {number}")


def missing(cluster: Cluster, count: int, node: str, prefix: str = "k") -> list[str]:
    """Which of the keys of `write` a node does not have."""
    with cluster.client(node) as client:
        held = {pair.key.decode(): pair.value.decode() for pair in client.get_prefix(f"{prefix}/").pairs}
    return [f"{number}" for number in range(count) if held.get(f"{prefix}/{number:04d}") != f"value {number}"]


def run_sockets(cluster: Cluster) -> list[Path]:
    """What is in the nodes' run directories."""
    return [path for name in cluster.names for path in (cluster.data / name / "run").glob("*")]


def wal_segments(cluster: Cluster, node: str) -> list[Path]:
    """A node's log files, oldest first."""
    return sorted((cluster.data / node / "wal").glob("*.wal"))


def test_leader_soon_after_start(make_cluster: MakeCluster, record_property: Callable[[str, object], None]) -> None:
    """Three fresh nodes have a leader that takes a write within seconds (goal 3 s; 10 s on a loaded machine)."""
    cluster = make_cluster()
    began = time.monotonic()
    launcher = cluster.launch()
    cluster.await_leader()
    took = time.monotonic() - began
    record_property("leader_after_s", round(took, 2))
    with cluster.client() as client:
        client.put("k", "v")
        pair = client.get("k")
    assert pair is not None
    assert pair.text == "v"
    wait_until(lambda: "actd is up" in cluster.log_of(launcher), 5, "the launcher says that the cluster is up")
    assert took < 10


@pytest.mark.parametrize("actor", ACTORS)
def test_leader_loses_one_actor(cluster: Cluster, actor: str) -> None:
    """Killing any actor of the leading node costs no acknowledged write, and the node serves again."""
    write(cluster, 200)
    leader = cluster.await_leader()
    old = cluster.kill(actor, leader)
    wait_until(lambda: cluster.pid(actor, leader) not in (None, old), 15, f"{leader} {actor} runs again")
    cluster.await_serving(leader)
    assert not missing(cluster, 200, leader)
    write(cluster, 50, "after")
    for name in cluster.names:
        assert not missing(cluster, 50, name, "after")


def test_launcher_killed_leaves_nothing(cluster: Cluster) -> None:
    """When the launcher is killed, every process of its nodes ends."""
    assert len(cluster.processes()) == 3 * 5
    cluster.launchers[0].send_signal(signal.SIGKILL)
    cluster.launchers[0].wait(5)
    wait_until(lambda: not cluster.survivors(), 30, "no process is left")


def test_second_launch_on_the_same_data_is_refused(make_cluster: MakeCluster) -> None:
    """A data directory in use is refused by name, whatever ports the second launch has."""
    cluster, other = make_cluster(), make_cluster()
    cluster.start()
    text = refused(other, data=cluster.data)
    assert "in use by another running node" in text
    assert str(cluster.data / "n1") in text
    write(cluster, 10)


def test_port_in_use_is_refused(make_cluster: MakeCluster) -> None:
    """An address somebody else listens on is refused before anything starts, by node, key and address."""
    cluster = make_cluster()
    with socket.create_server(("127.0.0.1", cluster.ports["n2"][1])):
        text = refused(cluster)
    assert f"n2: peer address 127.0.0.1:{cluster.ports['n2'][1]}" in text
    assert not cluster.data.exists()


def test_sigterm_stops_cleanly(cluster: Cluster) -> None:
    """SIGTERM ends a cluster with exit status 0 and leaves neither processes nor sockets."""
    write(cluster, 20)
    assert run_sockets(cluster)
    assert cluster.stop() == [0]
    assert not cluster.survivors()
    assert not run_sockets(cluster)


def test_nodes_under_launchers_of_their_own(make_cluster: MakeCluster) -> None:
    """Two of three nodes started apart are a working cluster, and the third may come later."""
    cluster = make_cluster()
    cluster.launch("n1")
    cluster.start("n3")
    assert cluster.pid("supervisor", "n2") is None
    write(cluster, 20)
    cluster.launch("n2")
    cluster.await_serving("n2")
    assert not missing(cluster, 20, "n2")
    assert "no node is called 'n9'" in refused(cluster, "n9")


def test_data_of_another_cluster_is_refused(make_cluster: MakeCluster) -> None:
    """A node does not touch data that another cluster wrote."""
    cluster, other = make_cluster(), make_cluster()
    cluster.start()
    cluster.stop()
    text = refused(other, data=cluster.data)
    assert "holds the data of member" in text
    assert str(cluster.data / "n1") in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory_is_refused(make_cluster: MakeCluster) -> None:
    """A data directory that cannot be written is refused by name."""
    cluster = make_cluster()
    cluster.data.mkdir(mode=0o500)
    assert "cannot be used" in refused(cluster)


def test_file_in_the_place_of_the_directory_is_refused(make_cluster: MakeCluster) -> None:
    """A data directory that is no directory is refused by name, for root too."""
    cluster = make_cluster()
    cluster.data.write_text("not a directory")
    text = refused(cluster)
    assert f"{cluster.data / 'n1'}: cannot be used" in text


def test_damaged_log_stops_its_node_only(make_cluster: MakeCluster) -> None:
    """A flipped byte in the middle of a log stops that node, naming file and offset; the others serve on."""
    cluster = make_cluster()
    cluster.start()
    write(cluster, 300)
    cluster.stop()
    segment = wal_segments(cluster, "n2")[0]
    data = bytearray(segment.read_bytes())
    last = len(bytes(data).rstrip(b"\0"))
    data[last // 2] ^= 0x5A
    segment.write_bytes(data)
    launcher = cluster.launch()
    wait_until(lambda: cluster.leader() is not None, 30, "a leader answers")
    wait_until(lambda: "n2 stopped" in cluster.log_of(launcher), 30, "n2 gives up")
    line = next(line for line in cluster.log_of(launcher).splitlines() if "n2 stopped" in line)
    assert f"wal/{segment.name}: offset " in line
    assert cluster.pid("supervisor", "n2") is None
    write(cluster, 20, "after")
    for name in ("n1", "n3"):
        assert not missing(cluster, 300, name)
        assert not missing(cluster, 20, name, "after")
    assert launcher.poll() is None


def test_missing_log_segment_is_named(make_cluster: MakeCluster) -> None:
    """A log file that is gone from the middle stops its node, by name."""
    cluster = make_cluster(storage={"wal_segment_bytes": 8192})
    cluster.start()
    write(cluster, 300)
    cluster.stop()
    segments = wal_segments(cluster, "n2")
    assert len(segments) >= 3
    segments[1].unlink()
    launcher = cluster.launch()
    wait_until(lambda: "n2 stopped" in cluster.log_of(launcher), 30, "n2 gives up")
    line = next(line for line in cluster.log_of(launcher).splitlines() if "n2 stopped" in line)
    assert f"segment {segments[1].name} is missing" in line
    cluster.await_leader()
    assert not missing(cluster, 300, "n1")


def test_random_bytes_on_every_port(cluster: Cluster) -> None:
    """Noise on all ports of a node harms nothing."""
    write(cluster, 100)
    leader = cluster.await_leader()
    before = {title: process.pid for title, process in cluster.processes().items()}
    rng = random.Random(7)
    for port in cluster.ports[leader]:
        for size in (1, 10, 64, 1000, 70_000):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5) as noise:
                    noise.sendall(rng.randbytes(size))
            except ConnectionError:
                continue  # hanging up on noise is a right answer
    write(cluster, 50, "after")
    for name in cluster.names:
        assert not missing(cluster, 100, name)
        assert not missing(cluster, 50, name, "after")
    assert {title: process.pid for title, process in cluster.processes().items()} == before, "something died"
