"""The first part of every peer frame."""

import pytest

from actors.process import ROLES
from protocol.errors import PeerFault
from protocol.peer import PeerHeader
from protocol.types import ClusterId, Incarnation, MemberId, StoreId


@pytest.mark.parametrize("actor", sorted(ROLES))
def test_every_actor_can_be_addressed(actor: str) -> None:
    """A header comes back as it was, whichever actor it is for."""
    header = PeerHeader(1, ClusterId(2**63), MemberId(3), MemberId(4), StoreId(5), Incarnation(6), actor)
    assert PeerHeader.unpack(header.pack()) == header


def test_strangers_bytes_are_a_peer_fault() -> None:
    """What is no header is refused as such."""
    for data in (b"", b"GET / HTTP/1.1\r\n", b"\0" * 70, b"x" * 70):
        with pytest.raises(PeerFault):
            PeerHeader.unpack(data)
