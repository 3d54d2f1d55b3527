"""Watches from the store to the client without sockets, and a model of what every watcher must hear.

`WatchWorld` joins a real store, the applier's feed, the gateway's hub and the stream table by queues that tests empty
when they like, so that anything may come late. The model never looks at the log: it compares whole states of the store.
"""

import random
from collections import deque
from typing import Any, Final, NamedTuple

from actors.event_feed import EventFeed
from gateway.methods import WATCH
from gateway.streams import StreamHead, StreamTable
from gateway.watch_hub import WatchHub
from gateway.watch_stream import WatchService
from protocol import codec, local
from protocol.types import ClusterId, Incarnation, MemberId, Millis, Revision, Term
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.store_driver import StoreDriver
from storage.wire_bytes import header_bytes

ALL: Final = b"\x00"
NOBODY_ID: Final = -1


class Change(NamedTuple):
    """One event of the model."""

    main: int
    put: bool
    key: bytes
    pair: bytes
    """The pair as it was put, or key and revision of a deletion."""
    previous: bytes


def state_of(driver: StoreDriver) -> dict[bytes, mvcc.KeyValue]:
    """Every live pair."""
    return {pair.key: pair for pair in driver.range(ALL, ALL).response.kvs}


class Asked(NamedTuple):
    """What a watcher asked for."""

    key: bytes
    range_end: bytes
    start: int
    """The first revision it must hear of."""
    request: rpc.WatchCreateRequest

    def wants(self, change: Change) -> bool:
        """Whether it must hear of a change."""
        key = self.key or b"\x00"
        if change.main < self.start or change.key < key:
            return False
        inside = self.range_end == b"\x00" or change.key < self.range_end if self.range_end else change.key == key
        unwanted = rpc.WatchCreateRequest.NOPUT if change.put else rpc.WatchCreateRequest.NODELETE
        return inside and unwanted not in self.request.filters


class Heard:
    """What one client has been told on one stream, checked as it comes."""

    def __init__(self, world: "WatchWorld", call_id: int) -> None:
        self.world = world
        self.call_id = call_id
        self.responses: list[rpc.WatchResponse] = []
        self.created: dict[int, Asked] = {}
        """Watchers that live."""
        self.refused: list[rpc.WatchResponse] = []
        self.canceled: dict[int, rpc.WatchResponse] = {}
        self.heard: dict[int, list[Change]] = {}
        self.progress: list[int] = []
        self.asking: deque[rpc.WatchCreateRequest] = deque()
        self.outcome: Any = None
        self.waiting: deque[bytes] = deque()
        """Messages the client has not taken."""
        self._parts: dict[int, list[mvcc.Event]] = {}

    def read(self, limit: int | None = None) -> None:
        """Take messages, all or some."""
        while self.waiting and limit != 0:
            self._on(rpc.WatchResponse.FromString(self.waiting.popleft()))
            limit = None if limit is None else limit - 1
        self.world.table.held(self.call_id, sum(map(len, self.waiting)), Millis(0))

    def _on(self, response: rpc.WatchResponse) -> None:
        self.responses.append(response)
        watch_id = response.watch_id
        if response.created:
            request = self.asking.popleft()
            if response.canceled:
                self.refused.append(response)
                return
            assert watch_id not in self.created, "an id is given once at a time"
            start = request.start_revision or response.header.revision + 1
            self.created[watch_id] = Asked(request.key, request.range_end, start, request)
            self.heard[watch_id] = []
            self.canceled.pop(watch_id, None)
        elif response.canceled:
            assert watch_id in self.created, "only who was created is canceled"
            del self.created[watch_id]
            self.canceled[watch_id] = response
            if response.compact_revision:
                self._check_compacted(watch_id, response)
        elif response.events:
            self._on_events(response)
        elif watch_id == NOBODY_ID:
            self.progress.append(response.header.revision)
            for told in list(self.created):
                self.check_complete(told, response.header.revision)
        else:
            self.check_complete(watch_id, response.header.revision)

    def _check_compacted(self, watch_id: int, response: rpc.WatchResponse) -> None:
        assert response.compact_revision <= self.world.driver.store.compacted, "cancelled by a compaction that was"

    def _on_events(self, response: rpc.WatchResponse) -> None:
        watch_id = response.watch_id
        parts = self._parts.setdefault(watch_id, [])
        parts += response.events
        if response.fragment:
            return
        asked = self.created[watch_id]
        heard = self.heard[watch_id]
        revisions: dict[int, list[Change]] = {}
        for event in self._parts.pop(watch_id):
            change = self._change(event)
            revisions.setdefault(change.main, []).append(change)
        for main, changes in revisions.items():
            assert not heard or main > heard[-1].main, f"revision {main} was told before, or after a later one"
            for change in changes:
                assert asked.wants(change), f"{change} was not asked for"
            expected = [change for change in self.world.history.get(main, []) if asked.wants(change)]
            got = [change._replace(previous=b"") for change in changes]
            assert sorted(got) == sorted(change._replace(previous=b"") for change in expected), (
                f"revision {main} was told as {changes}, not as {expected}"
            )
            self._check_previous(asked, changes, expected)
            heard += changes
        assert response.header.revision >= max(revisions), "the header is not behind the events"

    def _check_previous(self, asked: Asked, changes: list[Change], expected: list[Change]) -> None:
        by_key = {change.key: change for change in expected}
        for change in changes:
            before = by_key[change.key].previous
            if not asked.request.prev_kv:
                assert not change.previous, "nobody asked for the replaced pair"
            elif change.main - 1 >= self.world.driver.store.compacted:
                assert change.previous == before, f"{change} replaced {before!r}"
            else:
                assert change.previous in (before, b""), f"{change} replaced {before!r} or what is compacted"

    @staticmethod
    def _change(event: mvcc.Event) -> Change:
        pair = event.kv
        previous = event.prev_kv.SerializeToString() if event.HasField("prev_kv") else b""
        return Change(pair.mod_revision, event.type == mvcc.Event.PUT, pair.key, pair.SerializeToString(), previous)

    def check_complete(self, watch_id: int, through: int) -> None:
        """The watcher has heard everything up to a revision."""
        asked = self.created[watch_id]
        expected = [
            (change.main, change.key)
            for main, changes in self.world.history.items()
            if main <= through
            for change in changes
            if asked.wants(change)
        ]
        heard = [(change.main, change.key) for change in self.heard[watch_id] if change.main <= through]
        assert sorted(heard) == sorted(expected), f"watcher {watch_id} heard {heard}, not {expected}"


class WatchWorld:
    """A store, a gateway's watches and clients, with every queue in the hands of the test."""

    def __init__(self, *, progress_interval_ms: int = 600_000, response_bytes_max: int = 2 << 20) -> None:
        self.disk = SimDisk(random.Random(1))
        self.driver = StoreDriver(lambda: SimEngine(self.disk, "store"))
        self.feed = EventFeed()
        self.store_open = True
        self.to_applier: deque[bytes] = deque()
        self.to_gateway: deque[bytes] = deque()
        self.shown = 1
        self.table = StreamTable(1000, 1000)
        self.table.lead(MemberId(1), Millis(0))
        self.hub = WatchHub(Incarnation(1), lambda: self.shown, 1000)
        self.now = Millis(0)

        def header(revision: int) -> bytes:
            return header_bytes(ClusterId(1), MemberId(2), Revision(revision), Term(3))

        self.service = WatchService(self.hub, header, progress_interval_ms, response_bytes_max)
        self.table.serve(WATCH, self.service.open)
        self.clients: dict[int, Heard] = {}
        self.history: dict[int, list[Change]] = {}
        self._state: dict[bytes, mvcc.KeyValue] = {}
        self._calls = 0

    # --- the store ---------------------------------------------------------------------------------

    def do(self, *requests: Any) -> list[Any]:
        """Apply requests, each as an entry of its own, and let the model see what changed."""
        answers = []
        for request in requests:
            before = self._state
            answers.append(self.driver.one(request))
            after = self._state = state_of(self.driver)
            self._note(before, after)
        return answers

    def put(self, key: bytes, value: bytes = b"v") -> None:
        """Put a pair."""
        self.do(rpc.PutRequest(key=key, value=value))

    def _note(self, before: dict[bytes, mvcc.KeyValue], after: dict[bytes, mvcc.KeyValue]) -> None:
        main = self.driver.store.revision
        changes = []
        for key in sorted({*before, *after}):
            old, new = before.get(key), after.get(key)
            previous = old.SerializeToString() if old is not None else b""
            if new is not None and new.mod_revision == main and (old is None or old.mod_revision != main):
                changes.append(Change(main, True, key, new.SerializeToString(), previous))
            elif old is not None and new is None:
                stone = mvcc.KeyValue(key=key, mod_revision=main).SerializeToString()
                changes.append(Change(main, False, key, stone, previous))
        if changes:
            self.history[main] = changes

    def compact(self, revision: int) -> None:
        """Compact, and give the space back at once."""
        self.driver.compact(revision)
        self.driver.finish_compaction(rows=3)

    # --- turns -------------------------------------------------------------------------------------

    def applier_turn(self, limit: int | None = None) -> None:
        """Let the applier take what the gateway has asked, and publish."""
        store = self.driver.store if self.store_open else None
        answers: list[local.LocalMessage] = []
        while self.to_applier and limit != 0:
            message = codec.decode(self.to_applier.popleft())
            if isinstance(message, local.FollowEvents):
                answers += self.feed.follow(message, store)
            elif isinstance(message, local.UnfollowEvents):
                self.feed.unfollow(message.session, store)
            elif isinstance(message, local.EventsTaken):
                self.feed.taken(message.session, message.size)
            elif isinstance(message, local.ReadEvents):
                answers.append(self.feed.read(message, store))
            limit = None if limit is None else limit - 1
        if store is not None:
            answers += self.feed.publish(store)
        self.to_gateway += [codec.encode(answer) for answer in answers]

    def gateway_turn(self, limit: int | None = None) -> None:
        """Let the gateway take what the applier has said, and hand out what it has for clients."""
        while self.to_gateway and limit != 0:
            message = codec.decode(self.to_gateway.popleft())
            if isinstance(message, local.EventsApplied):
                self.hub.on_applied(message)
            elif isinstance(message, local.EventsRead):
                self.hub.on_read(message)
            elif isinstance(message, local.EventsFollowed):
                self.hub.on_followed(message)
            limit = None if limit is None else limit - 1
        self.end_gateway_turn()

    def end_gateway_turn(self) -> None:
        """Send what the turn has gathered."""
        self.to_applier += [codec.encode(message) for message in self.hub.take()]
        dirty, self.table.dirty = self.table.dirty, []
        for stream in dirty:
            messages, outcome = self.table.take(stream)
            client = self.clients[stream.call_id]
            client.waiting += [b"".join(pieces) for pieces in messages]
            client.outcome = outcome if outcome is not None else client.outcome
            self.table.held(stream.call_id, sum(map(len, client.waiting)), self.now)
        self.table.check()
        self.hub.check()

    def settle(self, *, reading: bool = True) -> None:
        """Run until nothing moves; with `reading` every client takes everything."""
        for _ in range(10_000):
            self.applier_turn()
            self.gateway_turn()
            if reading:
                for client in self.clients.values():
                    client.read()
            busy = self.to_applier or self.to_gateway or self.table.dirty
            if not busy and not (reading and any(client.waiting for client in self.clients.values())):
                self.end_gateway_turn()
                if not self.to_applier and not self.table.dirty:
                    return
        raise AssertionError("it never comes to rest")

    def restart_applier(self) -> None:
        """Lose the applier and what its store had not flushed; it opens again and replays everything at once."""
        self.begin_restart()
        self.end_restart()

    def begin_restart(self) -> None:
        """The applier dies with what was on its way; another one runs, its store not open yet."""
        self.to_applier.clear()
        self.to_gateway.clear()
        self.feed = EventFeed()
        self.store_open = False
        self.hub.applier_started()
        self.end_gateway_turn()

    def end_restart(self) -> None:
        """The store opens, older than it was, and catches up entry by entry while messages flow."""
        self.disk.crash()
        driver = self.driver
        driver.store = driver._open()
        self.store_open = True
        self.feed.attach(driver.store)
        for entry in driver.entries[driver.store.applied :]:
            driver.store.apply(entry)
            self.applier_turn()
            self.gateway_turn()

    # --- clients -----------------------------------------------------------------------------------

    def connect(self) -> Heard:
        """Open a watch stream."""
        self._calls += 1
        client = self.clients[self._calls] = Heard(self, self._calls)
        self.table.open(self._calls, WATCH, StreamHead(), self.now)
        return client

    def say(self, client: Heard, **fields: Any) -> None:
        """Say one thing on a stream."""
        request = rpc.WatchRequest(**fields)
        if request.HasField("create_request"):
            client.asking.append(request.create_request)
        self.table.message(client.call_id, request.SerializeToString(), self.now)

    def watch(self, client: Heard, key: bytes, range_end: bytes = b"", **fields: Any) -> None:
        """Ask for a watcher."""
        request = rpc.WatchCreateRequest(key=key, range_end=range_end, **fields)
        self.say(client, create_request=request)

    def cancel(self, client: Heard, watch_id: int) -> None:
        """Cancel a watcher."""
        self.say(client, cancel_request=rpc.WatchCancelRequest(watch_id=watch_id))

    def ask_progress(self, client: Heard) -> None:
        """Ask how far the stream is."""
        self.say(client, progress_request=rpc.WatchProgressRequest())
