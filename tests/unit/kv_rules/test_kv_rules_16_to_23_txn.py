"""etcd's KV semantics, rules 16 to 23: compares, branches, operations and preconditions of a txn."""

from typing import Any

import pytest

from protocol.errors import ErrorCode
from protocol.wire.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from sim.store_driver import StoreDriver


def put_op(key: bytes, value: bytes = b"v", **options: Any) -> RequestOp:
    """A put inside a txn."""
    return RequestOp(request_put=PutRequest(key=key, value=value, **options))


def range_op(key: bytes, range_end: bytes = b"", **options: Any) -> RequestOp:
    """A range inside a txn."""
    return RequestOp(request_range=RangeRequest(key=key, range_end=range_end, **options))


def delete_op(key: bytes, range_end: bytes = b"", **options: Any) -> RequestOp:
    """A deletion inside a txn."""
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=range_end, **options))


def txn_op(txn: TxnRequest) -> RequestOp:
    """A nested txn."""
    return RequestOp(request_txn=txn)


def holds(store: StoreDriver, *compares: Compare) -> bool:
    """Whether all compares hold, asked through the log and as a read."""
    request = TxnRequest(compare=compares)
    succeeded: bool = store.one(request).response.succeeded
    assert store.txn_read(request).response.succeeded == succeeded
    return succeeded


def test_rule_16_compares_are_anded_and_none_is_success(store: StoreDriver) -> None:
    """One that fails is enough for the failure branch."""
    store.put(b"a", b"1")
    good, bad = Compare(key=b"a", version=1), Compare(key=b"a", version=2)
    assert holds(store)
    assert holds(store, good, good)
    assert not holds(store, good, bad)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (Compare.VERSION, "version"),
        (Compare.CREATE, "create_revision"),
        (Compare.MOD, "mod_revision"),
        (Compare.LEASE, "lease"),
    ],
)
def test_rule_16_an_absent_key_is_all_zero(store: StoreDriver, target: Any, field: str) -> None:
    """Numbers of a key that is not there compare as zero."""
    zero: dict[str, Any] = {"key": b"x", "target": target, field: 0}
    assert holds(store, Compare(result=Compare.EQUAL, **zero))
    assert holds(store, Compare(result=Compare.LESS, **{**zero, field: 1}))
    assert not holds(store, Compare(result=Compare.GREATER, **zero))


@pytest.mark.parametrize("result", [Compare.EQUAL, Compare.NOT_EQUAL, Compare.GREATER, Compare.LESS])
def test_rule_16_a_value_compare_on_an_absent_key_is_false(store: StoreDriver, result: Any) -> None:
    """Whatever is asked, even that it differs."""
    assert not holds(store, Compare(key=b"x", target=Compare.VALUE, result=result, value=b"1"))
    assert not holds(store, Compare(key=b"x", target=Compare.VALUE, result=result))


def test_rule_17_a_range_compare_holds_for_every_key(store: StoreDriver) -> None:
    """One key that fails is enough; with no key in the range the absent-key rule decides."""
    store.put(b"a", b"1")
    store.put(b"b", b"1")
    store.put(b"b", b"1")
    everywhere: dict[str, Any] = {"key": b"a", "range_end": b"c"}
    assert holds(store, Compare(target=Compare.VALUE, value=b"1", **everywhere))
    assert holds(store, Compare(target=Compare.VERSION, result=Compare.GREATER, version=0, **everywhere))
    assert not holds(store, Compare(target=Compare.VERSION, version=1, **everywhere))
    assert holds(store, Compare(target=Compare.VERSION, version=0, key=b"x", range_end=b"\x00"))
    assert not holds(store, Compare(target=Compare.VALUE, key=b"x", range_end=b"\x00", result=Compare.NOT_EQUAL))


def test_rule_17_an_operand_that_is_not_set_is_zero_or_empty(store: StoreDriver) -> None:
    """Also when another member of the union is set; an unknown result holds always."""
    store.put(b"a", b"")
    assert holds(store, Compare(key=b"a", target=Compare.VALUE))
    assert not holds(store, Compare(key=b"a", target=Compare.VERSION, value=b"1"))
    assert holds(store, Compare(key=b"a", target=Compare.VERSION, result=Compare.GREATER, value=b"1"))
    assert holds(store, Compare(key=b"a", result=9, version=77))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "value", "outcome"),
    [
        (Compare.EQUAL, b"m", True),
        (Compare.NOT_EQUAL, b"m", False),
        (Compare.GREATER, b"l\xff", True),
        (Compare.GREATER, b"m", False),
        (Compare.LESS, b"m\x00", True),
        (Compare.LESS, b"m", False),
    ],
)
def test_rule_18_values_compare_bytewise(store: StoreDriver, result: Any, value: bytes, outcome: bool) -> None:
    """All four results, on bytes."""
    store.put(b"a", b"m")
    assert holds(store, Compare(key=b"a", target=Compare.VALUE, result=result, value=value)) is outcome


def test_rule_18_lease_compares_look_at_the_lease_id(store: StoreDriver) -> None:
    """The id the key is attached to."""
    store.store.engine.write([(b"l" + (7).to_bytes(8, "big"), b"lease")])
    store.put(b"a", lease=7)
    assert holds(store, Compare(key=b"a", target=Compare.LEASE, lease=7))
    assert not holds(store, Compare(key=b"a", target=Compare.LEASE, lease=8))


def test_rule_19_operations_see_what_came_before_them(store: StoreDriver) -> None:
    """Reads inside a txn see its writes and deletions, with the revision they will have."""
    store.put(b"a", b"1")
    store.put(b"z", b"1")
    every = range_op(b"\x00", b"\x00")
    ops = [every, put_op(b"b", b"2"), every, delete_op(b"a", b"b"), every, delete_op(b"a", b"c", prev_kv=True), every]
    responses = store.one(TxnRequest(success=ops)).response.responses
    seen = [
        (answer.response_range.header.revision, [pair.key for pair in answer.response_range.kvs])
        for answer in responses[::2]
    ]
    assert seen == [(3, [b"a", b"z"]), (4, [b"a", b"b", b"z"]), (4, [b"b", b"z"]), (4, [b"z"])]
    assert [answer.response_range.count for answer in responses[::2]] == [2, 3, 2, 1]
    assert [pair.key for pair in responses[5].response_delete_range.prev_kvs] == [b"b"]


def test_rule_19_the_past_is_readable_inside_a_write_txn(store: StoreDriver) -> None:
    """A range at an old revision is not disturbed by the txn's own writes."""
    store.put(b"a", b"1")
    store.put(b"a", b"2")
    old = range_op(b"\x00", b"\x00", revision=2)
    responses = store.one(TxnRequest(success=[put_op(b"a", b"3"), put_op(b"b"), old, delete_op(b"a"), old])).response
    for answer in (responses.responses[2], responses.responses[4]):
        assert [(pair.key, pair.value) for pair in answer.response_range.kvs] == [(b"a", b"1")]
        assert answer.response_range.count == 1


def test_rule_19_nested_branches_are_chosen_before_anything_is_written(store: StoreDriver) -> None:
    """The compare of a nested txn does not see the put in front of it."""
    nested = TxnRequest(compare=[Compare(key=b"a", version=0)], success=[put_op(b"absent")], failure=[put_op(b"there")])
    answer = store.one(TxnRequest(success=[put_op(b"a"), txn_op(nested)])).response
    assert answer.responses[1].response_txn.succeeded
    assert store.range(b"absent").response.count == 1
    assert store.range(b"there").response.count == 0


def test_rule_20_a_txn_of_ranges_is_served_as_a_read(store: StoreDriver) -> None:
    """Same answer, no entry, no revision; nested ones too."""
    store.put(b"a", b"1")
    store.put(b"b", b"2")
    nested = TxnRequest(compare=[Compare(key=b"x", version=1)], failure=[range_op(b"b")])
    request = TxnRequest(success=[range_op(b"a"), txn_op(nested), range_op(b"\x00", b"\x00", limit=1)])
    entries = len(store.entries)
    read = store.txn_read(request)
    assert len(store.entries) == entries
    assert read == store.one(request)
    assert read.response.header.revision == 3
    assert store.txn_read(TxnRequest(success=[range_op(b"a", revision=9)])).code == ErrorCode.FUTURE_REVISION
    assert store.txn_read(TxnRequest(success=[put_op(b"a")])).code == ErrorCode.MALFORMED


def test_rule_21_overlapping_deletions_are_fine(store: StoreDriver) -> None:
    """The second deletion finds nothing left; duplicate puts are refused at the door, not here."""
    store.put(b"a")
    answer = store.one(TxnRequest(success=[delete_op(b"a", b"z"), delete_op(b"a")])).response
    assert [each.response_delete_range.deleted for each in answer.responses] == [1, 0]


def test_rule_21_even_a_key_written_twice_leaves_a_consistent_history(store: StoreDriver) -> None:
    """Should the door ever let it through, versions, counts and the past still agree."""
    store.put(b"a", b"0")
    store.one(TxnRequest(success=[put_op(b"a", b"1"), put_op(b"a", b"2"), delete_op(b"a"), put_op(b"a", b"3")]))
    pair = store.range(b"a").response.kvs[0]
    assert (pair.value, pair.create_revision, pair.version) == (b"3", 3, 1)
    store.put(b"a", b"4")
    assert store.range(b"a", revision=3).response.kvs[0].value == b"3"
    store.compact(4)
    store.finish_compaction()
    assert len(list(store.store.engine.scan(b"r", b"s"))) == 1


def test_rule_21_a_kept_value_of_what_the_txn_deleted_is_empty(store: StoreDriver) -> None:
    """A deletion from a key on does not count as one of the put's key; where etcd dies, the put makes a new pair."""
    store.put(b"a", b"old")
    doomed = RequestOp(request_delete_range=DeleteRangeRequest(key=b"a", range_end=b"\x00"))
    assert store.one(TxnRequest(success=[doomed, put_op(b"a", b"", ignore_value=True)])).code == ErrorCode.OK
    pair = store.range(b"a").response.kvs[0]
    assert (pair.value, pair.create_revision, pair.version) == (b"", 3, 1)


def test_rule_22_an_operation_that_is_not_set_is_refused(store: StoreDriver) -> None:
    """As if its key were missing: that is what etcd says."""
    assert store.one(TxnRequest(success=[put_op(b"a"), RequestOp()])).code == ErrorCode.KEY_NOT_FOUND
    assert store.store.revision == 1


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (put_op(b"a", lease=9), ErrorCode.LEASE_NOT_FOUND),
        (put_op(b"absent", b"", ignore_value=True), ErrorCode.KEY_NOT_FOUND),
        (range_op(b"a", revision=99), ErrorCode.FUTURE_REVISION),
        (range_op(b"a", revision=2), ErrorCode.COMPACTED),
        (range_op(b"a", revision=4), ErrorCode.FUTURE_REVISION),
    ],
)
def test_rule_23_the_whole_path_is_checked_before_anything_is_written(
    store: StoreDriver, operation: RequestOp, code: ErrorCode
) -> None:
    """One operation of the taken path that cannot be done fails the txn, nested or not, and nothing happens."""
    store.put(b"a")
    store.put(b"a")
    store.compact(3)
    before = store.hash_kv()
    for request in (
        TxnRequest(success=[put_op(b"new"), operation]),
        TxnRequest(success=[put_op(b"new"), txn_op(TxnRequest(success=[operation]))]),
    ):
        assert store.one(request).code == code
        assert store.store.revision == 3
        assert store.range(b"new").response.count == 0
    assert store.hash_kv().response.hash == before.response.hash


def test_rule_23_puts_are_checked_before_ranges(store: StoreDriver) -> None:
    """Where two operations cannot be done, etcd names the put's reason, wherever it stands."""
    refused = txn_op(TxnRequest(success=[put_op(b"absent", b"", ignore_value=True)]))
    answer = store.one(TxnRequest(success=[range_op(b"a", revision=99), refused]))
    assert answer.code == ErrorCode.KEY_NOT_FOUND


@pytest.mark.parametrize("writes", [[], [put_op(b"new")]])
def test_rule_23_a_negative_revision_is_compacted_inside_a_txn(store: StoreDriver, writes: list[RequestOp]) -> None:
    """Outside it means the current one; inside etcd looks it up: -1, its mark for "never compacted", alone passes."""
    store.put(b"a")
    assert store.range(b"a", revision=-2).response.count == 1
    for revision, code in ((-2, ErrorCode.COMPACTED), (-1, ErrorCode.OK)):
        assert store.one(TxnRequest(success=[*writes, range_op(b"a", revision=revision)])).code == code
    store.compact(store.store.revision)
    assert store.one(TxnRequest(success=[*writes, range_op(b"a", revision=-1)])).code == ErrorCode.COMPACTED


def test_rule_23_the_branch_not_taken_is_not_checked(store: StoreDriver) -> None:
    """An impossible operation there does not matter."""
    answer = store.one(TxnRequest(success=[put_op(b"a")], failure=[put_op(b"b", lease=9)]))
    assert answer.code == ErrorCode.OK


def test_rule_23_an_answer_too_large_does_not_undo_the_writes(store: StoreDriver) -> None:
    """What a txn wrote must not depend on who answers it: the writes stand, the answer is refused."""
    store.store.response_bytes_max = 10_000
    store.put(b"big", b"x" * 20_000)
    answer = store.one(TxnRequest(success=[put_op(b"a"), range_op(b"big"), put_op(b"b")]))
    assert answer.code == ErrorCode.RESPONSE_TOO_LARGE
    assert store.range(b"a", b"z", count_only=True).response.count == 3
    assert store.store.revision == 3


def test_rule_23_commands_applied_together_share_the_bytes_of_their_answers(store: StoreDriver) -> None:
    """However many large answers one entry owes, what is held at once is bounded; all of them wrote what they wrote."""
    store.store.response_bytes_max = 50_000
    store.put(b"big", b"x" * 20_000)
    txn = TxnRequest(success=[range_op(b"big"), put_op(b"a")])
    putting = PutRequest(key=b"big", value=b"y" * 20_000, prev_kv=True)
    answers = store.do(txn, putting, txn, DeleteRangeRequest(key=b"big", prev_kv=True), PutRequest(key=b"b"))
    assert [answer.code for answer in answers] == [0, 0, *[ErrorCode.RESPONSE_TOO_LARGE] * 2, 0]
    assert store.store.revision == 7
    assert store.range(b"big").response.count == 0
    assert store.one(txn).code == ErrorCode.OK, "the next entry has a budget of its own"
