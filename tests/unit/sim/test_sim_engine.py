"""The simulated engine under power cuts: what is left is a flushed state, whole."""

import random

import pytest

from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.faulty_disk import FaultyDisk
from sim.trouble import PowerCut


def rows(engine: SimEngine) -> list[tuple[bytes, bytes]]:
    """Everything in the engine."""
    return list(engine.scan(b"", b"\xff"))


def test_what_was_not_flushed_is_lost_at_a_crash() -> None:
    """Writes are visible at once and durable only after a flush."""
    disk = SimDisk(random.Random(0))
    engine = SimEngine(disk, "store")
    engine.write([(b"a", b"1")])
    engine.flush()
    engine.write([(b"b", b"2")])
    assert engine.get(b"b") == b"2"
    disk.crash()
    assert rows(SimEngine(disk, "store")) == [(b"a", b"1")]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operations", range(10))
def test_a_power_cut_inside_a_flush_leaves_the_old_or_the_new_image(operations: int, seed: int) -> None:
    """Never half of one, wherever the current goes."""
    disk = SimDisk(random.Random(seed))
    faulty = FaultyDisk(disk, lambda: 0)
    engine = SimEngine(faulty, "store")
    engine.write([(b"a", b"1" * 2000)])
    engine.flush()
    engine.write([(b"a", b"2" * 2000), (b"b", b"3")])
    faulty.light_fuse(operations)
    completed = True
    try:
        engine.flush()
    except PowerCut:
        completed = False
    disk.crash()
    left = rows(SimEngine(disk, "store"))
    new = [(b"a", b"2" * 2000), (b"b", b"3")]
    assert left == new or (not completed and left == [(b"a", b"1" * 2000)])


def test_a_checkpoint_survives_a_crash_once_it_returned() -> None:
    """Its files, its directory and its name are durable."""
    disk = SimDisk(random.Random(1))
    engine = SimEngine(disk, "store")
    engine.write([(b"a", b"1")])
    disk.make_dir("snapshots")
    disk.sync_dir(".")
    engine.checkpoint("snapshots/s1")
    disk.crash()
    assert rows(SimEngine(disk, "snapshots/s1")) == [(b"a", b"1")]
