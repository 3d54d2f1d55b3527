"""The complete list of what an actor may ask the world to do."""

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.message import Message
from protocol.types import MemberId


@dataclass(frozen=True, slots=True)
class Send:
    """Hand `message` to the actor `to` of this node; lossless and ordered while both live."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True)
class SendPeer:
    """Send `body` (an encoded message) to the actor `actor` of member `to`; may be lost, late, twice or out of order.

    `bulk` chooses the link: appends and snapshot chunks on the bulk link, everything small on the control link.
    """

    to: MemberId
    body: bytes
    bulk: bool = False
    actor: str = "raft"


@dataclass(frozen=True, slots=True)
class KnowPeers:
    """From now on these are the members and the peer URLs they are dialled at."""

    peers: dict[MemberId, str]


@dataclass(frozen=True, slots=True)
class RunInBackground:
    """Run `job` off the actor's thread; the message it returns is handed to this same actor later.

    The job may use only what it captured; an exception halts the actor.
    """

    job: Callable[[], Message]
    label: str


@dataclass(frozen=True, slots=True)
class SpawnHelper:
    """Start a short-lived helper actor of this node; its end is told as `HelperEnded`."""

    helper: str
    arguments: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Log:
    """Write a structured log line: an event name with keys, never a sentence."""

    level: str
    event: str
    fields: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Halt:
    """End this actor. `failed` False: it was asked to stop. True: `reason` and its story are logged, the
    supervisor restarts the group. `fatal`: a restart would not help (corruption, full disk): the node stops.
    """

    reason: str
    failed: bool = False
    fatal: bool = False


Effect = Send | SendPeer | KnowPeers | RunInBackground | SpawnHelper | Log | Halt
