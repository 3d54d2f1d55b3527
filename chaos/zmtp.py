"""Where ZeroMQ messages begin and end in a byte stream, so that a proxy can lose whole ones.

Pure. Knows ZMTP 3's greeting and frame heads, and nothing of what is in them.
"""

import random
from typing import Final

GREETING_BYTES: Final = 64
_MORE: Final = 1
_LONG: Final = 2
_COMMAND: Final = 4


class MessageLoss:
    """Takes one direction of one connection and gives it back, with some of its messages missing.

    The greeting and commands always pass: they are TCP's business. What is not yet whole is held back.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._data = bytearray()
        self._greeting_left = GREETING_BYTES
        self._at = 0
        """Up to here `_data` is frames of one message that goes on."""
        self.lost = 0

    def feed(self, data: bytes, loss: float) -> bytes:
        """Return what goes on, of `data` and what was held back; each message is lost with chance `loss`."""
        # The greeting goes through as it comes: each side waits for the other's first half before its second.
        greeting, data = data[: self._greeting_left], data[self._greeting_left :]
        self._greeting_left -= len(greeting)
        self._data += data
        return greeting + self._messages(loss)

    def _messages(self, loss: float) -> bytes:
        out: list[bytes] = []
        begin, at = 0, self._at
        while (size := self._frame_size(at)) is not None:
            flags = self._data[at]
            at += size
            if flags & _MORE:
                continue
            if flags & _COMMAND or self._rng.random() >= loss:
                out.append(bytes(self._data[begin:at]))
            else:
                self.lost += 1
            begin = at
        del self._data[:begin]
        self._at = at - begin
        return b"".join(out)

    def _frame_size(self, at: int) -> int | None:
        """Return the size of the frame at `at` with its head, or None when it is not all there."""
        head = 9 if len(self._data) > at and self._data[at] & _LONG else 2
        if len(self._data) < at + head:
            return None
        size = head + int.from_bytes(self._data[at + 1 : at + head], "big")
        return size if len(self._data) >= at + size else None
