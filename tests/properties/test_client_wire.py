"""The client's own protobuf reading and writing agrees with the generated code."""

from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from actd import calls, txn, wire
from protocol.wire import rpc_pb2 as rpc

blobs = st.binary(max_size=300)
revisions = st.integers(0, 2**62)


@given(blobs, blobs, st.integers(0, 2**62), st.booleans(), st.booleans(), st.booleans())
def test_put_requests_parse_as_written(
    key: bytes, value: bytes, lease: int, prev_kv: bool, ignore_value: bool, ignore_lease: bool
) -> None:
    """A put says the same to protobuf."""
    body = calls.put_body(key, value, lease, prev_kv=prev_kv, ignore_value=ignore_value, ignore_lease=ignore_lease)
    assert rpc.PutRequest.FromString(body) == rpc.PutRequest(
        key=key, value=value, lease=lease, prev_kv=prev_kv, ignore_value=ignore_value, ignore_lease=ignore_lease
    )


@given(blobs, blobs, revisions, revisions, st.booleans(), st.sampled_from(sorted(calls.TARGETS)), revisions)
def test_range_requests_parse_as_written(
    key: bytes, end: bytes, limit: int, revision: int, serializable: bool, target: Any, low: int
) -> None:
    """A range says the same to protobuf."""
    body = calls.range_body(
        key, end, limit=limit, revision=revision, serializable=serializable, sort_by=target, order="descend",
        min_mod_revision=low, keys_only=True,
    )  # fmt: skip
    parsed = rpc.RangeRequest.FromString(body)
    assert parsed == rpc.RangeRequest(
        key=key, range_end=end, limit=limit, revision=revision, serializable=serializable, sort_order=2,
        sort_target=calls.TARGETS[target], min_mod_revision=low, keys_only=True,
    )  # fmt: skip


def test_txn_requests_parse_as_written() -> None:
    """Conditions and branches arrive as built."""
    parts = (
        txn.Txn(None)
        .if_(txn.version("a") == 0, txn.value("b") != "x", txn.mod_revision("c", "d") > 7, txn.lease("e") < 3)
        .then(txn.Put("a", "1", lease=5), txn.Delete("q", "r", prev_kv=True))
        .else_(txn.Get("a", limit=3), txn.Nested(txn.TxnParts()))
    )
    parsed = rpc.TxnRequest.FromString(parts.body())
    targets = [(one.target, one.result, one.key, one.range_end) for one in parsed.compare]
    assert targets == [(0, 0, b"a", b""), (3, 3, b"b", b""), (2, 1, b"c", b"d"), (4, 2, b"e", b"")]
    assert parsed.compare[0].WhichOneof("target_union") == "version"
    assert parsed.success[0].request_put == rpc.PutRequest(key=b"a", value=b"1", lease=5)
    assert parsed.success[1].request_delete_range.prev_kv
    assert parsed.failure[0].request_range.limit == 3
    assert parsed.failure[1].WhichOneof("request") == "request_txn"


@given(st.lists(st.tuples(blobs, blobs, revisions, revisions), max_size=5), st.booleans(), st.integers(-5, 2**40))
def test_range_responses_read_as_protobuf_wrote_them(
    pairs: list[tuple[bytes, bytes, int, int]], more: bool, count: int
) -> None:
    """Every pair arrives with all its numbers, negative ones included."""
    response = rpc.RangeResponse(more=more, count=count)
    response.header.revision = 77
    for key, value, created, modified in pairs:
        response.kvs.add(key=key, value=value, create_revision=created, mod_revision=modified, version=3, lease=-1)
    result = calls.read_range(response.SerializeToString())
    assert (result.more, result.count, result.revision) == (more, count, 77)
    found = [(pair.key, pair.value, pair.create_revision, pair.mod_revision) for pair in result.pairs]
    assert found == pairs
    assert all(pair.lease == -1 for pair in result.pairs)


def test_txn_responses_nest() -> None:
    """Results of every kind come out in order, nested ones included."""
    response = rpc.TxnResponse(succeeded=True)
    response.responses.add().response_put.prev_kv.value = b"old"
    response.responses.add().response_range.count = 4
    response.responses.add().response_delete_range.deleted = 2
    response.responses.add().response_txn.succeeded = True
    result = calls.read_txn(response.SerializeToString())
    put, found, deleted, nested = result.results
    assert put.previous.value == b"old"  # type: ignore[union-attr]
    assert found.count == 4  # type: ignore[union-attr]
    assert deleted.deleted == 2  # type: ignore[union-attr]
    assert nested.succeeded  # type: ignore[union-attr]


@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    """No bytes make the reader do anything but answer or raise its one error."""
    try:
        wire.decode(wire.RANGE, data)
    except wire.WireFault:
        return


@pytest.mark.parametrize(
    ("spec", "message"),
    [(wire.STATUS, rpc.StatusResponse), (wire.MEMBERS, rpc.MemberListResponse), (wire.HASH_KV, rpc.HashKVResponse)],
)
def test_field_numbers_are_etcds(spec: wire.Spec, message: type[Message]) -> None:
    """Every field we read has the number and the shape etcd gives it."""
    for number, field in spec.items():
        descriptor = message.DESCRIPTOR.fields_by_number[number]
        assert (field.inner is not None) == (descriptor.message_type is not None), field.name
