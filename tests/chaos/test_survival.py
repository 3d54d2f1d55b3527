"""Crashes under load: what was acknowledged stays, revisions never go back, all members hold the same."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest
from clusters import Cluster, wait_until

from actd.errors import ActdError

pytestmark = [pytest.mark.processes, pytest.mark.slow]
MakeCluster = Callable[..., Cluster]


class Load:
    """Threads that put without end and remember what was acknowledged."""

    def __init__(self, cluster: Cluster, threads: int = 3) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self.acknowledged: dict[str, tuple[str, int]] = {}
        """Value and revision by key; every key is written once."""
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def _run(self, number: int) -> None:
        highest = 0
        with self._cluster.client(timeout_s=3.0) as client:
            for turn in itertools.count():
                if self._stop.is_set():
                    return
                key, value = f"load/{number}/{turn:06d}", f"{number} {turn}"
                try:
                    revision = client.put(key, value).revision
                except ActdError:
                    self._stop.wait(0.02)
                    continue
                if revision <= highest:
                    self.faults.append(f"{key}: revision {revision} after {highest}")
                highest = revision
                self.acknowledged[key] = (value, revision)
                self._stop.wait(0.002)

    def await_more(self, count: int = 100, timeout_s: float = 40.0) -> None:
        """Wait until so many more writes are acknowledged."""
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, timeout_s, f"{count} more acknowledged writes")

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        """Write for as long as the block runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join(20)


def check(cluster: Cluster, load: Load) -> None:
    """Every member serves, has every acknowledged write at its revision, and hashes to the same."""
    assert not load.faults
    for name in cluster.names:
        cluster.await_serving(name)
    with cluster.client() as client:
        revision = client.put("last", "word").revision
    assert revision > max(at for _, at in load.acknowledged.values())
    for name in cluster.names:
        with cluster.client(name) as client:
            held = {pair.key.decode(): (pair.text, pair.mod_revision) for pair in client.get_prefix("load/").pairs}
        lost = {key: (said, held.get(key)) for key, said in load.acknowledged.items() if held.get(key) != said}
        assert not lost, f"{name} lost or changed {len(lost)} of {len(load.acknowledged)}"
    hashes = cluster.hashes(revision)
    assert len(set(hashes.values())) == 1, hashes


def test_leader_tree_dies_and_comes_back(make_cluster: MakeCluster) -> None:
    """The whole leading node is killed under load and started again: nothing acknowledged is lost."""
    cluster = make_cluster()
    cluster.start_apart()
    load = Load(cluster)
    with load.running():
        load.await_more()
        leader = cluster.await_leader()
        launcher = cluster.launchers[cluster.names.index(leader)]
        # The supervisor first: without its launcher it would stop in good order, which is not what is tested.
        cluster.kill("supervisor", leader)
        launcher.kill()
        load.await_more()
        wait_until(lambda: cluster.leader() not in (None, leader), 20, "another leader")
        wait_until(lambda: not [at for at in cluster.survivors() if at.ppid() == 1], 10, "its tree is dead")
        cluster.launch(leader)
        cluster.await_serving(leader)
        load.await_more()
    check(cluster, load)


def test_everything_dies_at_once(make_cluster: MakeCluster) -> None:
    """All processes are killed under load and started again, twice: nothing acknowledged is lost."""
    cluster = make_cluster()
    cluster.start()
    load = Load(cluster)
    with load.running():
        for _ in range(2):
            load.await_more()
            cluster.kill_everything()
            cluster.start()
        load.await_more()
    check(cluster, load)


def test_follower_far_behind_gets_a_snapshot(make_cluster: MakeCluster) -> None:
    """A follower that missed more than the log keeps catches up by snapshot while writes go on."""
    cluster = make_cluster(raft={"snapshot_count": 50, "catchup_entries": 10})
    cluster.start_apart()
    leader = cluster.await_leader()
    behind = next(name for name in cluster.names if name != leader)
    load = Load(cluster)
    with load.running():
        load.await_more(20)
        cluster.launchers[cluster.names.index(behind)].kill()
        wait_until(lambda: cluster.pid("supervisor", behind) is None, 10, f"{behind} is down")
        load.await_more(600)
        launcher = cluster.launch(behind)
        wait_until(lambda: "snapshot_installed" in cluster.log_of(launcher), 40, "a snapshot is installed")
        cluster.await_serving(behind)
        load.await_more()
    check(cluster, load)
