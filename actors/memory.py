"""Memory that a process has freed goes back to the machine.

The C library keeps what Python and RocksDB free for later, for good: a process that once read a whole log, or stood
for a moment under a thousand requests, would stay as large as it was then. So every actor gives back what it does not
use, a little after its start and once in a while.
That costs a quarter of a millisecond where there is little to give, and ten for fifty megabytes.
"""

import ctypes
from collections.abc import Callable
from typing import Final

BEATS_TO_FIRST: Final = 3
BEATS_BETWEEN: Final = 30
"""Beats come once a second."""


def _trimmer() -> Callable[[int], int] | None:
    """Return glibc's `malloc_trim`, or None where the C library is another one."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


class FreedMemory:
    """Counts beats and gives freed memory back on some of them."""

    def __init__(self, trim: Callable[[int], int] | None = None) -> None:
        self._trim = trim or _trimmer()
        self._beats_left = BEATS_TO_FIRST

    def beat(self) -> None:
        """Give back what is free, if it is time."""
        self._beats_left -= 1
        if self._beats_left <= 0:
            self._beats_left = BEATS_BETWEEN
            if self._trim is not None:
                self._trim(0)
