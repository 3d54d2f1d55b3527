"""`inspect db`: a human sees what is there, and nothing is written."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocol.config import StorageConfig
from sim.store_driver import StoreDriver
from storage.rocks import RocksEngine
from tools.inspect_db import app, shown


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with a small store, closed cleanly."""
    driver = StoreDriver(lambda: RocksEngine(tmp_path, "store", StorageConfig()))
    driver.put(b"alpha", b"one")
    driver.put(b"alpha", b"two")
    driver.put(b"beta", b"\x00\xff")
    driver.delete(b"beta")
    driver.store.engine.close()
    return tmp_path


def contents(directory: Path) -> dict[str, bytes]:
    """Every file that could change, with its bytes; RocksDB's own info log is not data."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith("LOG")
    }


@pytest.mark.parametrize("below", ["", "store"])
def test_prints_state_keys_and_history_without_writing(data_dir: Path, below: str) -> None:
    """The data directory and the store directory both work, and stay byte for byte what they were."""
    before = contents(data_dir)
    result = CliRunner().invoke(app, [str(data_dir / below)], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for text in ("applied", "alpha", "two", "4/0", "delete", "2/0", "incarnation 1, up to 4"):
        assert text in result.output
    assert contents(data_dir) == before


def test_row_limits_and_starts_are_kept(data_dir: Path) -> None:
    """Asked for no keys and revisions from 5 on, it shows just those."""
    arguments = [str(data_dir), "--keys", "0", "--start-revision", "5"]
    output = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"}).output
    assert "5/0" in output
    assert "3/0" not in output.split("revisions")[-1].replace("replaces", "")
    assert "alpha" not in output


def test_a_directory_without_store_is_refused(tmp_path: Path) -> None:
    """The words say what to give instead, and nothing is created."""
    result = CliRunner().invoke(app, [str(tmp_path)], env={"COLUMNS": "160"})
    assert result.exit_code == 1
    assert "no store here" in result.output
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_shown_readably() -> None:
    """Control bytes are escaped and long values are cut with their size."""
    assert shown(b"a\x00\xff") == "a\\x00\\xff"
    assert shown(b"x" * 50).endswith("(50 bytes)")
