"""When leases run out: the leader's clock over the leases that the store holds.

Owns the time of each lease while this member leads, and decides which have run out, what is to be recorded for the
next leader, and how fast. Knows no raft and no socket; time is an argument, the store is read through a `Reader`.
One lives in every applier, because there grants and revokes are known in the order of the log; it sleeps until raft
says that this member leads, and begins when the first entry of that office is applied: then everything that an earlier
leader has promised is in the store.

Theory of operation. A lease is granted, or kept alive, for its whole time from now on. A new leader does not know when
the last keep-alive was, so it grants what was recorded, or else all of it, and an election timeout more: what a client
was promised is never cut short. So that it is not much longer either, what is left of leases longer than
`checkpoint_interval_ms` is recorded in time. A keep-alive makes such a record wrong, so it is taken back, by an entry
that many share, before the keep-alive is answered; leases that are kept alive oftener than they would be recorded
never cost an entry.

Invariants: a lease whose end was proposed is not kept alive any more; nothing is promised under an office that was not
confirmed within an election timeout; one upkeep is under way at a time, of at most `UPKEEP_ITEMS_MAX` leases.
"""

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Final

from protocol.config import LeasesConfig
from protocol.lease import UPKEEP_ITEMS_MAX, LeaseName, LeaseUpkeep, Remaining
from protocol.types import Index, LeaseId, Millis, Term
from storage.layout import LeaseRecord
from storage.lease import attached_count, lease_record, leases_from
from storage.overlay import Reader

LEASES_PER_SLICE: Final = 1000
"""A new leader takes over so many leases between two requests."""
ENTRIES_PER_SECOND: Final = 50
"""A mass expiry is cut into so many entries a second, so that none of them holds up a put for long."""
RECORDS_PER_EXPIRY: Final = 4
"""Recording what is left of so many leases costs the store what one expiry does."""
REFUSED_PAUSE_MS: Final = 100
HEAP_SLACK: Final = 1000
"""Entries of leases that are gone which a heap may hold beside as many as there are leases."""


class Timer:
    """The time of one lease."""

    __slots__ = ("ends", "expires_at", "granted", "record_at", "recorded", "ttl_ms")

    def __init__(self, record: LeaseRecord, expires_at: Millis, record_at: Millis) -> None:
        self.granted: Index = record.granted
        self.ttl_ms = record.ttl_s * 1000
        self.expires_at = expires_at
        self.record_at = record_at
        """When what is left should be recorded next."""
        self.recorded = record.remaining_ms >= 0
        """The store holds less than all of the time, or will once the upkeep under way is applied."""
        self.ends = False
        """Its end was proposed."""


class Lessor:
    """The leases of an office. Between offices it holds nothing."""

    def __init__(self, config: LeasesConfig, election_timeout_ms: int) -> None:
        self._rate = config.expiries_per_second_max
        self._extension_ms = election_timeout_ms
        # Recorded a little oftener than promised: an election takes its time as well.
        interval = config.checkpoint_interval_ms
        self._recorded_from_ms = interval
        self._record_every_ms = max(interval // 2, interval - 2 * election_timeout_ms)
        self.renewed = 0
        """Keep-alives answered with a time."""
        self.office: Term | None = None
        """The term this member leads, as raft says."""
        self.begun_at: Millis | None = None
        """When the office's first entry was applied; None: it has not begun."""
        self.clear()

    def clear(self) -> None:
        """Forget everything of the office."""
        self.begun_at = None
        self._timers: dict[LeaseId, Timer] = {}
        self._ends: list[tuple[Millis, LeaseId, Index]] = []
        self._records: list[tuple[Millis, LeaseId, Index]] = []
        self._due: deque[LeaseName] = deque()
        self._take_back: dict[LeaseId, Index] = {}
        self._cursor: bytes | None = None
        """Behind which lease the take-over goes on; None: it is complete."""
        self._proposed: LeaseUpkeep | None = None
        self._next_at = Millis(0)
        """The next upkeep that is in no hurry."""

    # --- the office --------------------------------------------------------------------------------

    def appointed(self, term: Term) -> None:
        """This member leads `term`; time begins when `begin` is called."""
        self.clear()
        self.office = term

    def dismissed(self) -> None:
        """This member leads no more."""
        self.clear()
        self.office = None

    def begin(self, now: Millis) -> None:
        """Everything of earlier offices is applied: time runs from here."""
        assert self.office is not None, "time runs in an office"
        assert self.begun_at is None, "it begins once"
        self.begun_at = now
        self._cursor = b""

    # --- what clients ask --------------------------------------------------------------------------

    def keep_alive(self, lease: int, reader: Reader, confirmed_at: Millis, now: Millis) -> int | None:
        """Give the lease its whole time again.

        Args:
            lease: its id.
            reader: the store.
            confirmed_at: when the office was last confirmed, after the client had asked.
            now: the time.

        Returns:
            The time to live in seconds; 0 if there is no such lease or its time is over; None if it cannot be said
            yet, and asking again soon will tell.
        """
        if self.begun_at is None or now - confirmed_at > self._extension_ms:
            # Another leader may have begun by now, and would know nothing of what is promised so late.
            return None
        timer = self._timer(LeaseId(lease), reader, now)
        if timer is None or timer.ends or timer.expires_at <= confirmed_at:
            return 0
        if timer.recorded:
            self._take_back[LeaseId(lease)] = timer.granted
            return None
        # What an election added is never taken away again: heaps hold ends that may move back only.
        timer.expires_at = max(timer.expires_at, Millis(now + timer.ttl_ms))
        timer.record_at = Millis(now + self._record_every_ms)
        self.renewed += 1
        return timer.ttl_ms // 1000

    def remaining(self, lease: int, reader: Reader, confirmed_at: Millis, now: Millis) -> tuple[int, int] | None:
        """Return what is left of a lease and what was granted, both in seconds; (-1, 0) if there is none; None as
        in `keep_alive`.
        """
        if self.begun_at is None or now - confirmed_at > self._extension_ms:
            return None
        timer = self._timer(LeaseId(lease), reader, now)
        if timer is None:
            return -1, 0
        # An election may have made it more than was granted; that is nobody's to count on.
        left_ms = min(max(0, timer.expires_at - now), timer.ttl_ms)
        return left_ms // 1000, timer.ttl_ms // 1000

    def expires_at(self, lease: LeaseId) -> int:
        """Return when a lease runs out, for sorting; one that was not taken over yet comes last."""
        timer = self._timers.get(lease)
        return 1 << 62 if timer is None else timer.expires_at

    # --- what the log says -------------------------------------------------------------------------

    def changed(self, lease: LeaseId, record: LeaseRecord | None, now: Millis) -> None:
        """An entry has granted or ended a lease, or recorded what is left of it."""
        if self.begun_at is None:
            return
        timer = self._timers.get(lease)
        if record is None:
            self._timers.pop(lease, None)
            self._take_back.pop(lease, None)
            self._bound_heaps()
        elif timer is not None and timer.granted == record.granted:
            timer.recorded = record.remaining_ms >= 0
        else:
            self._add(lease, record, Millis(now + record.ttl_s * 1000), Millis(now + self._record_every_ms))

    def settled(self) -> None:
        """The upkeep under way has been applied."""
        proposed, self._proposed = self._proposed, None
        if proposed is not None:
            self._plan_records(proposed)

    def refused(self, term: Term, now: Millis) -> None:
        """The upkeep under way is in no log: what it named is to be named again."""
        proposed = self._proposed
        if proposed is None or term != self.office:
            return
        self._proposed = None
        self._next_at = Millis(now + REFUSED_PAUSE_MS)
        for name in reversed(proposed.expired):
            timer = self._named(name.lease, name.granted)
            if timer is not None:
                timer.ends = False
                self._due.appendleft(name)
        for lease, granted, remaining_ms in proposed.recorded:
            timer = self._named(lease, granted)
            if timer is not None and remaining_ms < 0:
                self._take_back[lease] = granted
            elif timer is not None:
                timer.record_at = now
        self._plan_records(proposed)

    # --- time --------------------------------------------------------------------------------------

    @property
    def deadline(self) -> Millis | None:
        """When `advance` has something to do."""
        if self.begun_at is None:
            return None
        if self._cursor is not None:
            return self.begun_at
        if self._proposed is not None:
            return None
        if self._take_back:
            return self.begun_at
        if self._due:
            return self._next_at
        due: Millis | None = min((heap[0][0] for heap in (self._ends, self._records) if heap), default=None)
        return due if due is None else max(due, self._next_at)

    def advance(self, reader: Reader, now: Millis) -> LeaseUpkeep | None:
        """Let time pass; return what is to be proposed, at most one upkeep at a time."""
        if self.begun_at is None:
            return None
        if self._cursor is not None:
            self._take_over(reader)
        self._find_due(now)
        if self._proposed is not None:
            return None
        upkeep = self._upkeep(reader, now)
        if upkeep is not None:
            self._proposed = upkeep
        return upkeep

    def check(self) -> None:
        """Assert the invariants."""
        if self.begun_at is None:
            assert not self._timers, "time runs only in an office that has begun"
            return
        assert self.office is not None, "time runs only in an office"
        ending = [lease for lease, timer in self._timers.items() if timer.ends]
        proposed = [] if self._proposed is None else [name.lease for name in self._proposed.expired]
        assert not set(ending) - set(proposed), "whose end was proposed is in the upkeep under way"
        for name, heap in (("ends", self._ends), ("records", self._records)):
            assert len(heap) <= 2 * len(self._timers) + HEAP_SLACK, f"{len(heap)} {name} of {len(self._timers)} leases"

    # --- within ------------------------------------------------------------------------------------

    def _timer(self, lease: LeaseId, reader: Reader, now: Millis) -> Timer | None:
        """Return the timer of a lease, taken over out of turn if need be."""
        timer = self._timers.get(lease)
        if timer is None and self._cursor is not None:
            record = lease_record(reader, lease)
            if record is not None:
                timer = self._inherit(lease, record)
        return timer

    def _take_over(self, reader: Reader) -> None:
        """Give the next leases the time that the office before has left them."""
        assert self._cursor is not None, "nothing is left to take over"
        found, after = leases_from(reader, self._cursor, LEASES_PER_SLICE)
        for lease, record in found:
            if lease not in self._timers:
                self._inherit(lease, record)
        self._cursor = after or None

    def _inherit(self, lease: LeaseId, record: LeaseRecord) -> Timer:
        assert self.begun_at is not None, "time runs"
        left_ms = record.remaining_ms if record.remaining_ms >= 0 else record.ttl_s * 1000
        # Spread over the interval: a new leader should not have to record everything at once.
        record_in = (lease * 0x9E3779B1 & 0xFFFFFFFF) * self._record_every_ms >> 32
        return self._add(
            lease,
            record,
            Millis(self.begun_at + left_ms + self._extension_ms),
            Millis(self.begun_at + record_in),
        )

    def _add(self, lease: LeaseId, record: LeaseRecord, expires_at: Millis, record_at: Millis) -> Timer:
        timer = self._timers[lease] = Timer(record, expires_at, record_at)
        heappush(self._ends, (expires_at, lease, record.granted))
        if timer.ttl_ms > self._recorded_from_ms:
            heappush(self._records, (record_at, lease, record.granted))
        self._bound_heaps()
        return timer

    def _bound_heaps(self) -> None:
        """Drop what is said of leases that are gone, once it is more than of those that are not."""
        bound = 2 * len(self._timers) + HEAP_SLACK
        if len(self._ends) > bound:
            self._ends = [
                (timer.expires_at, lease, timer.granted) for lease, timer in self._timers.items() if not timer.ends
            ]
            self._due.clear()
            heapify(self._ends)
        if len(self._records) > bound:
            self._records = [
                (timer.record_at, lease, timer.granted)
                for lease, timer in self._timers.items()
                if timer.ttl_ms > self._recorded_from_ms
            ]
            heapify(self._records)

    def _named(self, lease: LeaseId, granted: Index) -> Timer | None:
        timer = self._timers.get(lease)
        return timer if timer is not None and timer.granted == granted else None

    def _find_due(self, now: Millis) -> None:
        """Put into line what has run out; what was kept alive since goes back."""
        ends = self._ends
        while ends and ends[0][0] <= now:
            _, lease, granted = heappop(ends)
            timer = self._named(lease, granted)
            if timer is None:
                continue
            if timer.expires_at > now:
                heappush(ends, (timer.expires_at, lease, granted))
            else:
                self._due.append(LeaseName(lease, granted))

    def _upkeep(self, reader: Reader, now: Millis) -> LeaseUpkeep | None:
        """Compose what is most urgent: records to be taken back at once, the rest as fast as is good for puts."""
        assert self.office is not None, "only a leader proposes"
        recorded = self._take_back_now(now)
        expired: list[LeaseName] = []
        if now >= self._next_at:
            cost_max = max(1, self._rate // ENTRIES_PER_SECOND)
            expired, cost = self._expire_some(reader, now, cost_max, UPKEEP_ITEMS_MAX - len(recorded))
            room = UPKEEP_ITEMS_MAX - len(recorded) - len(expired)
            more = self._record_some(now, min(room, max(0, cost_max - cost) * RECORDS_PER_EXPIRY))
            recorded += more
            cost += -(-len(more) // RECORDS_PER_EXPIRY)
            self._next_at = Millis(now + cost * 1000 // self._rate)
        if not expired and not recorded:
            return None
        return LeaseUpkeep(self.office, tuple(expired), tuple(recorded))

    def _take_back_now(self, now: Millis) -> list[Remaining]:
        taken: list[Remaining] = []
        while self._take_back and len(taken) < UPKEEP_ITEMS_MAX:
            lease = next(iter(self._take_back))
            granted = self._take_back.pop(lease)
            timer = self._named(lease, granted)
            if timer is not None:
                # Not in the same entry that takes it back: it is about to be kept alive.
                timer.record_at = Millis(now + self._record_every_ms)
                taken.append(Remaining(lease, granted, -1))
        return taken

    def _expire_some(self, reader: Reader, now: Millis, cost_max: int, room: int) -> tuple[list[LeaseName], int]:
        """Return leases to end, and what that costs: a lease with keys costs as many as it has keys."""
        expired: list[LeaseName] = []
        cost = 0
        while self._due and cost < cost_max and len(expired) < room:
            name = self._due.popleft()
            timer = self._named(name.lease, name.granted)
            if timer is None or timer.ends:
                continue
            if timer.expires_at > now:
                heappush(self._ends, (timer.expires_at, name.lease, name.granted))
                continue
            timer.ends = True
            expired.append(name)
            cost += max(1, attached_count(reader, name.lease, self._rate))
        return expired, cost

    def _record_some(self, now: Millis, room: int) -> list[Remaining]:
        recorded: list[Remaining] = []
        records = self._records
        while records and records[0][0] <= now and len(recorded) < room:
            _, lease, granted = heappop(records)
            timer = self._named(lease, granted)
            if timer is None or timer.ends or timer.expires_at <= now:
                continue
            if timer.record_at > now:
                heappush(records, (timer.record_at, lease, granted))
                continue
            timer.record_at = Millis(now + self._record_every_ms)
            timer.recorded = True
            recorded.append(Remaining(lease, granted, timer.expires_at - now))
        return recorded

    def _plan_records(self, upkeep: LeaseUpkeep) -> None:
        """Plan the next record of what an upkeep has recorded; only now, so that it is planned once."""
        for lease, granted, remaining_ms in upkeep.recorded:
            timer = self._named(lease, granted)
            if timer is not None and remaining_ms >= 0:
                heappush(self._records, (timer.record_at, lease, granted))
