"""What a fuzz target is: something that reads bytes of strangers, the inputs to begin with, and the words it knows."""

from collections.abc import Callable
from typing import Final, NamedTuple

INPUT_BYTES_MAX: Final = 8192
"""Longer inputs find little more and cost much more."""


class Target(NamedTuple):
    """One reader of bytes from outside.

    `run` takes an input and returns: it raises only if something is wrong, which is any error but those that the code
    under test declares, or a broken promise of its own.
    """

    name: str
    what: str
    """For people: what is fed, and to whom."""
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    """Proper inputs and known traps, which mutation begins with."""
    words: tuple[bytes, ...] = ()
    """Bytes that mean something there."""


class Broken(Exception):
    """A promise was not kept; the text says which."""


def expect(holds: object, promise: str) -> None:
    """Raise `Broken` unless a promise holds: like `assert`, but of input."""
    if not holds:
        raise Broken(promise)


class Material:
    """An input taken apart from its beginning; what is not there is zero or empty."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, below: int) -> int:
        """Return a number in `[0, below)`; it takes as many bytes as that needs."""
        size = ((below - 1).bit_length() + 7) // 8
        return int.from_bytes(self.take(size), "big") % below

    def take(self, size: int) -> bytes:
        """Return the next bytes, as many as there are."""
        taken = self._data[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data))

    def __bool__(self) -> bool:
        return self._at < len(self._data)
