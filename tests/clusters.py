"""Real clusters for tests: cluster files on free ports, launchers in process groups of their own, ways to hurt them."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from actd import Client, CurveKeys
from actd.errors import ActdError
from chaos.host import free_ports

ROOT = Path(__file__).parent.parent
GROUP = ("raft", "wal", "applier")
ACTORS = (*GROUP, "gateway")
START_S = 30.0


def wait_until(condition: Callable[[], object], timeout_s: float, what: str = "") -> None:
    """Return once `condition()` holds; fail when it does not in time."""
    pause = threading.Event()
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s: {what or condition}"
        pause.wait(0.05)


class Cluster:
    """A cluster file, its data, and the launchers that run it."""

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        *,
        node_lines: Sequence[str] = (),
        curve: CurveKeys | None = None,
        **sections: dict[str, object],
    ) -> None:
        """With `node_lines` each node's table ends with these; `{name}` stands for its name. `curve`: for `client`."""
        self._node_lines = node_lines
        self.curve = curve
        self.directory = directory
        self.data = directory / "data"
        self.file = directory / "cluster.toml"
        self.names = [f"n{number + 1}" for number in range(nodes)]
        ports = free_ports(3 * nodes)
        self.ports = {name: tuple(ports[3 * at : 3 * at + 3]) for at, name in enumerate(self.names)}
        self.launchers: list[subprocess.Popen[bytes]] = []
        self._newest: dict[str, subprocess.Popen[bytes]] = {}
        self._runs = itertools.count(1)
        self._seen: dict[int, psutil.Process] = {}
        self._seen_as: dict[int, str] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._write(sections)

    def _write(self, sections: dict[str, dict[str, object]]) -> None:
        everything: dict[str, dict[str, object]] = {
            "raft": {"election_timeout_ms": 1000},
            "supervision": {"restarts_max": 1000, "backoff_max_ms": 1000},
        }
        for section, values in sections.items():
            everything.setdefault(section, {}).update(values)
        lines = [f'token = "{self.directory.name}"']
        for section, values in everything.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
        for name, (client, peer, zmq) in self.ports.items():
            lines += ["[[nodes]]", f'name = "{name}"']
            lines += [f'client = "127.0.0.1:{client}"', f'peer = "127.0.0.1:{peer}"', f'zmq = "127.0.0.1:{zmq}"']
            lines += [line.format(name=name) for line in self._node_lines]
        self.file.write_text("\n".join(lines) + "\n")

    # --- addresses ---------------------------------------------------------------------------------

    def zmq(self, name: str) -> str:
        """Where ZeroMQ clients reach a node."""
        return f"tcp://127.0.0.1:{self.ports[name][2]}"

    def client_address(self, name: str) -> str:
        """Where gRPC clients reach a node."""
        return f"127.0.0.1:{self.ports[name][0]}"

    @property
    def etcdctl_endpoints(self) -> str:
        """All nodes, as etcdctl takes them."""
        return ",".join(self.client_address(name) for name in self.names)

    def client(self, *names: str, timeout_s: float = 15.0) -> Client:
        """Return a client of some nodes, or of all."""
        return Client([self.zmq(name) for name in names or self.names], timeout_s=timeout_s, curve=self.curve)

    # --- running -----------------------------------------------------------------------------------

    def launch(
        self,
        *names: str,
        data: Path | None = None,
        file: Path | None = None,
        prefix: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> "subprocess.Popen[bytes]":
        """Start a launcher for some nodes, or for all, and return it at once.

        Args:
            names: the nodes; none: all of the file.
            data: parent of the data directories.
            file: another cluster file.
            prefix: the words of a command that runs the launcher in its own place.
            options: more options of the launcher.
        """
        # A test run that is killed cannot stop what it started: the kernel does.
        follow = ["setpriv", "--pdeathsig=TERM"] if shutil.which("setpriv") else []
        command = [*follow, *prefix, sys.executable, "-m", "tools.launch", str(file or self.file)]
        command += ["--data-dir", str(data or self.data), *(f"--node={name}" for name in names), *options]
        with self._log_path(next(self._runs)).open("wb") as log:
            launcher = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.launchers.append(launcher)
        for name in names or self.names:
            self._newest[name] = launcher
        return launcher

    def launcher_of(self, name: str) -> "subprocess.Popen[bytes]":
        """The launcher that a node was last started under."""
        return self._newest[name]

    def start(self, *names: str) -> None:
        """Start nodes under one launcher and wait until a leader answers."""
        self.launch(*names)
        self.await_leader()

    def start_apart(self) -> None:
        """Start each node under a launcher of its own."""
        for name in self.names:
            self.launch(name)
        self.await_leader()

    def _log_path(self, run: int) -> Path:
        return self.directory / f"launch-{run}.log"

    def log_of(self, launcher: "subprocess.Popen[bytes]") -> str:
        """What one launcher and its processes have said."""
        return self._log_path(self.launchers.index(launcher) + 1).read_text(errors="replace")

    @property
    def log(self) -> str:
        """What all launchers have said, in the order of their starts."""
        return "\n".join(f"--- launcher {at.pid}\n{self.log_of(at)}" for at in self.launchers)

    def leader(self, timeout_s: float = 1.0) -> str | None:
        """Return the node that says of itself that it leads and serves, or None."""
        for name in self.names:
            if self.pid("raft", name) is None:
                continue
            with self.client(name, timeout_s=timeout_s) as client, contextlib.suppress(ActdError):
                status = client.status()
                if status.leader and status.leader == status.member_id == self.member(name):
                    client.get("ready")
                    return name
        return None

    def await_leader(self, timeout_s: float = START_S) -> str:
        """Wait until a leader answers; return its name."""
        found: list[str] = []

        def answers() -> bool:
            name = self.leader()
            found.extend([name] if name else [])
            return bool(found)

        wait_until(answers, timeout_s, "a leader answers")
        return found[0]

    def await_serving(self, name: str, timeout_s: float = START_S) -> None:
        """Wait until a node itself answers a linearizable read."""

        def serves() -> bool:
            with self.client(name, timeout_s=1.0) as client, contextlib.suppress(ActdError):
                client.get("ready")
                return client.status().member_id == self.member(name)
            return False

        wait_until(serves, timeout_s, f"{name} serves")

    def member(self, name: str) -> int:
        """A node's member id."""
        from protocol.config import load_config

        return load_config(self.file).member_id(name)

    def hashes(self, revision: int) -> dict[str, int]:
        """Each node's hash at a revision, asked of the node itself."""
        found: dict[str, int] = {}
        for name in self.names:
            with self.client(name) as client:
                assert client.status().member_id == self.member(name), f"{name} is not the one that answered"
                found[name] = client.hash_kv(revision).hash
        return found

    # --- hurting -----------------------------------------------------------------------------------

    def processes(self) -> dict[str, psutil.Process]:
        """Everything that runs under the launchers, by process title."""
        found: dict[str, psutil.Process] = {}
        for launcher in self.launchers:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(launcher.pid).children(recursive=True):
                    self._seen[process.pid] = process
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
                        title = self._seen_as[process.pid] = process.cmdline()[0]
                        found[title] = process
        return found

    def pid(self, actor: str, node: str) -> int | None:
        """The process id of a node's actor, or None if there is none."""
        process = self.processes().get(f"actd: {node} {actor}")
        return process.pid if process else None

    def kill(self, actor: str, node: str) -> int:
        """SIGKILL an actor (or "supervisor") of a node; return the pid it had."""
        pid = self.pid(actor, node)
        assert pid is not None, f"{node} has no {actor} to kill"
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_node(self, name: str) -> None:
        """SIGKILL a whole node at once, and the launcher it alone runs under; return when all of it is dead."""
        launcher = self.launcher_of(name)
        tree = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        launcher.wait(10)
        wait_until(lambda: not [process for process in tree if _alive(process)], 10, f"all of {name} is dead")

    def kill_everything(self) -> None:
        """SIGKILL every process at once."""
        running = list(self.processes().values())
        for launcher in self.launchers:
            if launcher.poll() is None:
                launcher.kill()
        for process in running:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for launcher in self.launchers:
            launcher.wait(10)
        wait_until(lambda: not self.survivors(), 10, "everything is dead")

    def survivors(self) -> list[psutil.Process]:
        """Processes of this cluster that run: seen under a launcher once, or working in our data directories."""
        self.processes()
        return [process for process in self._seen.values() if _alive(process)]

    def survivors_of(self, name: str) -> list[psutil.Process]:
        """Those of them that belong to one node."""
        return [process for process in self.survivors() if self._seen_as.get(process.pid, "").split()[1:2] == [name]]

    def stop(self) -> list[int]:
        """SIGTERM to all launchers; return their exit statuses."""
        self.processes()
        for launcher in self.launchers:
            if launcher.poll() is None:
                launcher.terminate()
        return [launcher.wait(40) for launcher in self.launchers]

    def close(self) -> None:
        """End every process, however it stands."""
        self.processes()
        for launcher in self.launchers:
            if launcher.poll() is None:
                launcher.terminate()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: all(launcher.poll() is not None for launcher in self.launchers), 5)
        self.kill_everything()


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """Lend a cluster out, print its log when the test fails, and leave no process behind."""
    try:
        yield cluster
    except BaseException:
        print(cluster.log[-20_000:])
        raise
    finally:
        cluster.close()
