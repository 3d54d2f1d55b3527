"""The record of one simulated run: a digest over every event, and the last events for the story of a failure.

Owns the event format; knows no actor. Invariant: equal seeds give equal digests, under any hash seed, because every
event is hashed in the order in which it happened.
"""

import hashlib
from collections import deque
from typing import Final, NamedTuple

STORY_EVENTS_MAX: Final = 400
"""How many of the last events a failure can tell."""


class TraceEvent(NamedTuple):
    """One thing that happened. `detail` is what is hashed beside the rest: message bytes or words."""

    at_us: int
    node: str
    actor: str
    what: str
    detail: bytes


class Trace:
    """Hashes events as they come and keeps the last few."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()
        self._last: deque[TraceEvent] = deque(maxlen=STORY_EVENTS_MAX)

    def note(self, at_us: int, node: str, actor: str, what: str, detail: bytes = b"") -> None:
        """Add one event to the digest and to the story."""
        self.count += 1
        self._hash.update(b"%d %s %s %s %d " % (at_us, node.encode(), actor.encode(), what.encode(), len(detail)))
        self._hash.update(detail)
        self._last.append(TraceEvent(at_us, node, actor, what, detail))

    @property
    def digest(self) -> str:
        """SHA-256 over everything noted so far, in hex."""
        return self._hash.hexdigest()

    def story(self, count: int = 40) -> list[str]:
        """The last `count` events, oldest first, one line each."""
        events = list(self._last)[-count:]
        return [f"{event.at_us / 1000:>12.3f} ms  {event.node:<4} {event.actor:<18} {event.what}" for event in events]
