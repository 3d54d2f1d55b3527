"""The client's socket: one DEALER to one door, replaced when the session goes to another.

The only file of this package that knows ZeroMQ. Not safe for several threads; its owner sees to that.
"""

import math
from typing import Final

import zmq

from actd.keys import CurveKeys
from protocol.codec import MESSAGE_BYTES_MAX

RECEIVES_MAX: Final = 64
SEND_QUEUE_MESSAGES_MAX: Final = 10_000
HEARTBEAT_MS: Final = 10_000
HEARTBEAT_TIMEOUT_MS: Final = 30_000


class Transport:
    """A socket that can be pointed elsewhere."""

    def __init__(self, curve: CurveKeys | None = None) -> None:
        """With `curve` everything is encrypted, and only doors that hold the right key are believed."""
        self._curve = curve
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
        socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        if self._curve is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, self._curve.server_key(endpoint))
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._curve.public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._curve.secret)
        socket.connect(endpoint)
        self._socket = socket

    @property
    def connected(self) -> bool:
        """Whether there is a socket at all."""
        return self._socket is not None

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
        return self._socket is not None and bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def send(self, frame: bytes) -> None:
        """Send one frame; a full queue drops it, and the call times out."""
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return

    def receive(self) -> list[bytes]:
        """Return what has arrived, up to a bound; a message of several frames is none of ours and is dropped."""
        frames: list[bytes] = []
        if self._socket is None:
            return frames
        try:
            for _ in range(RECEIVES_MAX):
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
                if len(parts) == 1:
                    frames.append(parts[0])
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
        if transport.connected:
            poller.register(transport.socket, zmq.POLLIN)
        poller.register(self._nudge, zmq.POLLIN)
        poller.poll(max(0, math.ceil(timeout_s * 1000)))
