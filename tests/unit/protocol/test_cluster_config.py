"""The cluster file: what is accepted, and how a mistake is told."""

from pathlib import Path

import pytest

from protocol.config import ClusterConfig, cluster_id_of, load_config, member_id_of
from protocol.errors import ConfigError

GOOD = """
[[nodes]]
name = "n1"
client = "127.0.0.1:2379"
peer = "127.0.0.1:2380"
zmq = "127.0.0.1:2381"
"""


def load(tmp_path: Path, text: str) -> ClusterConfig:
    """The configuration a file of this text gives."""
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return load_config(path)


def node(name: str, port: int) -> str:
    """One more node."""
    return (
        f'[[nodes]]\nname = "{name}"\nclient = "127.0.0.1:{port}"\n'
        f'peer = "127.0.0.1:{port + 1}"\nzmq = "127.0.0.1:{port + 2}"\n'
    )


def test_the_shipped_file_is_accepted_and_says_the_defaults() -> None:
    """What cluster.toml spells out is what would hold without it."""
    shipped = load_config(Path(__file__).parents[3] / "cluster.toml")
    assert [one.name for one in shipped.nodes] == ["n1", "n2", "n3"]
    assert shipped == ClusterConfig(nodes=shipped.nodes)


def test_ids_are_etcds() -> None:
    """Member and cluster ids come out as real etcd computes them for the same URLs and token (rule 65)."""
    members = [member_id_of([f"http://127.0.0.1:{port}"], "etcd-cluster") for port in (7380, 7381, 7382)]
    assert [f"{member:x}" for member in members] == ["c4eee324fc4cb370", "a3587bab7e132612", "34cb3d07b82ca6c8"]
    assert cluster_id_of(members) == cluster_id_of(members[::-1])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nodes = [", "not valid TOML"),
        ("", "nodes: Field required"),
        (GOOD + "[raft]\nelection_timeout_ms = 400\n", "at least 5 x heartbeat_interval_ms"),
        (GOOD + "[raft]\nelection_timeout = 400\n", "raft.election_timeout: Extra inputs"),
        (GOOD + node("n1", 3000) + node("n3", 4000), "the name 'n1' is used twice"),
        (GOOD + node("n2", 2380) + node("n3", 4000), "are both 127.0.0.1:2380"),
        (GOOD + node("n2", 3000), "use an odd number"),
        (GOOD.replace("127.0.0.1:2379", "0.0.0.0:2379"), "is not a loopback address"),
        (GOOD.replace("127.0.0.1:2379", "localhost"), "is not host:port"),
        (GOOD.replace("127.0.0.1:2379", "127.0.0.1:99999"), "is not host:port"),
        (GOOD.replace("127.0.0.1:2379", "example.org:1"), "neither an IP address nor localhost"),
        (GOOD.replace('"n1"', '"a b"'), "nodes.0.name"),
    ],
)
def test_mistakes_are_named_with_file_and_key(tmp_path: Path, text: str, told: str) -> None:
    """Whoever reads the error knows which file, which key and what to do."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert told in str(caught.value)
    assert "cluster.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere is told as such."""
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        load_config(tmp_path / "absent.toml")
