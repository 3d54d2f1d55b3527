"""What may be asked of the membership, and how a member is shown: words that gateway, raft and peers share.

Owns the rules for peer URLs, which are etcd's, and the way from a URL to an address. Pure.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from protocol.types import MemberId

PEER_SCHEMES: Final = ("http", "https", "unix", "unixs")


class ChangeKind(IntEnum):
    """What a `MemberChange` does. Numbers travel between members: never reused."""

    ADD = 1
    REMOVE = 2
    UPDATE = 3
    PROMOTE = 4
    PUBLISH = 5
    """A member tells its name and where clients reach it; only members themselves ask for this."""


class MemberChange(NamedTuple):
    """One change of the member table; fields that a kind has no use for are empty."""

    kind: int
    member: MemberId
    peer_urls: tuple[str, ...] = ()
    is_learner: bool = False
    name: str = ""
    client_urls: tuple[str, ...] = ()


class MemberView(NamedTuple):
    """One member as `MemberList` shows it."""

    member: MemberId
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool


def parse_peer_urls(urls: Iterable[str]) -> tuple[str, ...] | None:
    """Return peer URLs as etcd keeps them, sorted; None where it would refuse them."""
    parsed = [_parse(url.strip()) for url in urls]
    if not parsed or None in parsed:
        return None
    return tuple(sorted(url for url in parsed if url is not None))


def _parse(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        known = parts.scheme in PEER_SCHEMES and _has_address(parts)
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.netloc}" if known and parts.path == "" else None


def _has_address(parts: SplitResult) -> bool:
    """Whether there is `host:port`; of a socket in the file system the port is only part of its name."""
    if parts.scheme in ("unix", "unixs"):
        return bool(parts.netloc)
    return bool(parts.netloc) and parts.netloc.rpartition(":")[1] == ":" and parts.port is not None


def address_of(peer_urls: Iterable[str]) -> str | None:
    """Return where the links to a member lead, `host:port`: the first of its URLs that names one."""
    for url in peer_urls:
        scheme, _, rest = url.partition("://")
        if scheme in ("http", "https") and rest:
            return rest
    return None
