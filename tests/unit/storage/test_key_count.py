"""Counting keys by blocks: always what a walk would count, and hardly any walking."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.config import StorageConfig
from protocol.errors import Corruption
from sim.store_driver import StoreDriver
from storage.key_count import BLOCK_KEYS_MAX, KeyCount
from storage.layout import COUNTS_KEY
from storage.rocks import RocksEngine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RocksEngine]:
    """An open engine."""
    engine = RocksEngine(tmp_path, "store", StorageConfig())
    yield engine
    engine.close()


def insert(engine: RocksEngine, counts: KeyCount, keys: list[bytes]) -> None:
    """Make keys live, as an entry does."""
    engine.write([(b"k" + key, b"") for key in keys])
    for key in keys:
        counts.add(key)
    counts.split_overgrown(engine)


def check_ranges(engine: RocksEngine, counts: KeyCount, keys: list[bytes], rng: random.Random) -> None:
    """Any range counts what a plain filter counts."""
    for _ in range(30):
        start, end = sorted(rng.choices([*keys, b"", b"\x00", b"zz", rng.randbytes(2)], k=2))
        assert counts.count(engine, start, end) == sum(start <= key < end for key in keys)
        assert counts.count(engine, start, None) == sum(start <= key for key in keys)
        assert counts.count(engine, end, start) == 0


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_counts_follow_inserts_and_deletions_in_any_order(engine: RocksEngine, order: str) -> None:
    """Blocks split as they grow and every range counts right throughout."""
    rng = random.Random(5)
    keys = [b"%05d" % number for number in range(5 * BLOCK_KEYS_MAX)]
    if order == "descending":
        keys.reverse()
    if order == "random":
        rng.shuffle(keys)
    counts = KeyCount()
    for first in range(0, len(keys), 700):
        insert(engine, counts, keys[first : first + 700])
        check_ranges(engine, counts, sorted(keys[: first + 700]), rng)
    counts.check(engine)
    gone = rng.sample(keys, len(keys) // 2)
    engine.write([(b"k" + key, None) for key in gone])
    for key in gone:
        counts.discard(key)
    counts.check(engine)
    check_ranges(engine, counts, sorted(set(keys) - set(gone)), rng)


def test_a_count_walks_two_blocks_at_most(engine: RocksEngine) -> None:
    """However large the range, the keys looked at are bounded by the size of two blocks."""

    class Watched:
        """Counts the keys that were handed out."""

        walked = 0

        def __init__(self, engine: RocksEngine) -> None:
            self.get = engine.get
            self.scan = engine.scan
            self._engine = engine

        def scan_keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
            """Keys of the engine."""
            for key in self._engine.scan_keys(start, end):
                self.walked += 1
                yield key

    counts = KeyCount()
    insert(engine, counts, [b"%06d" % number for number in range(20_000)])
    watched = Watched(engine)
    assert counts.count(watched, b"000003", b"019997") == 19_994
    assert watched.walked <= 2 * BLOCK_KEYS_MAX
    watched.walked = 0
    assert counts.count(watched, b"", None) == 20_000
    assert watched.walked == 0


def test_a_rebuild_counts_what_is_there(engine: RocksEngine) -> None:
    """From nothing but the keys themselves."""
    engine.write([(b"k%05d" % number, b"") for number in range(3000)])
    counts = KeyCount()
    counts.rebuild(engine)
    assert counts.total == 3000
    counts.check(engine)


def test_saved_counts_come_back_with_their_revision() -> None:
    """And bytes that are none are refused."""
    counts = KeyCount()
    counts.add(b"a")
    again = KeyCount()
    assert again.unpack(counts.pack(17)) == 17
    assert again.total == 1
    with pytest.raises(Corruption):
        again.unpack(b"\xc1")


@pytest.mark.parametrize("saved", ["never", "early", "before a compaction", "on close"])
def test_open_catches_up_from_the_log(tmp_path: Path, saved: str) -> None:
    """Whenever counts were last saved, an opened store counts what is there."""
    driver = StoreDriver(lambda: RocksEngine(tmp_path, "store", StorageConfig()))
    rng = random.Random(2)
    for step in range(120):
        key = b"%d" % rng.randrange(30)
        if rng.random() < 0.3:
            driver.delete(key)
        else:
            driver.put(key)
        if step == 60 and saved != "never":
            driver.store.save_counts()
        if step == 90 and saved == "before a compaction":
            driver.compact(driver.store.revision - 3)
            driver.finish_compaction(5)
    before = driver.range(b"\x00", b"\x00", count_only=True).response.count
    if saved == "on close":
        driver.restart()
    else:
        driver.store.engine.close()
        driver.restart(crash=True)
    assert (driver.store.engine.get(COUNTS_KEY) is None) == (saved == "never")
    assert driver.range(b"\x00", b"\x00", count_only=True).response.count == before == driver.store.keys.total
    driver.store.engine.close()
