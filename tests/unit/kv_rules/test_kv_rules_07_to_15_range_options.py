"""etcd's KV semantics, rules 7 to 15: limits, order, filters, old revisions, put and delete options."""

from typing import Any

import pytest

from protocol.errors import ErrorCode
from protocol.wire.mvcc_pb2 import KeyValue
from protocol.wire.rpc_pb2 import PutRequest, RangeRequest
from sim.store_driver import StoreDriver
from storage import range_read
from storage.layout import TOMBSTONE, key_value_bytes, log_key, trailer

ALL = (b"\x00", b"\x00")


@pytest.fixture
def five(store: StoreDriver) -> StoreDriver:
    """Keys a to e at revisions 2 to 6, c overwritten at 7; values run against the order of keys."""
    for key, value in zip((b"a", b"b", b"c", b"d", b"e"), (b"5", b"4", b"3", b"2", b"1"), strict=True):
        store.put(key, value)
    store.put(b"c", b"9")
    return store


def keys_of(store: StoreDriver, **options: Any) -> list[bytes]:
    """The keys a range over everything finds."""
    return [pair.key for pair in store.range(*ALL, **options).response.kvs]


@pytest.mark.parametrize("revision", [0, 6])
def test_rule_07_limit_cuts_and_count_does_not(five: StoreDriver, revision: int) -> None:
    """`more` says that something was cut; `count` is the whole range whatever the limit and the filters."""
    answer = five.range(*ALL, limit=2, revision=revision).response
    assert ([pair.key for pair in answer.kvs], answer.more, answer.count) == ([b"a", b"b"], True, 5)
    answer = five.range(*ALL, limit=5, revision=revision).response
    assert (len(answer.kvs), answer.more, answer.count) == (5, False, 5)
    answer = five.range(*ALL, limit=1, min_create_revision=5, revision=revision).response
    assert ([pair.key for pair in answer.kvs], answer.more, answer.count) == ([b"d"], True, 5)


def test_rule_08_filters_and_order_come_before_the_limit(five: StoreDriver) -> None:
    """With an order or a filter the limit is the last thing applied."""
    assert keys_of(five, sort_order=RangeRequest.DESCEND, sort_target=RangeRequest.MOD, limit=2) == [b"c", b"e"]
    assert keys_of(five, min_mod_revision=6, limit=1) == [b"c"]
    answer = five.range(*ALL, min_mod_revision=6, limit=2).response
    assert (answer.more, answer.count) == (False, 5)


@pytest.mark.parametrize(
    ("target", "ascending"),
    [
        (RangeRequest.KEY, b"abcde"),
        (RangeRequest.VERSION, b"abdec"),
        (RangeRequest.CREATE, b"abcde"),
        (RangeRequest.MOD, b"abdec"),
        (RangeRequest.VALUE, b"edbac"),
    ],
)
def test_rule_09_order_by_any_target(five: StoreDriver, target: Any, ascending: bytes) -> None:
    """No order means ascending by a target that is not the key; descending is the reverse where nothing ties."""
    assert b"".join(keys_of(five, sort_target=target)) == ascending
    assert b"".join(keys_of(five, sort_target=target, sort_order=RangeRequest.ASCEND)) == ascending
    descending = b"".join(keys_of(five, sort_target=target, sort_order=RangeRequest.DESCEND))
    if target == RangeRequest.VERSION:
        assert descending[:1] == b"c"
    else:
        assert descending == ascending[::-1]


def test_rule_09_without_order_only_the_fetched_page_is_sorted(five: StoreDriver) -> None:
    """Etcd fetches limit + 1 pairs in key order and sorts those: `e`, the smallest value, is never seen."""
    assert keys_of(five, sort_target=RangeRequest.VALUE, limit=2) == [b"b", b"a"]
    assert keys_of(five, sort_target=RangeRequest.VALUE, sort_order=RangeRequest.ASCEND, limit=2) == [b"e", b"d"]


@pytest.mark.parametrize("options", [{"sort_order": 3}, {"sort_target": 5}])
def test_rule_09_unknown_orders_are_refused(five: StoreDriver, options: dict[str, Any]) -> None:
    """A number that is no order or target is an invalid sort option."""
    assert five.range(*ALL, **options).code == ErrorCode.INVALID_SORT_OPTION


def test_rule_09_a_descending_page_at_an_old_revision(five: StoreDriver) -> None:
    """Descending by key works in the past as it does now."""
    for revision in (0, 6):
        assert keys_of(five, sort_order=RangeRequest.DESCEND, limit=2, revision=revision) == [b"e", b"d"]


def test_rule_10_keys_only_and_count_only(five: StoreDriver) -> None:
    """keys_only drops values and nothing else; count_only drops everything but the count."""
    answer = five.range(*ALL, keys_only=True).response
    assert {pair.value for pair in answer.kvs} == {b""}
    assert [(pair.key, pair.mod_revision, pair.version) for pair in answer.kvs][2] == (b"c", 7, 2)
    by_value = five.range(*ALL, keys_only=True, sort_target=RangeRequest.VALUE).response
    assert b"".join(pair.key for pair in by_value.kvs) == b"edbac"
    assert {pair.value for pair in by_value.kvs} == {b""}
    answer = five.range(*ALL, count_only=True, limit=1).response
    assert (list(answer.kvs), answer.more, answer.count) == ([], False, 5)


def test_rule_11_bounds_are_inclusive_and_zero_is_unset(five: StoreDriver) -> None:
    """Min and max of mod and create revisions include their ends."""
    assert keys_of(five, min_mod_revision=3, max_mod_revision=5) == [b"b", b"d"]
    assert keys_of(five, min_create_revision=3, max_create_revision=4) == [b"b", b"c"]
    assert keys_of(five, max_mod_revision=2) == [b"a"]
    assert len(keys_of(five, min_mod_revision=0, max_create_revision=0)) == 5


def test_rule_12_old_revisions(five: StoreDriver) -> None:
    """The past is readable up to and including the compacted revision; the header stays current."""
    answer = five.range(b"c", revision=6).response
    assert (answer.kvs[0].value, answer.header.revision) == (b"3", 7)
    assert five.range(b"c", revision=3).response.count == 0
    assert five.range(b"c", revision=-1).response.kvs[0].value == b"9"
    assert five.range(b"c", revision=8).code == ErrorCode.FUTURE_REVISION
    five.compact(5)
    for _ in range(2):
        assert five.range(b"c", revision=4).code == ErrorCode.COMPACTED
        assert [pair.value for pair in five.range(b"c", revision=5).response.kvs] == [b"3"]
        five.finish_compaction()


def test_rule_12_counts_of_the_distant_past(five: StoreDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision too far back to undo what followed is counted by a walk that reads no old version: it is the same."""
    for revision in range(2, 8):
        near = five.range(*ALL, count_only=True, revision=revision).response.count
        listed = len(five.range(*ALL, revision=revision).response.kvs)
        with monkeypatch.context() as patch:
            patch.setattr(range_read, "_LOG_COUNT_REVISIONS_MAX", -1)
            patch.setattr(range_read, "_logged", lambda *_place: pytest.fail("an old version was read"))
            far = five.range(*ALL, count_only=True, revision=revision).response.count
        assert (near, far) == (listed, listed)


def test_rule_12_many_versions_and_deletions_stay_apart(store: StoreDriver) -> None:
    """Every revision shows exactly what was live then, over generations of a key and its neighbours."""
    states: list[dict[bytes, bytes]] = [{}, {}]
    for step in range(60):
        key = (b"a", b"a\x00", b"b")[step % 3]
        live = dict(states[-1])
        if step % 7 == 6 and key in live:
            store.delete(key)
            del live[key]
        else:
            store.put(key, b"%d" % step)
            live[key] = b"%d" % step
        states.append(live)
    for revision in range(1, store.store.revision + 1):
        pairs = store.range(*ALL, revision=revision).response
        assert {pair.key: pair.value for pair in pairs.kvs} == states[revision]
        assert store.range(*ALL, revision=revision, limit=1).response.count == len(states[revision])


def test_rule_14_put_options(store: StoreDriver) -> None:
    """prev_kv gives the old pair; ignore_value and ignore_lease keep theirs; contradictions are refused."""
    store.store.engine.write([(b"l" + (7).to_bytes(8, "big"), b"lease")])
    assert not store.put(b"a", b"1", prev_kv=True).response.HasField("prev_kv")
    previous = store.put(b"a", b"2", lease=7, prev_kv=True).response.prev_kv
    assert (previous.key, previous.value, previous.mod_revision, previous.version) == (b"a", b"1", 2, 1)
    store.put(b"a", b"", ignore_value=True, ignore_lease=True)
    pair = store.range(b"a").response.kvs[0]
    assert (pair.value, pair.lease, pair.version) == (b"2", 7, 3)
    store.put(b"a", b"3", ignore_lease=True)
    assert store.range(b"a").response.kvs[0].lease == 7
    store.put(b"a", b"", ignore_value=True)
    pair = store.range(b"a").response.kvs[0]
    assert (pair.value, pair.lease) == (b"3", 0)


@pytest.mark.parametrize(
    ("put", "code"),
    [
        (PutRequest(key=b"a", value=b"x", ignore_value=True), ErrorCode.VALUE_PROVIDED),
        (PutRequest(key=b"a", lease=7, ignore_lease=True), ErrorCode.LEASE_PROVIDED),
        (PutRequest(key=b"absent", ignore_value=True), ErrorCode.KEY_NOT_FOUND),
        (PutRequest(key=b"absent", value=b"x", ignore_lease=True), ErrorCode.KEY_NOT_FOUND),
        (PutRequest(key=b"a", lease=8), ErrorCode.LEASE_NOT_FOUND),
        (PutRequest(key=b"absent", lease=8, ignore_value=True), ErrorCode.LEASE_NOT_FOUND),
    ],
)
def test_rule_14_puts_that_are_refused_change_nothing(store: StoreDriver, put: PutRequest, code: ErrorCode) -> None:
    """Each refusal has its own code and leaves the revision alone."""
    store.put(b"a", b"1")
    assert store.one(put).code == code
    assert store.store.revision == 2


def test_rule_15_delete_range_counts_and_returns_in_key_order(five: StoreDriver) -> None:
    """Deleted is the count; prev_kvs, if asked for, are the old pairs in key order."""
    answer = five.delete(b"b", b"e", prev_kv=True).response
    assert (answer.deleted, [pair.key for pair in answer.prev_kvs]) == (3, [b"b", b"c", b"d"])
    assert answer.prev_kvs[1].value == b"9"
    assert list(five.delete(b"a").response.prev_kvs) == []


def test_rule_15_tombstones_carry_key_and_mod_revision_only(store: StoreDriver) -> None:
    """What history keeps of a deletion is the key and when, and the way to what was there before."""

    store.put(b"a", b"1")
    store.delete(b"a")
    record = store.store.engine.get(log_key(3, 0))
    assert record is not None
    assert KeyValue.FromString(key_value_bytes(record)) == KeyValue(key=b"a", mod_revision=3)
    assert trailer(record) == (TOMBSTONE, 3, 0, 2, 0)
    previous = store.store.engine.get(log_key(2, 0))
    assert previous is not None
    assert KeyValue.FromString(key_value_bytes(previous)).value == b"1"
