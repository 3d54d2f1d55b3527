"""What is read of a range is what is taken of it: a page must not cost the whole range, nor wait for it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from storage.overlay import Overlay
from storage.range_read import current_records

ROWS = 1000


class Endless:
    """An engine with many rows, which counts those that were read."""

    def __init__(self) -> None:
        self.rows_read = 0

    def get(self, key: bytes) -> bytes | None:
        """Nothing is looked up here."""
        return None

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs, counted as they leave."""
        for number in range(ROWS):
            self.rows_read += 1
            yield b"k%04d" % number, b"record"

    def scan_keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Their keys."""
        for key, _ in self.scan(start, end):
            yield key


def under_changes(engine: Any) -> Overlay:
    """Return the engine with a change pending in the middle of the range."""
    overlay = Overlay(engine)
    overlay.changes[b"k0500"] = b"changed"
    return overlay


@pytest.mark.parametrize(
    "read",
    [
        lambda engine: current_records(engine, b"0", b"9"),
        lambda engine: current_records(engine, b"0", b"9", reverse=True),
        lambda engine: current_records(under_changes(engine), b"0", b"9"),
        lambda engine: under_changes(engine).scan(b"k", b"l"),
        lambda engine: under_changes(engine).scan_keys(b"k", b"l"),
    ],
    ids=["records", "records backwards", "records under changes", "pairs under changes", "keys under changes"],
)
def test_rows_are_read_as_they_are_taken(read: Callable[[Any], Iterator[object]]) -> None:
    """Three were wanted; one more may have been looked at."""
    engine = Endless()
    rows = read(engine)
    for _ in range(3):
        next(rows)
    assert 3 <= engine.rows_read <= 4
