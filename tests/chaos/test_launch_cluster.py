"""What the launcher promises: starting, telling, refusing, giving up, and stopping with nothing left behind."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import ROOT, Cluster, wait_until

from storage.layout import STATE_KEY, unpack_state
from tools.inspect_db import open_read_only

pytestmark = [pytest.mark.processes, pytest.mark.slow]
MakeCluster = Callable[..., Cluster]
REFUSED, FAILED = 2, 1


def refused(cluster: Cluster, *names: str, status: int = REFUSED, **options: Path) -> str:
    """Start a launcher that must end by itself with a failure; return what it said."""
    launcher = cluster.launch(*names, **options)
    assert launcher.wait(30) == status, cluster.log_of(launcher)
    return cluster.log_of(launcher)


def write(cluster: Cluster, count: int, prefix: str = "k") -> None:
    """Put `count` keys; all are acknowledged when this returns."""
    with cluster.client() as client:
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


def flushed_index(cluster: Cluster, node: str) -> int:
    """What the store of a stopped node holds on disk, without its log."""
    engine = open_read_only(cluster.data / node)
    try:
        return unpack_state(engine.get(STATE_KEY)).applied
    finally:
        engine.close()


def test_leader_soon_after_start(make_cluster: MakeCluster, record_property: Callable[[str, object], None]) -> None:
    """Three fresh nodes have a leader that takes a write within seconds, and the launcher says who and where.

    The goal is 3 s; this machine has other tests to run.
    """
    cluster = make_cluster()
    began = time.monotonic()
    launcher = cluster.launch()
    leader = cluster.await_leader()
    took = time.monotonic() - began
    record_property("leader_after_s", round(took, 2))
    assert took < 10
    wait_until(lambda: "print(Client(" in cluster.log_of(launcher), 5, "the launcher says that the cluster is up")
    told = cluster.log_of(launcher)
    assert told.count("actd is up") == 1
    for name in cluster.names:
        [row] = [line.split() for line in told.splitlines() if line.startswith(name)]
        role = "leader" if name == leader else "follower"
        assert row == [name, f"{cluster.member(name):x}", role, cluster.client_address(name), cluster.zmq(name)]
    assert {"raft", "wal", "applier", "gateway", "supervisor"} == {
        title.split()[2] for title in cluster.processes() if title.startswith("actd: n1 ")
    }
    for name in cluster.names:
        supervisor = cluster.processes()[f"actd: {name} supervisor"]
        assert supervisor.num_threads() == 1, "it forks, so it may have no threads"
    put, get = (line.strip() for line in told.partition("Try:")[2].splitlines() if line.startswith("  "))
    if shutil.which("etcdctl"):
        assert run_as_told(put) == "OK\n"
    else:
        with cluster.client() as client:
            client.put("greeting", "hello")
    assert "hello" in run_as_told(get)


def run_as_told(command: str) -> str:
    """Run a command that the launcher suggests, with our own Python for python."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_nothing_is_left_of_a_killed_launcher(cluster: Cluster) -> None:
    """When the launcher is killed, its nodes stop in good order: no process, no socket, and a start finds all."""
    assert len(cluster.processes()) == 3 * 5
    write(cluster, 20)
    cluster.launchers[0].send_signal(signal.SIGKILL)
    cluster.launchers[0].wait(5)
    wait_until(lambda: not cluster.survivors(), 30, "no process is left")
    assert not run_sockets(cluster)
    cluster.start()
    assert not missing(cluster, 20, "n1")


def test_second_launch_is_refused(make_cluster: MakeCluster) -> None:
    """A cluster that runs is not started again, by its ports or, under other ports, by its data; it runs on."""
    cluster, other = make_cluster(), make_cluster()
    cluster.start()
    before = {title: process.pid for title, process in cluster.processes().items()}
    text = refused(cluster)
    assert f"n1: client address {cluster.client_address('n1')}: Address already in use" in text
    text = refused(other, data=cluster.data, status=FAILED)
    for name in cluster.names:
        assert f"actd: {name} stopped: {cluster.data / name}: in use by another running node; stop that one" in text
    write(cluster, 10)
    assert {title: process.pid for title, process in cluster.processes().items()} == before


@pytest.mark.parametrize("key", ["client", "peer", "zmq"])
def test_port_in_use_is_refused(make_cluster: MakeCluster, key: str) -> None:
    """An address somebody else listens on is refused before anything starts, by node, key and address."""
    cluster = make_cluster()
    port = cluster.ports["n2"][("client", "peer", "zmq").index(key)]
    with socket.create_server(("127.0.0.1", port)):
        text = refused(cluster)
    assert text.startswith(f"actd: n2: {key} address 127.0.0.1:{port}: Address already in use; stop what listens there")
    assert not cluster.data.exists()


def test_sigterm_stops_cleanly(cluster: Cluster) -> None:
    """SIGTERM ends a cluster with status 0: all that was applied is flushed, neither processes nor sockets stay."""
    write(cluster, 20)
    applied: dict[str, int] = {}
    for name in cluster.names:
        with cluster.client(name) as client:
            client.get("k/0019")
            applied[name] = client.status().raft_applied_index
    assert run_sockets(cluster)
    assert cluster.stop() == [0]
    assert not cluster.survivors()
    assert not run_sockets(cluster)
    for name in cluster.names:
        assert flushed_index(cluster, name) >= applied[name] > 20
    assert "actor_killed" not in cluster.log, "all have stopped by themselves"


def test_ctrl_c_stops_cleanly(make_cluster: MakeCluster) -> None:
    """A terminal's SIGINT to the whole group ends in the same good order, without a traceback."""
    cluster = make_cluster(nodes=1)
    cluster.start()
    os.killpg(cluster.launchers[0].pid, signal.SIGINT)
    assert cluster.launchers[0].wait(30) == 0
    assert not cluster.survivors()
    assert not run_sockets(cluster)
    assert "Traceback" not in cluster.log


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


def test_an_actor_that_keeps_dying_ends_its_node_loudly(make_cluster: MakeCluster) -> None:
    """After the configured count the node stops, and the launcher says why and fails. In JSON each line is an event."""
    cluster = make_cluster(nodes=1, supervision={"restarts_max": 2, "backoff_max_ms": 200})
    launcher = cluster.launch(options=("--log-format", "json", "--log-level", "info"))
    pids: list[int | None] = [None]
    for _ in range(3):
        wait_until(lambda: cluster.pid("wal", "n1") not in pids, 20, "the wal actor runs")
        cluster.await_leader()
        pids.append(cluster.kill("wal", "n1"))
    assert launcher.wait(30) == FAILED
    assert not cluster.survivors()
    assert not run_sockets(cluster)
    lines = cluster.log_of(launcher).splitlines()
    assert "actd: n1 stopped: wal died 3 times within 60 s, last: killed by signal 9" in lines[-1]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    assert {"actor_died", "node_failed", "raft_started"} <= {event["event"] for event in events}
    for event in events:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", event["event"]), event
        assert event["node"] == "n1"
        assert {"actor", "level", "timestamp"} <= set(event)


def test_a_quiet_log_level_leaves_out_what_is_well(make_cluster: MakeCluster) -> None:
    """With `--log-level warning` a start that is well says nothing but who leads."""
    cluster = make_cluster(nodes=1)
    launcher = cluster.launch(options=("--log-level", "warning"))
    cluster.await_leader()
    wait_until(lambda: "print(Client(" in cluster.log_of(launcher), 5, "the launcher says that the cluster is up")
    assert cluster.log_of(launcher).startswith("actd is up")
