"""The engine port over RocksDB (`rocksdict`), its own write-ahead log off: the raft log is the log.

Owns every RocksDB option. Knows no table and no actor. Invariants: one column family only, because `flush` and
`close` of rocksdict flush a single one even under atomic flush, and the applied index must never outlive its data;
iterators are always asked for their status, because an unreadable block looks like the end of the data otherwise.

rocksdict holds the GIL in write, get, iteration and checkpoint, and releases it in flush, compact_range and close.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rocksdict import (
    AccessType,
    BlockBasedIndexType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from protocol.config import StorageConfig
from protocol.errors import Corruption, DiskFailed
from storage.posix_disk import DISK_HINTS

_BACKGROUND_JOBS_MAX: Final = 2
_OPEN_FILES_MAX: Final = 256
_BLOCK_BYTES: Final = 8 << 10
_METADATA_BLOCK_BYTES: Final = 4 << 10
_BLOOM_BITS_PER_KEY: Final = 10
_WRITE_BUFFERS_MAX: Final = 3
_INFO_LOG_BYTES_MAX: Final = 1 << 20
_MANIFEST_BYTES_MAX: Final = 16 << 20
_FILE_BYTES: Final = 64 << 20
_SYNC_EVERY_BYTES: Final = 1 << 20
_DELETION_WINDOW: Final = 128
_DELETION_TRIGGER: Final = 64


def rocks_options(config: StorageConfig) -> Options:
    """Return the options of a store: a small footprint first, then point reads and short scans."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(config.memtable_bytes)
    options.set_max_write_buffer_number(_WRITE_BUFFERS_MAX)
    options.set_max_background_jobs(_BACKGROUND_JOBS_MAX)
    options.set_max_subcompactions(1)
    options.set_max_open_files(_OPEN_FILES_MAX)
    options.set_max_file_opening_threads(1)
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(_INFO_LOG_BYTES_MAX)
    options.set_max_manifest_file_size(_MANIFEST_BYTES_MAX)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_target_file_size_base(_FILE_BYTES)
    options.set_bytes_per_sync(_SYNC_EVERY_BYTES)
    options.set_allow_concurrent_memtable_write(False)  # one writer: the cheaper insert
    options.set_paranoid_checks(True)
    options.set_skip_stats_update_on_db_open(True)
    options.set_compression_type(DBCompressionType.lz4())
    # Compacted revisions leave runs of deletions in the log table; a file full of them is rewritten early.
    options.add_compact_on_deletion_collector_factory(_DELETION_WINDOW, _DELETION_TRIGGER, 0.5)
    table = BlockBasedOptions()
    table.set_block_cache(Cache(config.block_cache_bytes))
    table.set_block_size(_BLOCK_BYTES)
    table.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
    # Index and filter live in the cache too, so they are cut into small blocks: whole ones are larger than a shard of
    # the cache, would never stay in it, and every read would load and decompress them again.
    table.set_index_type(BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(_METADATA_BLOCK_BYTES)
    table.set_pin_top_level_index_and_filter(True)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_format_version(5)
    options.set_block_based_table_factory(table)
    return options


class RocksEngine:
    """A RocksDB store at `root/path`. Opening creates it; `close` must be called."""

    def __init__(self, root: Path, path: str, config: StorageConfig, *, read_only: bool = False) -> None:
        self._root = root
        access = AccessType.read_only(False) if read_only else AccessType.read_write()
        try:
            self._db = Rdict(str(root / path), rocks_options(config), access_type=access)
        except Exception as error:
            raise _failure(f"{root / path}: cannot be opened", error) from error
        self._write_options = WriteOptions()
        self._write_options.disable_wal = True  # type: ignore[method-assign, assignment]  # a property since 0.3.29
        self.get: Callable[[bytes], bytes | None] = self._db.get
        """`get(key)`: bound straight to RocksDB; one Python call less on the hottest path."""

    def explained(self, error: Exception) -> Exception:
        """RocksDB's errors come out of `get` and `get_many` as bare exceptions."""
        return _failure("read failed", error) if type(error) is Exception else error

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys`; releases the GIL meanwhile."""
        values: Any = self._db.get(list(keys))
        return list(values)

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs of the range as of this call: the RocksDB iterator is made here, not at the first step."""
        iterator, bounds = self._iterator(end)
        if reverse:
            iterator.seek_for_prev(end)
            return _backward(iterator, start, end, bounds)
        iterator.seek(start)
        return _forward(iterator, bounds)

    def scan_keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """Keys of the range as of this call."""
        iterator, bounds = self._iterator(end)
        iterator.seek(start)
        return _keys(iterator, bounds)

    def write(self, changes: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Apply `changes` atomically."""
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        for key, value in changes:
            if value is None:
                batch.delete(key)
            else:
                put(key, value)
        try:
            self._db.write(batch, self._write_options)
        except Exception as error:
            raise _failure("write failed", error) from error

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete `[start, end)`."""
        try:
            self._db.delete_range(start, end, self._write_options)
        except Exception as error:
            raise _failure("range deletion failed", error) from error

    def flush(self) -> None:
        """Write the memtable to a table file and sync it; releases the GIL meanwhile."""
        try:
            self._db.flush(True)
        except Exception as error:
            raise _failure("flush failed", error) from error

    def checkpoint(self, path: str) -> None:
        """Hard-link the store into `path` (relative to the root)."""
        try:
            Checkpoint(self._db).create_checkpoint(str(self._root / path))
        except Exception as error:
            raise _failure(f"{path}: checkpoint failed", error) from error

    def compact_range(self, start: bytes | None, end: bytes | None) -> None:
        """Merge the files of the range; releases the GIL meanwhile."""
        try:
            self._db.compact_range(start, end)
        except Exception as error:
            raise _failure("compaction failed", error) from error

    def disk_bytes(self) -> int:
        """Table files plus memtables, as RocksDB counts them."""
        files = self._db.property_int_value("rocksdb.total-sst-files-size") or 0
        memory = self._db.property_int_value("rocksdb.cur-size-all-mem-tables") or 0
        return files + memory

    def close(self) -> None:
        """Flush and close."""
        try:
            self._db.close()
        except Exception as error:
            raise _failure("close failed", error) from error

    def _iterator(self, end: bytes) -> tuple[Any, ReadOptions]:
        """Return an iterator that ends at `end`, and its options, which its user keeps as long as the iterator.

        Only the upper bound is set. `set_iterate_lower_bound` of rocksdict 0.3.29 leaves RocksDB with a pointer to
        memory that is not the bound: iterators then end anywhere. A contract test would notice either way.
        """
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        return self._db.iter(options), options


def _forward(iterator: Any, bounds: ReadOptions) -> Iterator[tuple[bytes, bytes]]:
    valid, key, value, step = iterator.valid, iterator.key, iterator.value, iterator.next
    while valid():
        yield key(), value()
        step()
    _check(iterator, bounds)


def _keys(iterator: Any, bounds: ReadOptions) -> Iterator[bytes]:
    valid, key, step = iterator.valid, iterator.key, iterator.next
    while valid():
        yield key()
        step()
    _check(iterator, bounds)


def _backward(iterator: Any, start: bytes, end: bytes, bounds: ReadOptions) -> Iterator[tuple[bytes, bytes]]:
    valid, step = iterator.valid, iterator.prev
    if valid() and iterator.key() >= end:
        step()
    while valid():
        key = iterator.key()
        if key < start:
            return
        yield key, iterator.value()
        step()
    _check(iterator, bounds)


def _check(iterator: Any, bounds: ReadOptions) -> None:
    """Refuse to take an unreadable block for the end of the data; `bounds` only had to live until here."""
    assert bounds is not None, "an iterator's bounds live as long as it"
    try:
        iterator.status()
    except Exception as error:
        raise Corruption(f"store cannot be read: {error}") from error


def _failure(what: str, error: Exception) -> Corruption | DiskFailed:
    """RocksDB names corruption and the file in its message; everything that is not corruption is the disk."""
    text = f"{what}: {error}"
    if "Corruption" in text:
        return Corruption(text)
    hint = next((hint for number, hint in DISK_HINTS.items() if os.strerror(number) in text), "")
    return DiskFailed(f"{text} ({hint})" if hint else text)
