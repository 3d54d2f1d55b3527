"""What a client and a node's ZeroMQ door say to each other; `docs/protocol.md` tells it to other languages.

A client's DEALER socket and the door's ROUTER exchange single-frame messages in the form of `protocol.codec`.
Bodies of calls and answers are etcd's protobuf messages.
"""

from typing import ClassVar, Final

from protocol.message import Message
from protocol.types import ClusterId, MemberId

CLIENT_PROTOCOL_VERSION: Final = 1
CALLS_PER_BATCH_MAX: Final = 1000
CLIENT_MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Largest frame a door accepts; a client splits its batches below it."""
UNREAD_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of answers a door sends ahead of what the client has said it took; over it the client is cut off."""
STREAM_TAKEN_STEP_BYTES: Final = 128 * 1024
"""A client says what was taken of a stream at the latest each time it is so many bytes more."""
TAKEN_STEP_BYTES: Final = 1024 * 1024
"""A client says what it took at the latest each time it is so many bytes more."""


class ClientMessage(Message):
    """Client to door."""

    abstract: ClassVar[bool] = True


class DoorMessage(Message):
    """Door to client."""

    abstract: ClassVar[bool] = True


class ClientHello(ClientMessage):
    """Opens a conversation; `client` is a name for logs, `cluster` 0 or the cluster the client expects."""

    protocol_version: int
    client: str
    cluster: ClusterId


class ClientHelloReply(DoorMessage):
    """The door's side: who it is, where all doors are, and its limits.

    `conversation` is another number whenever the door has begun anew with this client (it was restarted, or had
    forgotten it): calls of an earlier conversation will not be answered any more.
    """

    protocol_version: int
    cluster: ClusterId
    member: MemberId
    name: str
    conversation: int
    doors: tuple[str, ...]
    calls_open_max: int
    request_bytes_max: int
    unread_bytes_max: int


class ClientRefused(DoorMessage):
    """The door does not talk to this client, or not now; `reason` is for people.

    The calls `call_ids` came with the refused message; they were certainly not begun.
    """

    code: str
    reason: str
    call_ids: tuple[int, ...]


class CallBatch(ClientMessage):
    """Calls, each `(call id, method number, milliseconds the client waits or 0, protobuf request)`.

    Call ids are the client's; one may be used again once it is answered.
    """

    calls: tuple[tuple[int, int, int, bytes], ...]


class CancelCalls(ClientMessage):
    """Nobody waits for these calls any more; what they asked may still happen."""

    call_ids: tuple[int, ...]


class RepliesTaken(ClientMessage):
    """The client has taken in `bytes_taken` bytes of `ReplyBatch`, `ReplyPiece` and `StreamMessages` frames since the
    conversation began.
    """

    bytes_taken: int


class ReplyPiece(DoorMessage):
    """A part of a large response to call `call_id`: what follows in its `ReplyBatch` stands behind it."""

    call_id: int
    piece: bytes


class ReplyBatch(DoorMessage):
    """Answers, each `(call id, code, body)`: with code 0 the protobuf response, else the error's text in UTF-8."""

    replies: tuple[tuple[int, int, bytes], ...]


class UseToken(ClientMessage):
    """The token of an Authenticate goes with every call and stream of this conversation from now on; empty: none."""

    token: str


class OpenStream(ClientMessage):
    """Opens a streaming call and says the first things on it. `call_id` is one of the client's call ids.

    `require_leader`: end it rather than let it wait on a member that knows no leader.
    """

    call_id: int
    method: int
    require_leader: bool
    messages: tuple[bytes, ...]


class SendToStream(ClientMessage):
    """Says more on a stream; with `ended` it was the last."""

    call_id: int
    messages: tuple[bytes, ...]
    ended: bool


class StreamTaken(ClientMessage):
    """Whoever reads the stream has taken `bytes_taken` bytes of its messages since it was opened."""

    call_id: int
    bytes_taken: int


class StreamMessages(DoorMessage):
    """Messages of a stream, in order, each the protobuf response."""

    call_id: int
    messages: tuple[bytes, ...]


class StreamEnded(DoorMessage):
    """A stream is over, behind all its messages; with a code other than 0, `text` says why."""

    call_id: int
    code: int
    text: str
