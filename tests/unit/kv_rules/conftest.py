"""A store to hold the rules against."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.config import StorageConfig
from sim.store_driver import StoreDriver
from storage.rocks import RocksEngine


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreDriver]:
    """A fresh store over RocksDB; all invariants are checked after every entry."""
    driver = StoreDriver(lambda: RocksEngine(tmp_path, "store", StorageConfig()))
    yield driver
    driver.check()
    driver.store.engine.close()
