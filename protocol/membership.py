"""What may be asked of the membership, and how a member is shown: words that gateway, raft and peers share.

Owns which peer URLs are taken, and which of them is dialled. Pure.
"""

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from protocol.addresses import parse_url
from protocol.types import MemberId


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
    try:
        return tuple(sorted(parse_url(url).text for url in urls)) or None
    except ValueError:
        return None


def dialled_url(peer_urls: Iterable[str]) -> str | None:
    """Return where the links to a member lead: the first of its URLs that is no socket file."""
    for url in peer_urls:
        try:
            if not parse_url(url).is_unix:
                return url
        except ValueError:
            continue
    return None
