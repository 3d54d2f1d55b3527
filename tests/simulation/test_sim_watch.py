"""Watching clients in simulated clusters: every promise holds, and broken records are noticed."""

from typing import Any

import pytest
from plants_watch import tighten

from protocol.wire.mvcc_pb2 import Event, KeyValue
from protocol.wire.rpc_pb2 import ResponseHeader, WatchCreateRequest, WatchResponse
from sim.run import Options
from sim.trouble import SimulationFailed
from sim.watch_checkers import WatchRecord, changes_of, check_watch
from sim.watch_run import run_watch_seed

SHORT = Options(nodes=3, ticks=60)


@pytest.mark.parametrize("seed", [1, 8, 21])
def test_watchers_are_told_the_truth_under_faults(seed: int) -> None:
    """Members die, logs are compacted, streams are lost and resumed: every promise of watches holds."""
    report = run_watch_seed(seed, SHORT)

    assert report.failure is None, f"{report.failure.rule}: {report.failure.text}"
    assert report.counts["watch_events_checked"] > 20
    assert report.counts["watches_whole"] == 6
    assert report.counts["watches_opened"] > 6


def test_one_seed_is_one_trace() -> None:
    """A run with watchers repeats to the bit."""
    assert run_watch_seed(5, SHORT).digest == run_watch_seed(5, SHORT).digest


@pytest.mark.parametrize("seed", [2, 9])
def test_watchers_are_told_the_truth_within_tight_bounds(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Where nearly everything comes from the log, every promise holds as well."""
    tighten(monkeypatch)
    report = run_watch_seed(seed, SHORT)

    assert report.failure is None, f"{report.failure.rule}: {report.failure.text}"
    assert report.counts["watch_events_checked"] > 20


# --- the checkers by themselves ----------------------------------------------------------------------


def pair(key: bytes, value: bytes, create: int, mod: int, version: int) -> KeyValue:
    """A stored pair."""
    return KeyValue(key=key, value=value, create_revision=create, mod_revision=mod, version=version)


A2, A3, B3 = pair(b"a", b"1", 2, 2, 1), pair(b"a", b"2", 2, 3, 2), pair(b"b", b"1", 3, 3, 1)
PAST = {1: {}, 2: {b"a": A2}, 3: {b"a": A3, b"b": B3}, 4: {b"b": B3}}
PUT_A2 = Event(kv=A2)
PUT_A3, PUT_B3 = Event(kv=A3, prev_kv=A2), Event(kv=B3)
DELETE_A4 = Event(type=Event.DELETE, kv=KeyValue(key=b"a", mod_revision=4), prev_kv=A3)
ALL = WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=2, prev_kv=True)


def told(*events: Event, revision: int = 4, **fields: Any) -> WatchResponse:
    """A response."""
    return WatchResponse(header=ResponseHeader(revision=revision), events=events, **fields)


CREATED = told(revision=1, created=True)
GOOD = [CREATED, told(PUT_A2, revision=2), told(PUT_A3, PUT_B3, revision=3), told(DELETE_A4), told()]


def judge(*responses: WatchResponse, whole: bool = True, compacted: int = -1) -> None:
    """Hold responses against the history above."""
    check_watch(WatchRecord("w", ALL, list(responses), whole), PAST, changes_of(PAST), compacted)


def test_record_that_keeps_every_promise_passes() -> None:
    """So does one that was cut short, and one that a compaction has cancelled."""
    judge(*GOOD)
    judge(*GOOD[:2], whole=False)
    judge(CREATED, told(PUT_A2), told(canceled=True, compact_revision=4, revision=0), compacted=4)


@pytest.mark.parametrize(
    ("rule", "responses"),
    [
        ("created first", [GOOD[1], CREATED]),
        ("watch ordered", [CREATED, told(PUT_A3, PUT_B3), told(PUT_A2)]),
        ("watch unique", [CREATED, told(PUT_A2), told(PUT_A2)]),
        ("watch atomic", [CREATED, told(PUT_A2), told(PUT_A3), told(PUT_B3)]),
        ("watch reliable", [CREATED, told(PUT_A2), told(DELETE_A4)]),
        ("watch reliable", GOOD[:3]),
        ("watch bookmarkable", [CREATED, told(PUT_A2), told(revision=3), *GOOD[2:]]),
        ("watch tells the truth", [CREATED, told(Event(kv=pair(b"a", b"9", 2, 2, 1))), *GOOD[2:]]),
        ("watch prev_kv", [CREATED, GOOD[1], told(Event(kv=A3), PUT_B3), told(DELETE_A4)]),
        ("watch cancelled", [*GOOD, told(canceled=True, compact_revision=3, revision=0)]),
    ],
)
def test_broken_promise_is_named(rule: str, responses: list[WatchResponse]) -> None:
    """Each check fails for what it is there for."""
    with pytest.raises(SimulationFailed) as caught:
        judge(*responses, compacted=3 if rule == "watch cancelled" else -1)

    assert caught.value.rule == rule
