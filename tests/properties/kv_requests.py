"""Hypothesis strategies for KV requests over few keys, as protobuf messages: every option and every compare target."""

from hypothesis import strategies as st

from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

KEYS = [b"a", b"b", b"\xff"]
keys = st.sampled_from(KEYS)
ends = st.sampled_from([b"", b"", b"\x00", b"b", b"c"])
values = st.sampled_from([b"", b"1", b"2", b"\xe9"])
revisions = st.integers(0, 9)
small = st.integers(0, 6)
rarely = st.sampled_from([False, False, False, True])

puts = st.builds(
    PutRequest,
    key=keys,
    value=values,
    prev_kv=st.booleans(),
    ignore_value=rarely,
    ignore_lease=rarely,
    lease=st.sampled_from([0, 0, 0, 7, 8]),
)
deletes = st.builds(DeleteRangeRequest, key=keys, range_end=ends, prev_kv=st.booleans())
ranges = st.builds(
    RangeRequest,
    key=keys,
    range_end=ends,
    limit=st.integers(-1, 3),
    revision=st.one_of(st.just(0), revisions),
    sort_order=st.integers(0, 2),
    sort_target=st.integers(0, 4),
    serializable=rarely,
    keys_only=rarely,
    count_only=rarely,
    min_mod_revision=st.sampled_from([0, 0, 0, 3]),
    max_mod_revision=st.sampled_from([0, 0, 0, 9]),
    min_create_revision=st.sampled_from([0, 0, 0, 3]),
    max_create_revision=st.sampled_from([0, 0, 0, 9]),
)
results = st.integers(0, 3)
compares = st.one_of(
    st.builds(Compare, result=results, target=st.just(0), key=keys, range_end=ends, version=small),
    st.builds(Compare, result=results, target=st.just(1), key=keys, range_end=ends, create_revision=small),
    st.builds(Compare, result=results, target=st.just(2), key=keys, range_end=ends, mod_revision=small),
    st.builds(Compare, result=results, target=st.just(3), key=keys, range_end=ends, value=values),
    st.builds(Compare, result=results, target=st.just(4), key=keys, range_end=ends, lease=small),
)


def _txns(operations: st.SearchStrategy[RequestOp]) -> st.SearchStrategy[TxnRequest]:
    branch = st.lists(operations, max_size=3)
    return st.builds(TxnRequest, compare=st.lists(compares, max_size=2), success=branch, failure=branch)


flat = st.one_of(
    st.builds(RequestOp, request_put=puts),
    st.builds(RequestOp, request_delete_range=deletes),
    st.builds(RequestOp, request_range=ranges),
)
txns = _txns(st.one_of(flat, flat, st.builds(RequestOp, request_txn=_txns(flat))))
compactions = st.builds(CompactionRequest, revision=revisions)
requests = st.one_of(puts, puts, deletes, txns, ranges, compactions)
