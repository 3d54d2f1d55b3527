"""What lies around the KV semantics, side by side with real etcd: sizes, unknown methods, broken messages, metadata.

docs/compatibility.md names what differs on purpose; it is left out here.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from clusters import Cluster, running
from etcd_server import need_etcd, running_etcd
from grpc_doors import Door
from kv_answers import Answer

from protocol.wire import rpc_pb2 as rpc

pytestmark = [pytest.mark.processes, pytest.mark.slow]
KV = "/etcdserverpb.KV/"
REQUEST_BYTES_MAX = 1_572_864
MESSAGE_BYTES_MAX = REQUEST_BYTES_MAX + 512 * 1024
TOO_LARGE = ("INVALID_ARGUMENT", "etcdserver: request is too large")
Pair = tuple[Door, Door]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A fresh etcd and a fresh node of ours."""
    need_etcd()
    directory = tmp_path_factory.mktemp("against")
    with running_etcd(directory) as address, running(Cluster(directory / "actd", nodes=1)) as cluster:
        cluster.start()
        doors = Door(address), Door(cluster.client_address("n1"))
        yield doors
        for door in doors:
            door.channel.close()


def same(theirs: Answer, ours: Answer) -> Answer:
    """Both said the same, or answered; return what etcd did."""
    said = [(status, answer if isinstance(answer, str) else "") for status, answer in (theirs, ours)]
    assert said[1] == said[0]
    return theirs


def put(size: int) -> rpc.PutRequest:
    """A put whose message has `size` bytes."""
    request = rpc.PutRequest(key=b"k", value=b"x" * (size - 100))
    request.key = b"k" * (1 + size - request.ByteSize())
    assert request.ByteSize() == size
    return request


@pytest.mark.parametrize(
    "size", [REQUEST_BYTES_MAX - 100, REQUEST_BYTES_MAX + 1, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX + 1]
)
def test_requests_of_every_size(pair: Pair, size: int) -> None:
    """1.5 MiB fit, more is too large, and what is over 2 MiB the transport itself refuses in grpc-go's words."""
    status, text = same(*(door.answer(put(size)) for door in pair))
    if size <= REQUEST_BYTES_MAX:
        assert status == "OK"
    elif size <= MESSAGE_BYTES_MAX:
        assert (status, text) == TOO_LARGE
    else:
        assert (status, text) == (
            "RESOURCE_EXHAUSTED",
            f"grpc: received message larger than max ({size} vs. {MESSAGE_BYTES_MAX})",
        )


@pytest.mark.parametrize("kind", ["range", "txn of ranges"])
def test_reads_may_be_as_large_as_a_message(pair: Pair, kind: str) -> None:
    """The limit of requests is one of the log; what only reads does not go there."""
    wanted = rpc.RangeRequest(key=b"x" * (REQUEST_BYTES_MAX + 1))
    txn = rpc.TxnRequest(success=[rpc.RequestOp(request_range=wanted)])
    status, _ = same(*(door.answer(wanted if kind == "range" else txn) for door in pair))
    assert status == "OK"


@pytest.mark.parametrize(
    "path", [KV + "Nope", KV, "/etcdserverpb.Nope/Put", "/a/b/c", "/etcdserverpb.Watch/Nope", "/etcdserverpb.KV/put"]
)
def test_what_does_not_exist(pair: Pair, path: str) -> None:
    """Unknown services and methods are named as grpc-go names them."""
    status, _ = same(*(door.raw(path, b"") for door in pair))
    assert status == "UNIMPLEMENTED"


@pytest.mark.parametrize("method", ["Put", "Range", "DeleteRange", "Txn", "Compact"])
@pytest.mark.parametrize(
    "body", [b"\xff", b"\x0a\x05a", b"\x0a", b"\x0b", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_what_is_no_message(pair: Pair, method: str, body: bytes) -> None:
    """Bytes that are no protobuf are an internal error on both sides; the words are each library's own."""
    assert [door.raw(KV + method, body)[0] for door in pair] == ["INTERNAL", "INTERNAL"]


@pytest.mark.parametrize("body", [b"", b"\xf8\x01\x01", b"\x0a\x01k\xf8\x01\x01", b"\x0a\x01k\x0a\x01l\x12\x01v"])
@pytest.mark.parametrize("method", ["Put", "Range", "DeleteRange"])
def test_fields_that_are_unknown_absent_or_repeated(pair: Pair, method: str, body: bytes) -> None:
    """Unknown fields are ignored, absent ones empty, and of a repeated one the last counts."""
    same(*(door.raw(KV + method, body) for door in pair))
    found = [door.answer(rpc.RangeRequest(key=b"\x00", range_end=b"\x00", keys_only=True))[1] for door in pair]
    assert [pair.key for pair in found[0].kvs] == [pair.key for pair in found[1].kvs]


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": [("client-api-version", "3.5.0"), ("hasleader", "true")]},
        {"metadata": [("x-long", "y" * 9_000)]},
        {"metadata": [("x-binary-bin", bytes(range(256)))]},
        {"compression": grpc.Compression.Deflate},
    ],
    ids=["etcd's own", "long", "binary", "unknown compression"],
)
def test_what_comes_with_a_request(pair: Pair, options: dict[str, Any]) -> None:
    """Metadata of all kinds passes; a compression nobody has is refused in the same words."""
    same(*(door.raw(KV + "Put", put(2_000).SerializeToString(), **options) for door in pair))


@pytest.mark.parametrize("service", [b"", b"\x0a\x04nope"])
def test_health(pair: Pair, service: bytes) -> None:
    """The one service there is serves; others are not known."""
    theirs, ours = (door.raw("/grpc.health.v1.Health/Check", service) for door in pair)
    assert ours == theirs
