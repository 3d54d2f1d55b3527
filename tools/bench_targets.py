"""What is measured: a three-node cluster of actd or of real etcd, on free ports of this machine.

Owns starting, finding the leader, CPU and memory of all server processes, and stopping. Knows no load.
"""

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path

import psutil

from actors.supervisor import die_with_parent
from protocol.wire import rpc_pb2 as rpc
from tools.bench_grpc import unary

START_TIMEOUT_S = 60.0
PORTS = (12_000, 15_000)


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on now, below those the kernel gives to outgoing connections."""
    found: list[int] = []
    for port in random.sample(range(*PORTS), k=PORTS[1] - PORTS[0]):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports between {PORTS[0]} and {PORTS[1]}")


class Target(ABC):
    """A cluster under load: what both kinds share."""

    name = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []
        self.clients: list[str] = []
        self.zmq: list[str] = []
        self.version = ""

    def pids(self) -> list[int]:
        """Return every server process."""
        found: list[int] = []
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                root = psutil.Process(process.pid)
                found += [root.pid, *(child.pid for child in root.children(recursive=True))]
        return found

    def start(self) -> None:
        """Start and wait for a leader."""
        self.spawn_all()
        self.leader()

    @abstractmethod
    def spawn_all(self) -> None:
        """Start every process of the cluster."""

    @abstractmethod
    def restart(self, client: str) -> None:
        """SIGKILL the member that serves `client`, and have it start again with its data."""

    def kill(self) -> None:
        """SIGKILL every process at once, as a power cut of the processes would."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Stop and clean up."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes = []

    def wipe(self) -> None:
        """Remove the data."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def spawn(self, command: list[str]) -> None:
        """Start one process in a group of its own; it does not outlive us."""
        self.directory.mkdir(parents=True, exist_ok=True)
        follow = functools.partial(die_with_parent, os.getpid(), signal.SIGTERM)
        with (self.directory / f"log-{len(self.processes)}").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, preexec_fn=follow)
        self.processes.append(process)

    def leader(self) -> str:
        """Return the client address of the leader, waiting until there is one."""
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            for address in self.clients:
                status = self._status(address)
                if status is not None and status.leader and status.leader == status.header.member_id:
                    self.version = status.version
                    return address
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} has no leader after {START_TIMEOUT_S:.0f} s; see {self.directory}")

    @staticmethod
    def _status(address: str) -> rpc.StatusResponse | None:
        try:
            body = unary(address, "/etcdserverpb.Maintenance/Status", b"")
        except (OSError, RuntimeError):
            return None
        return rpc.StatusResponse.FromString(body)

    def revision(self) -> int:
        """Return the store's revision, so that a load can be held against what really happened."""
        request = rpc.RangeRequest(key=b"\0", limit=1)
        body = unary(self.leader(), "/etcdserverpb.KV/Range", request.SerializeToString())
        return rpc.RangeResponse.FromString(body).header.revision


class Actd(Target):
    """Three nodes of this checkout."""

    name = "actd"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        ports = free_ports(9)
        self.clients = [f"127.0.0.1:{port}" for port in ports[:3]]
        self.zmq = [f"tcp://127.0.0.1:{port}" for port in ports[6:]]
        self._ports = ports

    def spawn_all(self) -> None:
        """Start one launcher with a cluster file of its own."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = [f'data_dir = "{self.directory}"', "[storage]", "quota_bytes = 0"]
        for number in range(3):
            lines += [
                "[[nodes]]",
                f'name = "n{number + 1}"',
                f'client = "127.0.0.1:{self._ports[number]}"',
                f'peer = "127.0.0.1:{self._ports[3 + number]}"',
                f'zmq = "127.0.0.1:{self._ports[6 + number]}"',
            ]
        file = self.directory / "cluster.toml"
        file.write_text("\n".join(lines))
        self.spawn([sys.executable, "-m", "tools.launch", str(file), "--log-level", "warning"])

    def restart(self, client: str) -> None:
        """Kill the node's actors; its supervisor starts them again."""
        supervisor = f"actd: n{self.clients.index(client) + 1} supervisor"
        for pid in self.pids():
            process = psutil.Process(pid)
            if process.cmdline()[:1] == [supervisor]:
                for actor in process.children():
                    actor.kill()


class Etcd(Target):
    """Three nodes of the etcd on PATH."""

    name = "etcd"

    def __init__(self, directory: Path, binary: str) -> None:
        super().__init__(directory)
        self._binary = binary
        self._ports = free_ports(6)
        self.clients = [f"127.0.0.1:{port}" for port in self._ports[:3]]

    def spawn_all(self) -> None:
        """Start three processes with etcd's defaults and a quota that a million keys fit in."""
        for number in range(3):
            self.spawn(self._command(number))

    def restart(self, client: str) -> None:
        """Kill the process and start another."""
        number = self.clients.index(client)
        self.processes[number].kill()
        self.processes[number].wait()
        self.spawn(self._command(number))
        self.processes[number] = self.processes.pop()

    def _command(self, number: int) -> list[str]:
        peers = ",".join(f"e{each + 1}=http://127.0.0.1:{self._ports[3 + each]}" for each in range(3))
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._ports[number], self._ports[3 + number]))
        name = f"e{number + 1}"
        return [
            *(self._binary, "--name", name, "--data-dir", str(self.directory / name)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", peers, "--log-level", "error", "--quota-backend-bytes", str(8 << 30)),
        ]


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time all processes have used so far."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def pss_bytes(pids: list[int]) -> int:
    """Return the proportional set size of all processes together: shared pages are counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().pss
    return total
