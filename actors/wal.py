"""The WAL actor: many requests to persist, one frame, one sync.

Owns the log on disk and the peer messages that may leave only behind a sync. Knows no raft rule.
Invariants: what a ticket promises is on disk before anything of that ticket leaves; tickets are answered in order, each
within the time it allows.
"""

from collections import deque
from collections.abc import Callable

from actors.actor import Source
from actors.effects import Effect, Halt, KnowPeers, Log, Send, SendPeer
from actors.metrics import ActorMetrics
from protocol import local
from protocol.config import StorageConfig
from protocol.errors import Corruption, DiskFailed, StartRefused
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import Entry, HardState, Millis
from storage.disk import Disk
from storage.wal import Wal, WalOwner

RECOVERED_BYTES_MAX = 4 * 1024 * 1024
"""Entries in one `LogRecovered`."""


class WalActor:
    """Durability of one node."""

    name = "wal"

    def __init__(self, disk: Disk, config: StorageConfig, identity: NodeIdentity) -> None:
        self.metrics = ActorMetrics()
        self.deadline: Millis | None = None
        self.durable_ticket = 0
        """Every write up to this one is on disk, whether raft was told or not."""
        self._disk = disk
        self._config = config
        self._owner = WalOwner(identity.cluster, identity.member, identity.store)
        self._wal: Wal | None = None
        self._pending: list[local.PersistEntries] = []
        self._unanswered: local.EntriesPersisted | None = None
        """What raft has not been told yet; `deadline` is when it must be."""
        self._untold: deque[Entry] = deque()
        """Entries read from disk that raft has not asked for yet."""

    def start(self, now: Millis) -> list[Effect]:
        """Recover the log, or refuse with the reason."""
        try:
            self._wal = Wal.open(self._disk, self._owner, self._config.wal_segment_bytes)
        except (Corruption, StartRefused, DiskFailed) as error:
            return [Halt(str(error), failed=True, fatal=True)]
        self._untold.extend(self._wal.recovered)
        self._wal.recovered = ()
        if self._wal.torn_bytes:
            return [Log("warning", "wal_tail_cut", {"bytes": self._wal.torn_bytes, "where": self._wal.torn_at})]
        return []

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """Collect what is to be written; a cut is carried out in its turn."""
        if isinstance(message, local.PersistEntries):
            self._pending.append(message)
            return []
        if isinstance(message, local.RecoverLog):
            return self._tell_recovered()
        if isinstance(message, local.CutLog):
            return self._guarded(lambda: [*self._write_pending(now), *self._answer(), *self._cut(message)])
        if isinstance(message, local.PeersChanged):
            return [KnowPeers(dict(message.peers))]
        if isinstance(message, local.StopActor):
            effects = self._guarded(lambda: [*self._write_pending(now), *self._answer()])
            if self._wal is not None:
                self._wal.close()
            return [*effects, Halt("stopped")]
        return []

    def wake(self, now: Millis) -> list[Effect]:
        """Tell raft what it could wait for until now."""
        return self._answer() if self.deadline is not None and now >= self.deadline else []

    def end_turn(self, now: Millis) -> list[Effect]:
        """Write the turn's requests as one frame, sync once, then let go of what waited for it."""
        return self._guarded(lambda: self._write_pending(now)) if self._pending else []

    def measure(self) -> None:
        """Nothing here is a gauge."""

    def check_invariants(self) -> None:
        """Tickets ask to be answered in order."""
        tickets = [message.ticket for message in self._pending]
        assert tickets == sorted(tickets), f"tickets out of order: {tickets}"

    def _guarded(self, work: Callable[[], list[Effect]]) -> list[Effect]:
        try:
            return work()
        except DiskFailed as error:
            # Never tried again: the page cache may now say what the disk does not hold.
            self._pending = []
            return [Halt(str(error), failed=True, fatal=True)]

    def _write_pending(self, now: Millis) -> list[Effect]:
        pending, self._pending = self._pending, []
        if not pending:
            return []
        wal = self._wal
        assert wal is not None, "the log is open before anybody writes"
        hard_state: HardState | None = None
        entries: tuple[Entry, ...] = ()
        for message in pending:
            if message.hard_state is not None:
                hard_state = message.hard_state
            entries = entries + message.entries if entries else message.entries
        if hard_state is not None or entries:
            size = wal.append(hard_state, entries)
            self.metrics.count("etcd_disk_wal_write_bytes_total", size)
        newest = pending[-1]
        self.durable_ticket = newest.ticket
        effects: list[Effect] = [
            SendPeer(held.to, held.body, held.bulk) for message in pending for held in message.outbound
        ]
        self._unanswered = local.EntriesPersisted.make(ticket=newest.ticket, last=newest.last)
        answer_within_ms = min(message.answer_within_ms for message in pending)
        if not answer_within_ms:
            return effects + self._answer()
        due = Millis(now + answer_within_ms)
        self.deadline = due if self.deadline is None else min(self.deadline, due)
        return effects

    def _answer(self) -> list[Effect]:
        answer, self._unanswered = self._unanswered, None
        self.deadline = None
        return [] if answer is None else [Send("raft", answer)]

    def _cut(self, message: local.CutLog) -> list[Effect]:
        wal = self._wal
        assert wal is not None, "the log is open before anybody cuts it"
        self.metrics.count("etcd_disk_wal_write_bytes_total", wal.set_mark(message.mark))
        return [Send("raft", local.LogCut(ticket=message.ticket, mark_index=message.mark.index))]

    def _tell_recovered(self) -> list[Effect]:
        """Tell the next part; what was told is forgotten here, so that a long log is held once and not three times."""
        wal = self._wal
        assert wal is not None, "recovery came first"
        part: list[Entry] = []
        size = 0
        while self._untold and (not part or size + len(self._untold[0].data) <= RECOVERED_BYTES_MAX):
            entry = self._untold.popleft()
            part.append(entry)
            size += len(entry.data)
        told = local.LogRecovered(mark=wal.mark, hard_state=wal.hard_state, entries=tuple(part), final=not self._untold)
        return [Send("raft", told)]
