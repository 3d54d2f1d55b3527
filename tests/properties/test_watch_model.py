"""Every watcher hears everything it asked for, in order, once, whole revisions, whatever comes late, slow or again."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from actors import event_feed
from gateway import streams, watch_hub, watch_wire
from protocol.wire.rpc_pb2 import DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, WatchCreateRequest
from storage import history

sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "gateway"))
from watch_world import Heard, WatchWorld

KEYS = [b"a", b"aa", b"ab", b"b", b"c"]
keys = st.sampled_from(KEYS)
ends = st.sampled_from([b"", b"", b"\x00", b"aa", b"b", b"c", b"d"])
values = st.sampled_from([b"1", b"22", b"\xff" * 60])

TIGHT = (
    (history, "HISTORY_ROWS_MAX", 3),
    (history, "HISTORY_BYTES_MAX", 150),
    (event_feed, "EVENT_MESSAGE_BYTES", 150),
    (event_feed, "TURN_BYTES_MAX", 600),
    (event_feed, "TURN_EVENTS_MAX", 8),
    (event_feed, "EVENT_CREDIT_BYTES", 400),
    (watch_hub, "CREDIT_STEP_BYTES", 100),
    (watch_hub, "JOB_WATCHERS_MAX", 3),
    (streams, "ROOM_BYTES", 300),
    (watch_wire, "CHUNK_BYTES", 100),
)
"""Every bound so small that a few events meet it."""


class Watches(RuleBasedStateMachine):
    """Random writers, watchers, readers, compactions and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = WatchWorld(response_bytes_max=200)

    @rule(key=keys, value=values)
    def put(self, key: bytes, value: bytes) -> None:
        """Write a pair."""
        self.world.do(PutRequest(key=key, value=value))

    @rule(key=keys, range_end=ends)
    def delete(self, key: bytes, range_end: bytes) -> None:
        """Delete a key or a range."""
        self.world.do(DeleteRangeRequest(key=key, range_end=range_end))

    @rule(chosen=st.lists(keys, unique=True, min_size=2), value=values, deleted=st.integers(0, 2))
    def txn(self, chosen: list[bytes], value: bytes, deleted: int) -> None:
        """Write several keys in one revision."""
        operations = [
            RequestOp(request_delete_range=DeleteRangeRequest(key=key))
            if at < deleted
            else RequestOp(request_put=PutRequest(key=key, value=value))
            for at, key in enumerate(chosen)
        ]
        self.world.do(TxnRequest(success=operations))

    @rule(back=st.integers(0, 5))
    def compact(self, back: int) -> None:
        """Give up history, sometimes all of it."""
        self.world.compact(max(1, self.world.driver.store.revision - back))

    @rule()
    def flush(self) -> None:
        """Make the store durable."""
        self.world.driver.store.engine.flush()

    @precondition(lambda self: len(self.world.clients) < 4)
    @rule()
    def connect(self) -> None:
        """Open another stream."""
        self.world.connect()

    def client(self, data: st.DataObject) -> Heard:
        """Choose a client."""
        return data.draw(st.sampled_from(sorted(self.world.clients.items())))[1]

    @precondition(lambda self: self.world.clients)
    @rule(
        data=st.data(),
        key=st.sampled_from([b"", *KEYS]),
        range_end=ends,
        back=st.one_of(st.none(), st.integers(-4, 12)),
        prev_kv=st.booleans(),
        fragment=st.booleans(),
        filters=st.sampled_from([[], [], [WatchCreateRequest.NOPUT], [WatchCreateRequest.NODELETE]]),
        watch_id=st.sampled_from([0, 0, 3]),
    )
    def watch(self, data: st.DataObject, back: int | None, **fields: Any) -> None:
        """Ask for a watcher that starts now, earlier or later."""
        start = 0 if back is None else self.world.driver.store.revision - back
        self.world.watch(self.client(data), start_revision=start, **fields)

    @precondition(lambda self: any(client.created for client in self.world.clients.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancel a watcher."""
        client = self.client(data)
        for watch_id in sorted(client.created)[:1]:
            self.world.cancel(client, watch_id)

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data())
    def ask_progress(self, data: st.DataObject) -> None:
        """Ask how far a stream is."""
        self.world.ask_progress(self.client(data))

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data(), limit=st.one_of(st.none(), st.integers(1, 4)))
    def read(self, data: st.DataObject, limit: int | None) -> None:
        """A client takes some of what waits for it."""
        self.client(data).read(limit)

    @rule(limit=st.one_of(st.none(), st.integers(1, 3)))
    def applier_turn(self, limit: int | None) -> None:
        """The applier's turn."""
        self.world.applier_turn(limit)

    @rule(limit=st.one_of(st.none(), st.integers(1, 3)))
    def gateway_turn(self, limit: int | None) -> None:
        """The gateway's turn."""
        self.world.gateway_turn(limit)

    @rule()
    def restart_applier(self) -> None:
        """The applier dies and replays."""
        self.world.restart_applier()

    @rule(number=st.integers(0, 3))
    def show(self, number: int) -> None:
        """A client of this gateway has been shown the newest revision, before its events have come."""
        self.world.shown = max(self.world.shown, self.world.driver.store.revision - number)

    def teardown(self) -> None:
        """Once everything moves, everybody who was not cancelled has heard everything."""
        world = self.world
        world.settle()
        for client in world.clients.values():
            for watch_id in client.created:
                client.check_complete(watch_id, world.driver.store.revision)


@pytest.mark.parametrize("tight", [True, False])
def test_watchers_hear_everything_once_and_in_order(monkeypatch: pytest.MonkeyPatch, tight: bool) -> None:
    """The model agrees, with bounds that every few events meet and with the real ones."""
    if tight:
        for module, name, value in TIGHT:
            monkeypatch.setattr(module, name, value)
    run_state_machine_as_test(
        Watches,
        settings=settings(
            max_examples=120 if tight else 40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
