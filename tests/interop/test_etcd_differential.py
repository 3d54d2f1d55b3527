"""The same etcdctl script against real etcd and against actd: what it prints is compared word for word.

Ids, terms and hashes are left out: nothing asked for here prints them. Both stores are fresh, so even revisions agree.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from clusters import Cluster, running
from etcd_server import need_etcd, running_etcd

ETCDCTL = shutil.which("etcdctl")
pytestmark = [pytest.mark.processes, pytest.mark.slow]
TXN = 'value("d/a") = "1"\nmod("d/b") > "1"\n\nput d/a swapped\nget d/ --prefix\ndel d/c\n\nget d/a\n\n'
SCRIPT: list[tuple[list[str], str]] = [
    (["get", "nothing"], ""),
    *((["put", f"d/{name}", value], "") for name, value in (("a", "1"), ("b", "3"), ("c", "2"), ("b", "4"))),
    (["get", "d/", "--prefix", "-w", "fields"], ""),
    (["get", "d/", "--prefix", "--sort-by=VERSION", "--order=DESCEND"], ""),
    (["get", "d/", "--prefix", "--sort-by=VALUE", "--limit=2"], ""),
    (["get", "d/", "--prefix", "--keys-only"], ""),
    (["get", "d/a", "d/c"], ""),
    (["get", "d/b", "--from-key"], ""),
    (["get", "d/b", "--rev=3", "-w", "fields"], ""),
    (["get", "d/b", "--rev=999"], ""),
    (["put", "d/b", "5", "--prev-kv"], ""),
    (["put", "d/b", "--ignore-value"], ""),
    (["put", "d/none", "--ignore-value"], ""),
    (["put", "d/none", "x", "--lease=123"], ""),
    (["put", "", "x"], ""),
    (["get", ""], ""),
    (["get", "", "--prefix", "--keys-only"], ""),
    (["txn"], TXN),
    (["txn"], TXN),
    (["txn"], "\nput d/a 1\nput d/a 2\n\n\n"),
    (["txn"], 'create("d/new") = "0"\n\nput d/new yes\n\nget d/new\n\n'),
    (["txn"], 'version("d/new") < "1"\n\nput d/new again\n\nget d/new -w fields\n\n'),
    (["del", "d/a", "d/c", "--prev-kv"], ""),
    (["del", "nothing"], ""),
    (["get", "", "--prefix", "-w", "fields"], ""),
    (["compaction", "5"], ""),
    (["compaction", "5"], ""),
    (["compaction", "999"], ""),
    (["get", "d/b", "--rev=4"], ""),
    (["get", "d/b", "--rev=5", "-w", "fields"], ""),
    (["del", "", "--prefix", "--prev-kv"], ""),
    (["get", "d/b", "-w", "fields"], ""),
]


@pytest.fixture(scope="module", autouse=True)
def both_are_installed() -> None:
    """Without etcd there is nothing to compare with."""
    need_etcd("etcdctl")


def etcdctl(address: str, arguments: list[str], stdin: str) -> "subprocess.CompletedProcess[str]":
    """Run etcdctl against one endpoint."""
    assert ETCDCTL is not None, "the fixture saw to that"
    return subprocess.run(
        [ETCDCTL, f"--endpoints={address}", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
    )


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fresh single etcd; its client address."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as address:
        yield address


@pytest.fixture(scope="module")
def actd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fresh cluster of ours that no other test writes to; the client address of a node."""
    with running(Cluster(tmp_path_factory.mktemp("actd"))) as made:
        made.start()
        yield made.client_address("n2")


def words(done: "subprocess.CompletedProcess[str]") -> tuple[int, str, list[str]]:
    """What both must agree on: exit status, output without ids and terms, and the error's own text."""
    output = re.sub(r'^"(ClusterID|MemberID|RaftTerm|Revision)" : .*$', _keep_revision, done.stdout, flags=re.MULTILINE)
    return done.returncode, output, re.findall(r"^Error:.*$", done.stderr, re.MULTILINE)


def _keep_revision(line: "re.Match[str]") -> str:
    return line[0] if line[1] == "Revision" else f'"{line[1]}"'


def test_etcdctl_cannot_tell_them_apart(etcd: str, actd: str) -> None:
    """Every line of the script prints the same, succeeds or fails alike, with the same words."""
    said_something = 0
    for number, (arguments, stdin) in enumerate(SCRIPT):
        theirs, ours = (words(etcdctl(address, arguments, stdin)) for address in (etcd, actd))
        assert ours == theirs, f"line {number}: etcdctl {' '.join(arguments)}"
        said_something += bool(theirs[1] or theirs[2])
    assert said_something > len(SCRIPT) * 3 // 4
