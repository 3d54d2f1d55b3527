"""What tests of processes' parts share: a data directory to stand in, and ZeroMQ that leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from zmq_sockets import Context


@pytest.fixture
def context() -> Iterator[Context]:
    """A ZeroMQ context that leaves nothing behind."""
    made = Context()
    yield made
    made.close_all()


@pytest.fixture
def node_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory, with this process in it as an actor is."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path
