"""What members say to each other: raft messages, and the frame that carries any of them between nodes.

Between nodes a message may be lost, doubled, delayed and overtaken; every kind here bears all four.
A packet on the wire is one ZeroMQ frame: `PeerHeader` (fixed struct), then encoded messages, each behind its length.
"""

import struct
from typing import ClassVar, Final, NamedTuple

from protocol.errors import PeerFault
from protocol.membership import MemberChange, MemberView
from protocol.message import Message
from protocol.types import ClusterId, Entry, Incarnation, Index, LogPosition, MemberId, StoreId, Term

PEER_WIRE_VERSION: Final = 3

ACTOR_NAME_BYTES_MAX: Final = 24
_HEADER: Final = struct.Struct(">4sHQQQQQ24s")
_MAGIC: Final = b"actp"
PEER_HEADER_BYTES: Final = _HEADER.size


class PeerHeader(NamedTuple):
    """Head of every peer packet: who speaks, for which cluster, from which data directory, to whom."""

    version: int
    cluster: ClusterId
    sender: MemberId
    receiver: MemberId
    store: StoreId
    incarnation: Incarnation
    actor: str
    """Which actor of the receiver it is for: "raft", "snapshot_sender" or "snapshot_receiver"."""

    def pack(self) -> bytes:
        """Return the header's bytes; `unpack` gives it back."""
        assert len(self.actor) <= ACTOR_NAME_BYTES_MAX, f"the name {self.actor} does not fit a peer header"
        return _HEADER.pack(
            _MAGIC,
            self.version,
            self.cluster,
            self.sender,
            self.receiver,
            self.store,
            self.incarnation,
            self.actor.encode(),
        )

    @classmethod
    def unpack(cls, data: bytes) -> "PeerHeader":
        """Return the header in `data`.

        Raises:
            PeerFault: it is not one.
        """
        try:
            magic, version, cluster, sender, receiver, store, incarnation, actor = _HEADER.unpack(data)
            name = actor.rstrip(b"\0").decode("ascii")
        except (struct.error, UnicodeDecodeError) as error:
            raise PeerFault("not a peer header") from error
        if magic != _MAGIC:
            raise PeerFault("not a peer header")
        return cls(version, cluster, sender, receiver, store, incarnation, name)


def from_stranger(header: PeerHeader) -> bool:
    """Whether a head says that its sender does not know yet who it is."""
    return header.version == PEER_WIRE_VERSION and not (header.cluster or header.sender or header.receiver)


def refusal(header: PeerHeader, cluster: ClusterId, member: MemberId) -> str:
    """Return why a frame with this header is not for `member` of `cluster`, in words for an operator, or nothing."""
    if header.version != PEER_WIRE_VERSION:
        return f"peer wire version {header.version}, this node speaks {PEER_WIRE_VERSION}"
    if header.cluster != cluster:
        return (
            f"you belong to cluster {header.cluster:x}, this is {cluster:x}: compare the nodes and the token in both "
            "cluster files"
        )
    if header.receiver != member:
        return f"you look for member {header.receiver:x}, this is {member:x}: compare the peer addresses"
    if header.sender == member:
        return f"member {member:x} runs twice: two nodes have one id"
    return ""


class PeerMessage(Message):
    """A raft message; `term` is the sender's term unless the kind says otherwise."""

    abstract: ClassVar[bool] = True

    term: Term


class RequestVote(PeerMessage):
    """Ask for a vote in `term` (thesis 3.4), or with `pre_vote` whether one would be given (thesis 9.6).

    `transfer`: the leader itself asked for this election, so that nobody need protect it from disturbance.
    """

    last: LogPosition
    pre_vote: bool
    transfer: bool


class RequestVoteReply(PeerMessage):
    """Grant or refuse what was asked for term `asked`; `term` is the voter's own, as in every message."""

    asked: Term
    granted: bool
    pre_vote: bool


class AppendEntries(PeerMessage):
    """Append `entries` behind `previous` (thesis 3.5); the answer leaves after the follower's fsync.

    `quiet`: it only carries news of the commit index, and needs no answer where the logs meet.
    """

    previous: LogPosition
    entries: tuple[Entry, ...]
    commit: Index
    quiet: bool


class AppendEntriesReply(PeerMessage):
    """`rejected` False: the log matches and is durable up to `matched`. True: there was no match at index `matched`,
    and `conflict` is the furthest position of the follower's log that could.
    """

    matched: Index
    rejected: bool
    conflict: LogPosition


class Heartbeat(PeerMessage):
    """The leader lives; `commit` is never past what the follower is known to hold.

    `round` tags the newest read round uniquely within the term (0: there was none).
    """

    commit: Index
    round: int


class HeartbeatReply(PeerMessage):
    """The follower heard it and still follows; `round` echoed.

    `attended`: clients write, read or watch there, so what it learns late, they learn late.
    """

    round: int
    attended: bool = False


class ForwardProposal(PeerMessage):
    """A follower's gateway proposes to the leader of `term`, and to no other.

    `context` grows with every forwarded batch of that member, through all its lives: so a copy is recognised.
    """

    context: int
    payload: bytes


class ForwardProposalReply(PeerMessage):
    """The batch forwarded as `context` was certainly not proposed; `code` says why."""

    context: int
    code: int


class RequestReadIndex(PeerMessage):
    """A follower asks for the index its reads must wait for; `context` is never used again by that member."""

    context: int


class ReadIndexReply(PeerMessage):
    """The read index for `context`, or a refusal (`code` not 0)."""

    context: int
    index: Index
    code: int


class ForwardLessorCalls(PeerMessage):
    """A follower's gateway asks the leader's lessor: a `protocol.command` batch of lease `ReadKind`s.

    `context` is never used again by that member for another batch; the same one may come again.
    """

    context: int
    payload: bytes


class ForwardLessorCallsReply(PeerMessage):
    """The lessor's answers to the batch `context`, an `ErrorCode` and a body without header each; or with `code`
    not 0 a refusal of them all.
    """

    context: int
    code: int
    results: tuple[tuple[int, bytes], ...]


class ForwardMemberChange(PeerMessage):
    """A follower asks the leader of `term`, and no other, to change the member table.

    `context` is never used again by that member for another change; the same one may come again.
    """

    context: int
    change: MemberChange


class ForwardMemberChangeReply(PeerMessage):
    """What became of the change `context`: an `ErrorCode`, and the members where it is made and committed."""

    context: int
    code: int
    members: tuple[MemberView, ...]


class TimeoutNow(PeerMessage):
    """Start an election at once: leadership is being handed to you (thesis 3.10)."""


class ConfirmMembership(PeerMessage):
    """Asked by a member that hears no leader, and may not stand for election or has tried often; it says nothing to the
    consensus.

    Who was removed is told so by whomever it speaks to, and would not speak otherwise: it hears of its removal from
    nobody, since a leader feeds only those that belong. `peer_urls` are where the asker is reached: whoever was started
    since the removal does not know.
    """

    peer_urls: tuple[str, ...] = ()


class PeerRefused(Message):
    """Your frames are not accepted, and why: words an operator can act on. Carries no term: it is not raft.

    `removed`: you belong to the cluster no more, and never will again under this id.
    """

    reason: str
    removed: bool = False


class JoinAsked(Message):
    """Who am I? Asked by a node that knows neither its cluster nor its id, under a head that names neither."""

    peer_urls: tuple[str, ...]


class ClusterDescribed(Message):
    """You are the member this is addressed to, and these are all; or why that member cannot be joined any more.

    Told to a newcomer that asks, and by a leader to members that it does not hear: they may not know where it is.
    """

    members: tuple[MemberView, ...]
    refusal: str


class OfferSnapshot(Message):
    """A sender helper opens a transfer: the files with sizes and CRC-32C, and what the snapshot holds."""

    transfer: int
    name: str
    index: Index
    term: Term
    configuration: bytes
    files: tuple[tuple[str, int, int], ...]


class SnapshotChunk(Message):
    """A piece of one file; `sequence` counts chunks of the transfer from 0."""

    transfer: int
    sequence: int
    file: int
    offset: int
    data: bytes


class SnapshotProgress(Message):
    """The receiver has everything below chunk `next_sequence` and grants a window from there; `state` is
    "receiving", "staged" or "refused".
    """

    transfer: int
    next_sequence: int
    state: str


PEER_KINDS: Final = frozenset(
    {kind.__name__ for kind in PeerMessage.__subclasses__()}
    | {"ClusterDescribed", "OfferSnapshot", "PeerRefused"}
    | {"SnapshotChunk", "SnapshotProgress"}
)
"""What another node may say; the messages of this node's own actors are not among it."""
STRANGER_KINDS: Final = frozenset({"JoinAsked"})
"""What may be said under a head that names no cluster."""
