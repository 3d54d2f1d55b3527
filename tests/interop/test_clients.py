"""Clients that no one here wrote, from their registries: a small real program each, against two real nodes.

One is as open as a node can be; the other has TLS, users and passwords, and the programs' user may use some keys only.
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
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusters import Cluster, free_ports, running
from typer.testing import CliRunner

from tools.keygen import app as keygen

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(400)]
PROGRAMS = Path(__file__).parent / "clients"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actd" / "clients"
EVERYBODY_DOES = ["put", "txn", "watch", "lease", "lock"]
BUILD_S = 300
BUILD_SLOW = "ACTD_BUILD_SLOW_CLIENTS"
RUN_S = 90
USER, PASSWORD = "programmer", "secret words"
OWN_KEYS = ("app/", "/locks/app/", "election/app/")  # clients put their own words before the names of locks
AND_AS_USER = {"open": [], "tls": ["auth"], "plain": ["auth"]}
OPEN_OR_TLS = pytest.mark.parametrize("way", ["open", "tls"])


@dataclass(frozen=True, slots=True)
class Doors:
    """The last words of a program's command, for each way into a node."""

    open: tuple[str, ...]
    tls: tuple[str, ...]
    plain: tuple[str, ...]

    def words(self, way: str) -> list[str]:
        """Address, file of the CA, user and password, as far as the way has them."""
        words: tuple[str, ...] = getattr(self, way)
        return list(words)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """A node that lets everybody in, and one with TLS and users, whose second port has users and no TLS."""
    directory = tmp_path_factory.mktemp("clients")
    keys = directory / "keys"
    for words in (["ca"], ["server", "node", "--host", "127.0.0.1"]):
        made = CliRunner().invoke(keygen, [*words, "--dir", str(keys)])
        assert made.exit_code == 0, made.output
    (plain,) = free_ports(1)
    papers = [f'cert_file = "{keys}/node.pem"', f'key_file = "{keys}/node-key.pem"']
    guarded = Cluster(
        directory / "guarded",
        nodes=1,
        node_lines=["listen_client_urls = URLS", "[nodes.client_transport_security]", *papers],
        auth={"bcrypt_cost": 4},
    )
    urls = f'["https://{guarded.client_address("n1")}", "http://127.0.0.1:{plain}"]'
    guarded.file.write_text(guarded.file.read_text().replace("URLS", urls))
    with running(Cluster(directory / "open", nodes=1)) as cluster, running(guarded):
        cluster.launch()
        guarded.start()
        cluster.await_leader()
        let_in(guarded)
        login = (USER, PASSWORD)
        yield Doors(
            (cluster.client_address("n1"),),
            (guarded.client_address("n1"), str(keys / "ca.pem"), *login),
            (f"127.0.0.1:{plain}", *login),
        )


def let_in(cluster: Cluster) -> None:
    """Make the programs' user, whose role has some prefixes, and turn authentication on."""
    with cluster.client() as client:
        client.auth.user_add("root", "rootpw")
        client.auth.user_grant_role("root", "root")
        client.auth.role_add("programs")
        for prefix in OWN_KEYS:
            client.auth.role_grant_prefix("programs", "readwrite", prefix)
        client.auth.user_add(USER, PASSWORD)
        client.auth.user_grant_role(USER, "programs")
        client.auth.enable()


def program(name: str) -> str:
    """Where a toolchain is; skip where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def built(name: str, sources: Sequence[str], build: Callable[[Path], list[str]], *, slow: bool = False) -> Path:
    """Return the folder of what `build(folder)` makes of the sources, made now unless it was before.

    What takes minutes of a processor is made only where the variable BUILD_SLOW says so; skip otherwise.
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
        if slow and not os.environ.get(BUILD_SLOW):
            pytest.skip(f"{name} is not built yet, which takes minutes: set {BUILD_SLOW}=1 once")
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


def python_packages() -> Path:
    """The folder of the clients for Python."""
    return built(
        "python",
        ["requirements.txt"],
        lambda target: [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--target", str(target), "--requirement", "requirements.txt"),
        ],
    )


@pytest.mark.parametrize(
    ("client", "way"),
    [(client, way) for client in ("etcd3gw", "pyetcd") for way in ("open", "tls")]
    + [("aetcd", "open"), ("aetcd", "plain")],
)
def test_python_clients(doors: Doors, client: str, way: str) -> None:
    """The maintained client of the JSON gateway, an asyncio client (without TLS) and a blocking one over gRPC."""
    program = PROGRAMS / "python" / f"with_{client}.py"
    # requests trusts a CA that the environment names before the one that the program names.
    trust = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""}
    done = run([sys.executable, program, *doors.words(way)], PYTHONPATH=str(python_packages()), **trust)
    assert done == [*EVERYBODY_DOES, *AND_AS_USER[way]]


def test_a_client_without_tls_is_told_so(doors: Doors) -> None:
    """Aetcd on a port that speaks TLS fails at once, and says what it met."""
    command = [sys.executable, PROGRAMS / "python" / "with_aetcd.py", doors.tls[0]]
    environment = os.environ | {"PYTHONPATH": str(python_packages())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert "ConnectionFailedError" in done.stderr
    assert "Trying to connect an http1.x server (HTTP status 400)" in done.stderr


@OPEN_OR_TLS
def test_node_client(doors: Doors, way: str) -> None:
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
    done = run([node, PROGRAMS / "node" / "main.js", *doors.words(way)], NODE_PATH=str(modules / "node_modules"))
    assert done == [*EVERYBODY_DOES, "election", *AND_AS_USER[way]]


@OPEN_OR_TLS
def test_official_go_client(doors: Doors, way: str) -> None:
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
    done = run([made / "program", *doors.words(way)])
    assert done == [*EVERYBODY_DOES, "election", "stm", *AND_AS_USER[way]]


@OPEN_OR_TLS
def test_java_client(doors: Doors, way: str) -> None:
    """Jetcd from Maven Central, with locks and elections by the services of the server."""
    mvn, java = program("mvn"), program("java")
    program("javac")
    made = built(
        "java",
        ["pom.xml", "src/main/java/Main.java"],
        lambda target: [
            *("sh", "-c", 'cp -r . "$0" && cd "$0" && exec "$@"', str(target)),
            *(mvn, "--quiet", "--batch-mode", "compiler:compile", "dependency:copy-dependencies"),
            "-DoutputDirectory=lib",
        ],
    )
    done = run([java, "-cp", f"{made}/target/classes:{made}/lib/*", "Main", *doors.words(way)])
    assert done == [*EVERYBODY_DOES, "election", *AND_AS_USER[way]]


@OPEN_OR_TLS
def test_rust_client(doors: Doors, way: str) -> None:
    """etcd-client from crates.io, with locks and elections by the services of the server."""
    cargo = program("cargo")

    def build(target: Path) -> list[str]:
        # The crate is made with protoc: the one that comes with our own development extras will do.
        protoc = target / "protoc"
        protoc.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n')
        protoc.chmod(0o755)
        words = (
            'cp -r . "$0/source" && cd "$0/source" && PROTOC="$0/protoc" "$@" --target-dir "$0/target"'
            ' && mv "$0/target/debug/actd-interop" "$0/program" && rm -r "$0/target"'
        )
        return ["sh", "-c", words, str(target), cargo, "build", "--quiet", "--locked"]

    made = built("rust", ["Cargo.toml", "Cargo.lock", "src/main.rs"], build, slow=True)
    done = run([made / "program", *doors.words(way)])
    assert done == [*EVERYBODY_DOES, "election", *AND_AS_USER[way]]
