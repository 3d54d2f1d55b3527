"""The real etcdctl's watch against a real cluster, and a watcher that outlives its member."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from clusters import Cluster, wait_until
from etcd_server import need_etcd
from watch_talk import Kv, Told, WatchTalk

from actd import Client, Put, version
from actd.errors import ActdError

ETCDCTL = shutil.which("etcdctl")
pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def etcdctl_is_installed() -> None:
    """Without etcdctl there is nothing to show."""
    need_etcd("etcdctl")


class Watching:
    """A running `etcdctl watch`."""

    def __init__(self, endpoints: str, *arguments: str) -> None:
        assert ETCDCTL is not None, "the fixture saw to that"
        self.output = ""
        self.process = subprocess.Popen(
            [ETCDCTL, f"--endpoints={endpoints}", "watch", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": os.environ["PATH"], "ETCDCTL_API": "3"},
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None, "its output is ours"
        for line in self.process.stdout:
            self.output += line

    def say(self, line: str) -> None:
        """Type a line at an interactive watch."""
        assert self.process.stdin is not None, "its input is ours"
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait(10)
        self._thread.join(10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None, "both are ours"
            pipe.close()

    def expect(self, text: str) -> None:
        """Wait until it has printed exactly this."""
        wait_until(lambda: self.output == text, 30, f"{text!r}, printed was {self.output!r}")

    def until(self, condition: Callable[[str], object]) -> None:
        """Wait until its output satisfies a condition."""
        wait_until(lambda: condition(self.output), 30, f"printed was {self.output!r}")


@contextmanager
def watching(cluster: Cluster, *arguments: str) -> Iterator[Watching]:
    """Run `etcdctl watch` for a while."""
    watch = Watching(cluster.etcdctl_endpoints, *arguments)
    try:
        yield watch
    finally:
        watch.close()


def put_once(client: Client, key: str, value: str) -> None:
    """Put a new key, trying again for as long as nobody knows whether it is there."""

    def tried() -> bool:
        with contextlib.suppress(ActdError):
            client.txn().if_(version(key) == 0).then(Put(key, value)).commit()
            return True
        return False

    wait_until(tried, 60, f"{key} is put")


@pytest.fixture(name="kv")
def make_kv(shared_cluster: Cluster) -> Iterator[Kv]:
    """The KV service of one member."""
    kv = Kv(shared_cluster.client_address("n1"))
    yield kv
    kv.close()


def test_history_of_a_key_from_a_revision(shared_cluster: Cluster, kv: Kv) -> None:
    """`watch --rev` prints what has happened since, and then what happens."""
    first = kv.put(b"h/k", b"1")
    kv.put(b"h/k", b"2")
    with watching(shared_cluster, "h/k", f"--rev={first}") as watch:
        watch.expect("PUT\nh/k\n1\nPUT\nh/k\n2\n")
        kv.put(b"h/k", b"3")
        watch.expect("PUT\nh/k\n1\nPUT\nh/k\n2\nPUT\nh/k\n3\n")


def test_prefix_with_replaced_pairs(shared_cluster: Cluster, kv: Kv) -> None:
    """`watch --prefix --prev-kv` prints the pair before each event."""
    first = kv.put(b"p/a", b"1")
    with watching(shared_cluster, "p/", "--prefix", "--prev-kv", f"--rev={first + 1}") as watch:
        kv.put(b"p/b", b"x")
        kv.put(b"p/a", b"2")
        kv.put(b"q", b"elsewhere")
        watch.expect("PUT\np/b\nx\nPUT\np/a\n1\np/a\n2\n")


def test_range_of_keys(shared_cluster: Cluster, kv: Kv) -> None:
    """`watch key end` hears of the keys in between."""
    first = kv.put(b"r/a")
    for key in (b"r/b", b"r/c", b"r/d"):
        kv.put(key)
    with watching(shared_cluster, "r/b", "r/d", f"--rev={first}") as watch:
        watch.expect("PUT\nr/b\nv\nPUT\nr/c\nv\n")


def test_interactive_watch_and_progress(shared_cluster: Cluster, kv: Kv) -> None:
    """Several watches are typed in, and a progress request is answered."""
    first = kv.put(b"i/a", b"1")
    kv.put(b"i/b", b"2")
    with watching(shared_cluster, "-i") as watch:
        watch.say(f"watch i/a --rev={first}")
        watch.until(lambda output: "PUT\ni/a\n1\n" in output)
        watch.say(f"watch i/b --rev={first}")
        watch.until(lambda output: "PUT\ni/b\n2\n" in output)
        watch.say("progress")
        watch.until(lambda output: "progress notify: " in output)


def test_compacted_start_is_reported(shared_cluster: Cluster, kv: Kv) -> None:
    """A start below the compacted revision ends the command with etcd's words."""
    from protocol.wire import rpc_pb2 as rpc

    first = kv.put(b"c/k")
    kv.put(b"c/k")
    kv(rpc.CompactionRequest(revision=first + 1, physical=True))
    with watching(shared_cluster, "c/k", f"--rev={first}") as watch:
        watch.until(lambda output: "mvcc: required revision has been compacted" in output)


def test_watcher_survives_its_member_and_the_leader(cluster: Cluster) -> None:
    """While members die one after the other, etcdctl resumes by revision: every event once, in order."""
    with cluster.client() as client:
        put_once(client, "s/0", "0")
        with watching(cluster, "s/", "--prefix", "--rev=2") as watch:
            expected = "PUT\ns/0\n0\n"
            watch.expect(expected)
            for number, name in enumerate(("n1", "n2", "n3"), 1):
                cluster.kill("supervisor", name)
                put_once(client, f"s/{number}", str(number))
                expected += f"PUT\ns/{number}\n{number}\n"
                watch.expect(expected)
                cluster.launch(name)
                cluster.await_serving(name)


def test_watch_on_a_follower_goes_on_while_the_leader_dies(cluster: Cluster) -> None:
    """A stream on a member that lives is not touched by an election; a killed applier only delays it."""
    leader = cluster.await_leader()
    follower = next(name for name in cluster.names if name != leader)
    talk = WatchTalk(cluster.client_address(follower), metadata=(("hasleader", "true"),))
    with cluster.client() as client:
        talk.watch(b"f/", b"f0")
        put_once(client, "f/1", "1")
        cluster.kill("supervisor", leader)
        put_once(client, "f/2", "2")
        cluster.launch(leader)
        cluster.await_serving(leader)
        cluster.kill("applier", follower)
        put_once(client, "f/3", "3")
        talk.wait(lambda: len(talk.told[0]) >= 4, "three events")

    told = [(one.what, one.pair[-1:]) for one in talk.told[0]]
    assert told == [("created", b""), ("put", b"1"), ("put", b"2"), ("put", b"3")]
    assert talk.failure is None
    talk.close()


def test_silent_watcher_hears_of_progress(make_cluster: Callable[..., Cluster]) -> None:
    """With progress_notify a watcher of a quiet key learns how far the store is."""
    cluster = make_cluster(1, watch={"progress_notify_interval_ms": 200})
    cluster.start()
    kv, talk = Kv(cluster.client_address("n1")), WatchTalk(cluster.client_address("n1"))
    talk.watch(b"quiet", progress_notify=True)
    revision = kv.put(b"other")

    talk.wait(lambda: Told("progress", revision) in talk.told[0], "progress")
    talk.close()
    kv.close()
