"""Real nodes that are started by etcd's flags, and ways to use, stop and freeze them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from clusters import START_S, wait_until

from chaos.host import free_ports

ACTD = Path(sys.executable).with_name("actd")
READY = "ready to serve client requests"
ACTORS = ("wal", "applier", "raft", "gateway")


class FlagNode:
    """One node: its words, its process, its log."""

    def __init__(
        self, directory: Path, name: str, words: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.name = name
        self.words = words
        self.log_file = directory / f"{name}.log"
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith(("ETCD_", "ACTD_"))}
        self._environment.update(environment or {})
        self._log_begins = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return at once."""
        # A test run that is killed cannot stop what it started: the kernel does.
        follow = ["setpriv", "--pdeathsig=KILL"] if shutil.which("setpriv") else []
        self._log_begins = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*follow, str(ACTD), *self.words],
                cwd=self.directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def await_ready(self) -> None:
        """Wait until it says so."""
        wait_until(lambda: READY in self.log or self.ended, START_S, f"{self.name} is ready")
        assert READY in self.log, self.log

    def await_end(self) -> int:
        """Wait until it ends by itself; return the exit status."""
        assert self.process is not None, "it was started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(START_S)
        raise AssertionError(f"{self.name} still runs after {START_S} s; it said:\n{self.log}")

    @property
    def pid(self) -> int:
        """The process that is the node to the outside."""
        assert self.process is not None, "it was started"
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self.process is None or self.process.poll() is not None

    @property
    def log(self) -> str:
        """What it has said since its last start."""
        return self.log_file.read_bytes()[self._log_begins :].decode(errors="replace")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The same, as JSON."""
        return [json.loads(line) for line in self.log.splitlines()]

    def actors(self) -> dict[str, psutil.Process]:
        """Its actors, by role."""
        found = {}
        for child in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
                found[child.cmdline()[0].rpartition(" ")[2]] = child
        return {role: found[role] for role in ACTORS if role in found}

    def stop(self) -> int:
        """SIGTERM it; return the exit status."""
        assert self.process is not None, "it was started"
        self.process.terminate()
        return self.process.wait(START_S)

    def close(self) -> None:
        """End it, however it stands."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(START_S)


def etcdctl(endpoints: str, *words: str, timeout: str = "10s") -> str:
    """Run Debian's etcdctl; return what it prints."""
    command = ["etcdctl", f"--endpoints={endpoints}", f"--command-timeout={timeout}", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "ETCDCTL_API": "3"}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Forwarder:
    """A TCP proxy that sits between members: listens at one port and passes on to another."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._carriers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            carrier = threading.Thread(target=self._carry, args=(near,), daemon=True)
            self._carriers.append(carrier)
            carrier.start()

    def _carry(self, near: socket.socket) -> None:
        """Pass bytes on in both directions until either end is through."""
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.to), 5) as far:
            far.settimeout(None)
            with self._lock:
                self._ends += [near, far]
            back = threading.Thread(target=self._pass_on, args=(far, near), daemon=True)
            back.start()
            self._pass_on(near, far)
            back.join()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every connection, and take no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in [self._acceptor, *self._carriers]:
            thread.join(10)


class FlagCluster:
    """Three nodes by flags; members reach the third through a proxy only."""

    def __init__(self, directory: Path) -> None:
        self.client, self.peer, self.metrics = (free_ports(3) for _ in range(3))
        self.forwarder = Forwarder(self.peer[2])
        self.dialled = [*self.peer[:2], self.forwarder.port]
        self.initial = ",".join(f"s{at + 1}=http://127.0.0.1:{port}" for at, port in enumerate(self.dialled))
        self.token = f"token-of-{directory.name}"
        self.nodes = [FlagNode(directory, f"s{at + 1}", self.words(directory, at)) for at in range(3)]

    def words(self, directory: Path, at: int) -> list[str]:
        """The flags of one node."""
        client = f"http://127.0.0.1:{self.client[at]}"
        return [
            f"--name=s{at + 1}", "--data-dir", str(directory / f"s{at + 1}"),
            "--listen-client-urls", f"{client},unix://s{at + 1}.sock", f"--advertise-client-urls={client}",
            f"-listen-peer-urls=http://127.0.0.1:{self.peer[at]}",
            f"-initial-advertise-peer-urls=http://127.0.0.1:{self.dialled[at]}",
            f"--initial-cluster={self.initial}", f"--initial-cluster-token={self.token}",
            f"--listen-metrics-urls=http://127.0.0.1:{self.metrics[at]}",
            "--snapshot-count=5000", "--logger=zap", "--log-outputs=stderr", "--pre-vote",
        ]  # fmt: skip

    def endpoint(self, at: int) -> str:
        """Where clients reach a node."""
        return f"127.0.0.1:{self.client[at]}"

    @contextlib.contextmanager
    def running(self) -> Iterator["FlagCluster"]:
        """Start all, lend them out, end them."""
        try:
            for node in self.nodes:
                node.start()
            for node in self.nodes:
                node.await_ready()
            yield self
        except BaseException:
            for node in self.nodes:
                print(node.name, node.log[-5000:])
            raise
        finally:
            for node in self.nodes:
                node.close()
            self.forwarder.close()


def http_get(address: tuple[str, int] | str, path: str, *fields: str) -> bytes:
    """Return the whole answer to a GET, from a port or a socket file."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
    else:
        connection = socket.create_connection(address)
    with connection:
        connection.settimeout(20)
        lines = [f"GET {path} HTTP/1.1", *(fields or ("Host: localhost",)), "Connection: close"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while data := connection.recv(65_536):
            answer += data
        return answer
