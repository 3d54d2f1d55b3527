"""Watches and caches of both clients against real doors: what is heard, and what survives."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from clusters import wait_until
from zmq_node import TIMEOUT_S, Peer, SoloNode

from actd import AsyncClient, Client, ClientClosed, RequestRefused, WatchCompacted, WatchEvent, calls
from actd.watching import WATCH_METHOD
from gateway.streams import ROOM_BYTES
from protocol.client import (
    STREAM_TAKEN_STEP_BYTES,
    CancelCalls,
    ClientRefused,
    OpenStream,
    SendToStream,
    StreamEnded,
    StreamMessages,
    StreamTaken,
)
from protocol.errors import ErrorCode
from protocol.wire import rpc_pb2 as rpc


@pytest.fixture
def node() -> Iterator[SoloNode]:
    """A node that serves."""
    made = SoloNode().start()
    yield made
    made.close()


@pytest.fixture
def client(node: SoloNode) -> Iterator[Client]:
    """A client of the node."""
    with Client(node.endpoint, timeout_s=TIMEOUT_S) as made:
        yield made


def said(event: WatchEvent | None) -> tuple[str, bytes, bytes]:
    """What an event says."""
    assert event is not None, "no event came in time"
    return event.kind, event.key, event.value


def created(key: bytes = b"k", **fields: int) -> bytes:
    """A request for a watcher."""
    return rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=key, **fields)).SerializeToString()


# --- iterating ---------------------------------------------------------------------------------------


def test_watch_of_a_prefix_hears_what_happens(client: Client) -> None:
    """`for event in client.watch(prefix)`: puts and deletions, of the prefix only, in order."""
    with client.watch("a/") as watch:
        client.put("a/1", "x")
        client.put("b", "elsewhere")
        client.delete("a/1")
        heard = []
        for event in watch:
            heard.append(said(event))
            if len(heard) == 2:
                break

    assert heard == [("put", b"a/1", b"x"), ("delete", b"a/1", b"")]


def test_watch_from_a_revision_hears_history_with_replaced_pairs(client: Client) -> None:
    """History, a single key, and the pair before."""
    first = client.put("k", "1").revision
    client.put("k", "2")
    client.put("kk", "no")
    with client.watch("k", b"", start_revision=first, prev_kv=True) as watch:
        one, two = watch.next(TIMEOUT_S), watch.next(TIMEOUT_S)

    assert one is not None
    assert two is not None
    assert (one.value, one.previous, one.revision) == (b"1", None, first)
    assert two.previous is not None
    assert (two.value, two.previous.value, two.pair.version) == (b"2", b"1", 2)


def test_filters_leave_out_a_kind(client: Client) -> None:
    """`without` keeps puts or deletions away."""
    first = client.put("k", "1").revision
    client.delete("k")
    client.put("k", "2")
    with client.watch("k", start_revision=first, without="delete") as puts:
        assert [said(puts.next(TIMEOUT_S)) for _ in range(2)] == [("put", b"k", b"1"), ("put", b"k", b"2")]
    with client.watch("k", start_revision=first, without="put") as deletions:
        assert said(deletions.next(TIMEOUT_S)) == ("delete", b"k", b"")


def test_compacted_history_is_an_error_of_its_own(client: Client) -> None:
    """A start that is compacted says so, and what can be watched."""
    first = client.put("k", "1").revision
    client.put("k", "2")
    client.compact(first + 1)
    with client.watch("k", start_revision=first) as watch, pytest.raises(WatchCompacted) as caught:
        next(watch)

    assert caught.value.compact_revision == first + 1


def test_watch_that_is_refused_says_why(client: Client) -> None:
    """An empty range is refused in etcd's words."""
    with client.watch("b", b"a") as watch, pytest.raises(RequestRefused, match="mvcc: watcher range is empty"):
        next(watch)


def test_closed_watch_ends_its_loop_and_frees_the_door(client: Client, node: SoloNode) -> None:
    """Closing from another thread ends the iteration; the door keeps nothing."""
    watch = client.watch("k")
    ended = threading.Event()

    def run() -> None:
        for _ in watch:
            raise AssertionError("nothing happens")
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    watch.close()
    thread.join(TIMEOUT_S)

    assert ended.is_set()
    wait_until(lambda: node.on_loop(lambda: len(node.core.streams)) == 0, TIMEOUT_S, "the stream is gone")


def test_closed_client_ends_its_watches(node: SoloNode) -> None:
    """Whoever iterates learns that the client is closed."""
    client = Client(node.endpoint, timeout_s=TIMEOUT_S)
    watch = client.watch("k")
    client.close()

    with pytest.raises(ClientClosed):
        next(watch)


def test_watch_resumes_over_restarts_without_gap_or_repetition(client: Client, node: SoloNode) -> None:
    """The door dies and comes back, several times: every event once, in order, those in between included."""
    with client.watch("k") as watch:
        heard = []
        for life in range(3):
            client.put("k", f"{life} before")
            heard.append(said(watch.next(TIMEOUT_S)))
            node.kill()
            node.start()
            client.put("k", f"{life} after")
        heard += [said(watch.next(TIMEOUT_S)) for _ in range(3)]
        assert watch.next(0.05) is None

    expected = [f"{life} {when}".encode() for life in range(3) for when in ("before", "after")]
    assert [value for _, _, value in heard] == expected


def test_reader_that_is_slow_hears_everything_and_is_not_flooded(client: Client, node: SoloNode) -> None:
    """Events nobody takes wait in the log, not in memory; later all of them come."""
    with client.watch("k") as watch:
        count = 60
        for number in range(count):
            client.put("k", b"%03d" % number + bytes(100_000))
        wait_until(lambda: node.on_loop(lambda: node.core.watches.slow) == 1, TIMEOUT_S, "the watcher is behind")
        waiting = sum(len(event.value) for event, _, _ in watch._feed.items)
        assert waiting < ROOM_BYTES + STREAM_TAKEN_STEP_BYTES + 300_000

        values = [said(watch.next(TIMEOUT_S))[2][:3] for _ in range(count)]

    assert values == [b"%03d" % number for number in range(count)]


def test_async_watch_hears_and_resumes(node: SoloNode) -> None:
    """The same with `async for`."""

    async def run() -> list[bytes]:
        async with AsyncClient(node.endpoint, timeout_s=TIMEOUT_S) as client, client.watch("k") as watch:
            await client.put("k", "1")
            heard = [(await anext(watch)).value]
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.start)
            await client.put("k", "2")
            async for event in watch:
                heard.append(event.value)
                break
            return heard

    assert asyncio.run(asyncio.wait_for(run(), TIMEOUT_S)) == [b"1", b"2"]


def test_async_watch_that_fails_raises(node: SoloNode) -> None:
    """Compaction reaches the coroutine that iterates."""

    async def run() -> int:
        async with AsyncClient(node.endpoint, timeout_s=TIMEOUT_S) as client:
            first = (await client.put("k", "1")).revision
            await client.put("k", "2")
            await client.compact(first + 1)
            with pytest.raises(WatchCompacted) as caught:
                async with client.watch("k", start_revision=first) as watch:
                    await anext(watch)
            return caught.value.compact_revision - first

    assert asyncio.run(asyncio.wait_for(run(), TIMEOUT_S)) == 1


# --- caches ------------------------------------------------------------------------------------------


def test_cache_lists_and_follows(client: Client) -> None:
    """What is there at first, what comes and what goes; nothing outside the prefix."""
    client.put("c/a", "1")
    client.put("d", "no")
    with client.cache("c/") as cache:
        assert cache["c/a"].text == "1"
        assert "d" not in cache
        client.put("c/b", "2")
        last = client.delete("c/a").revision
        assert cache.wait_for(last, TIMEOUT_S)

        assert {key: pair.value for key, pair in cache.snapshot().items()} == {b"c/b": b"2"}
        assert len(cache) == 1
        assert cache.get("c/a") is None
        with pytest.raises(KeyError):
            cache["c/a"]


def test_cache_of_many_keys_is_one_revision(client: Client) -> None:
    """A list of several pages is read at one revision."""
    with client.pipeline() as pipeline:
        for number in range(2500):
            pipeline.put(f"c/{number:05}", str(number))
    with client.cache("c/") as cache:
        assert len(cache) == 2500
        assert list(cache.snapshot()) == [b"c/%05d" % number for number in range(2500)]


def test_cache_lists_again_when_history_is_gone(client: Client, node: SoloNode) -> None:
    """What was compacted while the door was away is read anew."""
    client.put("c/a", "1")
    client.put("c/b", "1")
    with client.cache("c/") as cache:
        node.kill()
        store = node.store
        other = SoloNode.start(node)
        client.delete("c/a")
        last = client.put("c/b", "2").revision
        client.compact(last)

        assert other.store is store
        assert cache.wait_for(last, TIMEOUT_S)
        assert {key: pair.value for key, pair in cache.snapshot().items()} == {b"c/b": b"2"}


def test_closed_cache_says_so(client: Client) -> None:
    """Waiting for a revision of a cache that is closed is an error, what it had can still be read."""
    client.put("c/a", "1")
    cache = client.cache("c/")
    cache.close()

    with pytest.raises(ClientClosed):
        cache.wait_for(10**6, TIMEOUT_S)
    assert cache["c/a"].text == "1"


def test_async_cache_lists_and_follows(node: SoloNode) -> None:
    """The same for coroutines."""

    async def run() -> dict[bytes, bytes]:
        async with AsyncClient(node.endpoint, timeout_s=TIMEOUT_S) as client:
            await client.put("c/a", "1")
            async with client.cache("c/") as cache:
                assert cache["c/a"].text == "1"
                assert "c/a" in cache
                await cache.wait_for((await client.put("c/b", "2")).revision)
                return {key: pair.value for key, pair in cache.snapshot().items()}

    assert asyncio.run(asyncio.wait_for(run(), TIMEOUT_S)) == {b"c/a": b"1", b"c/b": b"2"}


# --- the wire, with a bare socket --------------------------------------------------------------------


@pytest.fixture
def peer(node: SoloNode) -> Iterator[Peer]:
    """A greeted socket."""
    made = Peer(node.endpoint)
    made.greet()
    yield made
    made.close()


def test_stream_on_the_wire(peer: Peer, client: Client) -> None:
    """Opened, answered, heard, cancelled; messages are etcd's."""
    peer.say(OpenStream(call_id=5, method=WATCH_METHOD, require_leader=True, messages=(created(),)))
    first = peer.hears()
    assert isinstance(first, StreamMessages)
    assert rpc.WatchResponse.FromString(first.messages[0]).created
    client.put("k", "v")
    second = peer.hears()
    assert isinstance(second, StreamMessages)
    assert second.call_id == 5
    assert rpc.WatchResponse.FromString(second.messages[0]).events[0].kv.value == b"v"
    cancel = rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=0)).SerializeToString()
    peer.say(SendToStream(call_id=5, messages=(cancel,), ended=True))
    third = peer.hears()
    assert isinstance(third, StreamMessages)
    assert rpc.WatchResponse.FromString(third.messages[0]).canceled

    peer.say(CancelCalls(call_ids=(5,)))
    client.put("k", "v")

    assert peer.hears(0.1) is None


def test_streams_that_cannot_be_opened_end_at_once(peer: Peer) -> None:
    """An unknown method, and an id that is in use."""
    peer.say(OpenStream(call_id=1, method=999, require_leader=False, messages=()))
    unknown = peer.hears()
    assert isinstance(unknown, StreamEnded)
    assert unknown.code == ErrorCode.UNIMPLEMENTED
    for _ in range(2):
        peer.say(OpenStream(call_id=2, method=WATCH_METHOD, require_leader=False, messages=()))
    twice = peer.hears()
    assert isinstance(twice, StreamEnded)
    assert twice.code == ErrorCode.TOO_MANY_REQUESTS


def test_taking_more_than_was_sent_is_a_fault(peer: Peer) -> None:
    """A client that makes credit up is told that it is malformed."""
    peer.say(OpenStream(call_id=1, method=WATCH_METHOD, require_leader=False, messages=(created(),)))
    assert isinstance(peer.hears(), StreamMessages)
    peer.say(StreamTaken(call_id=1, bytes_taken=10**9))

    refused = peer.hears()
    assert isinstance(refused, ClientRefused)
    assert refused.code == "malformed"


def test_door_that_stops_ends_streams_and_refuses_new_ones(node: SoloNode, peer: Peer) -> None:
    """Clients learn at once that they must go elsewhere."""
    peer.say(OpenStream(call_id=1, method=WATCH_METHOD, require_leader=False, messages=(created(),)))
    assert isinstance(peer.hears(), StreamMessages)
    node.drain()

    told = peer.hears()
    assert isinstance(told, ClientRefused)
    assert (told.code, told.call_ids) == ("stopping", ())
    ended = peer.hears()
    assert isinstance(ended, StreamEnded)
    assert (ended.call_id, ended.code, ended.text) == (1, ErrorCode.STOPPED, "etcdserver: server stopped")


def test_calls_beside_a_stream_are_answered(client: Client) -> None:
    """A stream that is open holds no call up."""
    with client.watch("k"):
        for _ in range(50):
            client.put("other", "v")
        assert client.submit(calls.get("other")).result(TIMEOUT_S) is not None
