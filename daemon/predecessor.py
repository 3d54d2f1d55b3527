"""The moment that the actors of a killed node need to end: who starts it again at once need not know of it.

Owns the wait. Knows no actor: what counts is whether the directory's lock and the ports are free.
"""

import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from actors.node_directory import LOCK_FILE
from protocol.errors import ConfigError

WAIT_S_MAX: Final = 3.0
"""Whoever still has the lock or a port after that is no dying actor."""
LOOK_INTERVAL_S: Final = 0.02


def is_locked(directory: Path) -> bool:
    """Whether a process has the lock of a data directory."""
    try:
        lock = os.open(directory / LOCK_FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def await_end_of_predecessor(directory: Path, check_ports: Callable[[], None], wait_s: float = WAIT_S_MAX) -> None:
    """Return once lock and ports are free; a lock that stays is left to whoever takes it next to complain of.

    Raises:
        ConfigError: from `check_ports`, when a port is not free in time.
    """
    give_up_at = time.monotonic() + wait_s
    pause = threading.Event()
    while True:
        try:
            check_ports()
        except ConfigError:
            if time.monotonic() > give_up_at:
                raise
        else:
            if not is_locked(directory) or time.monotonic() > give_up_at:
                return
        pause.wait(LOOK_INTERVAL_S)
