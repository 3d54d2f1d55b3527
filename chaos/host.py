"""The machine a run shares with others: turns, ports, and the time in which it did not run us at all.

Owns lock files below the temporary directory. They go with the process that holds them.
"""

import contextlib
import fcntl
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import Final

CORES_PER_CLUSTER: Final = 2
TURN_POLL_S: Final = 0.2
TICK_S: Final = 0.05
STANDSTILL_S: Final = 0.5
"""Ticks so far apart mean that nobody was run, not that somebody was slow."""
PORTS: Final = (15_000, 32_000)
_PORT_CLAIMS: Final[list[int]] = []


def _locks(name: str) -> Path:
    directory = Path(gettempdir()) / f"{name}-{os.getuid()}"
    directory.mkdir(exist_ok=True)
    return directory


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Wait for one of the turns this machine has: no more clusters run at once than its cores carry.

    Who waits longest is next: only the first in the queue looks for a turn, the others wait for its place.
    """
    directory = _locks("actd-chaos-turns")
    queue = _open_lock(directory / "queue")
    try:
        fcntl.flock(queue, fcntl.LOCK_EX)
        claim = _any_turn(directory)
    finally:
        os.close(queue)
    try:
        yield
    finally:
        os.close(claim)


def _any_turn(directory: Path) -> int:
    count = max(1, (os.cpu_count() or 1) // CORES_PER_CLUSTER)
    while True:
        for number in range(count):
            claim = _open_lock(directory / str(number))
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(claim)
            else:
                return claim
        time.sleep(TURN_POLL_S)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on, below the ephemeral range, that no other run of ours will be given."""
    directory = _locks("actd-test-ports")
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(*PORTS)
        claim = _open_lock(directory / str(port))
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(claim)
            continue
        _PORT_CLAIMS.append(claim)
        ports.append(port)
    return ports


class StandstillWatch:
    """Measures the time in which the host did not run this process, so that no deadline counts it."""

    def __init__(self) -> None:
        self.standstills: list[tuple[float, float]] = []
        """When each began, on the monotonic clock, and how long it was, in seconds."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standstill watch", daemon=True)

    def __enter__(self) -> "StandstillWatch":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def lost_s(self) -> float:
        """Seconds in which nothing of ours ran, so far."""
        return sum(length for _, length in self.standstills)

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(TICK_S):
            now = time.monotonic()
            if now - before > STANDSTILL_S:
                self.standstills.append((before, now - before - TICK_S))
            before = now

    def awake_s(self) -> float:
        """Return a clock that stands still when the host does."""
        return time.monotonic() - self.lost_s
