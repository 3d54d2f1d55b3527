"""Which peer URLs etcd takes, and what it makes of them."""

import pytest

from protocol.config import member_id_of
from protocol.membership import dialled_url, parse_peer_urls


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:2380", "ftp://127.0.0.1:2380", "http://127.0.0.1", "http://127.0.0.1:", "http://127.0.0.1:x",
        "http://127.0.0.1:2380/path", "http://127.0.0.1:2380/", "http://", "", "http://[::1", "http://h:99999", "unix://",
    ],
)  # fmt: skip
def test_urls_without_scheme_host_and_port_alone_are_refused(url: str) -> None:
    """One bad URL spoils the request; so does none at all."""
    assert parse_peer_urls([url]) is None
    assert parse_peer_urls(["http://127.0.0.1:1", url]) is None
    assert parse_peer_urls([]) is None


def test_urls_are_trimmed_and_sorted() -> None:
    """The id of a member is made of them in this order."""
    urls = parse_peer_urls([" http://b:2 ", "https://a:1", "unix://here:3"])
    assert urls == ("http://b:2", "https://a:1", "unix://here:3")
    assert member_id_of(["http://b:1", "http://a:1"], "7") == member_id_of(["http://a:1", "http://b:1"], "7")


def test_links_lead_to_the_first_url_with_an_address() -> None:
    """A socket in the file system is none to us."""
    assert dialled_url(["unix://x", "nonsense", "https://a:1", "http://b:2"]) == "https://a:1"
    assert dialled_url(["unix://x"]) is None
