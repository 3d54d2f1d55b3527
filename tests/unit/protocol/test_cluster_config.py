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
        ("", "nodes: missing; it has no default"),
        ("nodes = []", "nodes: Tuple should have at least 1 item"),
        (GOOD + "[raft]\nelection_timeout_ms = 400\n", "at least 5 x heartbeat_interval_ms"),
        (
            GOOD + "[raft]\nelection_timeout = 400\n",
            "raft.election_timeout: unknown key; did you mean election_timeout_ms?",
        ),
        (GOOD + "[raft]\ncolour = 400\n", "raft.colour: unknown key; known here are append_bytes_max,"),
        (GOOD + 'colour = "red"\n', "nodes.0.colour: unknown key; known here are advertise_client_urls,"),
        ("rafts = 1\n" + GOOD, "rafts: unknown key; did you mean raft?"),
        (GOOD + '[raft]\nsnapshot_count = "many"\n', "raft.snapshot_count: Input should be a valid integer"),
        (GOOD + "[raft]\nsnapshot_count = 0\n", "greater than or equal to 1, not 0"),
        (GOOD + "[limits]\npending_bytes_max = 1_048_576\n", "the largest request would never fit"),
        (GOOD + "[limits]\nrequest_bytes_max = 67_108_864\n", "limits.request_bytes_max: Input should be less"),
        (GOOD + "[supervision]\nbackoff_max_ms = 1\n", "is below backoff_first_ms"),
        (GOOD + node("n1", 3000) + node("n3", 4000), "the name 'n1' is used twice"),
        (GOOD + node("n2", 2380) + node("n3", 4000), "are both 127.0.0.1:2380"),
        (GOOD.replace("127.0.0.1:2380", "localhost:2379"), "n1.peer and n1.client are both localhost:2379"),
        (GOOD + node("n2", 3000) + 'data_dir = "data/n1"\n' + node("n3", 4000), "n2 and n1 share the data_dir data/n1"),
        (GOOD + node("n2", 3000), "use an odd number"),
        (GOOD.replace("127.0.0.1:2379", "0.0.0.0:2379"), "is not a loopback address"),
        (GOOD.replace("127.0.0.1:2379", "localhost"), "is not host:port"),
        (GOOD.replace("127.0.0.1:2379", "127.0.0.1:99999"), "is not host:port"),
        (GOOD.replace("127.0.0.1:2379", "127.0.0.1:0"), "is not host:port"),
        (GOOD.replace("127.0.0.1:2379", "127.0.0.1:02379"), "is not host:port"),
        (GOOD.replace("127.0.0.1:2379", "127.0.0.1:²"), "is not host:port"),
        (GOOD.replace('"n1"', '".."'), "nodes.0.name"),
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


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    """Two mistakes are two lines, each with the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD + "[raft]\nsnapshot_count = 0\ncolour = 1\n")
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{tmp_path / 'cluster.toml'}: raft.") for line in lines)


def test_data_directories_follow_names_unless_they_are_given(tmp_path: Path) -> None:
    """A node keeps its data under its name in the cluster's directory, or where it says."""
    config = load(tmp_path, GOOD + node("n2", 3000) + 'data_dir = "/srv/two"\n' + node("n3", 4000))
    assert [str(config.data_dir_of(one)) for one in config.nodes] == ["data/n1", "/srv/two", "data/n3"]


def test_loopback_of_either_family_is_accepted(tmp_path: Path) -> None:
    """IPv6 and localhost are as good as 127.0.0.1."""
    text = GOOD.replace("127.0.0.1:2380", "[::1]:2380").replace("127.0.0.1:2381", "localhost:2381")
    assert load(tmp_path, text).node("n1").peer_urls[0] == "http://[::1]:2380"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere is told as such."""
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        load_config(tmp_path / "absent.toml")
