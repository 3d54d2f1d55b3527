"""The roles of a node with faults built in: the production actors, over a disk, a clock and addresses that are not.

Owns what is replaced, and only in the process of one actor: the `os` that `storage.posix_disk` sees, the clock that
`actors.shell` sees, and where peers are looked for. Knows no scenario. Production has no way here: the launcher gets
these roles only from `tools.chaos_node`.
"""

import dataclasses
import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import storage.posix_disk
from actors.process import ROLES, ProcessContext, Role
from chaos.switchboard import Switchboard
from gateway.process import run_gateway
from protocol.types import Millis


class FaultyOs:
    """Module `os`, but for calls that write: those look at the switches first.

    A full disk refuses what would take new blocks; a failing one refuses to sync. The kernel's own errors are raised,
    so that their translation is part of what is tested.
    """

    def __init__(self, board: Switchboard) -> None:
        self._board = board

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fdatasync(self, descriptor: int) -> None:
        """Sync, later or not at all."""
        self._before_sync()
        os.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        """Sync a directory, later or not at all."""
        self._before_sync()
        os.fsync(descriptor)

    def _before_sync(self) -> None:
        if delay_ms := self._board.get("fsync_delay_ms"):
            time.sleep(delay_ms / 1000)
        if self._board.get("fsync_fails"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        """Write, or find the disk full."""
        if self._board.get("disk_full"):
            blocks = os.fstat(descriptor).st_blocks * 512
            if offset + len(data) > blocks:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(descriptor, data, offset)

    def posix_fallocate(self, descriptor: int, offset: int, size: int) -> None:
        """Reserve, or find the disk full."""
        if self._board.get("disk_full") and os.fstat(descriptor).st_blocks * 512 < offset + size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(descriptor, offset, size)


class JumpingClock:
    """The monotonic clock with the board's offset; it stands still rather than go back."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._last = 0

    def __call__(self) -> Millis:
        """Return the time in milliseconds."""
        self._last = max(self._last, time.monotonic_ns() // 1_000_000 + self._board.get("clock_ahead_ms"))
        return Millis(self._last)


@dataclass(frozen=True, kw_only=True)
class DisturbedContext(ProcessContext):
    """A context that goes by a clock of ours, and looks for each peer where this node's proxy to it listens."""

    proxies: Mapping[str, str]
    jumping_clock: JumpingClock

    def clock(self) -> Millis:
        """Return the time with its jumps."""
        return self.jumping_clock()

    def dial(self, peer_url: str) -> str:
        """Return the address of the proxy to whoever has this URL, if there is one."""
        for node in self.config.nodes:
            if node.name in self.proxies and peer_url in node.peer_urls:
                return f"tcp://{self.proxies[node.name]}"
        return super().dial(peer_url)


PLAIN_ROLES: Final[dict[str, Role]] = {**ROLES, "gateway": run_gateway}


def faulty_roles(board: Path, proxies: Mapping[str, str]) -> dict[str, Role]:
    """Return the roles of one node.

    Args:
        board: the node's switchboard.
        proxies: by the name of another node, the `host:port` at which this node reaches it.
    """
    return {name: _faulty(role, board, proxies) for name, role in PLAIN_ROLES.items()}


def _faulty(role: Role, board_path: Path, proxies: Mapping[str, str]) -> Callable[[ProcessContext], int]:
    def run(context: ProcessContext) -> int:
        board = Switchboard(board_path)
        storage.posix_disk.os = FaultyOs(board)  # type: ignore[attr-defined, assignment]  # this process is about to be one actor
        fields = {field.name: getattr(context, field.name) for field in dataclasses.fields(context)}
        return role(DisturbedContext(**fields, proxies=proxies, jumping_clock=JumpingClock(board)))

    return run
