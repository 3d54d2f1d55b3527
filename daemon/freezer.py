"""SIGSTOP of a node's one outside process stops all of it, and SIGCONT lets all of it go on.

The kernel stops one process; the actors would serve on. So a small process looks at the node's process a few times a
second, stops its other children while it is stopped, and continues exactly those when it runs again.
Owns the look and the two signals. Knows no actor. Invariant: nobody stays stopped by this because it has ended:
it ends only with the node, and then the kernel kills all.
"""

import os
import signal
import threading
from pathlib import Path
from typing import Final

from setproctitle import setproctitle

from actors.supervisor import die_with_parent

LOOK_INTERVAL_S: Final = 0.1
STOPPED: Final = "T"
TITLE_SUFFIX: Final = "freezer"


def state_of(pid: int) -> str:
    """Return the kernel's letter for what a process does; nothing where it is gone."""
    try:
        # The name may hold anything, so it is what stands behind the last bracket.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def children_of(pid: int) -> list[int]:
    """Return the children of a process that has one thread."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []


class Freezer:
    """Looks at one process and holds its children to its state."""

    def __init__(self, node: int, own: int) -> None:
        self._node = node
        self._own = own
        self._held: list[int] = []
        """Children that were running when this stopped them."""

    def look(self) -> None:
        """Stop or continue the children if the node has been stopped or continued."""
        stopped = state_of(self._node) == STOPPED
        if stopped:
            for pid in children_of(self._node):
                if pid not in self._held and pid != self._own and state_of(pid) != STOPPED:
                    self._held.append(pid)
                    self._signal(pid, signal.SIGSTOP)
        elif self._held:
            held, self._held = self._held, []
            for pid in held:
                self._signal(pid, signal.SIGCONT)

    def _signal(self, pid: int, number: int) -> None:
        # A pid is not given out again before its parent, which is stopped or about to reap it, has seen the end.
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def start_freezer(name: str) -> int:
    """Fork the process that looks after this one; return its pid."""
    node = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        die_with_parent(node, signal.SIGKILL)
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        setproctitle(f"actd: {name} {TITLE_SUFFIX}")
        freezer = Freezer(node, os.getpid())
        pause = threading.Event()
        while True:
            freezer.look()
            pause.wait(LOOK_INTERVAL_S)
    finally:
        os._exit(1)
