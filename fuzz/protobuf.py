"""Requests and answers in protobuf's wire format: every reader of ours, and where two read the same, that they agree.

Readers: the rules of the gateway's methods, the short cut of a put, the client's own reader, pieces of large answers,
compressed gRPC messages, batches of commands.
"""

import contextlib
import gzip
import json
from typing import Any, Final

from google.protobuf.message import DecodeError, Message

from actd import wire
from actd.feeds import Feed
from actd.range_feed import RangeFeed
from actd.snapshots import SnapshotFeed
from actd.watching import WatchFeed
from fuzz.target import Material, Target, expect
from gateway.grpc_wire import GrpcFault, open_message
from gateway.json_wire import parts_of, read_message
from gateway.methods import METHODS_BY_NUMBER, Ruling
from protocol.command import decode_batch
from protocol.errors import Corruption
from protocol.wire import rpc_pb2 as rpc
from storage.wire_bytes import plain_put

OPERATIONS_MAX: Final = 128
MESSAGE_BYTES_MAX: Final = 1 << 16
METHODS: Final = [METHODS_BY_NUMBER[number] for number in sorted(METHODS_BY_NUMBER)]
SPECS: Final[dict[str, tuple[wire.Spec, type[Message]]]] = {
    "range": (wire.RANGE, rpc.RangeResponse),
    "txn": (wire.TXN, rpc.TxnResponse),
    "watch": (wire.WATCH, rpc.WatchResponse),
    "status": (wire.STATUS, rpc.StatusResponse),
    "members": (wire.MEMBERS, rpc.MemberListResponse),
    "role": (wire.ROLE, rpc.AuthRoleGetResponse),
    "leases": (wire.LEASES, rpc.LeaseLeasesResponse),
}
READERS: Final = tuple(SPECS)


def _rule(number: int, body: bytes) -> None:
    method = METHODS[number % len(METHODS)]
    expect(isinstance(method.rule(body, OPERATIONS_MAX), Ruling), f"no ruling of {method.name}")


def _plain_put(_number: int, body: bytes) -> None:
    found = plain_put(body)
    if found is None:
        return
    request = rpc.PutRequest.FromString(body)
    expect(found[0] == request.key, f"key {found[0]!r}, protobuf reads {request.key!r}")
    expect(request == rpc.PutRequest(key=request.key, value=request.value), "a put that is not plain")
    expect(found[2].endswith(request.value), "another value")


def _client(number: int, body: bytes) -> None:
    """The client's reader takes anything; what protobuf has written it reads as protobuf does."""
    spec, form = SPECS[READERS[number % len(READERS)]]
    with contextlib.suppress(wire.WireFault):
        wire.decode(spec, body)
    try:
        message = form.FromString(body)
    except DecodeError:
        return
    message.DiscardUnknownFields()
    _compare(spec, wire.decode(spec, message.SerializeToString()), message)


def _compare(spec: wire.Spec, fields: dict[str, Any], message: Message) -> None:
    """Raise unless the fields that the reader names are those of the message."""
    for number, (name, _, repeated, inner) in spec.items():
        descriptor = message.DESCRIPTOR.fields_by_number[number]
        found, wanted = fields.get(name), getattr(message, descriptor.name)
        if inner is None:
            wanted = list(wanted) if repeated else wanted
            expect((found or wanted) == wanted, f"{name} is {found!r}, protobuf reads {wanted!r}")
        elif repeated:
            expect(len(found or ()) == len(wanted), f"{len(found or ())} of {len(wanted)} {name}")
            for each, other in zip(found or (), wanted, strict=True):
                _compare(inner, each, other)
        elif found is not None:
            _compare(inner, found, wanted)


def _feeds(number: int, body: bytes) -> None:
    feeds: tuple[Feed[object], ...] = (
        WatchFeed(b"k"), RangeFeed(b"k", b"", revision=1, limit=3, keys_only=False), SnapshotFeed(),
    )  # type: ignore[assignment]  # fmt: skip
    feed = feeds[number % len(feeds)]
    feed.opening()
    feed.on_messages([body, body[: len(body) // 2]])
    counted = sum(size for _, size, _ in feed.items) + feed.take_empty()
    expect(counted <= 2 * len(body), "more was taken than came")


def _parts(number: int, body: bytes) -> None:
    """Messages in parts put together again are the message."""
    try:
        whole = rpc.RangeResponse.FromString(body)
        merged = rpc.RangeResponse()
        for part in parts_of(rpc.RangeResponse, body, 1 + number):
            merged.MergeFromString(part.SerializeToString())
    except DecodeError:
        return
    expect(merged.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True), "other parts")


def _inflate(number: int, body: bytes) -> None:
    try:
        message = open_message(number & 3, body, (b"gzip", b"", b"identity", b"br")[number >> 6], MESSAGE_BYTES_MAX)
    except GrpcFault:
        return
    expect(len(message) <= max(MESSAGE_BYTES_MAX, len(body)), f"{len(message)} bytes of {len(body)}")


def _batch(_number: int, body: bytes) -> None:
    try:
        decode_batch(body)
    except Corruption:
        return


KINDS: Final = (_rule, _plain_put, _client, _feeds, _parts, _inflate, _batch)


def run(data: bytes) -> None:
    """Byte 0 chooses the reader, byte 1 is its number, the rest what it reads."""
    material = Material(data)
    kind, number = material.number(256), material.number(256)
    KINDS[kind % len(KINDS)](number, material.rest())


def _messages() -> list[Message]:
    """Messages of every shape, written as JSON."""
    pair = {"key": "aw==", "value": "dmFs" * 50, "mod_revision": "7", "lease": "-1"}
    inner: list[dict[str, Any]] = [{"request_range": {"key": "YQ==", "limit": -1}}]
    for _ in range(12):
        inner = [{"request_txn": {"success": inner}}]
    compare = {"key": "aw==", "target": "VALUE", "value": "eA==", "range_end": "bA=="}
    failure = [{"request_put": {"key": "aw=="}}, {"request_delete_range": {"key": "YQ==", "range_end": "eg=="}}]
    member = {"ID": str(1 << 63), "peerURLs": ["http://a:1"], "isLearner": True}
    written: list[tuple[type[Message], dict[str, Any]]] = [
        (rpc.PutRequest, {"key": "aw==", "value": "dmFs" * 90, "lease": str(1 << 40), "prev_kv": True}),
        (rpc.RangeRequest, {"key": "YQ==", "range_end": "AA==", "sort_order": "DESCEND", "sort_target": "MOD"}),
        (rpc.TxnRequest, {"compare": [compare], "success": inner, "failure": failure}),
        (rpc.RangeResponse, {"kvs": [pair] * 3, "count": 3, "more": True}),
        (rpc.TxnResponse, {"responses": [{"response_range": {"kvs": [pair]}}, {"response_txn": {"succeeded": True}}]}),
        (rpc.WatchResponse, {"events": [{"type": "DELETE", "kv": pair}], "cancel_reason": "x", "canceled": True}),
        (rpc.MemberListResponse, {"members": [member]}),
        (rpc.MemberAddRequest, {"peerURLs": ["http://127.0.0.1:1", "not a url"], "isLearner": True}),
        (rpc.AuthRoleGrantPermissionRequest, {"name": "r", "perm": {"permType": "WRITE", "key": "YQ=="}}),
        (rpc.LeaseGrantRequest, {"TTL": str(1 << 62), "ID": -5}),
        (rpc.SnapshotResponse, {"blob": "eHh4", "version": "3.7.0"}),
    ]
    return [read_message(form, json.dumps(fields).encode()) for form, fields in written]


def seeds() -> list[bytes]:
    """Messages of every shape for every reader, and nesting that is too deep."""
    bodies = [message.SerializeToString() for message in _messages()]
    deep = b""
    for _ in range(2000):
        deep = wire.message(3, wire.message(4, deep))
        if len(deep) > 7000:
            break
    bodies += [
        deep,
        gzip.compress(bytes(200_000)),
        b"\x95\x02\x01\x02\x03\x90",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ]
    found = [bytes((kind, 0)) + body for kind in range(len(KINDS)) for body in bodies]
    found += [bytes((0, number)) + body for number in range(len(METHODS)) for body in bodies[:3]]
    return found + [bytes((2, number)) + body for number in range(len(READERS)) for body in bodies]


PROTOBUF: Final = Target(
    "protobuf",
    "messages in protobuf's wire format, to every reader of them",
    run,
    seeds,
    (
        b"\x0a\x01k", b"\x12\x01v", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\xff" * 9 + b"\x01", b"\x0b",
        b"\x0c", b"\x1a\x00", b"\x22\x02\x1a\x00", b"\x1f\x8b\x08", b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\x28\x01",
    ),
)  # fmt: skip
