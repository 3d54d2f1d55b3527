"""A real cluster under TLS and CURVE, secured by `tools.keygen`, with clients no one here wrote."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from clusters import Cluster, free_ports, running, wait_until
from etcd_server import need_etcd
from typer.testing import CliRunner

from actd import CallTimedOut, Client, CurveKeys
from tools.keygen import app

pytestmark = [pytest.mark.processes]
WAIT_S = 30


class Secured:
    """Keys and certificates in a directory, and the cluster that uses them."""

    def __init__(self, directory: Path) -> None:
        self.keys = directory / "keys"
        self._make("ca")
        self._make("server", "node", "--host", "127.0.0.1", "--host", "localhost")
        self._make("client", "alice")
        for name in ("n1", "n2", "n3"):
            self._make("curve", name)
        for name in ("alice", "mallory"):
            self._make("curve", name, "--dir", str(self.keys / "clients"))
        self.secret = {name: self.keys / "clients" / f"{name}.key_secret" for name in ("alice", "mallory")}
        (self.keys / "clients" / "mallory.key").unlink()
        self.cluster = Cluster(
            directory / "secured",
            node_lines=[
                "[nodes.client_transport_security]",
                f'cert_file = "{self.keys}/node.pem"',
                f'key_file = "{self.keys}/node-key.pem"',
                f'trusted_ca_file = "{self.keys}/ca.pem"',
                "client_cert_auth = true",
                "[nodes.curve]",
                f'secret_key_file = "{self.keys}/{{name}}.key_secret"',
                f'peer_keys_dir = "{self.keys}"',
                f'client_keys_dir = "{self.keys}/clients"',
            ],
            raft={"snapshot_count": 60, "catchup_entries": 10},
        )
        doors = {self.cluster.zmq(name): self.keys / f"{name}.key" for name in self.cluster.names}
        self.curve = {name: CurveKeys.load(secret, doors) for name, secret in self.secret.items()}
        self.cluster.curve = self.curve["alice"]

    def _make(self, command: str, *words: str) -> None:
        where = [] if "--dir" in words else ["--dir", str(self.keys)]
        result = CliRunner().invoke(app, [command, *where, *words])
        assert result.exit_code == 0, result.output

    @property
    def etcdctl(self) -> list[str]:
        """The options of etcdctl and of curl that name alice."""
        return ["--cacert", f"{self.keys}/ca.pem", "--cert", f"{self.keys}/alice.pem", "--key", self.alice_key]

    @property
    def alice_key(self) -> str:
        """Alice's private key."""
        return f"{self.keys}/alice-key.pem"

    def metrics(self, name: str) -> str:
        """What a node counts."""
        url = f"https://{self.cluster.client_address(name)}/metrics"
        return run("curl", "-sS", *self.etcdctl, url).stdout


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a client."""
    environment = {**os.environ, "ETCDCTL_API": "3"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Three nodes that speak nothing but TLS and CURVE."""
    made = Secured(tmp_path_factory.mktemp("secured"))
    with running(made.cluster) as cluster:
        cluster.start()
        yield made


def endpoints(secured: Secured) -> str:
    """All nodes, as etcdctl takes them."""
    return ",".join(f"https://{secured.cluster.client_address(name)}" for name in secured.cluster.names)


def test_etcdctl_speaks_tls_with_a_certificate(secured: Secured) -> None:
    """The options of etcdctl that name certificates work, on every member; MemberList shows https."""
    need_etcd("etcdctl")
    base = ["etcdctl", "--endpoints", endpoints(secured), *secured.etcdctl]
    assert run(*base, "put", "tls", "works").stdout == "OK\n"
    for name in secured.cluster.names:
        one = ["etcdctl", "--endpoints", f"https://{secured.cluster.client_address(name)}", *secured.etcdctl]
        assert run(*one, "get", "tls").stdout == "tls\nworks\n"
    assert run(*base, "member", "list").stdout.count(", https://127.0.0.1:") == 3


def test_etcdctl_without_the_right_papers_is_refused(secured: Secured) -> None:
    """No certificate, no CA, no TLS: each fails, soon, and nothing is read."""
    need_etcd("etcdctl")
    short = ["--dial-timeout=2s", "--command-timeout=3s"]
    plain = f"http://{secured.cluster.client_address('n1')}"
    for options in (
        ["--endpoints", endpoints(secured), "--cacert", f"{secured.keys}/ca.pem"],
        ["--endpoints", endpoints(secured), *secured.etcdctl[2:]],
        ["--endpoints", plain],
    ):
        result = run("etcdctl", *short, *options, "get", "tls")
        assert (result.returncode != 0, result.stdout) == (True, "")
    wait_until(lambda: 'reason="no_certificate"' in secured.metrics("n1"), WAIT_S)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl_reads_pages_and_keys_over_tls(secured: Secured, version: str) -> None:
    """Pages come over TLS in both versions of HTTP; without a certificate curl hears why not."""
    base = f"https://localhost:{secured.cluster.ports['n1'][0]}"
    answer = run("curl", "-sS", version, *secured.etcdctl, f"{base}/health")
    assert answer.stdout == '{"health":"true","reason":""}', answer.stderr
    refused = run("curl", "-sS", version, "--cacert", f"{secured.keys}/ca.pem", f"{base}/health")
    assert (refused.returncode != 0, "alert" in refused.stderr) == (True, True), refused.stderr
    plain = run("curl", "-sS", "--http1.1", base.replace("https", "http"))
    assert plain.stdout == "Client sent an HTTP request to an HTTPS server.\n"


def test_etcd_asks_for_the_same_papers(secured: Secured, tmp_path: Path) -> None:
    """A CA alone makes etcd too ask every client for a certificate, and it takes what our command has made."""
    need_etcd("etcdctl")
    client, peer = (f"127.0.0.1:{port}" for port in free_ports(2))
    command = ["etcd", "--data-dir", str(tmp_path / "data"), "--log-level", "error"]
    command += ["--listen-client-urls", f"https://{client}", "--advertise-client-urls", f"https://{client}"]
    command += ["--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}"]
    command += ["--initial-cluster", f"default=http://{peer}", "--trusted-ca-file", f"{secured.keys}/ca.pem"]
    command += ["--cert-file", f"{secured.keys}/node.pem", "--key-file", f"{secured.keys}/node-key.pem"]
    base = ["etcdctl", "--dial-timeout=2s", "--command-timeout=3s", "--endpoints", f"https://{client}"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as etcd:
        try:
            wait_until(lambda: run(*base, *secured.etcdctl, "put", "a", "b").stdout == "OK\n", WAIT_S)
            assert run(*base, "--cacert", f"{secured.keys}/ca.pem", "get", "a").returncode != 0
        finally:
            etcd.kill()


def test_the_client_library_comes_in_with_a_known_key(secured: Secured) -> None:
    """Alice, whose key lies in client_keys_dir, reads and writes through every door."""
    for name in secured.cluster.names:
        with secured.cluster.client(name) as client:
            client.put("curve", name)
            found = client.get("curve")
            assert found is not None
            assert found.text == name


def test_a_client_with_an_unknown_key_or_none_is_kept_out(secured: Secured) -> None:
    """Mallory's calls time out; the node counts and logs her key; a plain client gets nothing either."""

    def refused(curve: CurveKeys | None, reason: str) -> bool:
        with (
            Client(secured.cluster.zmq("n1"), timeout_s=1.0, curve=curve) as client,
            pytest.raises(CallTimedOut),
        ):
            client.get("curve")
        return f'actd_curve_refused_total{{door="clients",reason="{reason}"}}' in secured.metrics("n1")

    wait_until(lambda: refused(secured.curve["mallory"], "key"), WAIT_S)
    wait_until(lambda: refused(None, "protocol"), WAIT_S)
    assert secured.curve["mallory"].public.decode() in secured.cluster.log


def test_a_stranger_in_plain_text_reaches_no_member(secured: Secured) -> None:
    """Whoever finds a peer port and speaks ZeroMQ without keys is counted and not heard."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stranger = context.socket(zmq.PUSH)

    def counted() -> bool:
        with pytest.raises(zmq.Again):
            stranger.send(b"let me in")
        return 'actd_curve_refused_total{door="peers",reason="protocol"}' in secured.metrics("n1")

    try:
        stranger.setsockopt(zmq.IMMEDIATE, 1)
        stranger.setsockopt(zmq.SNDTIMEO, 500)
        stranger.connect(f"tcp://127.0.0.1:{secured.cluster.ports['n1'][1]}")
        wait_until(counted, WAIT_S, "it is counted")
    finally:
        stranger.close(linger=0)
        context.term()


def test_a_follower_that_fell_behind_gets_a_snapshot_under_curve(secured: Secured) -> None:
    """Death, a log that was cut meanwhile, and the way back through a snapshot all work between secured members."""
    cluster = secured.cluster
    leader = cluster.await_leader()
    follower = next(name for name in cluster.names if name != leader)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(cluster.client(leader))
        os.kill(cluster.pid("supervisor", follower) or 0, 9)
        wait_until(lambda: not cluster.survivors_of(follower), WAIT_S)
        for number in range(200):
            client.put(f"missed/{number}", "x")
        revision = client.put("missed/last", "x").revision
        cluster.launch(follower)
        cluster.await_serving(follower, 60)
        wait_until(lambda: len(set(cluster.hashes(revision).values())) == 1, WAIT_S)
    assert "snapshot_installed" in cluster.log_of(cluster.launcher_of(follower))
