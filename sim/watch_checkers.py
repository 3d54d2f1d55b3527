"""What etcd promises of watches, held against the committed log: one function per promise.

Owns the record of what a watcher was told and the checks over it. Knows no actor and no world: the truth is a plain
sequence of states, one per revision. Each check raises `SimulationFailed` with the promise's name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.wire.mvcc_pb2 import Event, KeyValue
from protocol.wire.rpc_pb2 import WatchCreateRequest, WatchResponse
from sim.trouble import SimulationFailed

Past = Mapping[int, Mapping[bytes, KeyValue]]
"""Revision to all live pairs right after it."""


class Change(NamedTuple):
    """One change that happened."""

    revision: int
    key: bytes
    pair: KeyValue | None
    """None: the key was deleted."""
    previous: KeyValue | None


@dataclass
class WatchRecord:
    """One watcher on one stream: what it asked for, and every response, in order."""

    name: str
    request: WatchCreateRequest
    responses: list[WatchResponse] = field(default_factory=list)
    whole: bool = False
    """The stream was read to the end and the cluster was at rest: nothing may be missing."""

    @property
    def created(self) -> WatchResponse | None:
        """The first response, if it came."""
        return next((response for response in self.responses if response.created), None)

    @property
    def start(self) -> int:
        """The first revision it must hear of; 0: nobody has told it yet."""
        if self.request.start_revision:
            return int(self.request.start_revision)
        return self.created.header.revision + 1 if self.created is not None else 0

    @property
    def told(self) -> list[Event]:
        """All events, in order."""
        return [event for response in self.responses for event in response.events]

    @property
    def compacted(self) -> int:
        """The compact revision it was cancelled with, or 0."""
        return max((response.compact_revision for response in self.responses), default=0)

    def wants(self, change: Change) -> bool:
        """Whether it asked to hear of a change."""
        request = self.request
        key, end = request.key or b"\0", request.range_end
        inside = change.key >= key and (end == b"\0" or change.key < end) if end else change.key == key
        unwanted = WatchCreateRequest.NODELETE if change.pair is None else WatchCreateRequest.NOPUT
        return inside and change.revision >= self.start and unwanted not in request.filters


def changes_of(past: Past) -> dict[int, list[Change]]:
    """Return what happened in each revision, found by comparing states."""
    changes: dict[int, list[Change]] = {}
    for revision in sorted(past):
        before, after = past.get(revision - 1, {}), past[revision]
        if before is after:
            continue
        found = [
            Change(revision, key, after.get(key), before.get(key))
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)
        ]
        if found:
            changes[revision] = found
    return changes


def check_watch(record: WatchRecord, past: Past, changes: Mapping[int, list[Change]], compacted: int) -> None:
    """Hold one watcher's record against every promise.

    Args:
        record: what it was told.
        past: the states the log makes.
        changes: `changes_of(past)`.
        compacted: the highest revision that was ever compacted.
    """
    if record.created is None:
        _require("created first", record, not record.responses, "responses before it was created")
        return
    _require("created first", record, record.responses[0].created, "a response before it was created")
    _check_ordered_and_unique(record)
    _check_atomic(record, changes)
    _check_reliable(record, changes)
    _check_bookmarks(record, changes)
    _check_pairs(record, past, compacted)
    _check_cancelled(record, compacted)


def _check_ordered_and_unique(record: WatchRecord) -> None:
    """Revisions never go back, and no event comes twice."""
    seen: set[tuple[int, bytes]] = set()
    last = 0
    for event in record.told:
        revision = event.kv.mod_revision
        _require("watch ordered", record, revision >= last, f"revision {revision} after {last}")
        _require("watch unique", record, (revision, event.kv.key) not in seen, f"{event.kv.key!r} at {revision} twice")
        seen.add((revision, event.kv.key))
        last = revision


def _check_atomic(record: WatchRecord, changes: Mapping[int, list[Change]]) -> None:
    """A revision comes whole, in one response or the fragments of one, and is what happened; nothing else comes."""
    parts: list[Event] = []
    done = 0
    for response in record.responses:
        parts += response.events
        if response.fragment:
            continue
        by_revision: dict[int, list[bytes]] = {}
        for event in parts:
            by_revision.setdefault(event.kv.mod_revision, []).append(event.kv.key)
        parts = []
        for revision, keys in by_revision.items():
            expected = sorted(change.key for change in changes.get(revision, ()) if record.wants(change))
            text = f"revision {revision} told as {sorted(keys)}, it was {expected}"
            _require("watch atomic", record, sorted(keys) == expected, text)
            _require("watch atomic", record, revision > done, f"revision {revision} in two responses")
            done = revision


def _check_reliable(record: WatchRecord, changes: Mapping[int, list[Change]]) -> None:
    """Up to the last event (at the end of a run: up to the end) nothing is missing, from the start on."""
    told = [(event.kv.mod_revision, event.kv.key) for event in record.told]
    last = max(changes, default=0) if record.whole and not record.compacted else max(told, default=(0, b""))[0]
    expected = [
        (revision, change.key)
        for revision, found in changes.items()
        if revision <= last
        for change in found
        if record.wants(change)
    ]
    missing = sorted(set(expected) - set(told))
    rule = "watch resumable" if missing and not told else "watch reliable"
    _require(rule, record, not missing, f"never told of {missing[:3]} up to {last}")


def _check_bookmarks(record: WatchRecord, changes: Mapping[int, list[Change]]) -> None:
    """A response without events says that everything up to its revision was told; later ones do not contradict it."""
    told: set[tuple[int, bytes]] = set()
    bookmark = 0
    for response in record.responses:
        for event in response.events:
            revision = event.kv.mod_revision
            text = f"an event at {revision} after progress to {bookmark}"
            _require("watch bookmarkable", record, revision > bookmark, text)
            told.add((revision, event.kv.key))
        if response.events or response.created or response.canceled:
            continue
        bookmark = max(bookmark, response.header.revision)
        owed = {
            (revision, change.key)
            for revision, found in changes.items()
            if revision <= bookmark
            for change in found
            if record.wants(change)
        }
        missing = sorted(owed - told)
        _require("watch bookmarkable", record, not missing, f"progress to {bookmark} before {missing[:3]}")


def _check_pairs(record: WatchRecord, past: Past, compacted: int) -> None:
    """Pairs, and the pairs they replaced, are what the store had."""
    for event in record.told:
        revision, key = event.kv.mod_revision, event.kv.key
        before, after = past[revision - 1].get(key), past[revision].get(key)
        if event.type == Event.PUT:
            _require("watch tells the truth", record, event.kv == after, f"{event.kv} at {revision}, it was {after}")
            created = event.kv.create_revision == event.kv.mod_revision
            _require("watch is-create", record, created == (before is None), f"{key!r} at {revision}")
        else:
            stone = KeyValue(key=key, mod_revision=revision)
            _require("watch tells the truth", record, event.kv == stone and after is None, f"{event.kv} is no deletion")
        if event.HasField("prev_kv"):
            right = record.request.prev_kv and event.prev_kv == before
            _require("watch prev_kv", record, right, f"{event.prev_kv} at {revision}, it was {before}")
        elif record.request.prev_kv and before is not None:
            _require("watch prev_kv", record, revision - 1 < compacted, f"none at {revision}, it was {before}")


def _check_cancelled(record: WatchRecord, compacted: int) -> None:
    """A watcher is cancelled by a compaction only if one has passed what it must hear next."""
    if not record.compacted:
        return
    _require("watch cancelled", record, record.compacted <= compacted, f"by {record.compacted}, never compacted")
    heard = max((event.kv.mod_revision for event in record.told), default=0)
    following = max(record.start, heard + 1)
    _require("watch cancelled", record, following < record.compacted, f"nothing was missed at {following}")
    last = record.responses[-1]
    _require("watch cancelled", record, last.canceled and not last.events, "something after the end")


def _require(rule: str, record: WatchRecord, holds: object, text: str) -> None:
    if not holds:
        asked = " ".join(str(record.request).split())
        raise SimulationFailed(rule, f"{record.name} ({asked}): {text}")


def check_watches(records: Iterable[WatchRecord], past: Past, compacted: int) -> int:
    """Check all records; return how many events they hold."""
    changes = changes_of(past)
    events = 0
    for record in records:
        check_watch(record, past, changes, compacted)
        events += len(record.told)
    return events
