"""The benchmark of watches counts what was delivered, and refuses a figure for anything else."""

import pytest

from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc
from tools.bench_grpc import DATA, BenchFailed, frame
from tools.bench_watchers import WatchConnection, Watchers


def told(watch_id: int, *revisions: int) -> bytes:
    """The frames of a response with events, each of a revision."""
    events = [mvcc.Event(kv=mvcc.KeyValue(key=b"k", mod_revision=revision)) for revision in revisions]
    body = rpc.WatchResponse(watch_id=watch_id, events=events).SerializeToString()
    return frame(DATA, 0, 1, b"\0" + len(body).to_bytes(4, "big") + body)


def heard(data: bytes, piece: int, *later: bytes) -> Watchers:
    """Watchers on one connection that has received `data` in pieces, and on those that followed it."""
    watchers = Watchers([(b"k", b"")] * 2)
    for part in (data, *later):
        connection = WatchConnection([])
        for at in range(0, len(part), piece):
            connection.data_received(part[at : at + piece])
        watchers.connections[0].append(connection)
    return watchers


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_events_are_counted_however_they_arrive(piece: int) -> None:
    """In pieces of any size, several in a response, watchers in between each other."""
    watchers = heard(told(1, 2) + told(2, 2) + told(1, 3, 4) + told(2, 3), piece)
    assert (watchers.heard, watchers.check()) == (4, 5)


@pytest.mark.parametrize("data", [told(1, 2) + told(1, 2), told(1, 3) + told(1, 2), told(1, 2, 3, 3)])
def test_an_event_twice_or_out_of_order_is_no_figure(data: bytes) -> None:
    """Each watcher hears each revision once, in order."""
    with pytest.raises(BenchFailed, match="twice"):
        heard(data, 1000).check()


def test_what_a_stream_heard_before_it_was_lost_counts() -> None:
    """Its follower may neither repeat it nor go back behind it."""
    assert heard(told(1, 2), 1000, told(1, 3) + told(2, 2)).check() == 3
    with pytest.raises(BenchFailed, match="twice"):
        heard(told(1, 2), 1000, told(2, 2) + told(1, 2)).check()
