"""The applier's side of watches: publishes what was applied while somebody watches, and reads the log for the rest.

Owns the session with the gateway, its credit and the events of the current turn. Knows no watcher.

Invariants: without a session nothing is gathered and nothing is sent, so that writes cost nothing more; what is sent
joins up: the first message of a session begins at the revision it was told, each next one where the last ended, or
leaves a gap that its `after` shows; at most `EVENT_CREDIT_BYTES` and one message are on their way.
"""

from collections.abc import Mapping
from typing import Final

from protocol.local import EventsApplied, EventsFollowed, EventsRead, FollowEvents, LocalMessage, ReadEvents
from protocol.types import Incarnation, Revision
from storage.history import ranges_of, read_history, replaced_pairs
from storage.layout import LOG, trailer
from storage.mvcc import MvccStore

EVENT_CREDIT_BYTES: Final = 8 * 1024 * 1024
"""Bytes of events sent and not taken by the gateway; over it the rest is left to be read from the log."""
EVENT_MESSAGE_BYTES: Final = 512 * 1024
"""Records in one message, unless one revision has more."""
TURN_BYTES_MAX: Final = 4 * 1024 * 1024
TURN_EVENTS_MAX: Final = 5000
"""What one turn publishes at most, so that no turn takes long; what is over it is read from the log in slices."""
_LOG_BYTE: Final = LOG[0]


class EventFeed:
    """Publishes to one gateway at a time."""

    def __init__(self) -> None:
        self.active = False
        self._incarnation = Incarnation(0)
        self._session = 0
        self._previous = False
        self._answered = False
        """Whether the gateway knows where the session begins."""
        self._through = 0
        self._records: list[bytes] = []
        self._record_bytes = 0
        self._overflowed = False
        """This turn had more than a turn may publish."""
        self._unpaid = 0

    # --- what the store does -----------------------------------------------------------------------

    def attach(self, store: MvccStore) -> None:
        """Listen to a store from now on, as far as anybody watches; what it held before is a gap, or the beginning."""
        store.on_commit = self.collect if self.active else None
        self._drop()

    def collect(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Gather the events of one entry; called with what is written for it."""
        if self._overflowed:
            return
        for key, record in changes.items():
            if key[0] == _LOG_BYTE and record is not None:
                self._records.append(record)
                self._record_bytes += len(record)
        if self._record_bytes > TURN_BYTES_MAX or len(self._records) > TURN_EVENTS_MAX:
            self._drop()
            self._overflowed = True

    def publish(self, store: MvccStore) -> list[LocalMessage]:
        """Return what the gateway is to be told at the end of a turn."""
        if not self.active:
            return []
        if not self._answered:
            self._answered = True
            self._drop()
            self._through = store.revision
            return [self._followed()]
        if store.revision == self._through:
            self._drop()
            return []
        messages: list[LocalMessage] = []
        complete = bool(self._records) and trailer(self._records[0]).main == self._through + 1
        if complete and self._unpaid < EVENT_CREDIT_BYTES:
            messages = self._messages(store)
        elif self._unpaid < EVENT_CREDIT_BYTES:
            self._through = store.revision
            messages = [self._applied(self._through, self._through, [], [])]
        self._drop()
        return messages

    def _messages(self, store: MvccStore) -> list[LocalMessage]:
        """Return the gathered events, cut between revisions."""
        records = self._records
        previous = replaced_pairs(store.engine, records, store.compacted) if self._previous else []
        size = self._record_bytes + sum(map(len, previous))
        messages: list[LocalMessage] = []
        start = 0
        if size > EVENT_MESSAGE_BYTES:
            size = 0
            for position, record in enumerate(records):
                main = trailer(record).main
                if size > EVENT_MESSAGE_BYTES and main > trailer(records[position - 1]).main:
                    pairs = previous[start:position]
                    messages.append(self._applied(self._through, main - 1, records[start:position], pairs))
                    start, size = position, 0
                size += len(record) + (len(previous[position]) if previous else 0)
        messages.append(self._applied(self._through, store.revision, records[start:], previous[start:]))
        return messages

    def _applied(self, after: int, through: int, records: list[bytes], previous: list[bytes]) -> EventsApplied:
        self._unpaid += sum(map(len, records)) + sum(map(len, previous))
        self._through = through
        return EventsApplied.make(
            session=self._session,
            after=Revision(after),
            through=Revision(through),
            records=tuple(records),
            previous=tuple(previous),
        )

    def _followed(self) -> EventsFollowed:
        return EventsFollowed(session=self._session, previous=self._previous, revision=Revision(self._through))

    def _drop(self) -> None:
        self._records = []
        self._record_bytes = 0
        self._overflowed = False

    # --- what the gateway asks ---------------------------------------------------------------------

    def follow(self, message: FollowEvents, store: MvccStore | None) -> list[LocalMessage]:
        """Begin a session, or change what its events carry."""
        if self.active and (message.incarnation, message.session) == (self._incarnation, self._session):
            messages = self.publish(store) if store is not None else []
            self._previous = message.previous
            return [*messages, self._followed()] if self._answered else messages
        self.active = True
        self._incarnation = message.incarnation
        self._session = message.session
        self._previous = message.previous
        self._answered = False
        self._unpaid = 0
        if store is None:
            return []
        self.attach(store)
        return self.publish(store)

    def unfollow(self, session: int, store: MvccStore | None) -> None:
        """End the session."""
        if session == self._session:
            self.stop(store)

    def gateway_started(self, incarnation: Incarnation, store: MvccStore | None) -> None:
        """Another gateway runs: the session of an earlier one is over."""
        if incarnation != self._incarnation:
            self.stop(store)

    def stop(self, store: MvccStore | None) -> None:
        """Publish nothing more."""
        self.active = False
        self._drop()
        if store is not None:
            store.on_commit = None

    def taken(self, session: int, size: int) -> None:
        """The gateway has handled so many bytes."""
        if session == self._session:
            self._unpaid = max(0, self._unpaid - size)

    def read(self, message: ReadEvents, store: MvccStore | None) -> EventsRead:
        """Return a slice of the log, up to what has been published: the gateway then knows where live events go on."""
        if store is None:
            return _read(message, [], [], 0, 0, 0)
        if message.main < store.compacted:
            return _read(message, [], [], message.main, message.sub, store.compacted)
        through = self._through if self.active and self._answered else store.revision
        found = read_history(store.engine, ranges_of(message.ranges), message.main, message.sub, through)
        previous = replaced_pairs(store.engine, found.records, store.compacted) if message.previous else []
        return _read(message, found.records, previous, found.next_main, found.next_sub, store.compacted)


def _read(
    asked: ReadEvents, records: list[bytes], previous: list[bytes], next_main: int, next_sub: int, compacted: int
) -> EventsRead:
    return EventsRead.make(
        sequence=asked.sequence,
        records=tuple(records),
        previous=tuple(previous),
        next_main=Revision(next_main),
        next_sub=next_sub,
        compacted=Revision(compacted),
    )
