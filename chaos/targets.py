"""What is tormented: a cluster of actd or of real etcd, each node to be started, hurt and ended by itself.

Owns command lines, process trees, the proxy between the nodes, and the guard that clears up behind all of it. Knows no
fault's timing and no workload. Must be used from the thread that made it.
Invariant: nodes reach each other through the proxy only; nothing of a target outlives `close`.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from chaos.doors import ask
from chaos.guard import end_everything
from chaos.host import free_ports
from chaos.switchboard import Switchboard
from protocol.config import ClusterConfig, load_config, member_id_of
from protocol.wire import rpc_pb2 as rpc

ROOT: Final = Path(__file__).resolve().parent.parent
ELECTION_TIMEOUT_MS: Final = 3000
HEARTBEAT_MS: Final = 300
SNAPSHOT_COUNT: Final = 400
CATCHUP_ENTRIES: Final = 100
SMALL_DISK_BYTES: Final = 64 << 20


class TargetFailed(RuntimeError):
    """The cluster or its surroundings could not be brought to where a run needs them; the text says what and where."""


class Target(ABC):
    """A cluster: what both kinds share."""

    kind = ""
    doors: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    """Processes of a node that can be hurt one by one."""

    def __init__(self, directory: Path, nodes: int, seed: int) -> None:
        self.directory = directory.resolve()
        self.names = [f"n{number + 1}" for number in range(nodes)]
        self.launchers: dict[str, subprocess.Popen[bytes]] = {}
        self._seed = seed
        self._runs = itertools.count(1)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._guard = self._python("chaos.guard", str(self.directory), stdin=subprocess.PIPE, cwd=ROOT)
        self._proxy: subprocess.Popen[bytes] | None = None

    # --- addresses ---------------------------------------------------------------------------------

    @abstractmethod
    def grpc(self, name: str) -> str:
        """Where gRPC clients reach a node, `host:port`."""

    @abstractmethod
    def zmq(self, name: str) -> str:
        """Where ZeroMQ clients reach a node."""

    # --- running -----------------------------------------------------------------------------------

    def data_of(self, name: str) -> Path:
        """A node's data directory."""
        return self.directory / "data" / name

    def mount_small_disks(self) -> None:
        """Give each node a file system of its own for its data; they go with the run.

        Raises:
            TargetFailed: mounting is not allowed.
        """
        for name in self.names:
            at = self.data_of(name)
            at.mkdir(parents=True)
            command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES},mode=700", "actd-chaos", str(at)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise TargetFailed(f"small disks need the right to mount a tmpfs: {done.stderr.strip()}")

    def start(self) -> None:
        """Start proxy and nodes. Nobody leads yet."""
        self._start_proxy()
        for name in self.names:
            self.launch(name)

    def launch(self, name: str) -> None:
        """Start a node."""
        assert not self.running(name), f"{name} runs already"
        self.launchers[name] = self._launch(name)

    @abstractmethod
    def _launch(self, name: str) -> "subprocess.Popen[bytes]": ...

    def _spawn(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        """Start a node's root process in the run's directory, where the guard finds it."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (self.directory / f"log-{name}-{next(self._runs)}.txt").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def running(self, name: str) -> bool:
        """Whether a node's root process runs."""
        launcher = self.launchers.get(name)
        return launcher is not None and launcher.poll() is None

    def tree(self, name: str) -> dict[str, psutil.Process]:
        """Every process of a node by its role: "launcher", "supervisor" and actors, or "etcd"."""
        launcher = self.launchers.get(name)
        found: dict[str, psutil.Process] = {}
        with contextlib.suppress(psutil.Error):
            if launcher is not None and launcher.poll() is None:
                root = psutil.Process(launcher.pid)
                found[self._root_role] = root
                for process in root.children(recursive=True):
                    with contextlib.suppress(psutil.Error, IndexError):
                        title = process.cmdline()[0]
                        if title.startswith(f"actd: {name} "):
                            found[title.rsplit(" ", 1)[1]] = process
        return found

    _root_role = "launcher"

    def signal(self, name: str, role: str, number: int) -> bool:
        """Send a signal to one process of a node; return whether it was there."""
        process = self.tree(name).get(role)
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
            return True
        return False

    def signal_all(self, name: str, number: int) -> list[int]:
        """Send a signal to every process of a node; return whom."""
        reached = []
        tree = self.tree(name)
        # The supervisor first: it would stop its actors in good order, or start new ones, while others are reached.
        for process in sorted(tree.values(), key=lambda process: process is not tree.get("supervisor")):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                reached.append(process.pid)
        return reached

    def kill(self, name: str) -> None:
        """SIGKILL a whole node and wait until nothing of it runs."""
        processes = list(self.tree(name).values())
        self.signal_all(name, signal.SIGKILL)
        launcher = self.launchers.get(name)
        if launcher is not None:
            launcher.wait()
        _, left = psutil.wait_procs(processes, timeout=10)
        if left:
            raise TargetFailed(f"{name}: {left} survived SIGKILL")

    # --- asking ------------------------------------------------------------------------------------

    def status(self, name: str, timeout_s: float = 1.0) -> rpc.StatusResponse | None:
        """What a node says of itself, or None."""
        if not self.running(name):
            return None
        answer = ask(self.grpc(name), rpc.StatusRequest(), timeout_s)
        assert answer is None or isinstance(answer, rpc.StatusResponse), "a status is asked for"
        return answer

    def leader(self) -> str | None:
        """The node that says that it leads, or None; the one of the highest term if there are several."""
        claims = []
        for name in self.names:
            status = self.status(name)
            if status is not None and status.leader and status.leader == status.header.member_id:
                claims.append((status.raftTerm, name))
        return max(claims)[1] if claims else None

    # --- network -----------------------------------------------------------------------------------

    @abstractmethod
    def _proxy_config(self) -> dict[str, Any]: ...

    def _start_proxy(self) -> None:
        file = self.directory / "proxy.json"
        file.write_text(json.dumps({"seed": self._seed, **self._proxy_config()}))
        self._proxy = self._python(
            "chaos.proxy", str(file), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=self.directory
        )
        self._hear("ready")

    def _hear(self, word: str) -> None:
        assert self._proxy is not None, "it was started"
        assert self._proxy.stdout is not None, "it answers on a pipe"
        line = self._proxy.stdout.readline().decode().strip()
        if line != word:
            raise TargetFailed(f"the proxy said {line!r} instead of {word!r}; see {self.directory}")

    def shape(self, changes: Iterable[tuple[str, str, Mapping[str, object]]]) -> None:
        """Change links: source, target, and what is new (mode, delay_ms, jitter_ms, loss). In force on return."""
        assert self._proxy is not None, "the network is there once the target is started"
        assert self._proxy.stdin is not None, "it listens on a pipe"
        self._proxy.stdin.write(json.dumps([*changes]).encode() + b"\n")
        self._proxy.stdin.flush()
        self._hear("ok")

    def heal_network(self) -> None:
        """Make every link plain again."""
        plain: dict[str, object] = {"mode": "open", "delay_ms": 0.0, "jitter_ms": 0.0, "loss": 0.0}
        self.shape((a, b, plain) for a in self.names for b in self.names if a != b)

    # --- switches ----------------------------------------------------------------------------------

    def board(self, name: str) -> Switchboard | None:
        """The switches of a node's disk and clock, if this kind of target has any."""
        del name
        return None

    def logs(self) -> dict[str, str]:
        """All logs by file name."""
        return {path.name: path.read_text(errors="replace") for path in sorted(self.directory.glob("log-*.txt"))}

    def close(self) -> None:
        """End everything, however it stands."""
        left = end_everything(self.directory)
        for launcher in self.launchers.values():
            launcher.wait()
        for helper in (self._proxy, self._guard):
            if helper is not None:
                helper.kill()
                helper.wait()
                for pipe in (helper.stdin, helper.stdout):
                    if pipe is not None:
                        with contextlib.suppress(OSError):
                            pipe.close()
        if left:
            raise TargetFailed(f"could not be ended: {left}")

    @staticmethod
    def _python(module: str, *arguments: str, cwd: Path, **pipes: Any) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **pipes)


class ActdTarget(Target):
    """Nodes of this checkout, each under a launcher of its own with the roles of `chaos.roles`."""

    kind = "actd"
    doors = ("grpc", "zmq")
    actors = ("raft", "wal", "applier", "gateway")

    def __init__(self, directory: Path, nodes: int, seed: int, settings: Mapping[str, Mapping[str, object]]) -> None:
        super().__init__(directory, nodes, seed)
        ports = free_ports(3 * nodes + nodes * (nodes - 1))
        self._ports = {name: ports[3 * at : 3 * at + 3] for at, name in enumerate(self.names)}
        pairs = [(a, b) for a in self.names for b in self.names if a != b]
        self._proxy_ports = dict(zip(pairs, ports[3 * nodes :], strict=True))
        self.file = self.directory / "cluster.toml"
        self.joining_file = self.directory / "joining.toml"
        """The same file for those that joined: they have the ids they were given, not those the file makes."""
        self._joined: set[str] = set()
        self._write(settings)
        self.config: ClusterConfig = load_config(self.file)
        self._boards = {name: Switchboard(self._board_path(name)) for name in self.names}

    def _write(self, settings: Mapping[str, Mapping[str, object]]) -> None:
        everything: dict[str, dict[str, object]] = {
            "raft": {
                "heartbeat_interval_ms": HEARTBEAT_MS,
                "election_timeout_ms": ELECTION_TIMEOUT_MS,
                "snapshot_count": SNAPSHOT_COUNT,
                "catchup_entries": CATCHUP_ENTRIES,
            },
            "storage": {"wal_segment_bytes": 1 << 16},
            "supervision": {"restarts_max": 100_000, "backoff_max_ms": 500},
        }
        for section, values in settings.items():
            everything.setdefault(section, {}).update(values)
        lines = [f'token = "{self.directory.name}"']
        for section, values in everything.items():
            lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items())]
        for name, (client, peer, zmq) in self._ports.items():
            lines += ["[[nodes]]", f'name = "{name}"']
            lines += [f'client = "127.0.0.1:{client}"', f'peer = "127.0.0.1:{peer}"', f'zmq = "127.0.0.1:{zmq}"']
        self.file.write_text("\n".join(lines) + "\n")
        self.joining_file.write_text("\n".join(['initial_cluster_state = "existing"', *lines]) + "\n")

    def peer_url(self, name: str) -> str:
        """What a node's peers dial, as the member table has it."""
        return f"http://127.0.0.1:{self._ports[name][1]}"

    def other_peer_url(self, name: str) -> str:
        """Another way to the same port, which the proxy is not on."""
        return f"http://localhost:{self._ports[name][1]}"

    def rejoin(self, name: str) -> None:
        """Start a node with an empty disk, as a new member that was added."""
        shutil.rmtree(self.data_of(name), ignore_errors=True)
        self._joined.add(name)
        self.launch(name)

    def _board_path(self, name: str) -> Path:
        return self.directory / f"switches-{name}"

    def grpc(self, name: str) -> str:
        """Where gRPC clients reach a node."""
        return f"127.0.0.1:{self._ports[name][0]}"

    def zmq(self, name: str) -> str:
        """Where ZeroMQ clients reach a node."""
        return f"tcp://127.0.0.1:{self._ports[name][2]}"

    def _launch(self, name: str) -> "subprocess.Popen[bytes]":
        proxies = [
            f"--proxy={other}=127.0.0.1:{self._proxy_ports[name, other]}" for other in self.names if other != name
        ]
        file = self.joining_file if name in self._joined else self.file
        command = [sys.executable, "-m", "tools.chaos_node", str(file), f"--node={name}"]
        command += [f"--data-dir={self.directory / 'data'}", f"--switches={self._board_path(name)}", *proxies]
        return self._spawn(name, command)

    def _proxy_config(self) -> dict[str, Any]:
        listeners = [
            {"source": a, "target": b, "listen": port, "to": self._ports[b][1]}
            for (a, b), port in self._proxy_ports.items()
        ]
        return {"listeners": listeners, "members": {}, "zmtp": True}

    def board(self, name: str) -> Switchboard:
        """The switches of a node's disk and clock."""
        return self._boards[name]


class EtcdTarget(Target):
    """Nodes of the etcd on PATH: the control."""

    kind = "etcd"
    doors = ("grpc",)
    actors = ("etcd",)
    _root_role = "etcd"

    def __init__(self, directory: Path, nodes: int, seed: int) -> None:
        super().__init__(directory, nodes, seed)
        binary = shutil.which("etcd")
        if binary is None:
            raise TargetFailed("there is no etcd on PATH; Debian: apt-get install etcd-server")
        self._binary = binary
        ports = free_ports(3 * nodes)
        self._ports = {name: ports[3 * at : 3 * at + 3] for at, name in enumerate(self.names)}
        """Client port, peer port, and the proxy's port that stands for the peer port."""
        self._token = self.directory.name

    def grpc(self, name: str) -> str:
        """Where gRPC clients reach a node."""
        return f"127.0.0.1:{self._ports[name][0]}"

    def zmq(self, name: str) -> str:
        """There is no such door."""
        raise TargetFailed(f"etcd has no ZeroMQ door: {name}")

    def _advertised(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name][2]}"

    def _launch(self, name: str) -> "subprocess.Popen[bytes]":
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports[name][:2])
        members = ",".join(f"{each}={self._advertised(each)}" for each in self.names)
        command = [
            *(self._binary, "--name", name, "--data-dir", str(self.data_of(name))),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", self._advertised(name)),
            *("--initial-cluster", members, "--initial-cluster-token", self._token, "--log-level", "warn"),
            *("--election-timeout", str(ELECTION_TIMEOUT_MS), "--heartbeat-interval", str(HEARTBEAT_MS)),
            *("--snapshot-count", str(SNAPSHOT_COUNT), "--logger", "zap"),
        ]
        self.data_of(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._spawn(name, command)

    def _proxy_config(self) -> dict[str, Any]:
        listeners = [
            {"source": "", "target": name, "listen": stand_in, "to": peer}
            for name, (_, peer, stand_in) in self._ports.items()
        ]
        members = {f"{member_id_of([self._advertised(name)], self._token):x}": name for name in self.names}
        return {"listeners": listeners, "members": members, "zmtp": False}


def make_target(
    kind: str, directory: Path, nodes: int, seed: int, settings: Mapping[str, Mapping[str, object]]
) -> Target:
    """Return a cluster of the kind asked for; nothing runs yet."""
    if kind == "actd":
        return ActdTarget(directory, nodes, seed, settings)
    return EtcdTarget(directory, nodes, seed)


def await_leader(target: Target, timeout_s: float) -> str:
    """Wait until a node says that it leads; return its name.

    Raises:
        TargetFailed: nobody does in time.
    """
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        leader = target.leader()
        if leader is not None:
            return leader
        time.sleep(0.1)
    raise TargetFailed(f"no leader after {timeout_s:.0f} s; see {target.directory}")
