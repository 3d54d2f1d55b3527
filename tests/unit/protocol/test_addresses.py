"""URLs as etcd's flags write them: what is understood, and what is refused in which words."""

import pytest

from protocol.addresses import parse_listen_url, parse_url
from protocol.config import ClusterConfig

NODE = {"name": "n1", "client": "127.0.0.1:1", "peer": "127.0.0.1:2", "zmq": "127.0.0.1:3"}


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port"),
    [
        ("http://127.0.0.1:2379", "http", "127.0.0.1", 2379),
        (" https://example.org:443 ", "https", "example.org", 443),
        ("HTTP://[::1]:1", "http", "::1", 1),
        ("http://:2379", "http", "", 2379),
        ("unix://localhost:m0", "unix", "localhost:m0", 0),
        ("unixs:///run/actd/client.sock", "unixs", "/run/actd/client.sock", 0),
    ],
)
def test_a_url_is_taken_apart(text: str, scheme: str, host: str, port: int) -> None:
    """Scheme, host and port come out; the text stays as it was, because ids are made from it."""
    address = parse_url(text)
    assert (address.scheme, address.host, address.port) == (scheme, host, port)
    assert address.text == text.strip()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("127.0.0.1:2379", "URL scheme must be http, https, unix, or unixs: 127.0.0.1:2379"),
        ("ftp://127.0.0.1:2379", "URL scheme must be http, https, unix, or unixs"),
        ("http://127.0.0.1", 'URL address does not have the form "host:port": http://127.0.0.1'),
        ("http://127.0.0.1:x", 'does not have the form "host:port"'),
        ("http://127.0.0.1:65536", 'does not have the form "host:port"'),
        ("http://::1:1", 'does not have the form "host:port"'),
        ("http://127.0.0.1:1/", "URL must not contain a path"),
        ("http://user@127.0.0.1:1", "URL must not contain a user"),
        ("unix://", "URL names no socket file"),
        ("", "URL scheme must be"),
    ],
)
def test_what_is_no_url_is_refused_in_etcds_words(text: str, told: str) -> None:
    """The text names the URL."""
    with pytest.raises(ValueError) as refused:
        parse_url(text)
    assert told in str(refused.value)


def test_a_name_cannot_be_listened_on() -> None:
    """Only an address of this machine can; localhost is one, nothing is all of them."""
    with pytest.raises(ValueError, match=r"expected IP in URL for binding \(http://example.org:1\)"):
        parse_listen_url("http://example.org:1")
    assert parse_listen_url("http://localhost:1").zmq_bind() == "tcp://127.0.0.1:1"
    assert parse_listen_url("http://:1").host_port == "0.0.0.0:1"
    assert parse_listen_url("http://[::1]:1").zmq_bind() == "tcp://[::1]:1"


def test_what_is_advertised_makes_ids_and_what_is_listened_on_does_not() -> None:
    """A proxy may sit between the two: peers dial, and ids are made of, the advertised URL."""
    told = {"listen_peer_urls": ["http://127.0.0.1:7"], "advertise_peer_urls": ["http://proxy.example:2380"]}
    config = ClusterConfig.model_validate({"nodes": [{**NODE, **told}]})
    plain = ClusterConfig.model_validate({"nodes": [NODE]})
    node, founder = config.nodes[0], config.founding().founders[0]
    assert [address.host_port for address in node.peer_listeners] == ["127.0.0.1:7"]
    assert founder.peer_urls == ("http://proxy.example:2380",)
    assert founder.member != plain.founding().founders[0].member
    assert config.founding().cluster != plain.founding().cluster


@pytest.mark.parametrize(
    ("key", "url", "told"),
    [
        ("listen_client_urls", "http://10.0.0.1:1", "is not a loopback address"),
        ("listen_metrics_urls", "http://:9", "is not a loopback address"),
        ("listen_peer_urls", "unix://x", "over TCP only"),
        ("advertise_peer_urls", "unix://x", "over TCP only"),
        ("advertise_client_urls", "example.org:1", "URL scheme must be"),
        ("listen_metrics_urls", "http://127.0.0.1:1", "n1.listen_metrics_urls and n1.client are both 127.0.0.1:1"),
    ],
)
def test_addresses_that_cannot_work_are_refused(key: str, url: str, told: str) -> None:
    """The text says why."""
    with pytest.raises(ValueError) as refused:
        ClusterConfig.model_validate({"nodes": [{**NODE, key: [url]}]})
    assert told in str(refused.value)
