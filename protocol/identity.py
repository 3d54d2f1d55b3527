"""Who a running node is, and what it knows of its cluster before it has read a byte of its log."""

from typing import NamedTuple

from protocol.types import ClusterId, Incarnation, MemberId, StoreId


class FoundingMember(NamedTuple):
    """A member as the cluster file or the flags name it; later changes live in the log."""

    member: MemberId
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False
    """Only of a member as a newcomer was told of it: founders vote."""
    promised: bool = False
    """Of a learner: it was added to vote, once it has caught up."""


class Founding(NamedTuple):
    """A cluster as its founding members begin it; the same on all of them, and for good."""

    cluster: ClusterId
    founders: tuple[FoundingMember, ...]

    def member_id(self, name: str) -> MemberId:
        """Return the id of the founder called `name`.

        Raises:
            StopIteration: there is none.
        """
        return next(founder.member for founder in self.founders if founder.name == name)


class NodeIdentity(NamedTuple):
    """Given to every actor of a node when it is made."""

    cluster: ClusterId
    member: MemberId
    name: str
    store: StoreId
    incarnation: Incarnation
    """Of this actor's group (raft, wal, applier), or of the gateway."""
    founders: tuple[FoundingMember, ...]
    """Whom to start with while the log says nothing: the founders, or the members that a newcomer was told of."""
    client_urls: tuple[str, ...] = ()
    """Where clients reach this node: the member table is to say so."""
