"""A real etcd on loopback, to compare with."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import free_ports, wait_until

ETCD = shutil.which("etcd")
START_S = 30.0


def need_etcd(*programs: str) -> None:
    """Skip where etcd (and the other programs) are not installed; on CI that is a failure."""
    missing = [name for name in ("etcd", *programs) if shutil.which(name) is None]
    if missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have {' and '.join(missing)}: apt-get install etcd-server etcd-client")
        pytest.skip(f"{' and '.join(missing)}: not installed (apt-get install etcd-server etcd-client)")


@contextlib.contextmanager
def running_etcd(directory: Path, *options: str) -> Iterator[str]:
    """Lend out a fresh single etcd that serves; its client address, as `host:port`."""
    assert ETCD is not None, "need_etcd was asked before"
    client, peer = (f"127.0.0.1:{port}" for port in free_ports(2))
    command = [ETCD, "--data-dir", str(directory / "data"), "--log-level", "error", *options]
    command += ["--listen-client-urls", f"http://{client}", "--advertise-client-urls", f"http://{client}"]
    command += ["--listen-peer-urls", f"http://{peer}", "--initial-advertise-peer-urls", f"http://{peer}"]
    command += ["--initial-cluster", f"default=http://{peer}"]
    with Path(directory, "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: _serves(client), START_S, "etcd is healthy")
            yield client
        finally:
            process.kill()


def _serves(address: str) -> bool:
    """Whether `/health` says so; it reads a key and writes none, so that the store stays at its first revision."""
    host, port = address.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        connection.settimeout(5)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
        return b'"health":"true"' in answer
    return False
