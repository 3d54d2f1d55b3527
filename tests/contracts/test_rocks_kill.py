"""Real RocksDB, a real process, SIGKILL: the applied index never outlives the data written with it.

A child process writes entries, does one thing to the store, says so on its standard output, writes more, and is
killed without warning. What the store then holds must be the exact result of some prefix of the entries, no shorter
than what was applied before the last completed flush began.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from protocol.config import StorageConfig
from sim.store_driver import StoreDriver
from storage.engine import Engine
from storage.rocks import RocksEngine

MEMTABLE_BYTES: Final = 64 << 10
"""Small, so that RocksDB flushes by itself too, whenever it likes."""
ENTRIES: Final = 120

STEPS: Final = ("flush", "checkpoint", "compact_range", "close", "nothing")


def open_engine(root: Path, path: str = "store") -> Engine:
    """The store as the child and the test open it."""
    return RocksEngine(root, path, StorageConfig(memtable_bytes=MEMTABLE_BYTES))


def write_entries(driver: StoreDriver, count: int) -> None:
    """Entries whose effects cross all tables: overwrites, deletions, a compaction now and then."""
    for _ in range(count):
        number = driver.store.applied
        if number % 40 == 39:
            driver.compact(driver.store.revision - 10)
            driver.finish_compaction(rows=50)
        elif number % 5 == 4:
            driver.delete(b"key%02d" % (number % 17))
        else:
            driver.put(b"key%02d" % (number % 17), bytes([number % 256]) * 700)


def child(root: Path, step: str) -> None:
    """What the process that will be killed does; it never ends by itself."""
    driver = StoreDriver(lambda: open_engine(root))
    engine = driver.store.engine
    write_entries(driver, ENTRIES)
    durable = 0
    if step == "flush":
        durable = driver.store.applied
        engine.flush()
    elif step == "checkpoint":
        durable = driver.store.applied
        engine.flush()
        engine.checkpoint("copy")
    elif step == "compact_range":
        durable = driver.store.applied
        engine.flush()
        engine.compact_range(None, None)
    elif step == "close":
        durable = driver.store.applied
        engine.close()
        print(durable, flush=True)
        sys.stdin.read()
    write_entries(driver, ENTRIES // 2 + 3)
    print(durable, flush=True)
    sys.stdin.read()


@pytest.mark.processes
@pytest.mark.parametrize("step", STEPS)
def test_the_applied_index_never_outlives_its_data(tmp_path: Path, step: str) -> None:
    """After SIGKILL the store is the result of exactly the entries its applied index names."""
    durable = run_and_kill(tmp_path, step)
    assert durable == (0 if step == "nothing" else ENTRIES)
    assert_is_a_prefix(tmp_path, "store", at_least=durable)
    if step == "checkpoint":
        assert_is_a_prefix(tmp_path, "copy", at_least=durable)


def run_and_kill(root: Path, step: str) -> int:
    """Run the child until it says how much is durable, then kill it; return what it said."""
    repository = Path(__file__).resolve().parents[2]
    program = (
        "import sys; from pathlib import Path; import test_rocks_kill as t; t.child(Path(sys.argv[1]), sys.argv[2])"
    )
    environment = {"PYTHONPATH": f"{repository}:{Path(__file__).parent}", "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(root), step],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    said = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdin.close()
    process.stdout.close()
    return int(said)


def assert_is_a_prefix(root: Path, path: str, *, at_least: int) -> None:
    """Open what is left, compare it with a store that was handed the same prefix and never killed."""
    survivor = StoreDriver(lambda: open_engine(root, path))
    applied = survivor.store.applied
    assert at_least <= applied <= 2 * ENTRIES
    reference = StoreDriver(lambda: open_engine(root, f"reference-{path}"))
    write_entries(reference, applied)
    survivor.check()
    assert survivor.store.revision == reference.store.revision
    assert survivor.store.compacted == reference.store.compacted
    assert survivor.range(b"\x00", b"\x00") == reference.range(b"\x00", b"\x00")
    assert survivor.hash_kv() == reference.hash_kv()
    survivor.store.engine.close()
    reference.store.engine.close()
