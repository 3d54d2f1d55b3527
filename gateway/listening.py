"""Listening sockets of the client port: TCP and socket files, with the kernel's watch over silent clients.

Owns the making of one socket. Knows no protocol. What it sets, every accepted connection inherits.
"""

import contextlib
import errno
import socket
from pathlib import Path
from typing import Final

from protocol.addresses import Address, parse_listen_url
from protocol.config import LimitsConfig

UNIX_PREFIX: Final = "unix:"
KEEPALIVE_PROBES: Final = 4
"""Questions to a silent client's machine, shared out over the time it may take to answer."""


def door_name(address: Address) -> str:
    """Return how a door is told where to listen: `host:port`, or `unix:PATH`."""
    return f"{UNIX_PREFIX}{address.host}" if address.is_unix else address.host_port


def listen(where: str, limits: LimitsConfig) -> socket.socket:
    """Return a socket bound to `where`, which is `host:port` or `unix:PATH`.

    A socket file that nobody listens on any more is replaced.

    Raises:
        OSError: the address cannot be had.
    """
    if where.startswith(UNIX_PREFIX):
        path = Path(where.removeprefix(UNIX_PREFIX))
        if path.is_socket():
            _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        return listener
    address = parse_listen_url(f"http://{where}")
    listener = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if limits.keepalive_idle_ms:
        _watch_over_silence(listener, limits)
    listener.bind((address.host, address.port))
    return listener


def _remove_stale(path: Path) -> None:
    """Remove what a killed node has left behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, f"somebody listens on {path}")


def _watch_over_silence(listener: socket.socket, limits: LimitsConfig) -> None:
    """Have the kernel notice a client that vanished without a word."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle_s = max(1, min(limits.keepalive_idle_ms // 1000, 32_767))
    between_s = max(1, min(limits.keepalive_timeout_ms // 1000 // KEEPALIVE_PROBES, 32_767))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, between_s)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def forget(where: str) -> None:
    """Remove the socket file of a door that listens no more."""
    if where.startswith(UNIX_PREFIX):
        with contextlib.suppress(OSError):
            Path(where.removeprefix(UNIX_PREFIX)).unlink()
