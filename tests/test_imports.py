"""Imports point one way, and IO stays at the edge."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "protocol": set(),
    "raft": {"protocol"},
    "storage": {"protocol"},
    "actors": {"protocol", "raft", "storage"},
    "gateway": {"protocol", "storage", "actors"},
    "daemon": {"protocol", "storage", "actors"},
    "actd": {"protocol"},
    "checker": {"protocol"},
    "sim": {"protocol", "raft", "storage", "actors", "gateway", "checker"},
    "chaos": {"protocol", "storage", "actors", "gateway", "actd", "checker"},
    "fuzz": {"protocol", "storage", "actors", "gateway", "daemon", "actd", "sim"},
    "tools": {"protocol", "raft", "storage", "actors", "gateway", "daemon", "actd", "sim", "checker", "chaos", "fuzz"},
}
"""Which of our packages each may import, itself aside."""
EDGE = {"time", "random", "os", "socket", "asyncio", "zmq", "threading", "subprocess"}
PURE_STORAGE_EXCEPTIONS = {"posix_disk.py", "rocks.py"}
ACTOR_EDGE = {
    "shell.py", "links.py", "joining.py", "curve.py", "lifeline.py", "supervisor.py", "process.py", "node_directory.py",
    "logs.py",
}  # fmt: skip
RNG_TYPE_ONLY = {"raft/core.py", "actors/raft.py", "raft/election.py"}
"""Modules that name the type of the generator they are handed."""
ZMQ_FILES = {"actors/curve.py", "actors/links.py", "actors/joining.py", "actors/shell.py", "actors/process.py",
             "gateway/loop.py", "gateway/process.py", "gateway/zmq_door.py", "actd/transport.py"}  # fmt: skip


def modules() -> list[Path]:
    """Our own modules, generated code left out."""
    return [
        path
        for package in sorted(ALLOWED)
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.name.endswith("_pb2.py")
    ]


def imports(path: Path) -> set[str]:
    """Top-level names of everything a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def label(path: Path) -> str:
    """The path as it is read in a report."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules(), ids=label)
def test_arrows_point_one_way(path: Path) -> None:
    """A package imports only what lies below it."""
    package = path.relative_to(ROOT).parts[0]
    ours = imports(path) & set(ALLOWED) - {package}
    assert ours <= ALLOWED[package], f"{label(path)} imports {sorted(ours - ALLOWED[package])}"


@pytest.mark.parametrize("path", modules(), ids=label)
def test_io_stays_at_the_edge(path: Path) -> None:
    """Consensus, the pure parts of storage and the actors see no clock, socket, thread or chance of their own."""
    package = path.relative_to(ROOT).parts[0]
    pure = (
        package == "raft"
        or (package == "storage" and path.name not in PURE_STORAGE_EXCEPTIONS)
        or (package == "actors" and path.name not in ACTOR_EDGE)
        or (package == "checker")
    )
    if pure:
        found = imports(path) & EDGE
        if label(path) in RNG_TYPE_ONLY:
            found.discard("random")
        assert not found, f"{label(path)} imports {sorted(found)}"


@pytest.mark.parametrize("path", modules(), ids=label)
def test_zeromq_is_known_to_few_files(path: Path) -> None:
    """Sockets belong to the transports."""
    if label(path) not in ZMQ_FILES:
        assert "zmq" not in imports(path), f"{label(path)} imports zmq"


@pytest.mark.parametrize("path", [path for path in modules() if path.parts[-2] == "actd"], ids=label)
def test_the_client_needs_no_grpc_and_no_protobuf(path: Path) -> None:
    """A user of the client library installs neither."""
    assert not imports(path) & {"grpc", "google"}, f"{label(path)} needs protobuf or grpc"
