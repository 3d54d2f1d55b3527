"""Clients that no one here wrote, from their registries: a small real program each, against a real node.

What a program needs is fetched and built once, outside the repository, under the checksum of what it is made from. A
toolchain that is not there skips its program, saying so; on CI one that is there must work.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from clusters import Cluster, running

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(400)]
PROGRAMS = Path(__file__).parent / "clients"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actd" / "clients"
EVERYBODY_DOES = ["put", "txn", "watch", "lease", "lock"]
BUILD_S = 300
RUN_S = 90


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a node serves."""
    with running(Cluster(tmp_path_factory.mktemp("clients") / "actd", nodes=1)) as cluster:
        cluster.start()
        yield cluster.client_address("n1")


def program(name: str) -> str:
    """Where a toolchain is; skip where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def built(name: str, sources: Sequence[str], build: Callable[[Path], list[str]]) -> Path:
    """Return the folder of what `build(folder)` makes of the sources, made now unless it was before.

    Tests in other processes may be building it as well: they wait for each other.
    """
    folder = PROGRAMS / name
    digest = hashlib.sha256(b"".join((folder / source).read_bytes() for source in sources)).hexdigest()[:16]
    target = CACHE / f"{name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with Path(CACHE, f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / "built").exists():
            return target
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        done = subprocess.run(build(target), cwd=folder, capture_output=True, text=True, timeout=BUILD_S, check=False)
        if done.returncode:
            reason = f"{name} cannot be built: {(done.stdout + done.stderr)[-800:]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        (target / "built").touch()
    return target


def run(command: Sequence[str | Path], **variables: str) -> list[str]:
    """Run a program; return what it says it has done. It must end well."""
    done = subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout.split()


@pytest.mark.parametrize("client", ["etcd3gw", "aetcd", "pyetcd"])
def test_python_clients(address: str, client: str) -> None:
    """The maintained client of the JSON gateway, an asyncio client and a blocking one over gRPC."""
    packages = built(
        "python",
        ["requirements.txt"],
        lambda target: [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--target", str(target), "--requirement", "requirements.txt"),
        ],
    )
    done = run([sys.executable, PROGRAMS / "python" / f"with_{client}.py", address], PYTHONPATH=str(packages))
    assert done == EVERYBODY_DOES


def test_node_client(address: str) -> None:
    """etcd3 from npm."""
    npm, node = program("npm"), program("node")
    modules = built(
        "node",
        ["package.json"],
        lambda target: [
            *("sh", "-c", 'cp package.json "$0" && cd "$0" && exec "$1" install --no-audit --no-fund --ignore-scripts'),
            *(str(target), npm),
        ],
    )
    done = run([node, PROGRAMS / "node" / "main.js", address], NODE_PATH=str(modules / "node_modules"))
    assert done == [*EVERYBODY_DOES, "election"]


def test_official_go_client(address: str) -> None:
    """go.etcd.io/etcd/client/v3 and its package `concurrency`."""
    go = program("go")
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    if [int(part) for part in version.removeprefix("go").split(".")[:2]] < [1, 26]:
        pytest.skip(f"the client needs Go 1.26, here is {version}")
    made = built(
        "go",
        ["main.go", "go.mod", "go.sum"],
        lambda target: [go, "build", "-mod=readonly", "-o", str(target / "program"), "."],
    )
    assert run([made / "program", address]) == [*EVERYBODY_DOES, "election", "stm"]
