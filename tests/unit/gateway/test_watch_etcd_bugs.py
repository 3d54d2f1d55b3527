"""Bugs that etcd's watches once had, each as a test: none of them may be ours."""

import pytest
from watch_world import ALL, Heard, WatchWorld

from gateway import streams, watch_hub
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc
from storage import history


@pytest.fixture(name="world")
def make_world() -> WatchWorld:
    """A world whose store is at revision 1."""
    return WatchWorld()


def mains(client: Heard, watch_id: int = 0) -> list[int]:
    """Revisions a watcher has heard of."""
    return [change.main for change in client.heard[watch_id]]


def test_17529_starved_watchers_lose_nothing(world: WatchWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of prev_kv watchers on one clogged stream: each hears everything, or is cancelled by the compaction."""
    monkeypatch.setattr(streams, "ROOM_BYTES", 4000)
    monkeypatch.setattr(history, "HISTORY_BYTES_MAX", 2000)
    client, other = world.connect(), world.connect()
    for _ in range(300):
        world.watch(client, b"k", prev_kv=True)
    world.watch(other, b"k", prev_kv=True)
    world.settle()
    for number in range(40):
        world.put(b"k", b"%d" % number * 50)
        world.settle(reading=False)
        other.read()
        client.read(3)
    assert len(mains(other)) == 40, "a stream that keeps up is not held back by one that does not"
    world.compact(20)
    world.settle()

    for watch_id in range(300):
        heard = mains(client, watch_id)
        assert heard == list(range(2, 2 + len(heard)))
        cancelled = client.canceled.get(watch_id)
        assert len(heard) == 40 if cancelled is None else cancelled.compact_revision == 20


def test_16839_slow_clients_with_large_values_cost_bounded_memory(world: WatchWorld) -> None:
    """1 MB values to 20 streams that read nothing: what is held is a few messages each, not the history."""
    slow = [world.connect() for _ in range(20)]
    for client in slow:
        world.watch(client, b"k")
    world.settle()
    for _ in range(30):
        world.put(b"k", bytes(1_000_000))
        world.settle(reading=False)

    assert world.table.unsent_bytes <= 20 * (streams.ROOM_BYTES + 1_000_100)
    world.settle()
    assert all(len(mains(client)) == 30 for client in slow)


def test_15220_progress_does_not_overtake_events(world: WatchWorld) -> None:
    """Progress asked for while events are on their way, or while the log is read, comes behind them."""
    client = world.connect()
    world.watch(client, b"k")
    world.settle()
    for step in range(1, 6):
        world.put(b"k")
        world.applier_turn(limit=step % 2)
        world.ask_progress(client)
        world.gateway_turn(limit=step % 3)
        client.read()  # `Heard` holds every progress response against what the watcher has heard
    world.settle()

    assert client.progress
    assert mains(client) == [2, 3, 4, 5, 6]


def test_15271_watch_does_not_go_back_when_the_store_does(world: WatchWorld) -> None:
    """A store that opens older than what was told catches up in silence: nothing is told twice."""
    world.put(b"k", b"1")
    world.driver.store.engine.flush()
    client = world.connect()
    world.watch(client, b"k", start_revision=2)
    world.settle()
    for value in (b"2", b"3", b"4"):
        world.put(b"k", value)
        world.settle()
    world.restart_applier()
    late = world.connect()
    world.watch(late, b"k")
    world.put(b"k", b"5")
    world.settle()

    assert mains(client) == [2, 3, 4, 5, 6]
    assert mains(late) in ([6], [])


def test_17247_event_is_not_told_twice_around_a_restart(world: WatchWorld) -> None:
    """Events published again by an applier that replays were told before, and are not told again."""
    client = world.connect()
    world.watch(client, b"", ALL)
    world.settle()
    for number in range(5):
        world.put(b"%d" % number)
    world.applier_turn()
    world.gateway_turn()
    for _ in range(3):
        world.restart_applier()
    world.settle()

    assert mains(client) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("start", [4, 5])
def test_18089_19179_compaction_on_a_deletion_keeps_it(world: WatchWorld, start: int) -> None:
    """A watch from the compacted revision sees the deletion at it, and the one after it."""
    world.put(b"a")
    world.put(b"b")
    world.do(rpc.DeleteRangeRequest(key=b"a"))
    world.do(rpc.DeleteRangeRequest(key=b"b"))
    world.compact(4)
    client = world.connect()
    world.watch(client, b"a", b"c", start_revision=start)
    world.settle()

    assert mains(client) == [main for main in (4, 5) if main >= start]
    assert all(not change.put for change in client.heard[0])


def test_20221_future_watcher_is_told_nothing_older_after_a_gap(
    world: WatchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start in the future is kept when events were not published but stand in the log (an installed snapshot)."""
    client = world.connect()
    world.watch(client, b"k", start_revision=6)
    world.watch(client, b"k")
    world.settle()
    monkeypatch.setattr(world.feed, "_records", [])
    for number in range(8):
        world.put(b"k")
        world.feed._drop()  # as if another store had been put in this one's place
        if number % 3 == 2:
            world.settle()
    world.settle()

    assert mains(client) == [6, 7, 8, 9]
    assert mains(client, 1) == list(range(2, 10))


def test_one_key_watcher_hears_of_no_later_key(world: WatchWorld) -> None:
    """A watcher of one key is not a watcher from that key on (GHSA-xg4h-6gfc-h4m8), live or from the log."""
    client = world.connect()
    world.watch(client, b"k")
    world.settle()
    for key in (b"j", b"k", b"k\x00", b"ka", b"l"):
        world.put(key)
    world.watch(client, b"k", start_revision=2)
    world.settle()

    assert [change.key for change in (*client.heard[0], *client.heard[1])] == [b"k", b"k"]


def test_watchers_that_resume_together_read_the_log_together(
    world: WatchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand watchers that come back after a failure cost a few slices, not a thousand, and nobody starves."""
    monkeypatch.setattr(history, "HISTORY_ROWS_MAX", 100)
    for number in range(200):
        world.put(b"%d" % (number % 50))
    client = world.connect()
    for number in range(1000):
        world.watch(client, b"%d" % (number % 50), start_revision=2 + number % 2)
    world.settle()

    assert world.hub._sequence <= 4 * (1000 // watch_hub.JOB_WATCHERS_MAX + 1)
    assert all(len(mains(client, watch_id)) in (3, 4) for watch_id in range(1000))


def test_event_of_many_watchers_is_encoded_once(world: WatchWorld) -> None:
    """The bytes of a large event are the same object in the queue of every stream."""
    clients = [world.connect() for _ in range(50)]
    for client in clients:
        world.watch(client, b"k")
    world.settle()
    world.put(b"k", bytes(100_000))
    world.applier_turn()
    while world.to_gateway:
        from protocol import codec, local

        message = codec.decode(world.to_gateway.popleft())
        assert isinstance(message, local.EventsApplied)
        world.hub.on_applied(message)

    payloads = {id(pieces[-1]) for stream in world.table.dirty for pieces in stream.outbox}
    assert len(world.table.dirty) == 50
    assert len(payloads) == 1
    world.settle()
    assert mvcc.KeyValue.FromString(clients[0].heard[0][0].pair).value == bytes(100_000)
