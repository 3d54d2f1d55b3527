"""The proxy between nodes: what it does to bytes, on real sockets."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.host import free_ports

pytestmark = pytest.mark.processes
WAIT_S = 10.0


class Echo:
    """A server that sends back what it gets."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                connection.sendall(data)

    def close(self) -> None:
        """Stop listening."""
        self._server.close()


class Network:
    """Two nodes, b an echo, and the proxy between them."""

    def __init__(self, directory: Path, *, members: dict[str, str] | None = None) -> None:
        self.listen, to, back = free_ports(3)
        self.echo = Echo(to)
        source = "" if members else "a"
        listeners = [
            {"source": source, "target": "b", "listen": self.listen, "to": to},
            {"source": "b", "target": "a", "listen": back, "to": to},
        ]
        config = {"seed": 1, "listeners": listeners, "members": members or {}, "zmtp": False}
        file = directory / "proxy.json"
        file.write_text(json.dumps(config))
        command = [sys.executable, "-m", "chaos.proxy", str(file)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hear("ready")

    def _hear(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def shape(self, source: str, target: str, **changes: object) -> None:
        """Change a link."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([[source, target, changes]]) + "\n")
        self._process.stdin.flush()
        self._hear("ok")

    def connect(self) -> socket.socket:
        """Connect to b as a."""
        return socket.create_connection(("127.0.0.1", self.listen), WAIT_S)

    def close(self) -> None:
        """End proxy and echo."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(WAIT_S) == 0, "the proxy ends with its input"
        self._process.stdout.close()
        self.echo.close()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """A network in good order."""
    made = Network(tmp_path)
    yield made
    made.close()


def asked(connection: socket.socket, data: bytes, wait_s: float = WAIT_S) -> bytes:
    """Send, and return what comes back in time."""
    connection.settimeout(wait_s)
    connection.sendall(data)
    answer = b""
    with contextlib.suppress(TimeoutError):
        while len(answer) < len(data) and (more := connection.recv(65536)):
            answer += more
    return answer


def test_bytes_pass_in_order(network: Network) -> None:
    """A megabyte comes back as it was."""
    data = bytes(range(256)) * 4096
    with network.connect() as connection:
        sending = threading.Thread(target=connection.sendall, args=(data,))
        sending.start()
        assert asked(connection, b"") == b""
        got = b""
        while len(got) < len(data):
            got += connection.recv(1 << 20)
        sending.join()
    assert got == data


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "a")])
def test_a_stalled_link_delivers_later(network: Network, source: str, target: str) -> None:
    """Nothing comes through while it is stalled, and everything afterwards, in either direction."""
    with network.connect() as connection:
        assert asked(connection, b"one") == b"one"
        network.shape(source, target, mode="stall")
        assert asked(connection, b"two", 0.3) == b""
        network.shape(source, target, mode="open")
        assert asked(connection, b"") == b""
        connection.settimeout(WAIT_S)
        assert connection.recv(100) == b"two"


def test_a_cut_link_ends_connections_and_takes_no_new_ones(network: Network) -> None:
    """Both ends hear of it at once; opened again, it connects."""
    with network.connect() as connection:
        assert asked(connection, b"one") == b"one"
        network.shape("a", "b", mode="cut")
        with pytest.raises(ConnectionError):
            connection.recv(100)
    with contextlib.suppress(ConnectionError), network.connect() as refused:
        assert refused.recv(100) == b""
    network.shape("a", "b", mode="open")
    with network.connect() as connection:
        assert asked(connection, b"two") == b"two"


def test_a_slow_link_is_slow(network: Network) -> None:
    """The delay is one of the way there; order is kept."""
    network.shape("a", "b", delay_ms=300.0, jitter_ms=50.0)
    with network.connect() as connection:
        began = time.monotonic()
        assert asked(connection, b"one") == b"one"
        assert time.monotonic() - began >= 0.3
        assert asked(connection, b"0123456789") == b"0123456789"


def test_an_etcd_member_says_who_it_is(tmp_path: Path) -> None:
    """Where one port stands for a node, the request's own header tells whose link it is."""
    network = Network(tmp_path, members={"abc123": "a"})
    request = b"GET /raft/stream HTTP/1.1\r\nX-Server-From: abc123\r\n\r\n"
    network.shape("a", "b", mode="stall")
    with network.connect() as known, network.connect() as unknown:
        assert asked(known, request, 0.3) == b""
        assert asked(unknown, request.replace(b"abc123", b"ffffff")) == request.replace(b"abc123", b"ffffff")
    network.close()
