"""Planted bugs of watches: what a watcher is told, whole, once, in order, and as true."""

from typing import Any

import pytest
from plants import WATCHERS, planted

from actors import event_feed
from actors.event_feed import EventFeed
from gateway import streams, watch_hub, watch_wire
from gateway.watch_hub import Watcher, WatchHub
from protocol import local
from storage import history

RELIABLE = {"watch reliable", "watch resumable", "watch bookmarkable"}


def tighten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a few events meet: much is not published, streams are full, slices are short."""
    monkeypatch.setattr(event_feed, "TURN_EVENTS_MAX", 1)
    monkeypatch.setattr(streams, "ROOM_BYTES", 500)
    monkeypatch.setattr(history, "HISTORY_ROWS_MAX", 5)


@planted("an event lost on its way to watchers", WATCHERS, RELIABLE | {"watch atomic"}, 4)
def loses_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fifth publication loses its first event."""
    heard = [0]
    honest = WatchHub.on_applied

    def on_applied(hub: WatchHub, message: local.EventsApplied) -> None:
        heard[0] += bool(message.records)
        if message.records and heard[0] % 5 == 0:
            message = message.model_copy(update={"records": message.records[1:], "previous": message.previous[1:]})
        honest(hub, message)

    monkeypatch.setattr(WatchHub, "on_applied", on_applied)


@planted("events that were not published and are not read from the log either", WATCHERS, RELIABLE, 12)
def hides_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap is taken for silence (etcd#17529)."""
    tighten(monkeypatch)
    monkeypatch.setattr(WatchHub, "_skip", lambda hub, revision: setattr(hub, "live", revision))


@planted("an event told twice after a pause", WATCHERS, {"watch unique", "watch ordered", "watch atomic"}, 4)
def tells_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that was slow reads the log from a revision too early (etcd#15271, etcd#17247)."""
    honest = WatchHub._enqueue

    def enqueue(hub: WatchHub, watcher: Watcher) -> None:
        watcher.next = max(1, watcher.next - 1)
        honest(hub, watcher)

    monkeypatch.setattr(WatchHub, "_enqueue", enqueue)


@planted("an event lost where a watch is resumed", WATCHERS, RELIABLE, 4)
def resumes_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts in the past hears of what came after its start."""
    honest = WatchHub.add

    def add(hub: WatchHub, watcher: Watcher, start: int) -> None:
        honest(hub, watcher, start + 1 if start <= hub.live else start)

    monkeypatch.setattr(WatchHub, "add", add)


@planted("the events of one revision split over two responses", WATCHERS, "watch atomic", 16)
def splits_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event is a response of its own."""
    honest = watch_wire.cut

    def cut(events: Any, variant: int, through: int) -> list[watch_wire.Chunk]:
        return [chunk for event in events for chunk in honest([event], variant, through)]

    monkeypatch.setattr(watch_hub, "cut", cut)


@planted("progress that overtakes events", WATCHERS, RELIABLE, 60)
def vouches_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told whether or not the log has been read (etcd#15220)."""
    tighten(monkeypatch)
    monkeypatch.setattr(WatchHub, "is_told", lambda _hub, _watcher: True)


@planted("replaced pairs of the neighbouring event", WATCHERS, {"watch prev_kv"}, 12)
def mixes_up_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """prev_kv is another's."""
    honest = EventFeed._applied

    def applied(feed: EventFeed, after: int, through: int, records: Any, previous: Any) -> local.EventsApplied:
        return honest(feed, after, through, records, list(reversed(previous)))

    monkeypatch.setattr(EventFeed, "_applied", applied)
