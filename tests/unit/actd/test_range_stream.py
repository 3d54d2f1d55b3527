"""Ranges that come in pieces, through the real door and store: as a bare socket hears them, and as clients do."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmq_node import TIMEOUT_S, Peer, SoloNode

from actd import AsyncClient, CallTimedOut, Client, RequestRefused, calls
from actd.range_feed import RANGE_STREAM_METHOD
from protocol.client import OpenStream, StreamEnded, StreamMessages, StreamTaken
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.wire import rpc_pb2 as rpc
from storage import range_page

SMALL_PAGE_BYTES = 200


@pytest.fixture(scope="module")
def node() -> Iterator[SoloNode]:
    """A node that serves, with pages of a few pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_page, "PAGE_BYTES", SMALL_PAGE_BYTES)
        made = SoloNode().start()
        yield made
        made.close()


@pytest.fixture(scope="module")
def client(node: SoloNode) -> Iterator[Client]:
    """A client of the node."""
    with Client(node.endpoint, timeout_s=TIMEOUT_S) as made:
        yield made


class Reader:
    """A bare socket that opens streams."""

    def __init__(self, node: SoloNode) -> None:
        self.peer = Peer(node.endpoint)
        self.peer.greet()
        self._call_ids = itertools.count(1)

    def streamed(self, request: rpc.RangeRequest) -> tuple[list[rpc.RangeResponse], int]:
        """Every piece of an answer, and the code it ended with."""
        call_id = next(self._call_ids)
        said = (request.SerializeToString(),)
        self.peer.say(OpenStream(call_id=call_id, method=RANGE_STREAM_METHOD, require_leader=False, messages=said))
        pieces: list[rpc.RangeResponse] = []
        taken = 0
        while True:
            message = self.peer.hears()
            if isinstance(message, StreamEnded):
                return pieces, message.code
            assert isinstance(message, StreamMessages), message
            pieces += [rpc.RangeStreamResponse.FromString(body).range_response for body in message.messages]
            taken += sum(map(len, message.messages))
            self.peer.say(StreamTaken(call_id=call_id, bytes_taken=taken))


@pytest.fixture(scope="module")
def reader(node: SoloNode) -> Iterator[Reader]:
    """A reader of the node."""
    made = Reader(node)
    yield made
    made.peer.close()


def unary(client: Client, request: rpc.RangeRequest) -> rpc.RangeResponse:
    """What `Range` answers."""
    return client.submit(calls.Call(2, request.SerializeToString(), rpc.RangeResponse.FromString, True)).result()


@pytest.fixture(scope="module")
def revision(client: Client) -> int:
    """A store with a history; the revision at its end."""
    for number in range(60):
        client.put(f"a/{number:02}", b"x" * (number % 7) * 20)
    for number in range(0, 60, 3):
        client.put(f"a/{number:02}", b"again")
    client.delete("a/30", "a/35")
    return client.put("b/after", "1").revision


KEYS = [b"\0", b"a/", b"a/05", b"a/29", b"a/31", b"a/59", b"b", b"zz"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(KEYS),
    end=st.sampled_from([b"", b"\0", *KEYS]),
    limit=st.sampled_from([0, 1, 3, 17, 1000, -1]),
    back=st.sampled_from([0, 1, 10, 30, 10_000]),
    keys_only=st.booleans(),
    count_only=st.booleans(),
    order=st.sampled_from([0, 1]),
)
def test_pieces_together_are_what_range_answers(
    reader: Reader,
    client: Client,
    revision: int,
    key: bytes,
    end: bytes,
    limit: int,
    back: int,
    keys_only: bool,
    count_only: bool,
    order: int,
) -> None:
    """Merged, the pieces are the unary answer, field by field; before the last they are pairs and nothing else."""
    request = rpc.RangeRequest(
        key=key,
        range_end=end,
        limit=limit,
        revision=revision - back if 0 < back < revision else 0,
        keys_only=keys_only,
        count_only=count_only,
        sort_order=rpc.RangeRequest.SortOrder.Name(order),
    )
    expected = unary(client, request)

    pieces, code = reader.streamed(request)

    assert code == ErrorCode.OK
    merged = rpc.RangeResponse()
    for piece in pieces:
        merged.MergeFrom(piece)
        assert sum(len(pair.value) for pair in piece.kvs[:-1]) <= SMALL_PAGE_BYTES
    assert merged == expected
    assert all(piece.kvs and not (piece.HasField("header") or piece.count or piece.more) for piece in pieces[:-1])


def test_writes_between_the_pieces_are_not_seen(client: Client) -> None:
    """The whole answer is of the revision that it began at; the client knows it from the start."""
    for number in range(40):
        client.put(f"w/{number:02}", b"old" * 30)

    with client.range_stream("w/") as stream:
        first = next(stream)
        before = client.delete("w/", "w0").revision - 1
        rest = list(stream)

    assert stream.revision == before
    assert [pair.key for pair in [first, *rest]] == [b"w/%02d" % number for number in range(40)]
    assert list(client.range_stream("w/")) == []
    assert len(list(client.range_stream("w/", revision=before, limit=11, keys_only=True))) == 11


def test_compaction_that_passes_the_revision_ends_the_stream(client: Client) -> None:
    """Nothing is made up: what is gone is told, after what could be sent."""
    with client.pipeline() as pipeline:
        for number in range(3000):
            pipeline.put(f"c/{number % 1500:04}", b"v" * 150)
    stream = client.range_stream("c/")
    assert next(stream).key == b"c/0000"
    last = client.put("c/0001", "new").revision
    client.compact(last)

    with pytest.raises(RequestRefused, match="required revision has been compacted"):
        list(stream)


@pytest.mark.parametrize(
    ("request_fields", "code"),
    [
        ({}, ErrorCode.EMPTY_KEY),
        ({"key": b"a", "revision": 1 << 40}, ErrorCode.FUTURE_REVISION),
        ({"key": b"a", "sort_order": "DESCEND"}, ErrorCode.RANGE_STREAM_SORTED),
        ({"key": b"a", "sort_order": "ASCEND", "sort_target": "MOD"}, ErrorCode.RANGE_STREAM_SORTED),
        ({"key": b"a", "min_mod_revision": 5}, ErrorCode.RANGE_STREAM_FILTERED),
        ({"key": b"a", "max_create_revision": 5}, ErrorCode.RANGE_STREAM_FILTERED),
    ],
)
def test_what_is_refused(reader: Reader, request_fields: dict[str, object], code: ErrorCode) -> None:
    """Order other than that of the keys, and filters, are not for streams; the rest is refused as by `Range`."""
    assert reader.streamed(rpc.RangeRequest(**request_fields)) == ([], code)  # type: ignore[arg-type]
    assert WIRE_ERRORS[code].text


def test_stream_goes_on_at_the_next_life_of_its_door() -> None:
    """A door that dies in the middle costs neither pairs nor order; without one the reader is told in time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_page, "PAGE_BYTES", SMALL_PAGE_BYTES)
        node = SoloNode().start()
        try:
            with Client(node.endpoint, timeout_s=TIMEOUT_S) as client:
                with client.pipeline() as pipeline:
                    for number in range(400):
                        pipeline.put(f"k/{number:04}", b"v" * 4000)
                stream = client.range_stream("k/")
                found = [next(stream).key]
                node.kill()
                node.start()
                found += [pair.key for pair in stream]
                node.hold()
                late = client.range_stream("k/", revision=5, timeout_s=0.1)
                with pytest.raises(CallTimedOut):
                    next(late)
        finally:
            node.close()
    assert found == [b"k/%04d" % number for number in range(400)]


def test_asyncio_client_streams_as_well(node: SoloNode, client: Client) -> None:
    """`async for pair in await client.range_stream(prefix)`."""
    for number in range(30):
        client.put(f"s/{number:02}", b"x" * 50)

    async def read() -> list[bytes]:
        async with AsyncClient(node.endpoint, timeout_s=TIMEOUT_S) as aio, await aio.range_stream("s/") as stream:
            return [pair.key async for pair in stream]

    assert asyncio.run(read()) == [b"s/%02d" % number for number in range(30)]
