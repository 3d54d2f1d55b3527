"""The contract of `storage.engine.Engine`: RocksDB and the simulated engine pass the same tests."""

import gc
import os
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from protocol.config import StorageConfig
from protocol.errors import Corruption, DiskFailed
from sim.engine import SimEngine
from storage.engine import Engine
from storage.posix_disk import PosixDisk
from storage.rocks import RocksEngine

OpenEngine = Callable[[str], Engine]


@pytest.fixture(params=["rocks", "sim"])
def open_engine(request: pytest.FixtureRequest, tmp_path: Path) -> OpenEngine:
    """Opens an engine by path; the same path opened again is the same store."""
    if request.param == "rocks":
        return lambda path: RocksEngine(tmp_path, path, StorageConfig())
    disk = PosixDisk(tmp_path)
    return lambda path: SimEngine(disk, path)


@pytest.fixture
def engine(open_engine: OpenEngine) -> Iterator[Engine]:
    """An open engine with three keys, closed at the end."""
    engine = open_engine("store")
    engine.write([(b"a", b"1"), (b"b", b"2"), (b"c", b"")])
    yield engine
    engine.close()


def test_get_finds_what_was_written_and_nothing_else(engine: Engine) -> None:
    """A key has its last value, an empty value is a value, an absent key has none."""
    assert [engine.get(key) for key in (b"a", b"b", b"c", b"d")] == [b"1", b"2", b"", None]
    assert engine.get_many([b"c", b"x", b"a"]) == [b"", None, b"1"]


def test_write_applies_all_changes_in_order(engine: Engine) -> None:
    """Within one write a later change of a key wins, and None deletes."""
    engine.write([(b"a", None), (b"d", b"4"), (b"d", b"5"), (b"b", b"9"), (b"b", None), (b"never", None)])
    assert list(engine.scan(b"", b"\xff")) == [(b"c", b""), (b"d", b"5")]


@pytest.mark.parametrize(
    ("start", "end", "keys"),
    [
        (b"a", b"c", [b"a", b"b"]),
        (b"a\x00", b"c\x00", [b"b", b"c"]),
        (b"", b"\xff", [b"a", b"b", b"c"]),
        (b"b", b"b", []),
        (b"c", b"a", []),
        (b"bb", b"bz", []),
    ],
)
def test_scan_is_half_open_and_goes_both_ways(engine: Engine, start: bytes, end: bytes, keys: list[bytes]) -> None:
    """A scan gives start <= key < end in order, backwards in reverse order."""
    assert [key for key, _ in engine.scan(start, end)] == keys
    assert [key for key, _ in engine.scan(start, end, reverse=True)] == keys[::-1]
    assert list(engine.scan_keys(start, end)) == keys


def test_scan_sees_the_store_as_of_the_call(engine: Engine) -> None:
    """What is written after a scan was asked for is not in it, even before its first step."""
    forward, backward, keys = (
        engine.scan(b"a", b"z"),
        engine.scan(b"a", b"z", reverse=True),
        engine.scan_keys(b"", b"z"),
    )
    started = engine.scan(b"a", b"z")
    first = next(started)
    engine.write([(b"a", b"new"), (b"b", None), (b"d", b"4")])
    engine.delete_range(b"c", b"d")
    assert list(forward) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"")]
    assert list(backward) == [(b"c", b""), (b"b", b"2"), (b"a", b"1")]
    assert list(keys) == [b"a", b"b", b"c"]
    assert [first, *started] == [(b"a", b"1"), (b"b", b"2"), (b"c", b"")]


def test_a_scan_can_be_left_early(engine: Engine) -> None:
    """Closing a scan half way is allowed and the store goes on."""
    scan = engine.scan(b"a", b"z")
    next(scan)
    scan.close()  # type: ignore[attr-defined]
    engine.write([(b"a", b"2")])
    assert engine.get(b"a") == b"2"


def test_bounds_hold_while_memory_is_reused(engine: Engine) -> None:
    """Bounds of an open scan stay what they were: the binding must not hand the store pointers to freed memory."""
    rng = random.Random(1)
    keys = sorted({rng.randbytes(rng.randrange(1, 4)) for _ in range(300)})
    engine.write([(key, b"v") for key in keys])
    everything = sorted({*keys, b"a", b"b", b"c"})
    for _ in range(300):
        start, end = sorted((rng.randbytes(2), rng.randbytes(2)))
        scans = [engine.scan(start, end), engine.scan(start, end, reverse=True)]
        junk = [rng.randbytes(rng.randrange(1, 40)) for _ in range(50)]
        wanted = [key for key in everything if start <= key < end]
        assert [key for key, _ in scans[0]] == wanted
        assert [key for key, _ in scans[1]] == wanted[::-1]
        del junk
    gc.collect()


def test_delete_range_takes_the_range_and_no_more(engine: Engine) -> None:
    """The end is not deleted, an empty range deletes nothing."""
    engine.delete_range(b"a", b"c")
    engine.delete_range(b"x", b"x")
    assert list(engine.scan(b"", b"\xff")) == [(b"c", b"")]
    assert engine.get(b"a") is None


def test_what_was_flushed_or_closed_is_there_again(open_engine: OpenEngine) -> None:
    """A store closed cleanly is opened with everything in it, also when it was flushed before."""
    engine = open_engine("store")
    engine.write([(b"a", b"1")])
    engine.flush()
    engine.write([(b"b", b"2")])
    engine.close()
    engine = open_engine("store")
    assert list(engine.scan(b"", b"\xff")) == [(b"a", b"1"), (b"b", b"2")]
    engine.close()


def test_checkpoint_is_a_store_of_its_own(open_engine: OpenEngine) -> None:
    """A checkpoint has what was there and is not touched by later writes, nor the other way round."""
    engine = open_engine("store")
    engine.write([(b"a", b"1"), (b"b", b"2")])
    engine.flush()
    engine.checkpoint("copy")
    engine.write([(b"a", b"3")])
    copy = open_engine("copy")
    assert list(copy.scan(b"", b"\xff")) == [(b"a", b"1"), (b"b", b"2")]
    copy.write([(b"c", b"4")])
    assert engine.get(b"c") is None
    copy.close()
    engine.close()


def test_checkpoint_includes_what_was_not_flushed_yet(open_engine: OpenEngine) -> None:
    """A checkpoint is the store as it is now: the applier reports the applied index of this moment for it."""
    engine = open_engine("store")
    engine.write([(b"a", b"1")])
    engine.checkpoint("copy")
    engine.close()
    copy = open_engine("copy")
    assert copy.get(b"a") == b"1"
    copy.close()


def test_compact_range_changes_no_answer(engine: Engine) -> None:
    """Giving back space is invisible, with bounds and without."""
    engine.write([(bytes([65 + n % 26]), os.urandom(64)) for n in range(500)])
    engine.delete_range(b"B", b"M")
    before = list(engine.scan(b"", b"\xff"))
    engine.compact_range(b"A", b"C")
    engine.compact_range(None, None)
    assert list(engine.scan(b"", b"\xff")) == before
    assert engine.disk_bytes() > 0


def test_random_writes_match_a_dict(engine: Engine) -> None:
    """Any sequence of writes, deletions and range deletions leaves what it leaves in a plain dict."""
    rng = random.Random(7)
    model = dict(engine.scan(b"", b"\xff"))
    for _ in range(60):
        changes = [(rng.randbytes(1) + b"k", rng.choice([None, rng.randbytes(3)])) for _ in range(10)]
        engine.write(changes)
        for key, value in changes:
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
        if rng.random() < 0.2:
            start, end = sorted((rng.randbytes(1), rng.randbytes(1)))
            engine.delete_range(start, end)
            model = {key: value for key, value in model.items() if not start <= key < end}
        if rng.random() < 0.1:
            engine.flush()
        rows = list(engine.scan(b"", b"\xff\xff"))
        assert rows == sorted(model.items())
        assert all(one < other for (one, _), (other, _) in pairwise(rows))


def test_a_store_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    """A path that is a file is an error with the path in it, not a store."""
    (tmp_path / "store").write_text("no directory")
    with pytest.raises(DiskFailed, match=f"{tmp_path / 'store'}: cannot be opened"):
        RocksEngine(tmp_path, "store", StorageConfig())


def test_a_rotten_block_is_never_taken_for_data(tmp_path: Path) -> None:
    """Whatever reads over a damaged block says which file it is in, and what it says is understood as damage."""
    store = RocksEngine(tmp_path, "store", StorageConfig())
    keys = [b"%04d" % number for number in range(400)]
    store.write([(key, random.Random(key).randbytes(200)) for key in keys])
    store.close()
    [table] = (tmp_path / "store").glob("*.sst")
    data = bytearray(table.read_bytes())
    data[len(data) // 3] ^= 0x55
    table.write_bytes(data)
    store = RocksEngine(tmp_path, "store", StorageConfig())
    damaged = 0
    for key in keys:
        for read in (lambda key=key: store.get(key), lambda key=key: store.get_many([key])[0]):  # type: ignore[misc]
            try:
                assert read() == random.Random(key).randbytes(200)
            except Exception as error:  # noqa: BLE001 - which it is, is the question
                explained = store.explained(error)
                assert isinstance(explained, Corruption), explained
                assert table.name in str(explained)
                damaged += 1
    assert 2 <= damaged < 100
    with pytest.raises(Corruption, match=table.name):
        list(store.scan(b"", b"\xff"))
    with pytest.raises(Corruption, match=table.name):
        list(store.scan(b"", b"\xff", reverse=True))
    ours = ValueError("not RocksDB's")
    assert store.explained(ours) is ours
    store.close()
