"""The supervisor over a node of tiny honest actors: who is started, restarted, told, stopped and given up."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from clusters import wait_until

from actors.node_directory import NodeDirectory
from protocol.config import ClusterConfig

pytestmark = pytest.mark.processes
GROUP = ("wal", "applier", "raft")
Line = dict[str, Any]


class Node:
    """A supervisor in a process of its own, and the diary of its actors."""

    def __init__(self, path: Path, behaviour: dict[str, str], supervision: dict[str, int]) -> None:
        node = {"name": "n1", "client": "127.0.0.1:1", "peer": "127.0.0.1:2", "zmq": "127.0.0.1:3"}
        times = {"restarts_max": 5, "backoff_first_ms": 10, "backoff_max_ms": 100, "beat_timeout_ms": 60_000}
        self.config = ClusterConfig.model_validate({"nodes": [node], "supervision": {**times, **supervision}})
        path.mkdir()
        self.path = path / "n1"
        self._log = path / "log"
        program = str(Path(__file__).with_name("tiny_node.py"))
        arguments = [sys.executable, program, str(self.path), self.config.model_dump_json(), json.dumps(behaviour)]
        with self._log.open("wb") as log:
            self.supervisor = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def log(self) -> list[Line]:
        """What was logged."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    @property
    def diary(self) -> list[Line]:
        """What the actors noted; a line that is being written is left out."""
        with contextlib.suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.path / "diary").read_text().splitlines()]
        return []

    def starts(self, role: str) -> list[Line]:
        """The lives of an actor."""
        return [line for line in self.diary if line["role"] == role and line["event"] == "started"]

    def heard(self, role: str, kind: str) -> list[Line]:
        """What an actor was told, of one kind."""
        return [line for line in self.diary if line["role"] == role and line.get("kind") == kind]

    def await_lives(self, **lives: int) -> None:
        """Wait until actors have begun so many lives."""
        for role, count in lives.items():
            wait_until(lambda role=role, count=count: len(self.starts(role)) >= count, 20, f"{role} started {count} x")

    def await_up(self) -> None:
        """Wait until everybody runs for the first time."""
        self.await_lives(wal=1, applier=1, raft=1, gateway=1)

    def pid(self, role: str) -> int:
        """The newest life's process."""
        pid = self.starts(role)[-1]["pid"]
        assert isinstance(pid, int)
        return pid

    def pids(self) -> list[int]:
        """Every process there ever was."""
        return [line["pid"] for line in self.diary if line["event"] == "started"]

    def stop(self) -> int:
        """Ask it to stop, and return its exit status."""
        self.supervisor.terminate()
        return self.supervisor.wait(30)

    def close(self) -> None:
        """End it, whatever state it is in."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.supervisor.pid).children(recursive=True):
                process.kill()
        self.supervisor.kill()
        self.supervisor.wait(10)


MakeNode = Callable[..., Node]


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """Starts nodes, `make_node({"raft": "crash"}, restarts_max=2)`; none outlives the test."""
    made: list[Node] = []

    def make(behaviour: dict[str, str] | None = None, **supervision: int) -> Node:
        made.append(Node(tmp_path / str(len(made)), behaviour or {}, supervision))
        return made[-1]

    yield make
    for node in made:
        node.close()


def test_all_actors_start_and_know_each_other(make_node: MakeNode) -> None:
    """The group shares one incarnation, the gateway has the next, each with its siblings and its title."""
    node = make_node()
    node.await_up()
    wait_until(lambda: node.heard("raft", "ActorStarted"), 10, "raft hears of the gateway")
    assert {role: node.starts(role)[0]["incarnation"] for role in (*GROUP, "gateway")} == {
        "wal": 1, "applier": 1, "raft": 1, "gateway": 2,
    }  # fmt: skip
    assert node.starts("gateway")[0]["siblings"] == {"wal": 1, "applier": 1, "raft": 1}
    assert node.starts("raft")[0]["siblings"] == {"wal": 1, "applier": 1}
    assert node.heard("raft", "ActorStarted")[0]["message"] == {"actor": "gateway", "incarnation": 2}
    assert psutil.Process(node.pid("wal")).cmdline()[0] == "actd: n1 wal"
    assert psutil.Process(node.supervisor.pid).cmdline()[0] == "actd: n1 supervisor"


def test_a_stop_goes_from_the_doors_to_the_disk(make_node: MakeNode) -> None:
    """SIGTERM: the gateway is stopped and gone, then raft, then log and store; status 0, nothing left behind."""
    node = make_node()
    node.await_up()
    assert len(list((node.path / "run").iterdir())) == 4
    assert node.stop() == 0
    stopped = [line["role"] for line in node.diary if line.get("kind") == "StopActor"]
    assert stopped[:2] == ["gateway", "raft"]
    assert sorted(stopped[2:]) == ["applier", "wal"]
    assert not any(psutil.pid_exists(pid) for pid in node.pids())
    assert list((node.path / "run").iterdir()) == []
    again = NodeDirectory(node.path, node.config, "n1")
    again.open()
    assert again.next_incarnation() == 3
    again.close()


@pytest.mark.parametrize("victim", GROUP)
def test_the_group_dies_together_before_it_lives_again(make_node: MakeNode, victim: str) -> None:
    """One of three is killed: all are dead before any starts under the next incarnation; the gateway stays."""
    node = make_node()
    node.await_up()
    old = {role: node.pid(role) for role in (*GROUP, "gateway")}
    os.kill(old[victim], signal.SIGKILL)
    node.await_lives(wal=2, applier=2, raft=2)
    for role in GROUP:
        assert node.starts(role)[1]["incarnation"] == 3
        assert node.starts(role)[1]["living"] == [], "somebody of the earlier life still ran"
        assert node.starts(role)[1]["siblings"]["gateway"] == 2
    assert node.pid("gateway") == old["gateway"]
    wait_until(lambda: len(node.heard("gateway", "ActorStarted")) == 3, 10, "the gateway hears of all three")
    assert {line["message"]["incarnation"] for line in node.heard("gateway", "ActorStarted")} == {3}
    sockets = ["applier.3", "gateway.2", "raft.3", "wal.3"]
    wait_until(lambda: sorted(path.name for path in (node.path / "run").iterdir()) == sockets, 10, "no stale socket")
    assert [line["reason"] for line in node.log if line["event"] == "actor_died"] == ["killed by signal 9"]


def test_a_gateway_is_restarted_alone(make_node: MakeNode) -> None:
    """A killed gateway comes back under a new incarnation, all others run on and are told."""
    node = make_node({"gateway": "greet"})
    node.await_up()
    wait_until(lambda: node.heard("raft", "LogCut"), 10, "raft hears the first gateway")
    before = {role: node.pid(role) for role in GROUP}
    os.kill(node.pid("gateway"), signal.SIGKILL)
    node.await_lives(gateway=2)
    wait_until(lambda: len(node.heard("raft", "LogCut")) == 2, 10, "raft hears the new gateway")
    assert {role: node.pid(role) for role in GROUP} == before
    assert node.starts("gateway")[1]["incarnation"] == 3
    for role in GROUP:
        wait_until(lambda role=role: len(node.heard(role, "ActorStarted")) == 2, 10, f"{role} is told")
    kinds = [line["kind"] for line in node.diary if line["role"] == "raft" and line["event"] == "heard"]
    assert kinds == ["ActorStarted", "LogCut"] * 2, "it is known before it is heard"


def test_too_many_deaths_end_the_node_loudly(make_node: MakeNode) -> None:
    """An actor that fails again and again: a bounded number of restarts, then status 1 and the reason."""
    node = make_node({"applier": "crash"}, restarts_max=2)
    assert node.supervisor.wait(30) == 1
    assert len(node.starts("applier")) == 3
    assert "supervisor_failed" not in [line["event"] for line in node.log]
    [failed] = [line for line in node.log if line["event"] == "node_failed"]
    assert failed["reason"].startswith("applier died 3 times within 60 s, last: ValueError: as it was told")
    assert not any(psutil.pid_exists(pid) for pid in node.pids())


def test_restarts_wait_longer_each_time(make_node: MakeNode) -> None:
    """The wait before a restart doubles up to its bound, so that a bad node does not keep the machine busy."""
    node = make_node({"applier": "crash"}, restarts_max=4, backoff_first_ms=100, backoff_max_ms=300)
    assert node.supervisor.wait(30) == 1
    deaths = [datetime.fromisoformat(line["timestamp"]) for line in node.log if line["event"] == "actor_died"]
    gaps_s = [(later - earlier).total_seconds() for earlier, later in pairwise(deaths)]
    assert len(gaps_s) == 4
    for gap_s, least_s in zip(gaps_s, (0.1, 0.2, 0.3, 0.3), strict=True):
        assert gap_s >= least_s


def test_an_entry_point_that_raises_says_why(make_node: MakeNode) -> None:
    """Trouble before an actor's loop begins is told with its text too, not as a bare exit status."""
    node = make_node({"gateway": "broken"}, restarts_max=1)
    assert node.supervisor.wait(30) == 1
    [failed] = [line for line in node.log if line["event"] == "node_failed"]
    assert failed["reason"].endswith("last: OSError: [Errno 98] Address already in use: '127.0.0.1:1'")


def test_a_fatal_halt_ends_the_node_at_once(make_node: MakeNode) -> None:
    """What a restart would not cure is not tried again: the node stops and names the reason."""
    node = make_node({"wal": "fatal"})
    assert node.supervisor.wait(30) == 1
    assert len(node.starts("wal")) == 1
    [failed] = [line for line in node.log if line["event"] == "node_failed"]
    assert failed["reason"] == "wal: the disk is full: /somewhere"


def test_actors_die_with_their_supervisor(make_node: MakeNode) -> None:
    """A supervisor that is killed takes its actors with it, and the directory is free again."""
    node = make_node()
    node.await_up()
    node.supervisor.kill()
    node.supervisor.wait(10)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in node.pids()), 10, "all actors are gone")
    again = NodeDirectory(node.path, node.config, "n1")
    again.open()
    assert list((node.path / "run").iterdir()) == [], "stale sockets are cleared"
    again.close()


@pytest.mark.parametrize(("behaviour", "failure"), [("done", ""), ("crash", "ValueError: as it was told")])
def test_helpers_run_beside_and_their_end_is_told(make_node: MakeNode, behaviour: str, failure: str) -> None:
    """Raft asks for a helper, hears of its start and its end, well or not; nobody is restarted for it."""
    node = make_node({"raft": "spawn", "snapshot_sender": behaviour})
    wait_until(lambda: node.heard("raft", "HelperEnded"), 20, "the helper's end is told")
    [ended] = node.heard("raft", "HelperEnded")
    assert ended["message"] == {"helper": "snapshot_sender", "failure": failure}
    [started] = node.starts("snapshot_sender")
    assert started["siblings"] == {"raft": 1}
    assert {"actor": "snapshot_sender", "incarnation": started["incarnation"]} in [
        line["message"] for line in node.heard("raft", "ActorStarted")
    ]
    assert node.stop() == 0
    assert len(node.starts("raft")) == 1


def test_one_who_does_not_stop_is_killed(make_node: MakeNode) -> None:
    """Stopping takes a bounded time, whatever an actor does."""
    node = make_node({"applier": "deaf"}, stop_timeout_ms=300)
    node.await_up()
    assert node.stop() == 0
    assert [line["role"] for line in node.log if line["event"] == "actor_killed"] == ["applier"]
    assert not any(psutil.pid_exists(pid) for pid in node.pids())


@pytest.mark.slow
def test_one_who_hangs_is_reported_then_replaced(make_node: MakeNode) -> None:
    """A gateway that gives no beats is first reported to raft, then killed and replaced, and then well again."""
    node = make_node(beat_timeout_ms=4000)
    node.await_up()
    os.kill(node.pid("gateway"), signal.SIGSTOP)
    wait_until(lambda: node.heard("raft", "ActorStalled"), 20, "raft is told that it stalls")
    assert len(node.starts("gateway")) == 1, "told before it is killed"
    node.await_lives(gateway=2)
    wait_until(lambda: len(node.heard("raft", "ActorStalled")) == 2, 10, "raft is told that it is well")
    stalls = [line["message"] for line in node.heard("raft", "ActorStalled")]
    assert stalls == [{"actor": "gateway", "stalled": True}, {"actor": "gateway", "stalled": False}]
    assert len(node.starts("raft")) == 1


@pytest.mark.slow
def test_an_entry_point_that_never_beats_is_replaced(make_node: MakeNode) -> None:
    """An actor that hangs before its first beat is silent like any other."""
    node = make_node({"wal": "hung"}, beat_timeout_ms=3000, restarts_max=0)
    assert node.supervisor.wait(30) == 1
    assert "actor_silent" in [line["event"] for line in node.log]
    [failed] = [line for line in node.log if line["event"] == "node_failed"]
    assert failed["reason"].endswith("missed its beats")


@pytest.mark.slow
def test_a_pause_of_the_whole_node_kills_nobody(make_node: MakeNode) -> None:
    """A machine that stood still for longer than the beats allow goes on where it was."""
    node = make_node(beat_timeout_ms=3000)
    node.await_up()
    before = node.pids()
    everybody = [node.supervisor.pid, *before]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.supervisor.wait(5)
    for pid in everybody:
        # The supervisor first: it looks before its actors could beat.
        os.kill(pid, signal.SIGCONT)
        if pid == node.supervisor.pid:
            wait_until(lambda: "supervisor_paused" in [line["event"] for line in node.log], 10, "it notices")
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.supervisor.wait(4)
    assert node.pids() == before
    assert node.stop() == 0
