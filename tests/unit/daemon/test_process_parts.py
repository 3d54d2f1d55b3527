"""The parts of a node: the freezer, the word to systemd, the wait for a predecessor, the shape of log lines."""

import fcntl
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from clusters import wait_until

from actors.logs import configure_logs
from actors.node_directory import LOCK_FILE
from daemon.freezer import Freezer, children_of, state_of
from daemon.notify import READY, Notifier
from daemon.predecessor import await_end_of_predecessor, is_locked
from protocol.errors import ConfigError

PARENT = "import os, sys\nfor _ in range(2):\n    if not os.fork():\n        sys.stdin.read(); os._exit(0)\n"
PARENT += "print('ready', flush=True)\nsys.stdin.read()\n"
"""A process with two children, all of which wait."""


@pytest.fixture
def family() -> Iterator[int]:
    """A parent with two children; gone when the test ends."""
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        children = children_of(parent.pid)
        yield parent.pid
        for pid in (parent.pid, *children):
            os.kill(pid, signal.SIGKILL)


def test_children_stand_still_while_their_parent_is_stopped_and_no_longer(family: int) -> None:
    """Exactly those that were running before; one that somebody else has stopped stays stopped."""
    ours, theirs = children_of(family)
    freezer = Freezer(family, own=0)
    freezer.look()
    assert state_of(ours) != "T"
    os.kill(theirs, signal.SIGSTOP)
    os.kill(family, signal.SIGSTOP)
    wait_until(lambda: state_of(family) == state_of(theirs) == "T", 10)
    freezer.look()
    wait_until(lambda: state_of(ours) == "T", 10, "it is stopped with its parent")
    os.kill(family, signal.SIGCONT)
    wait_until(lambda: state_of(family) != "T", 10)
    freezer.look()
    wait_until(lambda: state_of(ours) != "T", 10, "it goes on with its parent")
    assert state_of(theirs) == "T"


def test_a_process_that_is_gone_has_no_state_and_no_children() -> None:
    """And is no error."""
    assert state_of(2**22 + 1) == ""
    assert children_of(2**22 + 1) == []


def test_systemd_is_told_and_children_are_not_asked(tmp_path: Path) -> None:
    """One datagram; the variable is gone, so that nobody else tells; without it nothing happens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "HOME": "/"}
        notifier = Notifier(environment)
        assert environment == {"HOME": "/"}
        assert notifier.tell(READY, "STATUS=well")
        assert listener.recv(100) == b"READY=1\nSTATUS=well"
    assert not notifier.tell(READY), "nobody listens there any more"
    assert not Notifier({}).tell(READY)


def test_lock_and_ports_are_waited_for_and_a_port_not_for_ever(tmp_path: Path) -> None:
    """A port that stays taken is told as it was found; a lock that stays is left to who takes it next."""
    await_end_of_predecessor(tmp_path, lambda: None)
    (tmp_path / LOCK_FILE).touch()
    with (tmp_path / LOCK_FILE).open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert is_locked(tmp_path)
        await_end_of_predecessor(tmp_path, lambda: None, wait_s=0.05)
    assert not is_locked(tmp_path)
    answers = iter([ConfigError("taken"), ConfigError("taken"), None])

    def check() -> None:
        error = next(answers)
        if error is not None:
            raise error

    await_end_of_predecessor(tmp_path, check)
    assert next(answers, "asked until it was free") == "asked until it was free"

    def never() -> None:
        raise ConfigError("n1: client address: taken")

    with pytest.raises(ConfigError, match="client address"):
        await_end_of_predecessor(tmp_path, never, wait_s=0.05)


def test_lines_have_the_keys_of_etcds_logger_in_its_order() -> None:
    """level, ts, msg, and then what belongs to the event; to every output."""
    outputs = [io.StringIO(), io.StringIO()]
    try:
        configure_logs("zap", "warning", outputs)
        structlog.get_logger().info("not_told")
        structlog.get_logger().warning("disk_slow", took_ms=7)
    finally:
        structlog.reset_defaults()
    assert outputs[0].getvalue() == outputs[1].getvalue()
    line = json.loads(outputs[0].getvalue())
    assert list(line) == ["level", "ts", "msg", "took_ms"]
    assert (line["level"], line["msg"], line["took_ms"]) == ("warn", "disk_slow", 7)
