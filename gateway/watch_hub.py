"""All watchers of a gateway: live events to those that are up to date, the log to those that are not.

Owns the session with the applier, the index of watchers and their cursors. Knows records and responses as bytes, no
request and no socket; `gateway.watch_stream` speaks etcd's protocol on each stream.

Theory of operation. A watcher is a cursor: `next` is the first revision it has not been told. While it is SYNCED it
hears every event the applier publishes, and `next` is only a lower bound (a start in the future). When its stream has
no room, or events were not published to us, it falls BEHIND; once there is room it is QUEUED, and a READING job takes
it and others that are at least as far through the log, slice by slice, until it is up to date again. One job runs at a
time; the watcher that waits longest leads it, and the job begins exactly at its cursor, so nobody starves.

Invariants:
* a watcher is told the events of a revision whole, in order, once, with no gap, or is cancelled with compact_revision;
* nothing is told below a watcher's `next`, and nothing above `live` is ever called told;
* a slice never goes beyond what was published before it, so a watcher that has read all of it goes on live.
"""

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final, NamedTuple, Protocol

from gateway.streams import Stream
from gateway.watch_wire import VARIANT, WITH_PREVIOUS, Chunk, Event, cut, watch_id_field
from protocol.local import (
    EventsApplied,
    EventsFollowed,
    EventsRead,
    EventsTaken,
    FollowEvents,
    LocalMessage,
    ReadEvents,
    UnfollowEvents,
)
from protocol.types import Incarnation, Revision
from storage.key_ranges import KeyRanges
from storage.layout import record_key

JOB_WATCHERS_MAX: Final = 512
"""Watchers that read the log together."""
JOB_RANGE_BYTES_MAX: Final = 256 * 1024
"""Bytes of keys in one request for a slice, unless one watcher's are more."""
CREDIT_STEP_BYTES: Final = 1024 * 1024
"""The applier is told what was taken each time it is so much."""


class Place(Enum):
    """Where a watcher gets its next events from."""

    SYNCED = "synced"
    """From what the applier publishes."""
    BEHIND = "behind"
    """From nowhere until its stream has room."""
    QUEUED = "queued"
    """From the log, when its turn comes."""
    READING = "reading"
    """From the log, now."""
    GONE = "gone"


class Owner(Protocol):
    """The stream a watcher belongs to."""

    stream: Stream
    behind: "dict[Watcher, None]"
    """Its watchers that wait for room."""

    def tell(self, watcher: "Watcher", chunk: Chunk) -> None:
        """Send events."""
        ...

    def tell_compacted(self, watcher: "Watcher", compacted: int) -> None:
        """The watcher is cancelled: what it has not been told is gone."""
        ...

    def resume(self) -> None:
        """What was waited for is there."""
        ...

    def settle(self) -> None:
        """A watcher has become up to date, or `live` has moved."""
        ...


class Watcher:
    """One watcher."""

    __slots__ = ("end", "flags", "group", "id_field", "key", "next", "owner", "place", "watch_id")

    def __init__(self, owner: Owner, watch_id: int, key: bytes, end: bytes | None, flags: int) -> None:
        self.owner = owner
        self.watch_id = watch_id
        self.id_field = watch_id_field(watch_id)
        """The watch id as each of its responses has it."""
        self.key = key
        self.end = end
        """b"" for the one key, None for everything from it on."""
        self.flags = flags
        self.next = 0
        self.place = Place.SYNCED
        self.group: dict[Watcher, None]
        """All watchers of the same range."""


class _Job(NamedTuple):
    """A walk through the log."""

    sequence: int
    watchers: list[Watcher]
    main: int
    sub: int
    begun: list[Event]
    """Events of a revision that the slices so far have not ended."""


class _Readers:
    """Who reads one range of a slice of the log, and what was found for them."""

    __slots__ = ("events", "watchers")

    def __init__(self, first: Watcher) -> None:
        self.watchers = [first]
        self.events: list[Event] = []


class WatchHub:
    """The watchers of one gateway. `outbox` holds what the applier is to be told at the end of the turn."""

    def __init__(self, incarnation: Incarnation, revision: Callable[[], int], watchers_max: int) -> None:
        """`revision` tells the newest revision any client of this gateway has been shown."""
        self.live = 0
        """Every event up to here has been published to us or has been left to the log."""
        self.watchers = 0
        self.watchers_max = watchers_max
        self.outbox: list[LocalMessage] = []
        self.delivered = 0
        """Responses with events, for the metrics."""
        self._incarnation = incarnation
        self._revision = revision
        self._index: KeyRanges[dict[Watcher, None]] = KeyRanges()
        self._session = 0
        self._asked: bool | None = None
        """None: no session; else whether it was asked with replaced pairs."""
        self._followed: bool | None = None
        """What of that the applier has confirmed."""
        self._with_previous = 0
        """Watchers that want replaced pairs."""
        self._untaken = 0
        self._waiting: dict[Owner, None] = {}
        """Streams that hold requests until the applier has confirmed."""
        self._pending: dict[Owner, None] = {}
        """Streams that want `settle`."""
        self._queue: deque[Watcher] = deque()
        self._job: _Job | None = None
        self._sequence = 0
        self._stalled = False
        """The applier has nothing to read for us before it publishes again."""

    # --- the streams' side -------------------------------------------------------------------------

    @property
    def current(self) -> int:
        """The revision from which a watcher without a start goes on."""
        return max(self.live, self._revision())

    @property
    def slow(self) -> int:
        """How many watchers have not been told everything; counted anew each time."""
        return sum(watcher.place is not Place.SYNCED for group in self._index.values() for watcher in group)

    def ready(self, owner: Owner, *, previous: bool) -> bool:
        """Return whether watchers may be added now; if not, `owner.resume` follows."""
        if self._followed is not None and self._followed >= previous:
            return True
        self._waiting[owner] = None
        if self._asked is None or (previous and not self._asked):
            self._follow(previous=previous)
        return False

    def want_settle(self, owner: Owner) -> None:
        """Call `owner.settle` whenever something may have changed for it, until it says otherwise."""
        self._pending[owner] = None

    def no_settle(self, owner: Owner) -> None:
        """The owner waits no more."""
        self._pending.pop(owner, None)

    def forget(self, owner: Owner) -> None:
        """The stream is gone; its watchers were removed before."""
        self._waiting.pop(owner, None)
        self._pending.pop(owner, None)

    def add(self, watcher: Watcher, start: int) -> None:
        """Begin telling a watcher what happens from revision `start` on."""
        group = self._index.get(watcher.key, watcher.end)
        if group is None:
            group = {}
            self._index.add(watcher.key, watcher.end, group)
        group[watcher] = None
        watcher.group = group
        watcher.next = start
        self.watchers += 1
        self._with_previous += watcher.flags & WITH_PREVIOUS
        if start <= self.live:
            self._enqueue(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Tell a watcher nothing more."""
        assert watcher.place is not Place.GONE, "a watcher is removed once"
        watcher.place = Place.GONE
        watcher.owner.behind.pop(watcher, None)
        del watcher.group[watcher]
        if not watcher.group:
            self._index.remove(watcher.key, watcher.end)
        self.watchers -= 1
        self._with_previous -= watcher.flags & WITH_PREVIOUS

    def is_told(self, watcher: Watcher) -> bool:
        """Whether the watcher has heard everything up to `live`, and has reached its start."""
        return watcher.place is Place.SYNCED and watcher.next <= self.live + 1

    def on_room(self, owner: Owner) -> None:
        """A stream has room again: its watchers may read."""
        behind, owner.behind = owner.behind, {}
        for watcher in behind:
            self._enqueue(watcher)

    # --- the applier's side ------------------------------------------------------------------------

    def take(self) -> list[LocalMessage]:
        """Return what the applier is to be told; called at the end of each turn."""
        if self._asked is not None and not self.watchers and not self._waiting:
            self.outbox.append(UnfollowEvents(session=self._session))
            self._end_session()
        elif self._asked and self._followed and not self._with_previous and not self._waiting:
            self._follow(previous=False)
        if self._queue and self._job is None and not self._stalled:
            self._begin_job()
        outbox, self.outbox = self.outbox, []
        return outbox

    def applier_started(self) -> None:
        """Another applier runs: the session and the slice it was asked for are gone."""
        if self._job is not None:
            self._requeue(self._job.watchers)
            self._job = None
        if self._asked is not None:
            previous = self._asked
            self._asked = self._followed = None
            self._follow(previous=previous)

    def on_followed(self, message: EventsFollowed) -> None:
        """The applier publishes from now on."""
        if message.session != self._session or self._asked is None:
            return
        self._followed = message.previous
        self._stalled = False
        if message.revision > self.live:
            self._skip(message.revision)
        waiting, self._waiting = self._waiting, {}
        for owner in waiting:
            owner.resume()

    def on_applied(self, message: EventsApplied) -> None:
        """Tell everybody who is up to date."""
        if message.session != self._session or self._asked is None:
            return
        self._stalled = False
        if message.records:
            self._untaken += sum(map(len, message.records)) + sum(map(len, message.previous))
            if self._untaken >= CREDIT_STEP_BYTES:
                self.outbox.append(EventsTaken(session=self._session, size=self._untaken))
                self._untaken = 0
        if message.after > self.live:
            self._skip(message.after)
        if message.through > self.live:
            if message.records:
                self._tell_live(message.records, message.previous, message.through)
            self.live = message.through
            for owner in list(self._pending):
                owner.settle()

    def on_read(self, message: EventsRead) -> None:
        """Tell those who read the log what a slice of it held."""
        job = self._job
        if job is None or message.sequence != job.sequence:
            return
        self._job = None
        watchers = [watcher for watcher in job.watchers if watcher.place is Place.READING]
        if message.compacted > job.main:
            for watcher in watchers:
                if watcher.next < message.compacted:
                    watcher.owner.tell_compacted(watcher, message.compacted)
            self._requeue([watcher for watcher in watchers if watcher.place is Place.READING])
            return
        if (message.next_main, message.next_sub) <= (job.main, job.sub):
            self._stalled = True
            self._requeue(watchers)
            return
        self._tell_read(job, watchers, message)
        for owner in list(self._pending):
            owner.settle()

    # --- the session -------------------------------------------------------------------------------

    def _follow(self, *, previous: bool) -> None:
        if self._asked is None:
            self._session += 1
            self._untaken = 0
        self._asked = previous
        if self._followed and not previous:
            self._followed = False  # what is asked from now on must not count on the old answer
        message = FollowEvents(incarnation=self._incarnation, session=self._session, previous=previous)
        self.outbox.append(message)

    def _end_session(self) -> None:
        self._asked = self._followed = None
        self._stalled = False
        self._queue.clear()
        self._job = None

    def _skip(self, revision: int) -> None:
        """Events up to `revision` were not published to us: everybody reads them from the log."""
        for group in self._index.values():
            for watcher in group:
                if watcher.place is Place.SYNCED and watcher.next <= revision:
                    watcher.next = max(watcher.next, self.live + 1)
                    self._enqueue(watcher)
        self.live = revision

    # --- live --------------------------------------------------------------------------------------

    def _tell_live(self, records: tuple[bytes, ...], previous: tuple[bytes, ...], through: int) -> None:
        match = self._index.match
        touched: dict[int, tuple[dict[Watcher, None], list[Event]]] = {}
        for position, record in enumerate(records):
            groups = match(record_key(record))
            if not groups:
                continue
            event = Event(record, previous[position] if previous else b"")
            if event.main <= self.live:
                continue
            for group in groups:
                found = touched.get(id(group))
                if found is None:
                    touched[id(group)] = (group, [event])
                else:
                    found[1].append(event)
        for group, events in touched.values():
            self._tell_group(group, events, through)

    def _tell_group(self, group: dict[Watcher, None], events: list[Event], through: int) -> None:
        first = events[0].main
        by_variant: dict[int, list[Chunk]] = {}
        for watcher in group:
            if watcher.place is not Place.SYNCED:
                continue
            variant = watcher.flags & VARIANT
            if watcher.next > first:
                start = watcher.next
                chunks = cut([event for event in events if event.main >= start], variant, through)
            else:
                known = by_variant.get(variant)
                chunks = by_variant[variant] = cut(events, variant, through) if known is None else known
            if chunks:
                self._tell(watcher, chunks)

    def _tell(self, watcher: Watcher, chunks: list[Chunk]) -> bool:
        """Tell a watcher as much as its stream has room for; False if that was not all."""
        owner = watcher.owner
        for chunk in chunks:
            if not owner.stream.may_send():
                watcher.next = max(watcher.next, chunk.first)
                watcher.place = Place.BEHIND
                owner.behind[watcher] = None
                return False
            owner.tell(watcher, chunk)
            self.delivered += 1
        return True

    # --- the log -----------------------------------------------------------------------------------

    def _enqueue(self, watcher: Watcher) -> None:
        if watcher.owner.stream.may_send():
            watcher.place = Place.QUEUED
            self._queue.append(watcher)
        else:
            watcher.place = Place.BEHIND
            watcher.owner.behind[watcher] = None

    def _requeue(self, watchers: Iterable[Watcher]) -> None:
        """Put watchers back where they came from: at the front, in their order."""
        again = [watcher for watcher in watchers if watcher.place is Place.READING]
        for watcher in again:
            watcher.place = Place.QUEUED
        self._queue.extendleft(reversed(again))

    def _begin_job(self) -> None:
        """Let the watcher that waits longest read, and with it others that are at least as far."""
        queue, self._queue = self._queue, deque()
        batch: list[Watcher] = []
        size = 0
        while queue:
            watcher = queue.popleft()
            if watcher.place is not Place.QUEUED:
                continue
            if watcher.next > self.live:
                watcher.place = Place.SYNCED
                continue
            size_with = size + len(watcher.key) + len(watcher.end or b"")
            if batch and (
                watcher.next < batch[0].next or len(batch) >= JOB_WATCHERS_MAX or size_with > JOB_RANGE_BYTES_MAX
            ):
                self._queue.append(watcher)
                continue
            watcher.place = Place.READING
            batch.append(watcher)
            size = size_with
        if batch:
            self._read(batch, batch[0].next, 0, [])

    def _read(self, watchers: list[Watcher], main: int, sub: int, begun: list[Event]) -> None:
        self._sequence += 1
        self._job = _Job(self._sequence, watchers, main, sub, begun)
        ranges = {(watcher.key, b"\x00" if watcher.end is None else watcher.end): None for watcher in watchers}
        previous = any(watcher.flags & WITH_PREVIOUS for watcher in watchers)
        self.outbox.append(
            ReadEvents(sequence=self._sequence, main=Revision(main), sub=sub, ranges=tuple(ranges), previous=previous)
        )

    def _tell_read(self, job: _Job, watchers: list[Watcher], message: EventsRead) -> None:
        ranges: KeyRanges[_Readers] = KeyRanges()
        for watcher in watchers:
            found = ranges.get(watcher.key, watcher.end)
            if found is None:
                ranges.add(watcher.key, watcher.end, _Readers(watcher))
            else:
                found.watchers.append(watcher)
        events = list(job.begun)
        for position, record in enumerate(message.records):
            events.append(Event(record, message.previous[position] if message.previous else b""))
        begun = []
        touched: dict[_Readers, None] = {}
        for event in events:
            if event.main >= message.next_main:
                begun.append(event)
                continue
            for readers in ranges.match(record_key(event.record)):
                readers.events.append(event)
                touched[readers] = None
        through = message.next_main - 1
        for readers in touched:
            for watcher in readers.watchers:
                mine = [event for event in readers.events if event.main >= watcher.next]
                self._tell(watcher, cut(mine, watcher.flags & VARIANT, through))
        going_on = []
        for watcher in watchers:
            if watcher.place is not Place.READING:
                continue
            watcher.next = max(watcher.next, message.next_main)
            if message.next_sub:
                going_on.append(watcher)
            elif watcher.next > self.live:
                watcher.place = Place.SYNCED
            else:
                self._enqueue(watcher)
        if going_on:
            self._read(going_on, message.next_main, message.next_sub, begun)

    def check(self) -> None:
        """Assert the invariants."""
        places = dict.fromkeys(Place, 0)
        for group in self._index.values():
            assert group, "an empty group was kept"
            for watcher in group:
                places[watcher.place] += 1
                waits = watcher in watcher.owner.behind
                assert waits == (watcher.place is Place.BEHIND), "who waits for room is known to its stream"
        assert sum(places.values()) == self.watchers, "watchers are counted"
        queued = sum(watcher.place is Place.QUEUED for watcher in self._queue)
        assert queued == places[Place.QUEUED], "a watcher that waits for its turn is in the queue once"
        reading = len(self._job.watchers) if self._job else 0
        assert places[Place.READING] <= reading, "a watcher reads only within a job"
        assert not places[Place.GONE], "who is gone is in no group"
