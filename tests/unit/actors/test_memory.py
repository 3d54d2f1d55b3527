"""Freed memory goes back to the machine."""

import subprocess
import sys

import pytest

from actors.memory import BEATS_BETWEEN, BEATS_TO_FIRST, FreedMemory

HELD_AND_FREED = """
import re
from actors.memory import FreedMemory

def resident_kib():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])

blocks = [bytes(20_000) for _ in range(5_000)]
kept = blocks[-1]  # at the far end, so that the heap cannot simply be made shorter
del blocks
before = resident_kib()
freed = FreedMemory()
while resident_kib() >= before - 80_000:
    freed.beat()
"""


def test_memory_is_given_back_soon_after_the_start_and_then_seldom() -> None:
    """Waiting for the first time would leave what the start took; every beat would cost turns."""
    beat = 0
    given: list[int] = []

    def trim(pad: int) -> int:
        assert pad == 0, "nothing is kept back"
        given.append(beat)
        return 1

    freed = FreedMemory(trim)
    for beat in range(1, BEATS_TO_FIRST + 2 * BEATS_BETWEEN + 1):  # noqa: B007 - `trim` reads it
        freed.beat()
    assert given == [BEATS_TO_FIRST, BEATS_TO_FIRST + BEATS_BETWEEN, BEATS_TO_FIRST + 2 * BEATS_BETWEEN]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and needs glibc")
def test_a_process_becomes_smaller() -> None:
    """100 MB in blocks that the C library keeps after they were freed, because one above them is still used."""
    subprocess.run([sys.executable, "-c", HELD_AND_FREED], check=True, timeout=60)
