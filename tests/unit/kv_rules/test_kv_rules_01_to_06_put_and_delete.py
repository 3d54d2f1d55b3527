"""etcd's KV semantics, rules 1 to 6: revisions, headers, versions, keys and ranges."""

import pytest

from protocol.errors import ErrorCode
from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from sim.store_driver import CLUSTER, MEMBER, StoreDriver


def put_op(key: bytes, value: bytes = b"v") -> RequestOp:
    """A put inside a txn."""
    return RequestOp(request_put=PutRequest(key=key, value=value))


def test_rule_01_a_fresh_store_is_at_revision_1_and_the_first_write_makes_2(store: StoreDriver) -> None:
    """Reads of an empty store say revision 1; the first put is revision 2."""
    assert store.range(b"a").response.header.revision == 1
    assert store.put(b"a").response.header.revision == 2


def test_rule_02_each_effective_request_takes_one_revision(store: StoreDriver) -> None:
    """Put, DeleteRange and Txn take one each, however many keys they touch; inside, sub-revisions count up."""
    store.put(b"a")
    txn = TxnRequest(success=[put_op(b"b"), put_op(b"c"), RequestOp(request_delete_range=DeleteRangeRequest(key=b"a"))])
    assert store.one(txn).response.header.revision == 3
    assert store.delete(b"a", b"z").response.header.revision == 4
    history = [
        (int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:], "big"))
        for key in store.store.engine.scan_keys(b"r", b"s")
    ]
    assert history == [(2, 0), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1)]


def test_rule_02_each_command_of_a_batch_has_its_own_revision(store: StoreDriver) -> None:
    """A batch is a way to travel, not a transaction."""
    answers = store.do(PutRequest(key=b"a"), PutRequest(key=b"a"), DeleteRangeRequest(key=b"a"))
    assert [answer.response.header.revision for answer in answers] == [2, 3, 4]


@pytest.mark.parametrize(
    "request_",
    [
        DeleteRangeRequest(key=b"nothing"),
        TxnRequest(success=[RequestOp(request_range=RangeRequest(key=b"a"))]),
        TxnRequest(success=[RequestOp(request_delete_range=DeleteRangeRequest(key=b"nothing"))]),
        TxnRequest(compare=[Compare(key=b"a", version=5)], success=[put_op(b"x")]),
        CompactionRequest(revision=1),
        PutRequest(key=b""),
    ],
    ids=["delete of nothing", "read-only txn", "txn that deletes nothing", "txn of the empty branch", "compact", "bad"],
)
def test_rule_02_requests_without_effect_take_no_revision(
    store: StoreDriver, request_: PutRequest | DeleteRangeRequest | TxnRequest | CompactionRequest
) -> None:
    """What changes no key leaves the revision where it was."""
    store.put(b"a")
    store.one(request_)
    assert store.store.revision == 2


def test_rule_03_a_top_level_header_is_complete(store: StoreDriver) -> None:
    """Cluster, member, revision and term stand in every answer."""
    answers = [
        store.put(b"a"),
        store.delete(b"x"),
        store.one(TxnRequest(success=[put_op(b"b")])),
        store.compact(2),
        store.range(b"a"),
        store.hash_kv(),
    ]
    for answer in answers:
        header = answer.response.header
        assert (header.cluster_id, header.member_id, header.raft_term) == (CLUSTER, MEMBER, 1)
        assert header.revision in (2, 3)
    assert store.status().header.revision == 3


def test_rule_03_inner_responses_carry_the_revision_only(store: StoreDriver) -> None:
    """Ops of a txn say base or base + 1; a nested txn's header is there and empty."""
    nested = TxnRequest(success=[put_op(b"b")])
    ops = [RequestOp(request_range=RangeRequest(key=b"a")), put_op(b"a"), RequestOp(request_txn=nested)]
    first, second, third = store.one(TxnRequest(success=ops)).response.responses
    assert (first.response_range.header.revision, first.response_range.header.cluster_id) == (1, 0)
    assert second.response_put.header.revision == 2
    assert third.response_txn.HasField("header")
    assert third.response_txn.header.revision == 0
    assert third.response_txn.responses[0].response_put.header.revision == 2


def test_rule_04_create_mod_and_version_follow_the_life_of_a_key(store: StoreDriver) -> None:
    """Creation sets all, an overwrite keeps create and counts version, deletion resets."""
    seen: list[tuple[int, ...]] = []
    for step in ("put", "put", "delete", "put"):
        if step == "put":
            store.put(b"a")
        else:
            store.delete(b"a")
        pairs = store.range(b"a").response.kvs
        seen.append((pairs[0].create_revision, pairs[0].mod_revision, pairs[0].version) if pairs else ())
    assert seen == [(2, 2, 1), (2, 3, 2), (), (5, 5, 1)]


def test_rule_04_a_put_without_lease_detaches(store: StoreDriver) -> None:
    """The attachment follows the last put; a deletion ends it as well."""
    store.store.engine.write([(b"l" + (7).to_bytes(8, "big"), b"lease")])
    attached = b"a" + (7).to_bytes(8, "big") + b"k"
    assert store.put(b"k", lease=7).code == ErrorCode.OK
    assert store.range(b"k").response.kvs[0].lease == 7
    assert store.store.engine.get(attached) == b""
    store.put(b"k")
    assert store.range(b"k").response.kvs[0].lease == 0
    assert store.store.engine.get(attached) is None
    store.put(b"k", lease=7)
    store.delete(b"k")
    assert store.store.engine.get(attached) is None


def test_rule_05_an_empty_key_is_refused_everywhere(store: StoreDriver) -> None:
    """Range, Put, DeleteRange and compares need a key; values may be empty."""
    compare = TxnRequest(compare=[Compare(key=b"")])
    assert store.put(b"").code == ErrorCode.EMPTY_KEY
    assert store.delete(b"").code == ErrorCode.EMPTY_KEY
    assert store.range(b"").code == ErrorCode.EMPTY_KEY
    assert store.one(compare).code == ErrorCode.EMPTY_KEY
    assert store.put(b"a", b"").code == ErrorCode.OK
    assert store.range(b"a").response.kvs[0].value == b""


def test_rule_05_keys_are_bytes_in_lexicographic_order(store: StoreDriver) -> None:
    """Zero bytes, 0xff and prefixes of each other sort as bytes do, now and in the past."""
    keys = [b"\x00", b"\x00\x00", b"\x00\xff", b"a", b"a\x00", b"a\x00\x01", b"a\x01", b"ab", b"\xff", b"\xff\xff"]
    for key in reversed(keys):
        store.put(key)
    for key in keys:
        store.put(key, b"new")
    assert [pair.key for pair in store.range(b"\x00", b"\x00").response.kvs] == sorted(keys)
    old = store.range(b"\x00", b"\x00", revision=11).response
    assert [pair.key for pair in old.kvs] == sorted(keys)
    assert {pair.value for pair in old.kvs} == {b"v"}


@pytest.mark.parametrize(
    ("key", "range_end", "found"),
    [
        (b"a", b"", [b"a"]),
        (b"a", b"b", [b"a", b"a\x00", b"ab"]),
        (b"ab", b"\x00", [b"ab", b"b", b"\xff"]),
        (b"\x00", b"\x00", [b"a", b"a\x00", b"ab", b"b", b"\xff"]),
        (b"\xff", b"\x00", [b"\xff"]),
        (b"b", b"a", []),
        (b"b", b"b", []),
        (b"a", b"a\x00", [b"a"]),
    ],
)
def test_rule_06_range_end(store: StoreDriver, key: bytes, range_end: bytes, found: list[bytes]) -> None:
    """Empty is one key, a zero byte is everything from the key on, an end at or before the key finds nothing."""
    for name in (b"a", b"a\x00", b"ab", b"b", b"\xff"):
        store.put(name)
    for revision in (0, 6):
        assert [pair.key for pair in store.range(key, range_end, revision=revision).response.kvs] == found
    store.put(b"other")
    store.delete(b"other")
    assert [pair.key for pair in store.range(key, range_end, revision=6).response.kvs] == found
    assert store.delete(key, range_end).response.deleted == len(found)
