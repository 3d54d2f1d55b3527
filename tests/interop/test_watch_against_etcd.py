"""The same watch conversations with real etcd and with actd: every watcher is told the same, field by field."""

from collections.abc import Callable, Iterator

import grpc
import pytest
from clusters import Cluster, running
from etcd_server import need_etcd, running_etcd
from watch_talk import Kv, Told, WatchTalk

from protocol.wire import rpc_pb2 as rpc

pytestmark = [pytest.mark.processes, pytest.mark.slow]
ALL = b"\x00"
Conversation = Callable[[WatchTalk, Kv, bytes], None]
"""Talks on a stream, with keys under a prefix of its own; both stores begin at the same revision."""


def put(key: bytes, value: bytes = b"v") -> rpc.RequestOp:
    """An operation of a txn."""
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))


def delete(key: bytes, end: bytes = b"") -> rpc.RequestOp:
    """An operation of a txn."""
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=end))


def live(talk: WatchTalk, kv: Kv, p: bytes) -> None:
    """Keys, prefixes, open ranges, filters and replaced pairs, as things happen."""
    talk.watch(p + b"a")
    talk.watch(p, p + b"\xff", prev_kv=True)
    talk.watch(p + b"b", ALL)
    talk.watch(p, p + b"\xff", filters=[rpc.WatchCreateRequest.NOPUT])
    talk.watch(p, p + b"\xff", filters=[rpc.WatchCreateRequest.NODELETE], prev_kv=True)
    for value in (b"1", b"2"):
        kv.put(p + b"a", value)
        kv.put(p + b"b", value)
    kv(rpc.DeleteRangeRequest(key=p + b"a"))
    kv(rpc.DeleteRangeRequest(key=p + b"a"))
    kv.put(p + b"a", b"3")
    kv(rpc.TxnRequest(success=[put(p + b"z"), delete(p + b"a"), put(p + b"c"), put(p + b"b", b"9")]))
    kv(rpc.DeleteRangeRequest(key=p, range_end=p + b"\xff"))


def ids(talk: WatchTalk, kv: Kv, p: bytes) -> None:
    """Given and counted ids, duplicates, ids used again, unknown cancellations."""
    for watch_id in (0, 0, 5, 0, 5, 1, 2, 0, 0, 0):
        talk.watch(p + b"k", watch_id=watch_id)
    kv.put(p + b"k")
    talk.wait(lambda: all(any(told.what == "put" for told in talk.told[id_]) for id_ in (0, 1, 2, 5)), "events")
    talk.cancel(5)
    talk.cancel(99)
    talk.wait(lambda: talk.told[5][-1].what == "canceled", "canceled")
    talk.watch(p + b"k", watch_id=5)
    kv.put(p + b"k")


def starts(talk: WatchTalk, kv: Kv, p: bytes) -> None:
    """Starts in the past, at once, and in the future."""
    first = kv.put(p + b"k", b"1")
    for value in (b"2", b"3", b"4"):
        kv.put(p + b"k", value)
    for start in (first, first + 2, first + 3, first + 4, first + 6, 0):
        talk.watch(p + b"k", start_revision=start, prev_kv=True)
    for value in (b"5", b"6", b"7", b"8"):
        kv.put(p + b"k", value)


def compacted(talk: WatchTalk, kv: Kv, p: bytes) -> None:
    """Starts below, at and above the compacted revision; not at a deletion, which etcd 3.4 loses (etcd#19179)."""
    first = kv.put(p + b"k", b"1")
    kv(rpc.DeleteRangeRequest(key=p + b"k"))
    at = kv.put(p + b"k", b"2")
    kv.put(p + b"k", b"3")
    kv(rpc.DeleteRangeRequest(key=p + b"k"))
    kv(rpc.CompactionRequest(revision=at, physical=True))
    for start in (first, at - 1, at, at + 1):
        talk.watch(p + b"k", start_revision=start, prev_kv=True)
    kv.put(p + b"k", b"4")


def refused(talk: WatchTalk, kv: Kv, p: bytes) -> None:
    """Ranges that are empty, and an empty key."""
    talk.watch(p + b"b", p + b"a")
    talk.watch(p + b"b", p + b"b")
    talk.watch(b"", p)
    talk.watch(b"", ALL, start_revision=kv.put(p + b"k"))


def fragmented(talk: WatchTalk, kv: Kv, p: bytes) -> None:
    """A revision larger than a message, for a watcher that takes fragments and one that does not."""
    talk.watch(p, p + b"\xff", fragment=True, prev_kv=True)
    talk.watch(p, p + b"\xff")
    for value in (b"x" * 300_000, b"y" * 300_000):
        for number in range(8):
            kv.put(p + b"%d" % number, value)
    kv(rpc.DeleteRangeRequest(key=p, range_end=p + b"\xff"))


def half_closed(talk: WatchTalk, kv: Kv, p: bytes) -> None:
    """A client that has said everything still hears."""
    talk.watch(p + b"k")
    talk.half_close()
    kv.put(p + b"k", b"1")
    talk.wait(lambda: talk.told[0][-1].what == "put", "an event behind the half-close")


@pytest.fixture(scope="module", autouse=True)
def etcd_is_installed() -> None:
    """Without etcd there is nothing to compare with."""
    need_etcd("etcd")


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of a fresh actd of one node, and of a fresh etcd."""
    with running(Cluster(tmp_path_factory.mktemp("actd"), nodes=1)) as made:
        made.start()
        with running_etcd(tmp_path_factory.mktemp("etcd")) as etcd:
            yield made.client_address("n1"), etcd


def level(ours: Kv, theirs: Kv) -> None:
    """Bring both stores to one revision."""
    revisions = [kv(rpc.RangeRequest(key=b"level")).header.revision for kv in (ours, theirs)]
    for kv, revision in zip((ours, theirs), revisions, strict=True):
        for _ in range(max(revisions) - revision):
            kv.put(b"level")


def without_progress(talk: WatchTalk) -> dict[int, list[Told]]:
    """What each watcher was told, but for answers to our own questions about progress."""
    return {
        watch_id: [told for told in list_ if told.what != "progress"]
        for watch_id, list_ in talk.told.items()
        if any(told.what != "progress" for told in list_)
    }


@pytest.mark.parametrize("conversation", [live, ids, starts, compacted, refused, fragmented, half_closed])
def test_watchers_are_told_the_same(doors: tuple[str, str], conversation: Conversation) -> None:
    """Whatever is asked of the watch service, both tell every watcher the same things in the same order."""
    kvs = [Kv(address) for address in doors]
    level(*kvs)
    talks = [WatchTalk(address) for address in doors]
    prefix = conversation.__name__.encode() + b"/"
    try:
        for talk, kv in zip(talks, kvs, strict=True):
            conversation(talk, kv, prefix)
        ours, theirs = talks
        if conversation is not half_closed:
            ours.progress(kvs[0](rpc.RangeRequest(key=b"level")).header.revision)
        expected = without_progress(ours)
        count = sum(map(len, expected.values()))
        theirs.wait(lambda: sum(map(len, without_progress(theirs).values())) >= count, "as much as actd told")

        assert expected == without_progress(theirs)
        assert count > 1
        if conversation is fragmented:
            assert any(response.fragment for response in ours.responses)
            assert any(response.fragment for response in theirs.responses)
    finally:
        for thing in (*talks, *kvs):
            thing.close()


def test_progress_is_answered_alike(doors: tuple[str, str]) -> None:
    """A progress request on a stream without anything to wait for tells the current revision, with id -1."""
    for address in doors:
        kv, talk = Kv(address), WatchTalk(address)
        revision = kv.put(b"progress")
        talk.watch(b"progress")
        talk.progress(revision)

        assert talk.told[-1][-1] == Told("progress", revision)
        talk.close()
        kv.close()


def test_stream_of_a_cancelled_client_ends(doors: tuple[str, str]) -> None:
    """A client that cancels its call is gone for both."""
    for address in doors:
        talk = WatchTalk(address)
        talk.watch(b"k")
        talk.close()

        assert talk.failure is not None
        assert talk.failure.code() is grpc.StatusCode.CANCELLED
