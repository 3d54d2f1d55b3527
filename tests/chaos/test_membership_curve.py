"""A node joins a running cluster whose members speak CURVE, each with a key of its own and a list of the others'."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Cluster, running, wait_until
from test_membership import Growing
from typer.testing import CliRunner

from actd import CurveKeys
from protocol.curve_keys import read_key_file
from tools.keygen import app as keygen

pytestmark = [pytest.mark.processes, pytest.mark.slow]
WAIT_S = 30


def key(directory: Path, name: str, *words: str) -> Path:
    """Make a key pair as an operator does; return the public half."""
    made = CliRunner().invoke(keygen, ["curve", name, "--dir", str(directory), *words])
    assert made.exit_code == 0, made.output
    return directory / f"{name}.key"


class Secured(Growing):
    """Three members, each with its own directory of keys, and those that join them."""

    def __init__(self, directory: Path) -> None:
        self.keys = directory / "keys"
        curve = [
            "[nodes.curve]",
            f'secret_key_file = "{self.keys}/{{name}}/own/{{name}}.key_secret"',
            f'peer_keys_dir = "{self.keys}/{{name}}/peers"',
            f'client_keys_dir = "{self.keys}/clients"',
        ]
        super().__init__(directory, 3, curve)
        names = self.first.names
        public = {name: self.make(name) for name in names}
        for name in names:
            for file in public.values():
                self.tell(name, file)
        key(self.keys / "clients", "me")
        self.let_me_know(*names)

    def make(self, name: str) -> Path:
        """Make the keys of a node."""
        return key(self.keys / name / "own", name, "--peer", f"127.0.0.1:{self.ports[name][1]}")

    def tell(self, name: str, file: Path) -> None:
        """Put a public key where a node looks for them."""
        peers = self.keys / name / "peers"
        peers.mkdir(parents=True, exist_ok=True)
        (peers / file.name).write_bytes(file.read_bytes())

    def let_me_know(self, *names: str) -> None:
        """Have the test's own client know the keys of these nodes' doors."""
        doors = {self.first.zmq(name): self.keys / name / "own" / f"{name}.key" for name in names}
        self.first.curve = CurveKeys.load(self.keys / "clients" / "me.key_secret", doors)


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    """They serve."""
    made = Secured(tmp_path)
    with running(made.first):
        made.first.start_apart()
        yield made


def test_a_node_joins_once_its_key_is_on_the_lists_of_members_that_run(secured: Secured) -> None:
    """Before that nobody hears it, though it was added: members count and log its key, and it says what is missing."""
    cluster = secured.first
    members = list(cluster.names)
    with cluster.client() as client:
        client.put("before", "anybody came")
    secured.add("n4")
    mine = secured.make("n4")
    for file in (mine, *(secured.keys / name / "own" / f"{name}.key" for name in members)):
        secured.tell("n4", file)
    running_before = {name: cluster.pid("raft", name) for name in members}
    secured.join("n4")
    secured.let_me_know(*members, "n4")
    newcomer = cluster.launcher_of("n4")
    public = read_key_file(mine).public.decode()
    for name in members:
        wait_until(lambda: refused(cluster, name), WAIT_S, f"{name} counts the stranger")  # noqa: B023
        log = cluster.launcher_of(name)
        wait_until(lambda: public in cluster.log_of(log), WAIT_S, f"{name} names its key")  # noqa: B023
    wait_until(lambda: "into that member's peer_keys_dir" in cluster.log_of(newcomer), WAIT_S, "it says so, too")
    assert public in cluster.log_of(newcomer)
    assert secured.members()[secured.ids["n4"]].name == "", "it has not started"

    for name in members:
        secured.tell(name, mine)
    secured.await_voter("n4")
    with cluster.client("n4") as client:
        found = client.get("before")
        assert found is not None
        revision = client.put("through", "n4").revision
    hashes = set()
    for name in cluster.names:
        with cluster.client(name) as client:
            assert client.get("through") is not None
            hashes.add(client.hash_kv(revision).hash)
    assert len(hashes) == 1
    assert {name: cluster.pid("raft", name) for name in members} == running_before, "nobody was started again"


def refused(cluster: Cluster, name: str) -> bool:
    """Whether a member has counted a key at its peer port that is not on its list."""
    with urllib.request.urlopen(f"http://{cluster.client_address(name)}/metrics", timeout=WAIT_S) as page:
        return b'actd_curve_refused_total{door="peers",reason="key"}' in page.read()
