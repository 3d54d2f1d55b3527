"""What an actor is: a deterministic state machine that is handed messages and time, and returns effects.

Knows no socket, clock, thread or random source. The same objects run in `actors/shell.py` (real processes)
and in `sim/` (virtual time). Invariant: state changes only inside `handle`.
"""

from typing import Protocol

from actors.effects import Effect
from actors.metrics import ActorMetrics
from protocol.message import Message
from protocol.types import NO_STORE, NOBODY, MemberId, Millis, StoreId


class Actor(Protocol):
    """One process role.

    `name` is the role ("raft", "wal", "applier", "gateway", "snapshot_sender", "snapshot_receiver").
    `deadline` is the next instant the actor wants `wake` to be called, or None; the shell reads it after
    every turn, so a timer can neither be lost nor outlive the state that set it.
    `metrics` is read by the shell once a second and sent to the gateway.
    """

    name: str
    metrics: ActorMetrics

    @property
    def deadline(self) -> Millis | None:
        """When `wake` is wanted."""
        ...

    def start(self, now: Millis) -> list[Effect]:
        """Called once before any message."""
        ...

    def handle(self, message: Message, source: "Source", now: Millis) -> list[Effect]:
        """React to one message. `now` never goes backwards."""
        ...

    def wake(self, now: Millis) -> list[Effect]:
        """Called when `deadline` has passed; may be called early, and then does nothing."""
        ...

    def end_turn(self, now: Millis) -> list[Effect]:
        """Called once after all messages of a shell turn: what should be batched per turn is done here."""
        ...

    def measure(self) -> None:
        """Bring the gauges up to date; called before `metrics` is read."""
        ...

    def check_invariants(self) -> None:
        """Raise `InvariantViolation` unless the state makes sense; run after every turn in tests and simulation."""
        ...


class Source:
    """Where a message came from: an actor of this node (`actor`), or a peer (`member`, 0 for local).

    `store` is the data directory a peer speaks from, as its frames say.
    """

    __slots__ = ("actor", "member", "store")

    def __init__(self, actor: str, member: MemberId = NOBODY, store: StoreId = NO_STORE) -> None:
        self.actor = actor
        self.member = member
        self.store = store

    def __repr__(self) -> str:
        return f"Source({self.actor!r}, {self.member:x})" if self.member else f"Source({self.actor!r})"
