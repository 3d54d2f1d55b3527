"""etcd requests as the workloads write them, and how to read effects out of request and answer.

Pure. Knows protobuf and nothing of doors, clocks or clusters.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from google.protobuf.message import Message

from protocol.wire import rpc_pb2 as rpc

KINDS: Final[dict[str, tuple[str, type[Message]]]] = {
    "put": ("/etcdserverpb.KV/Put", rpc.PutResponse),
    "range": ("/etcdserverpb.KV/Range", rpc.RangeResponse),
    "delete": ("/etcdserverpb.KV/DeleteRange", rpc.DeleteRangeResponse),
    "txn": ("/etcdserverpb.KV/Txn", rpc.TxnResponse),
    "compact": ("/etcdserverpb.KV/Compact", rpc.CompactionResponse),
    "status": ("/etcdserverpb.Maintenance/Status", rpc.StatusResponse),
    "hash": ("/etcdserverpb.Maintenance/HashKV", rpc.HashKVResponse),
    "member_list": ("/etcdserverpb.Cluster/MemberList", rpc.MemberListResponse),
    "member_add": ("/etcdserverpb.Cluster/MemberAdd", rpc.MemberAddResponse),
    "member_promote": ("/etcdserverpb.Cluster/MemberPromote", rpc.MemberPromoteResponse),
    "member_remove": ("/etcdserverpb.Cluster/MemberRemove", rpc.MemberRemoveResponse),
    "member_update": ("/etcdserverpb.Cluster/MemberUpdate", rpc.MemberUpdateResponse),
    "lease_grant": ("/etcdserverpb.Lease/LeaseGrant", rpc.LeaseGrantResponse),
    "lease_revoke": ("/etcdserverpb.Lease/LeaseRevoke", rpc.LeaseRevokeResponse),
    "lease_keep_alive": ("/etcdserverpb.Lease/LeaseKeepAlive", rpc.LeaseKeepAliveResponse),
    "lease_time_to_live": ("/etcdserverpb.Lease/LeaseTimeToLive", rpc.LeaseTimeToLiveResponse),
}
"""Per kind of call: the gRPC method and the answer's type."""


def kind_of(request: Message) -> str:
    """Return the name a request goes by in `KINDS` and in histories."""
    return _KIND_OF[type(request)]


_KIND_OF: Final[dict[type[Message], str]] = {
    rpc.PutRequest: "put",
    rpc.RangeRequest: "range",
    rpc.DeleteRangeRequest: "delete",
    rpc.TxnRequest: "txn",
    rpc.CompactionRequest: "compact",
    rpc.StatusRequest: "status",
    rpc.HashKVRequest: "hash",
    rpc.MemberListRequest: "member_list",
    rpc.MemberAddRequest: "member_add",
    rpc.MemberPromoteRequest: "member_promote",
    rpc.MemberRemoveRequest: "member_remove",
    rpc.MemberUpdateRequest: "member_update",
    rpc.WatchCreateRequest: "watch",
    rpc.LeaseGrantRequest: "lease_grant",
    rpc.LeaseRevokeRequest: "lease_revoke",
    rpc.LeaseKeepAliveRequest: "lease_keep_alive",
    rpc.LeaseTimeToLiveRequest: "lease_time_to_live",
}


def prefix_end(prefix: bytes) -> bytes:
    """Return the end of the range of all keys that begin with `prefix`, whose last byte is below 255."""
    assert prefix, "the empty prefix has no such end"
    assert prefix[-1] < 255, "prefixes of workloads are text"
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def put(key: str, value: str) -> rpc.PutRequest:
    """Store a pair."""
    return rpc.PutRequest(key=key.encode(), value=value.encode())


def get(key: str) -> rpc.RangeRequest:
    """Read one pair."""
    return rpc.RangeRequest(key=key.encode())


def scan(prefix: str, *, revision: int = 0, limit: int = 0, after: bytes = b"") -> rpc.RangeRequest:
    """Read the pairs whose keys begin with `prefix`, from behind `after` on if that is given."""
    first = after + b"\0" if after else prefix.encode()
    return rpc.RangeRequest(key=first, range_end=prefix_end(prefix.encode()), revision=revision, limit=limit)


def delete(key: str) -> rpc.DeleteRangeRequest:
    """Delete one key."""
    return rpc.DeleteRangeRequest(key=key.encode())


def if_revision(key: str, mod_revision: int) -> rpc.Compare:
    """Hold when `key` was last written at `mod_revision`; 0: when it is not there."""
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key.encode(), mod_revision=mod_revision)


def if_value(key: str, value: str) -> rpc.Compare:
    """Hold when `key` is there with `value`."""
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VALUE, key=key.encode(), value=value.encode())


def txn(
    conditions: Iterable[rpc.Compare], then: Sequence[Message], otherwise: Sequence[Message] = ()
) -> rpc.TxnRequest:
    """If all conditions hold do one branch, else the other, atomically."""
    return rpc.TxnRequest(
        compare=conditions, success=[operation(each) for each in then], failure=[operation(each) for each in otherwise]
    )


def operation(request: Message) -> rpc.RequestOp:
    """Wrap a request for a branch of a txn."""
    if isinstance(request, rpc.PutRequest):
        return rpc.RequestOp(request_put=request)
    if isinstance(request, rpc.RangeRequest):
        return rpc.RequestOp(request_range=request)
    assert isinstance(request, rpc.DeleteRangeRequest), f"{type(request).__name__} is no operation of a txn here"
    return rpc.RequestOp(request_delete_range=request)


class Write(NamedTuple):
    """One key written by an acknowledged call; `value` is None for a delete."""

    revision: int
    key: bytes
    value: bytes | None


class Seen(NamedTuple):
    """What one range said: the request, its answer, and the revision it speaks of."""

    request: rpc.RangeRequest
    response: rpc.RangeResponse
    revision: int


def parts(request: Message, response: Message) -> list[tuple[Message, Message]]:
    """Return the simple requests a call consists of with their answers; for a txn those of the branch it took."""
    if not isinstance(request, rpc.TxnRequest):
        return [(request, response)]
    assert isinstance(response, rpc.TxnResponse), "a txn is answered with a TxnResponse"
    branch = request.success if response.succeeded else request.failure
    found: list[tuple[Message, Message]] = []
    for asked, answered in zip(branch, response.responses, strict=True):
        found.append(
            (getattr(asked, str(asked.WhichOneof("request"))), getattr(answered, str(answered.WhichOneof("response"))))
        )
    return found


def revision_of(response: Message) -> int:
    """Return the header's revision."""
    return int(response.header.revision)  # type: ignore[attr-defined]  # every answer of etcd has one


def writes_of(request: Message, response: Message) -> list[Write]:
    """Return what an acknowledged call wrote, with its revision. Deletes here name single keys."""
    revision = revision_of(response)
    found = []
    for asked, answered in parts(request, response):
        if isinstance(asked, rpc.PutRequest):
            found.append(Write(revision, asked.key, asked.value))
        elif isinstance(asked, rpc.DeleteRangeRequest) and isinstance(answered, rpc.DeleteRangeResponse):
            assert not asked.range_end, "workloads delete single keys"
            if answered.deleted:
                found.append(Write(revision, asked.key, None))
    return found


def ranges_of(request: Message, response: Message) -> list[Seen]:
    """Return the ranges in an acknowledged call, each with the revision it was read at."""
    at = revision_of(response)
    return [
        Seen(asked, answered, asked.revision or at)
        for asked, answered in parts(request, response)
        if isinstance(asked, rpc.RangeRequest) and isinstance(answered, rpc.RangeResponse)
    ]


def attempted_keys(request: Message) -> set[bytes]:
    """Return every key a call could write, whichever branch it takes."""
    if isinstance(request, rpc.TxnRequest):
        simple: list[Message] = [
            getattr(each, str(each.WhichOneof("request"))) for each in (*request.success, *request.failure)
        ]
    else:
        simple = [request]
    return {each.key for each in simple if isinstance(each, rpc.PutRequest | rpc.DeleteRangeRequest)}
