"""The client's socket: one DEALER to one door, replaced when the session goes to another.

The only file of this package that knows ZeroMQ. Not safe for several threads; its owner sees to that.
"""

from typing import Final

import zmq

RECEIVES_MAX: Final = 64
SEND_QUEUE_MESSAGES_MAX: Final = 10_000


class Transport:
    """A socket that can be pointed elsewhere."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None

    def connect(self, endpoint: str) -> None:
        """Leave the old door, if any, and turn to `endpoint`."""
        if self._socket is not None:
            self._socket.close(linger=0)
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES_MAX)
        socket.setsockopt(zmq.RCVHWM, SEND_QUEUE_MESSAGES_MAX)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.connect(endpoint)
        self._socket = socket

    @property
    def socket(self) -> "zmq.Socket[bytes]":
        """The socket in use."""
        assert self._socket is not None, "connected first"
        return self._socket

    def fileno(self) -> int:
        """The edge-triggered descriptor: read until empty, and look again after sending."""
        return int(self.socket.getsockopt(zmq.FD))

    def readable(self) -> bool:
        """Whether a message waits."""
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def send(self, frame: bytes) -> None:
        """Send one frame; a full queue drops it, and the call times out."""
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return

    def receive(self) -> list[bytes]:
        """Return what has arrived, up to a bound."""
        frames: list[bytes] = []
        try:
            for _ in range(RECEIVES_MAX):
                frames.append(self.socket.recv(zmq.NOBLOCK))  # noqa: PERF401 - the last one raises
        except zmq.Again:
            pass
        return frames

    def close(self) -> None:
        """Close everything."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        self._context.term()


class Waiter:
    """Waits for a transport or for a nudge from another thread."""

    def __init__(self, nudge_descriptor: int) -> None:
        self._nudge = nudge_descriptor

    def wait(self, transport: Transport, timeout_s: float) -> None:
        """Return when something can be read, when nudged, or after `timeout_s`."""
        poller = zmq.Poller()
        poller.register(transport.socket, zmq.POLLIN)
        poller.register(self._nudge, zmq.POLLIN)
        poller.poll(max(0, int(timeout_s * 1000)))
