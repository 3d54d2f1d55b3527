"""The dedupe window: every batch is let through once, repeats never, whatever the order of arrival."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from protocol.command import CommandKind, Origin, encode_batch
from protocol.types import EntryKind, Incarnation, MemberId
from protocol.wire.rpc_pb2 import PutRequest
from sim.engine import SimEngine
from sim.store_driver import StoreDriver
from storage.dedupe import WINDOW_BITS, Window, Windows, window_key
from storage.posix_disk import PosixDisk

HERE, THERE = MemberId(1), MemberId(2)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40)), max_size=80))
def test_a_batch_is_admitted_once_and_old_incarnations_never(arrivals: list[tuple[int, int]]) -> None:
    """Against the plain rule: not seen before, and not of an incarnation that was followed by another."""
    window = Window()
    seen: set[tuple[int, int]] = set()
    newest = 0
    for incarnation, sequence in arrivals:
        wanted = incarnation >= newest and (incarnation, sequence) not in seen
        newest = max(newest, incarnation)
        seen.add((incarnation, sequence))
        assert window.admit(incarnation, sequence) is wanted
        window = Window.unpack(window.pack())


def test_what_is_below_the_window_counts_as_a_repeat() -> None:
    """It might be one; its proposer is told that the outcome is unknown, which is true."""
    window = Window()
    assert window.admit(1, 0)
    assert window.admit(1, WINDOW_BITS)
    assert window.admit(1, 1)
    assert not window.admit(1, 0)
    assert window.admit(1, 5 * WINDOW_BITS)
    assert not window.admit(1, 4 * WINDOW_BITS)
    assert window.admit(1, 4 * WINDOW_BITS + 1)
    assert len(window.pack()) <= 16 + WINDOW_BITS // 8


def test_windows_are_kept_apart_by_member_and_survive() -> None:
    """What one member proposed says nothing of another; changes carry the stored form."""
    windows = Windows()
    changes: dict[bytes, bytes | None] = {}
    assert windows.admit(Origin(HERE, Incarnation(1), 1), changes)
    assert windows.admit(Origin(THERE, Incarnation(1), 1), changes)
    assert not windows.admit(Origin(HERE, Incarnation(1), 1), changes)
    again = Windows()
    for key in (window_key(HERE), window_key(THERE)):
        data = changes[key]
        assert data is not None
        again.load(key, data)
    assert not again.admit(Origin(THERE, Incarnation(1), 1), {})
    assert again.admit(Origin(THERE, Incarnation(1), 2), {})


def test_a_repeat_stays_a_no_op_after_a_crash(tmp_path: Path) -> None:
    """The window is written with the entry: a store that lost its memory still knows the batch."""
    disk = PosixDisk(tmp_path)
    driver = StoreDriver(lambda: SimEngine(disk, "store"))
    put = PutRequest(key=b"a").SerializeToString()
    batch = encode_batch(Origin(THERE, Incarnation(4), 8), [CommandKind.PUT, put])
    driver.apply(EntryKind.COMMANDS, batch)
    driver.store.engine.flush()
    driver.restart(crash=True)
    driver.apply(EntryKind.COMMANDS, batch)
    assert driver.store.revision == 2
    assert driver.store.applied == 2
