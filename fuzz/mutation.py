"""Inputs made of other inputs, by chance alone: for where coverage cannot guide.

Owns nothing but the ways to change bytes. One generator's state, one sequence of inputs.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from fuzz.target import INPUT_BYTES_MAX

CHANGES_MAX: Final = 6
NUMBERS: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1)


class Mutator:
    """Makes new inputs of a corpus and a target's words."""

    def __init__(self, rng: Random, words: Sequence[bytes]) -> None:
        self._rng = rng
        self._words = words

    def mutate(self, corpus: Sequence[bytes]) -> bytes:
        """Return a changed copy of one of the inputs."""
        rng = self._rng
        data = bytearray(rng.choice(corpus))
        for _ in range(rng.randint(1, CHANGES_MAX)):
            rng.choice(self._CHANGES)(self, data, corpus)
        return bytes(data[:INPUT_BYTES_MAX])

    def _place(self, data: bytearray) -> int:
        return self._rng.randint(0, len(data))

    def _flip(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        if data:
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)

    def _put(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        """Write a number that means an edge."""
        number, at = self._rng.choice(NUMBERS), self._place(data)
        size = self._rng.choice((1, 2, 4, 8))
        data[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, self._rng.choice(("big", "little")))

    def _insert_word(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        at = self._place(data)
        data[at:at] = self._rng.choice(self._words) if self._words else self._rng.randbytes(4)

    def _insert_noise(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        at = self._place(data)
        data[at:at] = self._rng.randbytes(self._rng.randint(1, 8))

    def _cut(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        at = self._place(data)
        del data[at : at + self._rng.randint(1, 1 + len(data) // 2)]

    def _repeat(self, data: bytearray, _corpus: Sequence[bytes]) -> None:
        at = self._place(data)
        part = data[at : at + self._rng.randint(1, 64)]
        data[at:at] = part * self._rng.choice((1, 2, 8, 64))

    def _splice(self, data: bytearray, corpus: Sequence[bytes]) -> None:
        other = self._rng.choice(corpus)
        data[self._place(data) :] = other[self._rng.randint(0, len(other)) :]

    _CHANGES: Final = (_flip, _flip, _put, _insert_word, _insert_word, _insert_noise, _cut, _repeat, _splice)
