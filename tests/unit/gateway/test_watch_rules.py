"""etcd's rules of watches (feature map, rules 31 to 43), one by one."""

import pytest
from watch_world import ALL, Heard, WatchWorld

from gateway import streams, watch_wire
from protocol.errors import ErrorCode
from protocol.types import Millis
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc
from storage import history

ONLY_DELETES = [rpc.WatchCreateRequest.NOPUT]
ONLY_PUTS = [rpc.WatchCreateRequest.NODELETE]


@pytest.fixture(name="world")
def make_world() -> WatchWorld:
    """A world whose store is at revision 1."""
    return WatchWorld()


def told(client: Heard, watch_id: int = 0) -> list[tuple[int, str, bytes]]:
    """What a watcher has heard: revision, kind, key."""
    return [(change.main, "PUT" if change.put else "DELETE", change.key) for change in client.heard[watch_id]]


def watching(world: WatchWorld, key: bytes, range_end: bytes = b"", **fields: object) -> Heard:
    """A client with one watcher that was created."""
    client = world.connect()
    world.watch(client, key, range_end, **fields)
    world.settle()
    return client


# --- 31: ids -----------------------------------------------------------------------------------------


def test_ids_are_counted_up_and_given_ones_are_kept(world: WatchWorld) -> None:
    """Id 0 asks for the next number, counted from 0 and past those in use; another id is taken as it is."""
    client = world.connect()
    for watch_id in (0, 1, 0, 7, 0):
        world.watch(client, b"k", watch_id=watch_id)
    world.settle()

    assert [response.watch_id for response in client.responses] == [0, 1, 2, 7, 3]
    assert all(response.created and not response.canceled for response in client.responses)


def test_id_in_use_is_refused(world: WatchWorld) -> None:
    """A duplicate id is answered as created and canceled at once, with id -1; the first watcher goes on."""
    client = world.connect()
    world.watch(client, b"k", watch_id=5)
    world.watch(client, b"other", watch_id=5)
    world.settle()
    world.put(b"k")
    world.settle()

    (refused,) = client.refused
    assert (refused.watch_id, refused.cancel_reason) == (-1, "mvcc: duplicate watch ID provided on the WatchStream")
    assert told(client, 5) == [(2, "PUT", b"k")]


def test_ids_of_different_streams_are_their_own(world: WatchWorld) -> None:
    """Two streams may use the same id."""
    first, second = world.connect(), world.connect()
    world.watch(first, b"a")
    world.watch(second, b"b")
    world.settle()
    world.put(b"a")
    world.put(b"b")
    world.settle()

    assert told(first) == [(2, "PUT", b"a")]
    assert told(second) == [(3, "PUT", b"b")]


def test_several_watchers_of_one_stream_hear_each_for_itself(world: WatchWorld) -> None:
    """An event goes to every watcher whose range has it, with that watcher's id."""
    client = world.connect()
    world.watch(client, b"a")
    world.watch(client, b"a", b"c")
    world.watch(client, b"b", ALL)
    world.settle()
    for key in (b"a", b"b", b"c"):
        world.put(key)
    world.settle()

    assert told(client, 0) == [(2, "PUT", b"a")]
    assert told(client, 1) == [(2, "PUT", b"a"), (3, "PUT", b"b")]
    assert told(client, 2) == [(3, "PUT", b"b"), (4, "PUT", b"c")]


# --- 32, 33: where it begins ---------------------------------------------------------------------------


def test_first_answer_tells_the_revision_to_resume_from(world: WatchWorld) -> None:
    """Created comes first, and its header is where a watcher without a start begins."""
    world.put(b"k")
    client = watching(world, b"k")
    world.put(b"k")
    world.settle()

    assert client.responses[0].created
    assert client.responses[0].header.revision == 2
    assert told(client) == [(3, "PUT", b"k")]


def test_watch_from_the_past_replays_history(world: WatchWorld) -> None:
    """A start at or below the current revision tells what has happened since, that revision included."""
    for _ in range(3):
        world.put(b"k")
    client = watching(world, b"k", start_revision=3)

    assert told(client) == [(3, "PUT", b"k"), (4, "PUT", b"k")]


def test_watch_from_the_future_hears_nothing_earlier(world: WatchWorld) -> None:
    """A start above the current revision waits for it."""
    client = watching(world, b"k", start_revision=4)
    for _ in range(4):
        world.put(b"k")
        world.settle()

    assert told(client) == [(4, "PUT", b"k"), (5, "PUT", b"k")]


def test_start_below_the_compacted_revision_is_cancelled(world: WatchWorld) -> None:
    """Created first, then canceled with the compact revision: no events, no reason, revision 0."""
    for _ in range(5):
        world.put(b"k")
    world.compact(4)
    client = watching(world, b"k", start_revision=3)

    created, canceled = client.responses
    assert created.created
    assert not created.canceled
    assert (canceled.canceled, canceled.compact_revision, canceled.cancel_reason) == (True, 4, "")
    assert (canceled.header.revision, len(canceled.events), canceled.watch_id) == (0, 0, 0)


def test_start_at_the_compacted_revision_is_complete(world: WatchWorld) -> None:
    """The compacted revision itself can still be watched from."""
    for _ in range(5):
        world.put(b"k")
    world.compact(4)
    client = watching(world, b"k", start_revision=4)

    assert [main for main, _, _ in told(client)] == [4, 5, 6]


def test_negative_start_is_refused(world: WatchWorld) -> None:
    """As etcd does: created and canceled at once, as compacted."""
    client = watching(world, b"k", start_revision=-1)

    (refused,) = client.refused
    assert (refused.watch_id, refused.cancel_reason) == (-1, "etcdserver: mvcc: required revision has been compacted")


# --- 34: ranges ----------------------------------------------------------------------------------------


def test_empty_key_is_the_smallest_key(world: WatchWorld) -> None:
    """An empty key stands for the zero byte, so with an open end it is everything."""
    client = watching(world, b"", ALL)
    world.put(b"\x00")
    world.put(b"\xff")
    world.settle()

    assert told(client) == [(2, "PUT", b"\x00"), (3, "PUT", b"\xff")]


@pytest.mark.parametrize("end", [b"b", b"a"])
def test_range_that_ends_before_it_begins_is_refused(world: WatchWorld, end: bytes) -> None:
    """An empty range is no range."""
    client = watching(world, b"b", end)

    (refused,) = client.refused
    assert (refused.watch_id, refused.cancel_reason) == (-1, "mvcc: watcher range is empty")


# --- 35, 36: events ------------------------------------------------------------------------------------


def test_revision_comes_whole_and_in_the_order_of_its_operations(world: WatchWorld) -> None:
    """The events of one txn are in one response, in the order in which the txn made them."""
    world.put(b"gone")
    client = watching(world, b"", ALL)
    operations = [rpc.RequestOp(request_put=rpc.PutRequest(key=key)) for key in (b"z", b"a", b"m")]
    operations.insert(1, rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=b"gone")))
    world.do(rpc.TxnRequest(success=operations))
    world.settle()

    assert len(client.responses) == 2
    assert told(client) == [(3, "PUT", b"z"), (3, "DELETE", b"gone"), (3, "PUT", b"a"), (3, "PUT", b"m")]


def test_deletion_tells_key_and_revision_only(world: WatchWorld) -> None:
    """A DELETE has no value, create revision or version."""
    world.put(b"k", b"value")
    client = watching(world, b"k")
    world.do(rpc.DeleteRangeRequest(key=b"k"))
    world.settle()

    (event,) = client.responses[-1].events
    assert event.type == mvcc.Event.DELETE
    assert event.kv == mvcc.KeyValue(key=b"k", mod_revision=3)
    assert not event.HasField("prev_kv")


def test_replaced_pair_comes_with_prev_kv(world: WatchWorld) -> None:
    """prev_kv adds the pair before, for overwrites and deletions, not for the first put; live and from the log."""
    world.put(b"k", b"1")
    live = watching(world, b"k", prev_kv=True)
    world.put(b"k", b"2")
    world.do(rpc.DeleteRangeRequest(key=b"k"))
    world.put(b"k", b"3")
    world.settle()
    late = watching(world, b"k", prev_kv=True, start_revision=2)

    for client, values in ((live, [b"1", b"2", None]), (late, [None, b"1", b"2", None])):
        events = [event for response in client.responses for event in response.events]
        assert [event.prev_kv.value if event.HasField("prev_kv") else None for event in events] == values


def test_replaced_pair_below_the_compacted_revision_is_left_out(world: WatchWorld) -> None:
    """What a read could not see any more is not told either."""
    for value in (b"1", b"2", b"3"):
        world.put(b"k", value)
    world.compact(3)
    client = watching(world, b"k", prev_kv=True, start_revision=3)

    events = [event for response in client.responses for event in response.events]
    assert [event.HasField("prev_kv") for event in events] == [False, True]


def test_watchers_with_and_without_prev_kv_share_nothing_but_the_event(world: WatchWorld) -> None:
    """One event, two forms."""
    world.put(b"k", b"1")
    client = world.connect()
    world.watch(client, b"k")
    world.watch(client, b"k", prev_kv=True)
    world.settle()
    world.put(b"k", b"2")
    world.settle()

    by_id = {response.watch_id: response.events[0] for response in client.responses if response.events}
    assert not by_id[0].HasField("prev_kv")
    assert by_id[1].prev_kv.value == b"1"


# --- 37: filters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("filters", "kinds"), [(ONLY_PUTS, ["PUT"]), (ONLY_DELETES, ["DELETE"])])
def test_filters_drop_events_and_send_nothing_empty(world: WatchWorld, filters: list[int], kinds: list[str]) -> None:
    """What is filtered out is not told, and a response without events is not sent."""
    client = watching(world, b"k", filters=filters)
    world.put(b"k")
    world.settle()
    world.do(rpc.DeleteRangeRequest(key=b"k"))
    world.settle()

    assert [kind for _, kind, _ in told(client)] == kinds
    assert len(client.responses) == 2


# --- 38, 39: progress ----------------------------------------------------------------------------------


def test_silent_watcher_hears_of_progress_at_intervals() -> None:
    """With progress_notify, and nothing sent in the interval, an empty response tells the revision."""
    world = WatchWorld(progress_interval_ms=1000)
    client = world.connect()
    world.watch(client, b"k", progress_notify=True)
    world.watch(client, b"k")
    world.settle()
    world.put(b"other")
    world.settle()
    due = world.service.deadline
    assert due is not None
    assert 1000 <= due <= 1100
    world.service.wake(due)
    world.settle()

    told_progress = client.responses[2:]
    assert [(response.watch_id, response.header.revision, len(response.events)) for response in told_progress] == [
        (0, 2, 0)
    ]


def test_watcher_that_heard_something_is_not_told_of_progress() -> None:
    """An event in the interval spares the notification, the next interval does not."""
    world = WatchWorld(progress_interval_ms=1000)
    client = watching(world, b"k", progress_notify=True)
    world.put(b"k")
    world.settle()
    world.service.wake(Millis(1100))
    world.settle()
    assert len(client.responses) == 2

    world.service.wake(Millis(2300))
    world.settle()

    assert client.responses[-1].header.revision == 2
    assert not client.responses[-1].events


def test_watcher_in_the_past_is_not_told_of_progress() -> None:
    """Who has not been told everything makes no progress."""
    world = WatchWorld(progress_interval_ms=1000)
    client = world.connect()
    world.put(b"k")
    world.watch(client, b"k", progress_notify=True, start_revision=2)
    world.end_gateway_turn()
    world.applier_turn()
    world.gateway_turn()  # created; the log is asked for and has not answered
    world.service.wake(Millis(1100))
    world.end_gateway_turn()
    client.read()

    assert [response.created for response in client.responses] == [True]


def test_asked_progress_has_id_minus_one_and_the_revision(world: WatchWorld) -> None:
    """One answer for the whole stream."""
    client = world.connect()
    world.watch(client, b"k")
    world.watch(client, b"other")
    world.settle()
    world.put(b"k")
    world.shown = 2  # the put has been answered by this gateway, its event is still on its way
    world.ask_progress(client)
    world.settle()

    assert client.progress == [2]


def test_progress_of_a_stream_without_watchers_is_answered(world: WatchWorld) -> None:
    """There is nothing that could be missing."""
    world.put(b"k")
    client = world.connect()
    world.ask_progress(client)
    world.settle()

    assert client.progress == [2]


def test_asked_progress_waits_for_watchers_that_are_behind(world: WatchWorld) -> None:
    """It never vouches for events that were not sent, so it comes once the log has been read."""
    for _ in range(3):
        world.put(b"k")
    client = world.connect()
    world.watch(client, b"k", start_revision=2)
    world.ask_progress(client)
    world.applier_turn()
    world.gateway_turn()
    client.read()
    assert client.progress == []
    world.settle()

    assert client.progress == [4]
    assert len(client.heard[0]) == 3


def test_asked_progress_waits_for_the_start_of_a_watcher(world: WatchWorld) -> None:
    """A watcher that begins in the future has reached nothing yet."""
    client = watching(world, b"k", start_revision=3)
    world.ask_progress(client)
    world.settle()
    assert client.progress == []

    world.put(b"other")
    world.settle()

    assert client.progress == [2]


def test_progress_never_comes_before_the_end_of_a_watcher_that_missed_something(world: WatchWorld) -> None:
    """A watcher that is cancelled while it is behind no longer holds progress up, but its end comes first."""
    client = watching(world, b"k")
    world.put(b"k")
    world.begin_restart()
    world.ask_progress(client)
    world.cancel(client, 0)
    world.end_restart()
    world.settle()

    assert [response.canceled for response in client.responses[1:]] == [True, False]
    assert client.progress == [2]


# --- 40: fragments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fragment", [True, False])
def test_large_revision_is_cut_only_for_who_takes_fragments(fragment: bool) -> None:
    """Parts of a response say that more comes, but for the last; without the option it comes in one."""
    world = WatchWorld(response_bytes_max=1000)
    client = watching(world, b"", ALL, fragment=fragment)
    operations = [
        rpc.RequestOp(request_put=rpc.PutRequest(key=b"%03d" % number, value=bytes(300))) for number in range(10)
    ]
    world.do(rpc.TxnRequest(success=operations))
    world.settle()

    parts = [response for response in client.responses if response.events]
    if fragment:
        assert [part.fragment for part in parts] == [True] * (len(parts) - 1) + [False]
        assert len(parts) > 3
        assert all(part.ByteSize() <= 1000 for part in parts)
    else:
        assert len(parts) == 1
    assert [key for _, _, key in told(client)] == [b"%03d" % number for number in range(10)]


@pytest.mark.sources
def test_many_revisions_are_cut_between_revisions(world: WatchWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long history comes in responses of bounded size, none of which splits a revision."""
    monkeypatch.setattr(watch_wire, "CHUNK_BYTES", 1000)
    for _ in range(20):
        world.put(b"k", bytes(200))
    client = watching(world, b"k", start_revision=2)

    parts = [response for response in client.responses if response.events]
    assert len(parts) > 3
    assert all(part.ByteSize() < 1600 for part in parts)
    assert len(told(client)) == 20


def test_watcher_of_one_key_is_told_the_end_of_a_revision_larger_than_a_slice(
    world: WatchWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice of the log that ends inside a revision goes on there, also when it held nothing for the watcher yet."""
    monkeypatch.setattr(history, "HISTORY_ROWS_MAX", 2)
    operations = [rpc.RequestOp(request_put=rpc.PutRequest(key=b"%d" % number)) for number in range(9)]
    world.do(rpc.TxnRequest(success=operations))
    client = watching(world, b"7", start_revision=2)

    assert told(client) == [(2, "PUT", b"7")]


def test_replaced_pairs_are_asked_for_anew_after_nobody_wanted_them(world: WatchWorld) -> None:
    """A watcher with prev_kv that comes while the applier is being told to leave them out still gets them."""
    world.put(b"k", b"1")
    client = watching(world, b"k")
    world.watch(client, b"k", prev_kv=True)
    world.settle()
    world.cancel(client, 1)
    world.end_gateway_turn()  # the applier is about to hear that nobody wants them
    world.watch(client, b"k", prev_kv=True)
    world.settle()
    world.put(b"k", b"2")
    world.settle()

    (change,) = client.heard[2]
    assert mvcc.KeyValue.FromString(change.previous).value == b"1"


# --- 41: the end ---------------------------------------------------------------------------------------


def test_cancelled_watcher_is_told_so_and_hears_nothing_more(world: WatchWorld) -> None:
    """One answer with the id and no reason; unknown ids are ignored; the id may be used again."""
    client = watching(world, b"k")
    world.cancel(client, 0)
    world.cancel(client, 0)
    world.cancel(client, 99)
    world.put(b"k")
    world.settle()

    assert len(client.responses) == 2
    answer = client.canceled[0]
    assert (answer.cancel_reason, answer.compact_revision, answer.header.revision) == ("", 0, 1)
    assert told(client) == []
    world.watch(client, b"k", watch_id=7)
    world.cancel(client, 7)
    world.watch(client, b"k", watch_id=7)
    world.settle()
    assert 7 in client.created


def test_half_closed_stream_goes_on(world: WatchWorld) -> None:
    """A client that only listens is told what happens, as etcd's gateway for HTTP needs it."""
    client = watching(world, b"k")
    world.table.half_close(client.call_id, world.now)
    world.put(b"k")
    world.settle()

    assert told(client) == [(2, "PUT", b"k")]


def test_stream_that_ends_frees_its_watchers_and_the_applier(world: WatchWorld) -> None:
    """Nobody watches any more: nothing is kept, and writes are not published."""
    client = watching(world, b"k")
    assert world.feed.active
    world.table.cancel(client.call_id)
    world.end_gateway_turn()
    world.applier_turn()

    assert world.hub.watchers == 0
    assert not world.feed.active
    world.put(b"k")
    world.applier_turn()
    assert not world.to_gateway
    assert world.driver.store.on_commit is None


def test_malformed_request_ends_the_stream(world: WatchWorld) -> None:
    """Bytes that are no request end the stream, its watchers included."""
    client = watching(world, b"k")
    world.table.message(client.call_id, b"\xff\xff", world.now)
    world.settle()

    assert client.outcome is ErrorCode.MALFORMED
    assert world.hub.watchers == 0


def test_watchers_over_the_limit_are_refused(world: WatchWorld) -> None:
    """There is a bound on watchers, and an answer for who comes over it."""
    world.hub.watchers_max = 1
    client = watching(world, b"k")
    world.watch(client, b"k")
    world.settle()

    (refused,) = client.refused
    assert refused.cancel_reason == "etcdserver: too many requests"


# --- 42: slow clients ----------------------------------------------------------------------------------


@pytest.mark.sources
def test_slow_client_reads_the_log_and_holds_up_nobody(world: WatchWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing costs a bounded buffer, others hear at once, and later it hears everything."""
    monkeypatch.setattr(streams, "ROOM_BYTES", 2000)
    slow, quick = watching(world, b"k"), watching(world, b"k")
    for _ in range(50):
        world.put(b"k", bytes(500))
        world.applier_turn()
        world.gateway_turn()
        quick.read()

    assert len(told(quick)) == 50
    assert sum(map(len, slow.waiting)) < 3000
    world.settle()

    assert told(slow) == told(quick)


@pytest.mark.sources
def test_compaction_that_passes_a_slow_watcher_cancels_it(world: WatchWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that cannot be told everything is told that, with the revision."""
    monkeypatch.setattr(streams, "ROOM_BYTES", 1000)
    slow, quick = watching(world, b"k"), watching(world, b"k")
    for _ in range(30):
        world.put(b"k", bytes(500))
        world.settle(reading=False)
        quick.read()
    world.compact(20)
    world.settle()

    assert slow.canceled[0].compact_revision == 20
    mains = [main for main, _, _ in told(slow)]
    assert mains == list(range(2, 2 + len(mains)))
    assert len(told(quick)) == 30
