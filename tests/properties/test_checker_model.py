"""The checker's model against the plain one: same answers, same changes, and the way back."""

from typing import Any

from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_requests import requests

from checker.model import Store
from checker.plain import ANSWERS, CALLS, REQUESTS, message_of, plain_of
from gateway import validate
from protocol.errors import ClientError, ErrorCode
from protocol.wire.rpc_pb2 import CompactionRequest, RangeRequest, TxnRequest
from sim.kv_model import KvModel

LEASES = {7: 1}


def admitted(request: Message) -> bool:
    """Whether a door lets the request through: its duplicate-key rule is no part of either model."""
    return not isinstance(request, TxnRequest) or not validate.check_txn(request, 128).code


def told_by_model(model: KvModel, request: Any) -> "ErrorCode | Message":
    """The plain model's answer or refusal."""
    method = {"delete": "delete_range"}.get(CALLS[type(request)], CALLS[type(request)])
    try:
        return getattr(model, method)(request)  # type: ignore[no-any-return]
    except ClientError as error:
        return error.code


def told_by_store(store: Store, request: Any) -> "ErrorCode | Message":
    """The checker's answer or refusal, committed."""
    call = CALLS[type(request)]
    if isinstance(request, CompactionRequest):
        error = store.compaction_error(request.revision)
        if error is not None:
            return error
        store.compacted = request.revision
        answer: dict[str, Any] = {}
    else:
        try:
            answer, changes = store.evaluate(call, plain_of(request))
        except ClientError as refusal:
            return refusal.code
        if changes:
            store.commit(changes)
    return message_of(ANSWERS[call], {"header": {"revision": store.revision}, **answer})


@settings(deadline=None, max_examples=150)
@given(st.lists(requests.filter(admitted), max_size=30))
def test_both_models_answer_alike(asked: list[Message]) -> None:
    """Whatever is asked in whatever order, answers and refusals are the same, inner headers included."""
    model, store = KvModel(leases=dict(LEASES)), Store(LEASES)
    for request in asked:
        if isinstance(request, RangeRequest) and request.revision == model.compacted == 0:
            continue
        assert told_by_store(store, request) == told_by_model(model, request), request
        assert store.revision == model.revision
        assert {pair["key"] for pair in store.live.values()} == {key.decode("latin-1") for key in model.live}


@settings(deadline=None, max_examples=100)
@given(st.lists(requests.filter(admitted), max_size=12), st.lists(requests.filter(admitted), max_size=12))
def test_undo_takes_everything_back(kept: list[Message], forgotten: list[Message]) -> None:
    """After undoing, a store cannot be told from one to which nothing more happened."""
    store, twin = Store(LEASES, range(20)), Store(LEASES, range(20))
    for request in kept:
        told_by_store(store, request)
        told_by_store(twin, request)
    fingerprint, undos = store.fingerprint, []
    for request in forgotten:
        if isinstance(request, CompactionRequest):
            continue
        try:
            changes = store.evaluate(CALLS[type(request)], plain_of(request)).changes
        except ClientError:
            continue
        if changes:
            undos.append(store.commit(changes))
    for undo in reversed(undos):
        store.undo(undo)
    assert store.fingerprint == fingerprint
    everything = {"key": "\0", "range_end": "\0"}
    for revision in range(max(0, store.compacted), store.revision + 1):
        read = {**everything, "revision": revision}
        assert store.evaluate("range", read) == twin.evaluate("range", read)


@settings(deadline=None)
@given(requests)
def test_messages_survive_the_plain_form(request: Message) -> None:
    """A request as a plain dict and back is the same request."""
    assert message_of(REQUESTS[CALLS[type(request)]], plain_of(request)) == request
