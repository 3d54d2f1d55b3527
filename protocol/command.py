"""What a COMMANDS entry carries: a batch of client commands with the identity of its origin.

The format outlives processes (it is in logs and snapshots), so it carries a version and kinds are never reused.
Worked example: msgpack of `[1, member, incarnation, sequence, [kind, body, kind, body, ...]]`.
A body is the etcd protobuf request exactly as the client sent it.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgpack

from protocol.errors import Corruption
from protocol.types import Incarnation, MemberId

COMMAND_FORMAT_VERSION: Final = 1
COMMANDS_PER_BATCH_MAX: Final = 1000
BATCH_BYTES_MAX: Final = 1024 * 1024
"""A batch is closed at this size; only a batch of one command may be larger."""


class CommandKind(IntEnum):
    """Which request a body is. Numbers are on disk: never reused."""

    PUT = 1
    DELETE_RANGE = 2
    TXN = 3
    COMPACT = 4
    LEASE_GRANT = 5
    """Id and time to live are final: the gateway has chosen what the client left open."""
    LEASE_REVOKE = 6
    AS_USER = 20
    """A command with the identity it is made under (`protocol.auth`); without one it is nobody's."""
    AUTH_ENABLE = 21
    AUTH_DISABLE = 22
    ASSIGN_TOKEN = 23
    """What an Authenticate becomes once its password was found right (`protocol.auth`)."""
    USER_ADD = 24
    """This one and a change of password carry the hash; no password is ever in the log."""
    USER_DELETE = 25
    USER_CHANGE_PASSWORD = 26
    USER_GRANT_ROLE = 27
    USER_REVOKE_ROLE = 28
    ROLE_ADD = 29
    ROLE_DELETE = 30
    ROLE_GRANT_PERMISSION = 31
    ROLE_REVOKE_PERMISSION = 32
    ALARM = 40
    AS_NODE = 41
    """A command that a member's gateway makes of its own accord: the kind in one byte, then the body. No client's
    request ever becomes one, so nobody's rights are asked for."""
    HASH_CHECK = 42
    """This one and the next only as a node's own (`protocol.integrity`)."""
    HASH_FOUND = 43
    DOWNGRADE = 44


class ReadKind(IntEnum):
    """Which read a body is; reads are never logged, so these live only as long as a process."""

    RANGE = 101
    TXN = 102
    STATUS = 103
    HASH_KV = 104
    BARRIER = 105
    """Answered with an empty body when its turn comes: what a linearizable health check or member list waits for."""
    LEASES = 106
    LEASE_KEEP_ALIVE = 107
    """This one and the next are served by the leader's applier alone: only there time runs."""
    LEASE_TIME_TO_LIVE = 108
    AS_USER = 120
    """A read with the identity it is made under (`protocol.auth`)."""
    AUTH_STATUS = 121
    USER_GET = 122
    USER_LIST = 123
    ROLE_GET = 124
    ROLE_LIST = 125
    CREDENTIALS = 126
    """What a password is checked against; the body is the user's name, the answer never leaves the node."""
    PERMIT_ROOT = 127
    """Answered with an empty body if the user may do everything."""
    PERMIT_RANGE = 128
    """The same if the user may read what the RangeRequest names: what a watch asks before it begins."""
    ALARMS = 140
    HASH = 141
    DEFRAGMENT = 142
    """Answered when the store has been rewritten, long after the reads around it."""
    DOWNGRADE_VALIDATE = 143
    RANGE_PAGE = 150
    """As much of a RangeRequest's answer as makes a page, and no count: what a `RangeStream` is made of."""


class Origin(NamedTuple):
    """Who proposed a batch: with `sequence` it identifies the batch for ever, so a repeat can be recognised."""

    member: MemberId
    incarnation: Incarnation
    sequence: int


class Command(NamedTuple):
    """One client request: `kind` is a `CommandKind` or `ReadKind`, `body` the protobuf request."""

    kind: int
    body: bytes


class CommandBatch(NamedTuple):
    """The decoded form of a COMMANDS entry's data."""

    origin: Origin
    commands: list[Command]


def encode_batch(origin: Origin, flat: Sequence[int | bytes]) -> bytes:
    """Return the entry data of a batch.

    Args:
        origin: identity of the batch.
        flat: `kind, body, kind, body, ...` - flat because this is built on the hot path.
    """
    assert len(flat) % 2 == 0, "kinds and bodies alternate"
    packed: bytes = msgpack.packb((COMMAND_FORMAT_VERSION, *origin, flat))
    return packed


def decode_flat_batch(data: bytes) -> tuple[Origin, list[Any]]:
    """Return origin and `[kind, body, kind, body, ...]` of the batch in `data`: what the hot path walks.

    Raises:
        Corruption: the bytes are no batch of a version this build knows; the node must halt, not skip.
    """
    try:
        version, member, incarnation, sequence, flat = msgpack.unpackb(data)
        parts = len(flat)
    except Exception as error:
        raise Corruption(f"undecodable command batch of {len(data)} bytes") from error
    if version != COMMAND_FORMAT_VERSION:
        raise Corruption(f"command batch of format {version}, this build knows {COMMAND_FORMAT_VERSION}")
    if parts % 2:
        raise Corruption(f"command batch of {parts} parts: kinds and bodies alternate")
    return Origin(member, incarnation, sequence), flat


def decode_batch(data: bytes) -> CommandBatch:
    """Return the batch in `data`.

    Raises:
        Corruption: the bytes are no batch of a version this build knows; the node must halt, not skip.
    """
    origin, flat = decode_flat_batch(data)
    pairs = iter(flat)
    commands = [Command(kind, body) for kind, body in zip(pairs, pairs, strict=True)]
    return CommandBatch(origin, commands)
