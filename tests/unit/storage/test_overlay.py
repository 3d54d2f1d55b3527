"""Pending changes over an engine read as if they had been written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.engine import SimEngine
from storage.overlay import Overlay
from storage.posix_disk import PosixDisk

Changes = list[tuple[bytes, bytes | None]]

keys = st.sampled_from([bytes([number]) for number in range(97, 107)])
changes = st.lists(st.tuples(keys, st.none() | st.sampled_from([b"x", b"y"])), max_size=12)
steps = st.lists(st.tuples(changes, keys, keys, st.booleans()), max_size=4)


@given(stored=changes, steps=steps)
def test_an_overlay_reads_like_the_store_it_would_become(
    tmp_path_factory: pytest.TempPathFactory, stored: Changes, steps: list[tuple[Changes, bytes, bytes, bool]]
) -> None:
    """Gets and scans, both ways, with more changes arriving between them."""
    engine = SimEngine(PosixDisk(tmp_path_factory.mktemp("overlay")), "store")
    engine.write(stored)
    model = dict(engine.scan(b"a", b"z"))
    overlay = Overlay(engine)
    for pending, one, other, reverse in steps:
        overlay.changes.update(pending)
        model = {key: value for key, value in {**model, **dict(pending)}.items() if value is not None}
        start, end = sorted((one, other))
        wanted = sorted((key, value) for key, value in model.items() if start <= key < end)
        assert list(overlay.scan(start, end, reverse=reverse)) == (wanted[::-1] if reverse else wanted)
        assert list(overlay.scan_keys(start, end)) == [key for key, _ in wanted]
        assert overlay.get(one) == model.get(one)
    engine.write(overlay.changes.items())
    overlay.clear()
    assert list(overlay.scan(b"a", b"z")) == sorted(model.items())
