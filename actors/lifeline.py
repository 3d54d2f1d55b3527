"""The inherited socket between a supervisor and an actor: beats and wishes one way, news and orders the other.

Invariant: when it reads end-of-file, the other side is gone, and this side must end.
"""

import socket
from typing import Final

from protocol import codec
from protocol.message import Message

PACKET_BYTES_MAX: Final = 200_000


class LifelineCut(Exception):
    """The process at the other end is gone."""


class Lifeline:
    """One end of a pair; packets are encoded messages."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)

    @staticmethod
    def pair() -> tuple["Lifeline", "Lifeline"]:
        """Return two connected ends."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Lifeline(left), Lifeline(right)

    def fileno(self) -> int:
        """The descriptor, for polling."""
        return self._end.fileno()

    def send(self, message: Message) -> bool:
        """Send one message; False if the other end is gone or does not read."""
        try:
            self._end.send(codec.encode(message))
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> list[Message]:
        """Return what has arrived.

        Raises:
            LifelineCut: the other end is gone and everything it said has been read.
        """
        arrived: list[Message] = []
        while True:
            try:
                packet = self._end.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                return arrived
            except ConnectionResetError:
                packet = b""
            if not packet:
                if arrived:
                    return arrived
                raise LifelineCut
            arrived.append(codec.decode(packet))

    def close(self) -> None:
        """Close this end."""
        self._end.close()
