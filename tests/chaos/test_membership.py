"""Real nodes come and go: joined by `initial_cluster_state = "existing"`, promoted, replaced, removed, refused."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from clusters import Cluster, running, wait_until

from actd.errors import ActdError
from actd.results import Member
from chaos.host import free_ports

pytestmark = [pytest.mark.processes, pytest.mark.slow]


class Growing:
    """A cluster that began as one node or some, and the files of those that join it."""

    def __init__(self, directory: Path, nodes: int = 1, node_lines: Sequence[str] = ()) -> None:
        """With `node_lines` each node's table ends with these; `{name}` stands for its name."""
        self.directory = directory
        self.node_lines = node_lines
        self.first = Cluster(directory / "first", nodes, node_lines=node_lines)
        self.ports = dict(self.first.ports)
        self.ids = {name: self.first.member(name) for name in self.first.names}

    @property
    def peer_urls(self) -> dict[str, str]:
        """Where each node listens for its peers."""
        return {name: f"http://127.0.0.1:{ports[1]}" for name, ports in self.ports.items()}

    def add(self, name: str, *, learner: bool = False) -> int:
        """Have the cluster know a new member; return its id."""
        a, b, c = free_ports(3)
        self.ports[name] = (a, b, c)
        with self.first.client(*self.serving()) as client:
            member = client.member_add([self.peer_urls[name]], learner=learner)
        assert (member.name, member.peer_urls, member.is_learner) == ("", (self.peer_urls[name],), learner)
        self.ids[name] = member.id
        return member.id

    def serving(self) -> list[str]:
        """The nodes that clients of this test may ask."""
        return [name for name in self.first.names if name in self.ids]

    def join(self, name: str, *, data: str = "") -> None:
        """Start a node's launcher with a file that says it joins, or goes on with its data."""
        known = self.first
        file = self.directory / f"{name}{data}.toml"
        lines = [f'token = "{known.directory.name}"', 'initial_cluster_state = "existing"']
        lines += ["[raft]", "election_timeout_ms = 1000", "[supervision]", "restarts_max = 1000"]
        for each, (client, peer, zmq) in self.ports.items():
            lines += ["[[nodes]]", f'name = "{each}"', f'client = "127.0.0.1:{client}"']
            lines += [f'peer = "127.0.0.1:{peer}"', f'zmq = "127.0.0.1:{zmq}"']
            lines += [line.format(name=each) for line in self.node_lines]
        file.write_text("\n".join(lines) + "\n")
        known.launch(name, file=file, data=self.directory / f"data{data}")
        if name not in known.names:
            known.names.append(name)
        known.ports[name] = self.ports[name]

    def members(self) -> dict[int, Member]:
        """The members by id, as any node that serves has them."""
        with self.first.client(*self.serving()) as client:
            return {member.id: member for member in client.members()}

    def leader(self) -> str:
        """The node that says of itself that it leads."""
        found: list[str] = []

        def leads() -> bool:
            for name in self.serving():
                with self.first.client(name, timeout_s=2.0) as client, contextlib.suppress(ActdError):
                    status = client.status()
                    if status.leader == status.member_id == self.ids[name]:
                        found.append(name)
            return bool(found)

        wait_until(leads, 30, "somebody leads")
        return found[0]

    def await_voter(self, name: str) -> None:
        """Wait until a member has started, and shows its name and no learner."""

        def started() -> bool:
            with contextlib.suppress(ActdError):
                member = self.members().get(self.ids[name])
                return member is not None and member.name == name and not member.is_learner
            return False

        wait_until(started, 30, f"{name} has started")

    def await_end(self, name: str) -> str:
        """Wait until a node has given up; return what its launcher said, on one line."""
        launcher = self.first.launcher_of(name)
        wait_until(lambda: launcher.poll() is not None, 45, f"{name} gives up")
        assert launcher.returncode == 1
        return re.sub(r"\s+", " ", self.first.log_of(launcher))


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Growing]:
    """One node that serves."""
    made = Growing(tmp_path)
    with running(made.first):
        made.first.start()
        with made.first.client() as client:
            client.put("before", "anybody came")
        yield made


def test_a_cluster_grows_and_lives_on_without_its_first_leader(growing: Growing) -> None:
    """A voter and a learner join; who lost its data or was removed is told so; the first node leaves as leader."""
    first = growing.first
    growing.add("n2")
    growing.join("n2")
    growing.await_voter("n2")
    with first.client("n2") as client:
        wait_until(lambda: client.put("through", "n2"), 10, "the second serves")
        assert client.members()[0].client_urls != ()

    _a_learner_joins_and_is_promoted(growing)
    _a_wiped_member_is_refused(growing)

    first.kill_node("n3")
    with first.client("n2") as client:
        client.member_remove(growing.ids["n3"])
        assert client.put("through", "two").revision
    growing.join("n3")
    removed = growing.ids.pop("n3")
    assert "was removed from the cluster" in growing.await_end("n3"), "those that are left tell it"

    leader = growing.leader()
    heir = next(name for name in growing.serving() if name != leader)
    with first.client(leader) as client:
        client.move_leader(growing.ids[heir])
    assert growing.leader() == heir
    if heir != "n1":
        with first.client(heir) as client:
            client.move_leader(growing.ids["n1"])
        assert growing.leader() == "n1"
    with first.client("n2") as client:
        client.member_remove(growing.ids["n1"])
    assert "was removed from the cluster" in growing.await_end("n1")
    assert {removed, growing.ids.pop("n1")} & set(growing.members()) == set()
    first.launch("n1")
    assert "was removed from the cluster" in growing.await_end("n1"), "its own log says so"
    with first.client("n2") as client:
        assert client.put("alone", "n2").revision


def _a_learner_joins_and_is_promoted(growing: Growing) -> None:
    growing.add("n3", learner=True)
    growing.join("n3")
    with growing.first.client("n3", timeout_s=3.0) as client:

        def has_it() -> bool:
            with contextlib.suppress(ActdError):
                return client.get("before", serializable=True) is not None
            return False

        wait_until(has_it, 30, "the learner has caught up")
        assert client.status().is_learner
        with pytest.raises(ActdError, match="rpc not supported for learner"):
            client.put("by", "a learner")
    with growing.first.client("n2") as client:

        def promoted() -> bool:
            with contextlib.suppress(ActdError):
                client.member_promote(growing.ids["n3"])
                return True
            return False

        wait_until(promoted, 30, "the learner is in sync")
    growing.await_voter("n3")


def _a_wiped_member_is_refused(growing: Growing) -> None:
    growing.first.kill_node("n3")
    growing.join("n3", data="-wiped")
    assert "has had a data directory, and this is empty" in growing.await_end("n3")
    growing.join("n3")
    with growing.first.client("n3") as client:
        wait_until(lambda: client.put("through", "n3"), 30, "with its own data it goes on")
