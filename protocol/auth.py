"""Who asks: the identity that travels with a command or a read, and what becomes of an Authenticate.

Both are in logs, so they carry no Python types: msgpack of plain values. A command without an identity is bare, as
`protocol.command` has it; so nothing is added to any command while authentication is off.
Worked example: alice's put at auth revision 9 is of kind `AS_USER`, its body the msgpack of `["alice", 9, 1, put]`.
"""

from typing import Final, NamedTuple

import msgpack

from protocol.errors import Corruption

ROOT: Final = "root"
"""The name of the user that must be there, and of the role that may do everything."""
FIRST_AUTH_REVISION: Final = 1


class Identity(NamedTuple):
    """A user as of an auth revision: what was known of users and roles when the door let the request in, or when the
    token was signed. Revision 0 is nobody.
    """

    user: str = ""
    revision: int = 0


NOBODY_KNOWN: Final = Identity()
"""Who gave neither token nor certificate."""


class Attributed(NamedTuple):
    """A command or read and whose it is; `kind` and `body` are those of the command itself."""

    identity: Identity
    kind: int
    body: bytes


class TokenOrder(NamedTuple):
    """The body of `ASSIGN_TOKEN`: `user` has shown its password, which was checked as of `revision`."""

    user: str
    prefix: str
    """What no one can guess of the token; the rest is the index of the entry."""
    revision: int


def encode_as(identity: Identity, kind: int, body: bytes) -> bytes:
    """Return the body of an `AS_USER`."""
    packed: bytes = msgpack.packb((*identity, kind, body))
    return packed


def decode_as(data: bytes) -> Attributed:
    """Return what `encode_as` was given.

    Raises:
        Corruption: no door of ours has written this; the node must halt, not skip.
    """
    try:
        user, revision, kind, body = msgpack.unpackb(data)
    except Exception as error:
        raise Corruption(f"undecodable identity of a command in {len(data)} bytes") from error
    return Attributed(Identity(user, revision), kind, body)


def encode_token_order(order: TokenOrder) -> bytes:
    """Return the body of an `ASSIGN_TOKEN`."""
    packed: bytes = msgpack.packb(tuple(order))
    return packed


def decode_token_order(data: bytes) -> TokenOrder:
    """Return what `encode_token_order` was given.

    Raises:
        Corruption: no door of ours has written this.
    """
    try:
        return TokenOrder(*msgpack.unpackb(data))
    except Exception as error:
        raise Corruption(f"undecodable token order of {len(data)} bytes") from error
