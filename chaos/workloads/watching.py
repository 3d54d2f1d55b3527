"""Watchers of a prefix under change: they listen, lose their node, fall behind, and resume where they were.

Everything that happens below the prefix is put together from all that was told and all that was acknowledged; then each
watcher is held against it: ordered, unique, whole revisions, no gap, the truth, and replaced pairs that were there.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from chaos.clients import ChaosClient
from chaos.doors import CallFailed
from chaos.history import Record
from chaos.requests import attempted_keys, delete, get, prefix_end, put, txn, writes_of
from chaos.watching import WatchStream
from chaos.workloads.base import told
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "watch/"
END: Final = PREFIX + "end"
KEYS: Final = 8
LISTEN_S: Final = 0.2
CAUGHT_UP_WITHIN_S: Final = 30.0
LIVE_REVISIONS: Final = 100
"""An event told so few revisions behind the newest was certainly not behind a compaction."""


class _Listener:
    """One client's watcher, over all streams it has had since it began, or since a compaction passed it."""

    def __init__(self, name: str, following: int) -> None:
        self.name = name
        self.start = following
        self.following = following
        """The first revision it has not heard."""
        self.stream: WatchStream | None = None

    def request(self) -> rpc.WatchCreateRequest:
        """What it asks for next."""
        key = PREFIX.encode()
        return rpc.WatchCreateRequest(
            key=key, range_end=prefix_end(key), start_revision=self.following, prev_kv=True, progress_notify=True
        )

    def close(self) -> None:
        """Let go of the stream; it resumes on another."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None


class WatchWorkload:
    """Writers and watchers of one prefix."""

    name = "watch"

    def __init__(self) -> None:
        self._listeners: dict[int, tuple[_Listener, ChaosClient]] = {}

    def prepare(self, client: ChaosClient) -> None:
        """Nothing is there at first."""

    def step(self, client: ChaosClient) -> None:
        """Change something, or listen for a moment."""
        rng = client.rng
        key = f"{PREFIX}{rng.randrange(KEYS)}"
        choice = rng.random()
        if choice < 0.3:
            client.record(self.name, put(key, client.unique()))
        elif choice < 0.4:
            client.record(self.name, delete(key))
        elif choice < 0.6:
            keys = [f"{PREFIX}{number}" for number in sorted(rng.sample(range(KEYS), 3))]
            changes = [put(each, client.unique()) for each in keys[:-1]]
            client.record(self.name, txn([], [*changes, delete(keys[-1])]))
        else:
            self._listen(client)

    def _listen(self, client: ChaosClient) -> None:
        found = self._listeners.get(client.index)
        if found is None:
            answer = client.call(self.name, get(END), rpc.RangeResponse)
            if answer is None:
                return
            found = (_Listener(client.unique(), answer.header.revision + 1), client)
            self._listeners[client.index] = found
        listener = found[0]
        self._hear(listener, client)
        if client.rng.random() < 0.05:
            listener.close()

    def _hear(self, listener: _Listener, client: ChaosClient) -> None:
        """Take what has come, on a new stream if there is none."""
        if listener.stream is None:
            try:
                listener.stream = client.watch(listener.request())
            except CallFailed:
                return
        stream = listener.stream
        responses = stream.take(LISTEN_S)
        if responses:
            client.heard(
                self.name,
                listener.request(),
                responses,
                listener=listener.name,
                start=listener.start,
                whole=stream.whole_revisions,
            )
        for response in responses:
            if response.events:
                listener.following = response.events[-1].kv.mod_revision + 1
            if response.compact_revision:
                listener.name = client.unique()
                listener.start = listener.following = int(response.compact_revision)
        if stream.ended or any(response.canceled for response in responses):
            listener.close()

    def conclude(self, client: ChaosClient) -> None:
        """Write a last key; every watcher must hear of it."""
        behind: list[str] = []
        mark = client.record(self.name, put(END, client.unique()), final=True, behind=behind)
        until = time.monotonic() + CAUGHT_UP_WITHIN_S
        for listener, owner in self._listeners.values():
            while mark.ok and listener.following <= mark.revision and time.monotonic() < until:
                self._hear(listener, owner)
            listener.close()
            if mark.ok and listener.following <= mark.revision:
                behind.append(listener.name)

    def check(self, records: Sequence[Record]) -> list[str]:
        """Hold every watcher against everything that is known to have happened."""
        return told(self.name, WatchChecker(records).check())


class _Change(NamedTuple):
    """One event, by whoever told of it first."""

    event: mvcc.Event
    by: str


class WatchChecker:
    """What was told, held against what happened."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records
        self._heard: dict[str, list[Record]] = {}
        for record in records:
            if isinstance(record.response, rpc.WatchResponse):
                self._heard.setdefault(str(record.note["listener"]), []).append(record)
        self._changes: dict[tuple[int, bytes], _Change] = {}
        self._acknowledged: dict[tuple[int, bytes], bytes | None] = {}
        self._attempted: dict[bytes, set[bytes | None]] = {}

    def check(self) -> list[str]:
        """Return what is wrong; nothing if all is well."""
        self._learn_writes()
        faults = [
            f"{name} had not heard of {record} after {CAUGHT_UP_WITHIN_S:.0f} s"
            for record in self._records
            for name in _behind(record)
        ]
        for name, parts in self._heard.items():
            faults += self._one_truth(name, parts)
        for name, parts in self._heard.items():
            responses = [response for part in parts for response in _responses(part)]
            faults += _ordered(name, responses)
            if all(part.note["whole"] for part in parts):
                faults += _whole(name, responses)
            faults += self._no_gap(name, int(str(parts[0].note["start"])), responses)
            faults += self._replaced_pairs(name, int(str(parts[0].note["start"])), responses)
        return faults

    def _learn_writes(self) -> None:
        for record in self._records:
            if isinstance(record.request, rpc.WatchCreateRequest):
                continue
            if record.ok and record.response is not None:
                for write in writes_of(record.request, record.response):
                    self._acknowledged[write.revision, write.key] = write.value
            elif record.outcome == "unknown":
                for key in attempted_keys(record.request):
                    self._attempted.setdefault(key, set()).update(_values(record, key))

    def _one_truth(self, name: str, parts: Iterable[Record]) -> list[str]:
        """All watchers are told the same, and it is what somebody has asked for."""
        faults = []
        for event in _events(response for part in parts for response in _responses(part)):
            place = (event.kv.mod_revision, event.kv.key)
            first = self._changes.setdefault(place, _Change(event, name))
            if (first.event.type, first.event.kv) != (event.type, event.kv):
                faults.append(f"{name} was told {_short(event)}, {first.by} {_short(first.event)}")
            value = None if event.type == mvcc.Event.DELETE else event.kv.value
            if place in self._acknowledged:
                if self._acknowledged[place] != value:
                    faults.append(f"{name} was told {_short(event)}, acknowledged was {self._acknowledged[place]!r}")
            elif value not in self._attempted.get(event.kv.key, set()):
                faults.append(f"{name} was told {_short(event)}, which nobody did")
        return faults

    def _no_gap(self, name: str, start: int, responses: Sequence[rpc.WatchResponse]) -> list[str]:
        """Up to the last event, and to every bookmark, nothing is missing that anybody knows of."""
        heard: set[tuple[int, bytes]] = set()
        through = bookmark = 0
        late = []
        for response in responses:
            for event in response.events:
                if event.kv.mod_revision <= bookmark:
                    late.append(f"{name} was told {_short(event)} after progress to {bookmark}")
                heard.add((event.kv.mod_revision, event.kv.key))
                through = max(through, event.kv.mod_revision)
            if not response.events and not response.created and not response.canceled:
                bookmark = max(bookmark, response.header.revision)
        through = max(through, bookmark)
        known = {*self._changes, *self._acknowledged}
        missing = sorted(place for place in known - heard if start <= place[0] <= through)
        return [*late, *([f"{name}, from {start} to {through}, was not told of {missing[:3]}"] if missing else [])]

    def _replaced_pairs(self, name: str, start: int, responses: Sequence[rpc.WatchResponse]) -> list[str]:
        """`prev_kv` is the pair that this watcher was told of before."""
        faults = []
        last: dict[bytes, mvcc.Event] = {}
        for response in responses:
            for event in response.events:
                before = last.get(event.kv.key)
                last[event.kv.key] = event
                if before is None:
                    continue
                live = response.header.revision and response.header.revision - event.kv.mod_revision < LIVE_REVISIONS
                if event.HasField("prev_kv"):
                    right = before.type == mvcc.Event.PUT and event.prev_kv == before.kv
                else:
                    right = before.type == mvcc.Event.DELETE or not live
                if not right:
                    shown = " ".join(str(event.prev_kv).split())
                    faults.append(f"{name}, from {start}: {_short(event)} replaced {_short(before)}, prev_kv: {shown}")
        return faults


def _ordered(name: str, responses: Iterable[rpc.WatchResponse]) -> list[str]:
    """Revisions never go back, and no event comes twice, however often the watcher had to resume."""
    faults = []
    last = 0
    seen: set[tuple[int, bytes]] = set()
    for event in _events(responses):
        place = (event.kv.mod_revision, event.kv.key)
        if event.kv.mod_revision < last:
            faults.append(f"{name} was told {_short(event)} after revision {last}")
        if place in seen:
            faults.append(f"{name} was told {_short(event)} twice")
        seen.add(place)
        last = max(last, event.kv.mod_revision)
    return faults


def _whole(name: str, responses: Iterable[rpc.WatchResponse]) -> list[str]:
    """No revision is split over two responses, but over the fragments of one."""
    faults = []
    done = 0
    fragment = False
    for response in responses:
        revisions = [event.kv.mod_revision for event in response.events]
        if revisions and revisions[0] <= done and not fragment:
            faults.append(f"{name} was told revision {revisions[0]} in two responses")
        done = max([done, *revisions])
        fragment = response.fragment
    return faults


def _behind(record: Record) -> list[str]:
    behind = record.note.get("behind", [])
    assert isinstance(behind, list), "watchers are named"
    return behind


def _responses(record: Record) -> list[rpc.WatchResponse]:
    responses = record.note["responses"]
    assert isinstance(responses, list), "what was heard is kept with its record"
    return responses


def _events(responses: Iterable[rpc.WatchResponse]) -> Iterable[mvcc.Event]:
    for response in responses:
        yield from response.events


def _values(record: Record, key: bytes) -> set[bytes | None]:
    """What a call of unknown fate may have made of a key."""
    request = record.request
    operations = request.success if isinstance(request, rpc.TxnRequest) else ()
    simple = [getattr(each, str(each.WhichOneof("request"))) for each in operations] or [request]
    return {each.value if isinstance(each, rpc.PutRequest) else None for each in simple if each.key == key}


def _short(event: mvcc.Event) -> str:
    what = "delete" if event.type == mvcc.Event.DELETE else repr(event.kv.value)
    return f"{event.kv.key!r}={what} at {event.kv.mod_revision}"
