"""The applier: committed entries and reads in, answers out; it alone touches the store.

Owns the open engine, the swap of stores, flushes, checkpoints and the slicing of long work. Knows no consensus: what
raft hands over is committed and durable in this node's own log.
Invariants: entries are applied in order, each in one engine write; an index reported durable was applied before the
flush began; nothing swaps or closes the engine while a background job uses it.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from actors.actor import Source
from actors.applier_defragment import DefragmentDesk
from actors.applier_exports import EXPORT_KINDS, ExportDesk, is_export
from actors.applier_figures import measure_store
from actors.applier_integrity import IntegrityDesk
from actors.applier_leases import LeaseDesk
from actors.effects import Effect, Halt, Log, RunInBackground, Send
from actors.event_feed import EventFeed
from actors.metrics import ActorMetrics
from actors.read_queue import MESSAGE_ANSWERS_BYTES_MAX, ReadQueue
from protocol.command import decode_batch
from protocol.config import ClusterConfig
from protocol.errors import Corruption, DiskFailed, ErrorCode, InvariantViolation
from protocol.exports import StoreDefragmented
from protocol.identity import NodeIdentity
from protocol.local import (
    ActorStarted,
    ApplyEntries,
    BuildSnapshot,
    CommandAnswered,
    CommandsApplied,
    DropSnapshot,
    EntriesApplied,
    EventsTaken,
    FlushStore,
    FollowEvents,
    InstallSnapshot,
    OfficeChanged,
    OpenStore,
    PiecesTaken,
    ReadEvents,
    ReadsServed,
    ServeLessorCalls,
    ServeReads,
    SnapshotBuilt,
    SnapshotInstalled,
    StopActor,
    StoreFlushed,
    StoreOpened,
    StoreProgressed,
    UnfollowEvents,
    UpkeepRefused,
)
from protocol.message import Message
from protocol.rights import AuthChanged
from protocol.types import Entry, Incarnation, Index, Millis, Revision
from storage.disk import Disk
from storage.engine import Engine
from storage.mvcc import MvccStore
from storage.range_read import SLICE_ROWS
from storage.reads import StatusFields
from storage.staging import SNAPSHOT_DIR, STAGE_DIR, snapshot_path, stage_path

STORE: Final = "store"
BACKGROUND_KINDS: Final = ("StoreFlushed", "StoreDefragmented")
"""What the background has to say; what is held waits for it."""
PROGRESS_INTERVAL_MS: Final = 1000
"""How often the gateway hears of progress at most while nobody waits for an answer."""
REPORT_ENTRIES: Final = 64
REPORT_BYTES: Final = 4 * 1024 * 1024
REPORT_DELAY_MS: Final = 100
"""raft is told of at most so many applied entries or bytes at once, or so long after it was told last: it needs them
only for its bounds, and a turn of its process for every entry would be the dearest part of a lone put."""


class ApplierActor:
    """Applies entries and serves reads. Long reads and compaction run from `wake`, one slice at a time."""

    def __init__(
        self, identity: NodeIdentity, disk: Disk, open_engine: Callable[[str], Engine], config: ClusterConfig
    ) -> None:
        self.name = "applier"
        self.metrics = ActorMetrics()
        self.store: MvccStore | None = None
        self._identity = identity
        self._disk = disk
        self._open_engine = open_engine
        self._config = config
        self._commit = Index(0)
        self._leases = LeaseDesk(config)
        self._reads = ReadQueue()
        self._background = 0
        self._held: deque[tuple[Message, Source]] = deque()
        self._snapshot_names: dict[int, str] = {}
        self._snapshot_ticket = 0
        self._reported = Index(0)
        self._report_from = Millis(0)
        self._unreported_bytes = 0
        # Well before raft would have to refuse requests for want of the news, however small its bounds are.
        self._report_entries = min(REPORT_ENTRIES, max(1, config.raft.unapplied_entries_max // 4))
        self._report_bytes = min(REPORT_BYTES, config.raft.unapplied_bytes_max // 4)
        self._progress: tuple[Index, Millis] = (Index(0), Millis(0))
        self._alarms_told = 0
        self._stopped = False
        self._feed = EventFeed()
        self._integrity = IntegrityDesk()
        self._defragmentation = DefragmentDesk()
        self._exports = ExportDesk(disk, self._begin_checkpoint)
        self._auth_told = Incarnation(0)
        """The gateway that knows whether rights matter."""
        self._now = Millis(0)
        self._source = Source("nobody")
        self._handlers: dict[str, Callable[..., list[Effect]]] = {
            "ApplyEntries": self._on_apply_entries,
            "ServeReads": self._on_serve_reads,
            "PiecesTaken": self._on_pieces_taken,
            "OpenStore": self._on_open_store,
            "OfficeChanged": self._on_office_changed,
            "ServeLessorCalls": self._on_serve_lessor_calls,
            "UpkeepRefused": self._on_upkeep_refused,
            "FlushStore": self._on_flush_store,
            "StoreFlushed": self._on_store_flushed,
            "BuildSnapshot": self._on_build_snapshot,
            "DropSnapshot": self._on_drop_snapshot,
            **dict.fromkeys(EXPORT_KINDS, self._on_export),
            "StoreDefragmented": self._on_store_defragmented,
            "InstallSnapshot": self._on_install_snapshot,
            "FollowEvents": self._on_follow_events,
            "UnfollowEvents": self._on_unfollow_events,
            "EventsTaken": self._on_events_taken,
            "ReadEvents": self._on_read_events,
            "ActorStarted": self._on_actor_started,
            "StopActor": self._on_stop_actor,
        }

    # --- the actor's door ------------------------------------------------------------------------

    @property
    def deadline(self) -> Millis | None:
        """When `wake` or `end_turn` has something to do."""
        store = self.store
        if store is None or self._stopped:
            return None
        if self._integrity.busy or self._reads.has_work or (store.compacting and self._may_compact(store)):
            return self._now
        applied = store.applied
        due = Millis(self._progress[1] + PROGRESS_INTERVAL_MS) if applied != self._progress[0] else None
        if applied != self._reported and (due is None or self._report_from < due):
            due = self._report_from
        lessor_due = self._leases.deadline
        return due if lessor_due is None or (due is not None and due <= lessor_due) else lessor_due

    def start(self, now: Millis) -> list[Effect]:
        """Nothing to do before the store may be opened."""
        self._now = now
        self._progress = (Index(0), now)
        return []

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """React to one message; damage of the store or the disk halts the node."""
        if self._stopped:
            return []
        self._now = now
        self._source = source
        handler = self._handlers.get(message.kind)
        if handler is None:
            return [Log("warning", "message_ignored", {"kind": message.kind, "source": repr(source)})]
        if self._held and message.kind not in BACKGROUND_KINDS:
            self._held.append((message, source))
            return []
        try:
            effects = handler(message)
        except Exception as error:  # noqa: BLE001 - what is not known to be the disk's fault is raised again
            return self._halt(self._explained(error))
        return effects

    def wake(self, now: Millis) -> list[Effect]:
        """Run one slice of each kind of long work."""
        if self._stopped or self.store is None:
            return []
        effects: list[Effect] = []
        try:
            if self._reads.has_work:
                effects += self._reads.advance(self.store, self._status_fields())
            if self._integrity.busy:
                effects += self._integrity.advance()
            if self._reads.deferred and not self._defragmentation.runs:
                effects.append(self._defragment(self.store))
            if self._may_compact(self.store):
                self._advance_compaction(self.store, effects)
            if self._leases.deadline is not None and now >= self._leases.deadline:
                effects += self._leases.advance(self.store, now)
        except Exception as error:  # noqa: BLE001 - what is not known to be the disk's fault is raised again
            return [*effects, *self._halt(self._explained(error))]
        return effects

    def end_turn(self, now: Millis) -> list[Effect]:
        """Report what this turn applied, once."""
        self._now = now
        store = self.store
        if store is None or self._stopped:
            return []
        effects: list[Effect] = []
        if self._feed.active:
            try:
                effects += [Send("gateway", message) for message in self._feed.publish(store)]
            except Corruption as error:
                return self._halt(error)
        if self._report_is_due(store, now):
            self._reported = store.applied
            self._report_from = Millis(now + REPORT_DELAY_MS)
            self._unreported_bytes = 0
            effects.append(Send("raft", EntriesApplied.make(applied=store.applied)))
        if store.applied != self._progress[0] and (
            now - self._progress[1] >= PROGRESS_INTERVAL_MS or store.alarms.serial != self._alarms_told
        ):
            effects.append(self._report_progress(store))
        return effects

    def _report_is_due(self, store: MvccStore, now: Millis) -> bool:
        if store.applied == self._reported:
            return False
        return (
            now >= self._report_from
            or store.applied - self._reported >= self._report_entries
            or self._unreported_bytes >= self._report_bytes
        )

    def check_invariants(self) -> None:
        """Raise `InvariantViolation` unless the state makes sense."""
        if self.store is None or self._stopped:
            return
        try:
            self._leases.lessor.check()
            self.store.check_invariants()
        except AssertionError as error:
            raise InvariantViolation(str(error)) from error
        if self._reported > self.store.applied:
            raise InvariantViolation(f"reported {self._reported}, applied {self.store.applied}")

    # --- opening and swapping --------------------------------------------------------------------

    def _on_open_store(self, message: OpenStore) -> list[Effect]:
        if self.store is not None:
            raise InvariantViolation(f"OpenStore from {self._source!r} while the store is open")
        disk = self._disk
        self._settle_stage(message.mark.stage)
        for name in disk.list(SNAPSHOT_DIR):
            disk.remove_tree(f"{SNAPSHOT_DIR}/{name}")
        store = self._open()
        return [
            Send("raft", StoreOpened(applied=store.applied, revision=Revision(store.revision))),
            self._report_progress(store),
            self._tell_auth(store),
            Log("info", "store_opened", {"applied": store.applied, "revision": store.revision}),
        ]

    def _settle_stage(self, announced: str) -> None:
        """Finish the swap a durable mark announces; any other stage was never allowed and goes."""
        disk = self._disk
        names = disk.list(STAGE_DIR)
        for name in names:
            if name != announced:
                disk.remove_tree(f"{STAGE_DIR}/{name}")
        if announced in names:
            self._swap(announced)
        elif names:
            disk.sync_dir(STAGE_DIR)

    def _swap(self, stage: str) -> None:
        """Put the staged snapshot in the store's place. Repeated after a crash at any point, it ends the same."""
        disk = self._disk
        disk.remove_tree(STORE)
        disk.rename(stage_path(stage), STORE)
        disk.sync_dir(STAGE_DIR)
        disk.sync_dir(".")

    def _open(self) -> MvccStore:
        engine = self._open_engine(STORE)
        store = MvccStore(
            engine,
            self._identity.cluster,
            self._identity.member,
            response_bytes_max=self._config.limits.response_bytes_max,
        )
        self.store = store
        self._feed.attach(store)
        self._integrity.attach()
        self._reported = store.applied
        return store

    def _on_install_snapshot(self, message: InstallSnapshot) -> list[Effect]:
        if self._background:
            self._held.append((message, self._source))
            return []
        if not self._disk.exists(stage_path(message.stage)):
            raise Corruption(f"{STAGE_DIR}/{message.stage}: the staged snapshot is gone")
        old = self._opened()
        effects = self._reads.end(ErrorCode.LEADER_CHANGED, old)
        old.engine.close()
        self.store = None
        self._swap(message.stage)
        store = self._open()
        if store.applied != message.index:
            raise Corruption(f"snapshot {message.stage} holds index {store.applied}, its offer said {message.index}")
        effects += [
            Send("raft", SnapshotInstalled(index=store.applied, revision=Revision(store.revision))),
            self._report_progress(store),
            self._tell_auth(store),
            Log("info", "snapshot_installed", {"index": store.applied, "revision": store.revision}),
        ]
        return effects

    # --- entries and reads -----------------------------------------------------------------------

    def _on_apply_entries(self, message: ApplyEntries) -> list[Effect]:
        store = self._opened()
        self._commit = max(self._commit, message.commit)
        effects: list[Effect] = []
        counters = self.metrics.counters
        leads = self._leases.lessor.office is not None
        for entry in message.entries:
            self._unreported_bytes += len(entry.data)
            applied = store.apply(entry)
            if store.auth.changed:
                effects.append(self._tell_auth(store))
            if leads:
                self._follow_leases(store, entry, effects)
            if applied is None or not applied.results:
                continue
            origin, results = applied
            if store.response_bytes_max - store.answer_bytes_left > MESSAGE_ANSWERS_BYTES_MAX:
                pieces, results = self._reads.in_pieces((origin.incarnation, origin.sequence), results)
                effects += pieces
            effects.append(
                Send(
                    "gateway",
                    CommandsApplied.make(
                        incarnation=origin.incarnation,
                        sequence=origin.sequence,
                        results=results,
                        applied=store.applied,
                        revision=Revision(store.revision),
                    ),
                )
            )
        if store.has_integrity_news:
            effects += self._integrity.on_applied(store, leads=leads)
        key = "etcd_server_proposals_applied_total"
        counters[key] = counters.get(key, 0) + len(message.entries)
        return effects

    def _on_serve_reads(self, message: ServeReads) -> list[Effect]:
        origin, commands = decode_batch(message.payload)
        store = self.store
        if store is None:
            results = tuple((position, int(ErrorCode.UNHEALTHY), b"") for position in range(len(commands)))
            nothing = ReadsServed(
                incarnation=origin.incarnation,
                sequence=message.sequence,
                results=results,
                applied=Index(0),
                revision=Revision(0),
            )
            return [Send("gateway", nothing)]
        counters = self.metrics.counters
        counters["etcd_mvcc_range_total"] = counters.get("etcd_mvcc_range_total", 0) + len(commands)
        effects = self._reads.serve(store, (origin.incarnation, message.sequence), commands, self._status_fields())
        if origin.incarnation != self._auth_told:
            self._auth_told = origin.incarnation
            effects.insert(0, self._tell_auth(store))
        if self._reads.deferred and not self._defragmentation.runs:
            effects.append(self._defragment(store))
        return effects

    @staticmethod
    def _tell_auth(store: MvccStore) -> Effect:
        """Tell the gateway whether rights matter; ahead of everything that is answered accordingly."""
        auth = store.auth
        told = AuthChanged(
            applied=store.applied,
            enabled=auth.enabled,
            revision=auth.revision,
            roots=auth.roots,
            token_news=tuple((news.user, news.token) for news in auth.take_news()),
        )
        return Send("gateway", told)

    def _status_fields(self) -> StatusFields:
        return StatusFields(self._commit, self._config.storage.quota_bytes)

    def _on_pieces_taken(self, message: PiecesTaken) -> list[Effect]:
        self._reads.taken(message.size_bytes)
        return []

    def _may_compact(self, store: MvccStore) -> bool:
        return store.compacting and not self._integrity.busy and self._reads.allows_compaction(store.compacted)

    def _advance_compaction(self, store: MvccStore, effects: list[Effect]) -> None:
        for wait in store.compact_step(SLICE_ROWS):
            answer = CommandAnswered(
                incarnation=wait.origin.incarnation,
                sequence=wait.origin.sequence,
                position=wait.position,
                code=int(ErrorCode.OK),
                body=wait.body,
            )
            effects.append(Send("gateway", answer))
        if not store.compacting:
            effects.append(Log("info", "compaction_finished", {"revision": store.finished}))

    # --- defragmentation -------------------------------------------------------------------------

    def _defragment(self, store: MvccStore) -> Effect:
        self._background += 1
        return self._defragmentation.begin(store.engine)

    def _on_store_defragmented(self, _message: StoreDefragmented) -> list[Effect]:
        self._background -= 1
        store = self._opened()
        following = self._defragmentation.go_on(store.engine, hurry=bool(self._held))
        if following is not None:
            self._background += 1
            return [following]
        store.defragmented()
        # The size first, so that whoever hears that it is done finds room.
        answers = self._reads.answer_deferred(store, ErrorCode.OK)
        return [self._report_progress(store), *answers, *self._take_up_held()]

    def _take_up_held(self) -> list[Effect]:
        """Do what had to wait for the background."""
        effects: list[Effect] = []
        held, self._held = self._held, deque()
        for pending, source in held:
            effects += self.handle(pending, source, self._now)
        return effects

    # --- events ----------------------------------------------------------------------------------

    def _on_follow_events(self, message: FollowEvents) -> list[Effect]:
        answers: list[Effect] = [Send("gateway", answer) for answer in self._feed.follow(message, self.store)]
        return answers if self.store is None else [self._tell_auth(self.store), *answers]

    def _on_unfollow_events(self, message: UnfollowEvents) -> list[Effect]:
        self._feed.unfollow(message.session, self.store)
        return []

    def _on_events_taken(self, message: EventsTaken) -> list[Effect]:
        self._feed.taken(message.session, message.size)
        return []

    def _on_read_events(self, message: ReadEvents) -> list[Effect]:
        return [Send("gateway", self._feed.read(message, self.store))]

    # --- leases ----------------------------------------------------------------------------------

    def _follow_leases(self, store: MvccStore, entry: Entry, effects: list[Effect]) -> None:
        told = self._leases.on_applied(store, entry, self._now)
        if told is not None:
            effects.append(told)

    def _on_office_changed(self, message: OfficeChanged) -> list[Effect]:
        self._leases.on_office_changed(message, self._opened())
        return []

    def _on_serve_lessor_calls(self, message: ServeLessorCalls) -> list[Effect]:
        return [self._leases.on_serve_calls(message, self._opened(), self._now)]

    def _on_upkeep_refused(self, message: UpkeepRefused) -> list[Effect]:
        self._leases.on_upkeep_refused(message, self._now)
        return []

    # --- flush and snapshot ----------------------------------------------------------------------

    def _on_flush_store(self, message: FlushStore) -> list[Effect]:
        return [self._flush(message.ticket, "flush_store")]

    def _flush(self, ticket: int, label: str) -> Effect:
        """Flush in the background; what was applied before it begins is what will be durable."""
        store = self._opened()
        store.save_counts()
        engine, durable = store.engine, store.applied

        def job() -> Message:
            engine.flush()
            return StoreFlushed(ticket=ticket, durable=durable)

        self._background += 1
        return RunInBackground(job, label)

    def _on_store_flushed(self, message: StoreFlushed) -> list[Effect]:
        self._background -= 1
        effects: list[Effect] = []
        if message.ticket >= 0:
            effects.append(Send("raft", message))
        else:
            effects += self._checkpoint(self._snapshot_names.pop(message.ticket))
        return effects + self._take_up_held()

    def _on_build_snapshot(self, message: BuildSnapshot) -> list[Effect]:
        return self._begin_checkpoint(message.name)

    def _begin_checkpoint(self, name: str) -> list[Effect]:
        self._snapshot_ticket -= 1
        self._snapshot_names[self._snapshot_ticket] = name
        return [self._flush(self._snapshot_ticket, "build_snapshot")]

    def _on_export(self, message: Message) -> list[Effect]:
        self._opened()
        return self._exports.handle(message)

    def _checkpoint(self, name: str) -> list[Effect]:
        """Checkpoint on this thread: the flush left almost nothing to write."""
        store = self._opened()
        path = snapshot_path(name)
        try:
            self._disk.make_dir(SNAPSHOT_DIR)
            self._disk.remove_tree(path)
            store.engine.checkpoint(path)
        except DiskFailed as error:
            if is_export(name):
                return self._exports.checkpointed(name, str(error))
            failed = SnapshotBuilt(name=name, index=Index(0), term=store.term)
            return [Send("raft", failed), Log("error", "snapshot_failed", {"name": name, "reason": str(error)})]
        if is_export(name):
            return self._exports.checkpointed(name, "")
        built = SnapshotBuilt(name=name, index=store.applied, term=store.term)
        return [Send("raft", built), Log("info", "snapshot_built", {"name": name, "index": store.applied})]

    def _on_drop_snapshot(self, message: DropSnapshot) -> list[Effect]:
        self._disk.remove_tree(snapshot_path(message.name))
        return []

    # --- the rest --------------------------------------------------------------------------------

    def _on_actor_started(self, message: ActorStarted) -> list[Effect]:
        if message.actor != "gateway":
            return []
        self._feed.gateway_started(message.incarnation, self.store)
        self._exports.gateway_started()
        if self.store is None:
            return []
        self._reads.gateway_started()
        return [self._report_progress(self.store), self._tell_auth(self.store)]

    def _on_stop_actor(self, message: StopActor) -> list[Effect]:
        if self._background:
            self._held.append((message, self._source))
            return []
        effects: list[Effect] = []
        if self.store is not None:
            effects += self._reads.end(ErrorCode.STOPPED, self.store)
            self.store.save_counts()
            self.store.engine.close()
            self.store = None
        self._stopped = True
        return [*effects, Halt("stopped")]

    def _opened(self) -> MvccStore:
        if self.store is None:
            raise InvariantViolation("raft spoke to a store that is not open")
        return self.store

    def _report_progress(self, store: MvccStore) -> Effect:
        self._progress = (store.applied, self._now)
        self._alarms_told = store.alarms.serial
        progressed = StoreProgressed(
            applied=store.applied,
            revision=Revision(store.revision),
            compacted=Revision(store.compacted),
            logical_bytes=store.size,
            alarms=tuple(store.alarms.raised),
        )
        return Send("gateway", progressed)

    def measure(self) -> None:
        """Refresh the gauges, and the counters that the store keeps."""
        if self.store is not None:
            measure_store(self.store, self._leases.lessor, self.metrics)

    def _explained(self, error: Exception) -> Exception:
        """Return what ends the node; an error that a restart may cure is raised again.

        `Engine.get` lets RocksDB's own errors through, so that the hottest call there is costs nothing more.
        """
        if self.store is not None:
            error = self.store.engine.explained(error)
        if not isinstance(error, Corruption | DiskFailed | InvariantViolation):
            raise error
        return error

    def _halt(self, error: Exception) -> list[Effect]:
        self._stopped = True
        reason = f"{type(error).__name__}: {error}"
        return [Log("critical", "store_unusable", {"reason": reason}), Halt(reason, failed=True, fatal=True)]
