"""A node by etcd's flags, with its process as the node: used with etcdctl, stopped, frozen, killed, started again."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from clusters import START_S, free_ports, wait_until
from etcd_server import ETCD, need_etcd
from flag_nodes import ACTORS, READY, FlagCluster, FlagNode, etcdctl, http_get

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlagCluster]:
    """Three nodes; every test leaves them running."""
    need_etcd("etcdctl")
    with FlagCluster(tmp_path_factory.mktemp("flags")).running() as cluster:
        yield cluster


def members_of(endpoint: str) -> tuple[int, dict[str, int]]:
    """The cluster's id and the members' ids by peer URL."""
    listed = json.loads(etcdctl(endpoint, "member", "list", "-w", "json"))
    ids = {member["peerURLs"][0]: member["ID"] for member in listed["members"]}
    return listed["header"]["cluster_id"], ids


def test_three_nodes_by_flags_are_a_cluster_to_etcdctl(three: FlagCluster) -> None:
    """Names, peer and client URLs stand in the member list; what one took another has; the proxy was passed."""
    rows = [line.split(", ") for line in etcdctl(three.endpoint(0), "member", "list").splitlines()]
    told = {row[2]: (row[1], row[3], row[4], row[5]) for row in rows}
    assert told == {
        f"s{at + 1}": (
            "started", f"http://127.0.0.1:{three.dialled[at]}", f"http://{three.endpoint(at)}", "false",
        )
        for at in range(3)
    }  # fmt: skip
    assert etcdctl(three.endpoint(0), "put", "greeting", "hello") == "OK\n"
    assert etcdctl(three.endpoint(2), "get", "greeting") == "greeting\nhello\n"
    assert three.forwarder.accepted >= 2, "the others dial what is advertised, and nothing else"


def test_ids_are_those_of_a_real_etcd_with_the_same_flags(three: FlagCluster, tmp_path: Path) -> None:
    """Of the cluster and of every member."""
    client, peer = free_ports(2)
    words = [
        str(ETCD), "--name=s1", f"--data-dir={tmp_path}/etcd", "--log-level=error",
        f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{three.dialled[0]}",
        f"--initial-cluster={three.initial}", f"--initial-cluster-token={three.token}",
    ]  # fmt: skip
    found: list[tuple[int, dict[str, int]]] = []

    def lists_members() -> bool:
        # Alone it has no quorum and serves no client, but its peers may ask it who they are.
        try:
            head, _, body = http_get(("127.0.0.1", peer), "/members").partition(b"\r\n\r\n")
        except OSError:
            return False
        cluster = re.search(rb"(?i)x-etcd-cluster-id: ([0-9a-f]+)", head)
        if not head.startswith(b"HTTP/1.1 200") or cluster is None:
            return False
        found.append((int(cluster[1], 16), {each["peerURLs"][0]: each["id"] for each in json.loads(body)}))
        return True

    with Path(tmp_path, "log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as etcd:
        try:
            wait_until(lists_members, START_S, "etcd lists its members")
        finally:
            etcd.kill()
    assert found[0] == members_of(three.endpoint(0))


def test_pages_are_served_on_the_metrics_port_and_nothing_else_is(three: FlagCluster) -> None:
    """Metrics and health, as on the client port and its socket file; no request to the store."""
    metrics = ("127.0.0.1", three.metrics[1])
    assert b"etcd_server_id{server_id=" in http_get(metrics, "/metrics")
    assert b'"health":"true"' in http_get(metrics, "/health")
    assert b"404 Not Found" in http_get(metrics, "/v3/kv/range")
    assert b'"health":"true"' in http_get(str(three.nodes[1].directory / "s2.sock"), "/health")


def test_sigstop_of_the_process_stops_the_whole_node(three: FlagCluster) -> None:
    """Its actors stand still, the others go on without it, and SIGCONT brings it back with what it missed."""
    node = three.nodes[0]
    os.kill(node.pid, signal.SIGSTOP)
    actors = node.actors()
    assert set(actors) == set(ACTORS)
    wait_until(lambda: all(each.status() == psutil.STATUS_STOPPED for each in actors.values()), 10, "all stand still")
    others = f"{three.endpoint(1)},{three.endpoint(2)}"
    wait_until(lambda: _puts(others, "meanwhile"), START_S, "the other two serve")
    with pytest.raises(AssertionError, match="deadline exceeded"):
        etcdctl(three.endpoint(0), "get", "meanwhile", timeout="500ms")
    os.kill(node.pid, signal.SIGCONT)
    wait_until(lambda: _gets(three.endpoint(0), "meanwhile"), START_S, "it serves again")
    assert {role: each.pid for role, each in node.actors().items()} == {role: each.pid for role, each in actors.items()}


def _puts(endpoints: str, key: str) -> bool:
    try:
        return etcdctl(endpoints, "put", key, "yes", timeout="2s") == "OK\n"
    except AssertionError:
        return False


def _gets(endpoints: str, key: str) -> bool:
    try:
        return etcdctl(endpoints, "get", key, timeout="2s") == f"{key}\nyes\n"
    except AssertionError:
        return False


def test_sigkill_of_the_process_takes_every_actor_and_frees_everything(three: FlagCluster) -> None:
    """Whoever starts it again at once finds ports and lock free; initial flags say nothing then."""
    node = three.nodes[1]
    actors = node.actors()
    os.kill(node.pid, signal.SIGKILL)
    assert node.process is not None
    assert node.process.wait(10) == -signal.SIGKILL
    before = members_of(three.endpoint(0))
    node.words = [word.replace(three.token, "another") for word in node.words]
    node.words = [word.replace(three.initial, "s9=http://127.0.0.1:9") for word in node.words]
    node.start()
    wait_until(lambda: not any(each.is_running() and _alive(each) for each in actors.values()), 10, "all are dead")
    node.await_ready()
    assert members_of(three.endpoint(1)) == before
    assert any("initial flags are not looked at" in line["msg"] for line in node.lines)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_sigterm_stops_in_good_order_and_lines_are_those_of_etcds_logger(three: FlagCluster) -> None:
    """Status 0, every actor told and gone, the log a JSON object a line with level, ts and msg."""
    node = three.nodes[2]
    actors = node.actors()
    assert node.stop() == 0
    assert not any(_alive(each) for each in actors.values())
    assert [line["msg"] for line in node.lines].count(READY) == 1
    assert {line["actor"] for line in node.lines if line["msg"] == "actor_halted"} == set(ACTORS)
    assert all({"level", "ts", "msg"} <= set(line) for line in node.lines)
    node.start()
    node.await_ready()
    assert _puts(three.endpoint(2), "after")


def test_a_member_joins_with_the_variables_that_etcdctl_prints(three: FlagCluster, tmp_path: Path) -> None:
    """`member add` says with which; it serves what was there before it, and ends with a reason when it is removed."""
    client, peer = free_ports(2)
    etcdctl(three.endpoint(0), "put", "before", "yes")
    told = etcdctl(three.endpoint(0), "member", "add", "s4", f"--peer-urls=http://127.0.0.1:{peer}")
    environment = {
        "ETCD_DATA_DIR": str(tmp_path / "s4"),
        **dict(re.findall(r'^(ETCD_\w+)="(.*)"$', told, re.MULTILINE)),
    }
    assert environment["ETCD_INITIAL_CLUSTER_STATE"] == "existing"
    node = FlagNode(tmp_path, "s4", _listening(client, peer)[:3], environment)
    node.start()
    try:
        node.await_ready()
        assert _gets(f"127.0.0.1:{client}", "before")
        rows = [line.split(", ") for line in etcdctl(three.endpoint(1), "member", "list").splitlines()]
        (row,) = [row for row in rows if row[2] == "s4"]
        assert row[1:5] == ["started", "s4", f"http://127.0.0.1:{peer}", f"http://127.0.0.1:{client}"]
        etcdctl(three.endpoint(0), "member", "remove", row[0])
        assert node.await_end() == 1
        assert "removed" in node.log
    finally:
        node.close()


def test_a_node_by_variables_tells_systemd_that_it_is_ready(tmp_path: Path) -> None:
    """As the unit of etcd's package starts it: no flag at all; a second one on its directory is refused with words."""
    need_etcd("etcdctl")
    client, peer = free_ports(2)
    listening = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(listening))
        systemd.settimeout(START_S)
        environment = {
            "ETCD_NAME": "by-variables", "ETCD_DATA_DIR": str(tmp_path / "data"), "NOTIFY_SOCKET": str(listening),
            "ETCD_LISTEN_CLIENT_URLS": f"http://127.0.0.1:{client}", "ETCD_LOG_FORMAT": "console",
            "ETCD_ADVERTISE_CLIENT_URLS": f"http://127.0.0.1:{client}",
            "ETCD_LISTEN_PEER_URLS": f"http://127.0.0.1:{peer}",
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": f"http://127.0.0.1:{peer}", "ETCD_HOST_WHITELIST": "good.example",
        }  # fmt: skip
        node = FlagNode(tmp_path, "by-variables", [], environment)
        node.start()
        try:
            assert systemd.recv(1000).splitlines()[0] == b"READY=1"
            assert "by-variables" in etcdctl(f"127.0.0.1:{client}", "member", "list")
            door = ("127.0.0.1", client)
            assert http_get(door, "/version", "Host: evil.example").startswith(b"HTTP/1.1 421")
            assert http_get(door, "/version", "Host: good.example:99").startswith(b"HTTP/1.1 200")
            second = FlagNode(tmp_path, "second", ["--data-dir", str(tmp_path / "data"), "--listen-zmq-urls=none",
                                                   *_listening(*free_ports(2))])  # fmt: skip
            second.start()
            assert second.process is not None
            assert second.process.wait(START_S) == 1
            assert "in use by another running node" in second.log
            assert node.stop() == 0
            assert systemd.recv(1000) == b"STOPPING=1"
        finally:
            node.close()


def _listening(client: int, peer: int) -> list[str]:
    urls = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    return [f"--listen-client-urls={urls[0]}", f"--advertise-client-urls={urls[0]}", f"--listen-peer-urls={urls[1]}",
            f"--initial-advertise-peer-urls={urls[1]}"]  # fmt: skip


def test_a_node_by_configuration_file(tmp_path: Path) -> None:
    """Everything from the file, the flag beside it is not looked at, and the log goes where the file says."""
    need_etcd("etcdctl")
    client, peer = free_ports(2)
    file = tmp_path / "etcd.yml"
    file.write_text(
        f"name: by-file\ndata-dir: {tmp_path}/data\nlisten-client-urls: http://127.0.0.1:{client}\n"
        f"advertise-client-urls: http://127.0.0.1:{client}\nlisten-peer-urls: http://127.0.0.1:{peer}\n"
        f"initial-advertise-peer-urls: http://127.0.0.1:{peer}\ninitial-cluster: by-file=http://127.0.0.1:{peer}\n"
        f"quota-backend-bytes: 4294967296\nlog-outputs: [{tmp_path}/actd.log]\n"
    )
    node = FlagNode(tmp_path, "by-file", ["--config-file", str(file), "--name=by-flag"])
    node.log_file = tmp_path / "actd.log"
    printed = node.log_file.with_name("printed")
    node.log_file, log = printed, node.log_file
    node.start()
    try:
        wait_until(lambda: log.exists() and READY in log.read_text(), START_S, "the log says that it is ready")
        assert "by-file" in etcdctl(f"127.0.0.1:{client}", "member", "list")
        assert printed.read_text() == ""
    finally:
        node.close()
