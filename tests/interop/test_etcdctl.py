"""The real etcdctl against a real cluster: what it prints is what users of etcd know."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clusters import Cluster

ETCDCTL = shutil.which("etcdctl")
pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def etcdctl_is_installed() -> None:
    """Without etcdctl there is nothing to show; on CI that is a failure."""
    if ETCDCTL is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have etcdctl: apt-get install etcd-client")
        pytest.skip("etcdctl is not installed: apt-get install etcd-client")


def table(text: str) -> list[list[str]]:
    """The cells of a table as etcdctl draws it."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


class Etcdctl:
    """Runs etcdctl against a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.endpoints = cluster.etcdctl_endpoints

    def run(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run it and return everything about it."""
        assert ETCDCTL is not None, "the fixture saw to that"
        return subprocess.run(
            [ETCDCTL, f"--endpoints={self.endpoints}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
        )

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Run it; it must succeed; return what it printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def revision(self) -> int:
        """The store's revision."""
        return int(json.loads(self("get", "revision", "-w", "json"))["header"]["revision"])


@pytest.fixture
def ctl(shared_cluster: Cluster) -> Etcdctl:
    """Etcdctl with all endpoints of the module's cluster."""
    return Etcdctl(shared_cluster)


@pytest.fixture
def keys(ctl: Etcdctl, tmp_path: Path) -> str:
    """A prefix with three keys of this test alone: a, b, c with the values 3, 1, 2."""
    prefix = f"{tmp_path.name}/"
    for name, value in (("a", "3"), ("b", "1"), ("c", "2")):
        ctl("put", prefix + name, value)
    return prefix


def test_put_and_get(ctl: Etcdctl) -> None:
    """The first thing everybody types works to the letter."""
    assert ctl("put", "foo", "Hello, etcd") == "OK\n"
    assert ctl("get", "foo") == "foo\nHello, etcd\n"
    assert ctl("get", "foo", "--print-value-only") == "Hello, etcd\n"
    assert ctl("get", "nothing here") == ""


def test_prefix_and_keys_only(ctl: Etcdctl, keys: str) -> None:
    """A prefix gives its keys in order, and `--keys-only` leaves out the values."""
    assert ctl("get", keys, "--prefix") == f"{keys}a\n3\n{keys}b\n1\n{keys}c\n2\n"
    assert ctl("get", keys, "--prefix", "--keys-only").split() == [keys + "a", keys + "b", keys + "c"]


def test_limit_and_sort(ctl: Etcdctl, keys: str) -> None:
    """`--limit` cuts after `--sort-by` and `--order` have had their say."""
    assert ctl("get", keys, "--prefix", "--limit=2") == f"{keys}a\n3\n{keys}b\n1\n"
    assert ctl("get", keys, "--prefix", "--sort-by=value", "--print-value-only") == "1\n2\n3\n"
    assert ctl("get", keys, "--prefix", "--sort-by=key", "--order=DESCEND", "--limit=1") == f"{keys}c\n2\n"
    assert ctl("get", keys, "--prefix", "--sort-by=modify", "--order=descend", "--print-value-only") == "2\n1\n3\n"


def test_old_revision(ctl: Etcdctl, keys: str) -> None:
    """`--rev` reads the past."""
    before = ctl.revision()
    ctl("put", keys + "a", "new")
    assert ctl("get", keys + "a", "--print-value-only") == "new\n"
    assert ctl("get", keys + "a", "--print-value-only", f"--rev={before}") == "3\n"
    future = ctl.run("get", keys + "a", f"--rev={before + 1_000_000}")
    assert future.returncode != 0
    assert "mvcc: required revision is a future revision" in future.stderr


def test_delete_prefix_shows_what_went(ctl: Etcdctl, keys: str) -> None:
    """`del --prefix --prev-kv` prints the count and the pairs that went."""
    assert ctl("del", keys, "--prefix", "--prev-kv") == f"3\n{keys}a\n3\n{keys}b\n1\n{keys}c\n2\n"
    assert ctl("get", keys, "--prefix") == ""
    assert ctl("del", keys, "--prefix") == "0\n"


def test_put_shows_the_previous_value(ctl: Etcdctl, keys: str) -> None:
    """`put --prev-kv` prints what it replaced."""
    assert ctl("put", keys + "b", "new", "--prev-kv") == f"OK\n{keys}b\n1\n"


def test_interactive_transaction(ctl: Etcdctl, keys: str) -> None:
    """A transaction typed at the prompt takes the branch its conditions choose."""
    lines = [f'value("{keys}a") = "3"', "", f"put {keys}a won", f"get {keys}b", "", f"put {keys}a lost", "", ""]
    text = "\n".join(lines)
    assert ctl("txn", "--interactive", stdin=text).endswith(f"SUCCESS\n\nOK\n\n{keys}b\n1\n")
    assert ctl("get", keys + "a", "--print-value-only") == "won\n"
    assert ctl("txn", stdin=text).endswith("FAILURE\n\nOK\n")
    assert ctl("get", keys + "a", "--print-value-only") == "lost\n"


def test_compaction(ctl: Etcdctl, keys: str) -> None:
    """Compacted history is refused with etcd's text, and what is live stays."""
    old = ctl.revision()
    ctl("put", keys + "a", "4")
    ctl("put", keys + "a", "5")
    now = ctl.revision()
    assert ctl("compaction", str(now)) == f"compacted revision {now}\n"
    refused = ctl.run("get", keys + "a", f"--rev={old}")
    assert refused.returncode != 0
    assert "etcdserver: mvcc: required revision has been compacted" in refused.stderr
    again = ctl.run("compaction", str(now))
    assert "etcdserver: mvcc: required revision has been compacted" in again.stderr
    assert ctl("get", keys, "--prefix", "--print-value-only") == "5\n1\n2\n"


def test_endpoint_health(ctl: Etcdctl, shared_cluster: Cluster) -> None:
    """Every endpoint is healthy, in words and in a table."""
    done = ctl.run("endpoint", "health")
    assert done.returncode == 0, done.stderr
    for name in shared_cluster.names:
        assert f"{shared_cluster.client_address(name)} is healthy" in done.stdout + done.stderr
    header, *rows = table(ctl("endpoint", "health", "-w", "table"))
    assert header == ["ENDPOINT", "HEALTH", "TOOK", "ERROR"]
    assert sorted(row[0] for row in rows) == sorted(
        shared_cluster.client_address(name) for name in shared_cluster.names
    )
    assert [(row[1], row[3]) for row in rows] == [("true", "")] * 3


def test_endpoint_status_table(ctl: Etcdctl, shared_cluster: Cluster) -> None:
    """The status table has a row for every endpoint, one leader, and no errors."""
    rows = table(ctl("endpoint", "status", "-w", "table"))
    header, *members = rows
    assert header[:2] == ["ENDPOINT", "ID"]
    assert [row[:2] for row in members] == [
        [shared_cluster.client_address(name), f"{shared_cluster.member(name):x}"] for name in shared_cluster.names
    ]
    assert [row[header.index("IS LEADER")] for row in members].count("true") == 1
    assert {row[header.index("RAFT TERM")] for row in members} != {"0"}
    assert all(row[header.index("ERRORS")] == "" for row in members)


def test_endpoint_hashkv(ctl: Etcdctl, keys: str, shared_cluster: Cluster) -> None:
    """All members have one hash, for each revision another; the table names every endpoint."""
    revision = ctl.revision()
    hashes: set[str] = set()
    for at in (revision, revision - 1):
        rows = table(ctl("endpoint", "hashkv", f"--rev={at}", "-w", "table"))
        assert rows[0] == ["ENDPOINT", "HASH"]
        assert [row[0] for row in rows[1:]] == [shared_cluster.client_address(name) for name in shared_cluster.names]
        assert len({row[1] for row in rows[1:]}) == 1, rows
        hashes.add(rows[1][1])
    assert len(hashes) == 2
    assert keys


def test_member_list(ctl: Etcdctl, shared_cluster: Cluster) -> None:
    """Every member is listed as started, with its URLs."""
    expected = {
        f"{shared_cluster.member(name):x}, started, {name}, http://127.0.0.1:{shared_cluster.ports[name][1]}, "
        f"http://{shared_cluster.client_address(name)}, false"
        for name in shared_cluster.names
    }
    assert set(ctl("member", "list").splitlines()) == expected
    header, *rows = table(ctl("member", "list", "-w", "table"))
    assert header == ["ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"]
    assert {", ".join(row) for row in rows} == expected
