"""The cluster file: what is accepted, and how a mistake is told."""

import ssl
from pathlib import Path

import pytest

from protocol.config import ClusterConfig, cluster_id_of, load_config, member_id_of
from protocol.errors import ConfigError
from protocol.security import OPENSSL_SUITES

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
        (
            GOOD.replace("127.0.0.1:2379", "0.0.0.0:2379"),
            "not a loopback address, and what is said there would be plain",
        ),
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


TLS = "[nodes.client_transport_security]\n"
PAIR = TLS + 'cert_file = "a.pem"\nkey_file = "a-key.pem"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TLS + 'cert_file = "a.pem"\n', "cert_file without key_file"),
        ('listen_client_urls = ["https://127.0.0.1:1"]\n', "client_transport_security has no certificate"),
        (
            TLS + 'cert_fil = "a.pem"\n',
            "nodes.0.client_transport_security.cert_fil: unknown key; did you mean cert_file?",
        ),
        (TLS + "client_cert_auth = true\n", "client_cert_auth means nothing without TLS"),
        (PAIR + 'allowed_cns = ["a"]\n', "allowed_cns is about client certificates"),
        (PAIR + 'client_cert_auth = true\nallowed_cns = ["a"]\nallowed_hostnames = ["b"]\n', "mutually exclusive"),
        (PAIR + 'client_cert_auth = true\ncrl_file = "a"\n', "crl_file without trusted_ca_file"),
        (PAIR + 'tls_min_version = "TLS1.1"\n', "Input should be 'TLS1.2' or 'TLS1.3'"),
        (PAIR + 'tls_min_version = "TLS1.3"\ntls_max_version = "TLS1.2"\n', "is older than tls_min_version"),
        (PAIR + 'cipher_suites = ["AES128-SHA"]\n', "unexpected TLS cipher suite 'AES128-SHA'"),
        (PAIR + 'cipher_suites = ["TLS_RSA_WITH_RC4_128_SHA"]\n', "is broken"),
        (PAIR + 'tls_min_version = "TLS1.3"\ncipher_suites = ["TLS_AES_128_GCM_SHA256"]\n', "are for TLS 1.2 only"),
    ],
)
def test_mistakes_about_tls_are_told(tmp_path: Path, text: str, told: str) -> None:
    """Settings that cannot hold together are refused before anything listens."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD + text)
    assert told in str(caught.value)


def test_every_suite_that_can_be_chosen_is_one_of_openssls() -> None:
    """Each of Go's names stands for a suite that OpenSSL takes under its default rules."""
    for name in OPENSSL_SUITES.values():
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(name)


def test_beyond_loopback_is_for_tls_or_for_those_who_say_so(tmp_path: Path) -> None:
    """The client port may listen anywhere once it speaks TLS; plain ports only on request, each of them."""
    anywhere = GOOD.replace("127.0.0.1:2379", "0.0.0.0:2379")
    assert load(tmp_path, anywhere + PAIR).nodes[0].client_urls == ("https://0.0.0.0:2379",)
    assert load(tmp_path, anywhere + "allow_insecure_listen = true\n").nodes[0].client_urls == ("http://0.0.0.0:2379",)
    with pytest.raises(ConfigError, match=r"client 0\.0\.0\.0:2379 is not a loopback address"):
        load(tmp_path, GOOD + 'listen_client_urls = ["http://0.0.0.0:2379"]\n' + PAIR)
    for key, port in (("peer", 2380), ("zmq", 2381)):
        with pytest.raises(ConfigError, match=f"{key} 10.0.0.1:{port} is not a loopback address"):
            load(tmp_path, GOOD.replace(f"127.0.0.1:{port}", f"10.0.0.1:{port}") + PAIR)


def test_paths_lead_from_where_the_program_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors work in their data directory; a certificate is looked for where its user meant it."""
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path, GOOD + PAIR).nodes[0].client_transport_security.key_file == str(tmp_path / "a-key.pem")
