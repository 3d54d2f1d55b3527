"""What of two stores' answers to one KV request must be the same: all but ids, terms, and the order of equals.

etcd sorts with an algorithm that leaves rows of equal rank in any order, so which of them a limit cuts is chance as
well; everything else it answers is determined.
"""

from typing import Any

from google.protobuf.message import Message

from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

Answer = tuple[str, Any]
"""The name of a gRPC status, and the response or the error's text."""


def comparable(request: Message, answer: Answer) -> Answer:
    """Return `answer` without what may differ."""
    status, response = answer
    if status != "OK":
        return answer
    response = type(response).FromString(response.SerializeToString())
    for field in ("cluster_id", "member_id", "raft_term"):
        response.header.ClearField(field)
    if isinstance(response, rpc.HashKVResponse):
        response.ClearField("hash_revision")  # newer than etcd 3.4
    if isinstance(response, rpc.LeaseTimeToLiveResponse):
        response.ClearField("header")  # how far the member asked is, which need not be the leader
        response.TTL = min(response.TTL, 0)  # seconds are not the same seconds on both sides
        response.keys[:] = sorted(response.keys)  # etcd's come from a map
    if isinstance(response, rpc.LeaseLeasesResponse):
        response.leases.sort(key=lambda status: status.ID)
    if isinstance(request, rpc.RangeRequest):
        _order_equals(request, response)
    elif isinstance(request, rpc.TxnRequest):
        _order_equals_in_txn(request, response)
    return status, response


def _order_equals_in_txn(request: rpc.TxnRequest, response: rpc.TxnResponse) -> None:
    operations = request.success if response.succeeded else request.failure
    for operation, answer in zip(operations, response.responses, strict=True):
        if operation.WhichOneof("request") == "request_range":
            _order_equals(operation.request_range, answer.response_range)
        elif operation.WhichOneof("request") == "request_txn":
            _order_equals_in_txn(operation.request_txn, answer.response_txn)


_RANKS = {
    rpc.RangeRequest.VERSION: "version",
    rpc.RangeRequest.CREATE: "create_revision",
    rpc.RangeRequest.MOD: "mod_revision",
    rpc.RangeRequest.VALUE: "value",
}


def _order_equals(request: rpc.RangeRequest, response: rpc.RangeResponse) -> None:
    """Put rows of equal rank in the order of their keys; of the last rank of a cut page only the rank is kept.

    With `keys_only` a rank by value cannot be seen: then all rows count as equal.
    """
    field = _RANKS.get(request.sort_target)
    if field is None or not response.kvs:
        return
    groups: list[list[mvcc.KeyValue]] = []
    for pair in response.kvs:
        if groups and getattr(groups[-1][0], field) == getattr(pair, field):
            groups[-1].append(pair)
        else:
            groups.append([pair])
    for group in groups:
        group.sort(key=lambda pair: pair.key)
    if response.more:
        rank = {field: getattr(groups[-1][0], field)}
        groups[-1] = [mvcc.KeyValue(**rank) for _ in groups[-1]]
    pairs = [pair for group in groups for pair in group]
    del response.kvs[:]
    response.kvs.extend(pairs)
