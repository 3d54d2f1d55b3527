"""The inherited socket between a supervisor and an actor: beats and wishes one way, news and orders the other.

Invariant: when it reads end-of-file, the other side is gone, and this side must end.
"""

import socket
from typing import Final

from protocol import codec
from protocol.message import Message

PACKET_BYTES_MAX: Final = 200_000
"""What a socket of default size takes as one packet, with room to spare."""


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
        """Send one message; False if it did not leave: the other end is gone or does not read, or it is too large."""
        packet = codec.encode(message)
        if len(packet) > PACKET_BYTES_MAX:
            return False
        try:
            self._end.send(packet)
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
                # It closed with words of ours unread, which the kernel tells once; its own last words are still here.
                continue
            if not packet:
                if arrived:
                    return arrived
                raise LifelineCut
            arrived.append(codec.decode(packet))

    def close(self) -> None:
        """Close this end."""
        self._end.close()
