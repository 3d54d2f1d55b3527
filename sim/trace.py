"""The record of one simulated run: a digest over every event, and the last events for the story of a failure.

Owns the event format; knows no actor. Invariant: equal seeds give equal digests, under any hash seed, because every
event is hashed in the order in which it happened.
"""

import hashlib
from collections import deque
from typing import Final, NamedTuple

STORY_EVENTS_MAX: Final = 400
"""How many of the last events a failure can tell."""
UNHASHED_PARTS_MAX: Final = 1000
"""How much may wait for the hash: one large update is cheaper than many small ones."""


class TraceEvent(NamedTuple):
    """One thing that happened."""

    at_us: int
    node: str
    actor: str
    what: str


class Trace:
    """Hashes events as they come and keeps the last few."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()
        self._unhashed: list[bytes] = []
        self._last: deque[tuple[int, str, str, str]] = deque(maxlen=STORY_EVENTS_MAX)

    def note(self, at_us: int, node: str, actor: str, what: str, detail: bytes = b"") -> None:
        """Add one event to the digest and to the story; `detail` (message bytes or words) is hashed only."""
        self.count += 1
        self._last.append((at_us, node, actor, what))
        unhashed = self._unhashed
        unhashed.append(f"{at_us} {node} {actor} {what} {len(detail)} ".encode())
        unhashed.append(detail)
        if len(unhashed) >= UNHASHED_PARTS_MAX:
            self._hash_all()

    def _hash_all(self) -> None:
        self._hash.update(b"".join(self._unhashed))
        self._unhashed.clear()

    @property
    def digest(self) -> str:
        """SHA-256 over everything noted so far, in hex."""
        self._hash_all()
        return self._hash.hexdigest()

    def story(self, count: int = 40) -> list[str]:
        """The last `count` events, oldest first, one line each."""
        events = [TraceEvent(*event) for event in list(self._last)[-count:]]
        return [f"{event.at_us / 1000:>12.3f} ms  {event.node:<4} {event.actor:<18} {event.what}" for event in events]
