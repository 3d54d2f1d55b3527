"""etcd's KV semantics, rules 24, 25, 27 and 30: compaction, HashKV, Status."""

from pathlib import Path

import pytest

from protocol.config import StorageConfig
from protocol.errors import ErrorCode
from protocol.wire.rpc_pb2 import PutRequest, RequestOp, TxnRequest
from sim.store_driver import StoreDriver
from storage.layout import log_key
from storage.rocks import RocksEngine

ETCD_HASHES = {
    2: 260576384,
    3: 4272060991,
    4: 2234485468,
    5: 2520451566,
    6: 662976211,
    7: 3956385167,
    8: 620639731,
    9: 3942795983,
}
"""What HashKV of a real etcd 3.4.23 answered, by revision, after the requests of `lived`."""
ETCD_HASH_AT_9_COMPACTED_AT_7 = 361652433


def revisions(store: StoreDriver) -> list[int]:
    """Main revisions physically in the log."""
    return [int.from_bytes(key[1:9], "big") for key in store.store.engine.scan_keys(b"r", b"s")]


def old_versions(store: StoreDriver) -> int:
    """How many old versions are indexed."""
    return len(list(store.store.engine.scan_keys(b"v", b"w")))


def lived(store: StoreDriver) -> None:
    """Revisions 2 to 9: a put thrice, b put and deleted (6), c put, deleted (8) and put again."""
    for step in (b"a", b"b", b"a", b"c"):
        store.put(step)
    store.delete(b"b")
    store.put(b"a")
    store.delete(b"c")
    store.put(b"c")


@pytest.mark.parametrize("revision", [-1, 0, 5, 9])
def test_rule_24_compaction_goes_forward_only(store: StoreDriver, revision: int) -> None:
    """At or below the last compaction is compacted, above the current revision is the future."""
    lived(store)
    first = store.compact(revision)
    assert first.code == (ErrorCode.COMPACTED if revision < 0 else ErrorCode.OK)
    if revision >= 0:
        assert first.response.header.revision == 9
        assert store.compact(revision).code == ErrorCode.COMPACTED
    assert store.compact(10).code == ErrorCode.FUTURE_REVISION


def test_rule_24_revision_0_is_accepted_once_on_a_fresh_store(store: StoreDriver) -> None:
    """The internal marker starts at -1."""
    assert store.hash_kv().response.compact_revision == -1
    assert store.compact(0).code == ErrorCode.OK
    assert store.compact(0).code == ErrorCode.COMPACTED
    assert store.finish_compaction() == 1


@pytest.mark.parametrize(
    ("revision", "kept"),
    [
        (2, [2, 3, 4, 5, 6, 7, 8, 9]),
        (4, [3, 4, 5, 6, 7, 8, 9]),
        (5, [3, 4, 5, 6, 7, 8, 9]),
        (6, [4, 5, 6, 7, 8, 9]),
        (7, [5, 7, 8, 9]),
        (8, [7, 8, 9]),
        (9, [7, 9]),
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_rule_24_keeps_the_newest_version_of_each_key(
    store: StoreDriver, revision: int, kept: list[int], rows: int
) -> None:
    """Unless that is a tombstone older than the compacted revision; one exactly there stays."""
    lived(store)
    store.compact(revision)
    store.finish_compaction(rows)
    assert revisions(store) == kept


def test_rule_24_step_by_step_ends_like_all_at_once(store: StoreDriver) -> None:
    """A tombstone kept by one compaction goes with the next; nothing old is left in the index."""
    lived(store)
    for revision in range(2, 10):
        store.compact(revision)
        store.finish_compaction(1)
    assert revisions(store) == [7, 9]
    assert old_versions(store) == 0
    assert store.store.size_in_use == sum(
        len(store.store.engine.get(log_key(revision, 0)) or b"") + 17 for revision in (7, 9)
    )
    assert [pair.mod_revision for pair in store.range(b"\x00", b"\x00").response.kvs] == [7, 9]


def test_rule_24_a_compaction_overtaken_by_the_next_ends_at_the_later_one(store: StoreDriver) -> None:
    """The walk goes on with the new target from where it is."""
    lived(store)
    store.compact(6)
    store.store.compact_step(2)
    store.compact(9)
    store.finish_compaction(2)
    assert revisions(store) == [7, 9]


def test_rule_24_a_large_txn_is_never_split_by_the_cursor(store: StoreDriver) -> None:
    """The changes of one revision go together, however small the slices are."""
    keys = [b"%03d" % number for number in range(50)]
    for _ in range(3):
        puts = [RequestOp(request_put=PutRequest(key=key)) for key in keys]
        store.one(TxnRequest(success=puts))
    store.compact(4)
    assert store.finish_compaction(rows=7) == 3
    assert revisions(store) == [4] * 50


def test_rule_25_a_physical_compaction_waits_for_its_own_revision(store: StoreDriver) -> None:
    """PENDING at first; the step that finishes it hands the answer over."""
    lived(store)
    assert store.compact(6, physical=True).code == ErrorCode.PENDING
    ended = []
    while store.store.compacting:
        ended += store.store.compact_step(2)
    assert [(wait.revision, wait.position) for wait in ended] == [(6, 0)]


def test_rule_25_compaction_is_resumed_after_a_restart(store: StoreDriver) -> None:
    """Half done, it goes on where it was; the compacted revision and the current one never go back."""
    lived(store)
    store.compact(8)
    store.store.compact_step(3)
    cursor = store.store.cursor
    assert store.store.compacting
    store.restart()
    assert (store.store.cursor, store.store.compacted, store.store.revision) == (cursor, 8, 9)
    assert store.range(b"a", revision=7).code == ErrorCode.COMPACTED
    store.finish_compaction(1)
    assert revisions(store) == [7, 8, 9]


def test_rule_25_the_revision_survives_when_everything_is_compacted_away(store: StoreDriver) -> None:
    """A store whose whole history is gone still knows where it was."""
    store.put(b"a")
    store.delete(b"a")
    store.put(b"b")
    store.delete(b"b")
    store.compact(5)
    store.finish_compaction()
    store.restart()
    assert store.store.revision == 5
    assert store.put(b"c").response.header.revision == 6


def test_rule_27_hash_depends_on_revision_and_compact_revision_only(store: StoreDriver, tmp_path: Path) -> None:
    """Two members at the same (revision, compact revision) agree wherever their compaction is."""
    other = StoreDriver(lambda: RocksEngine(tmp_path, "other", StorageConfig()))
    lived(store)
    lived(other)
    for revision in (3, 6, 8):
        store.compact(revision)
        other.compact(revision)
        other.finish_compaction(1)
        for hashed in range(revision, 10):
            assert store.hash_kv(hashed) == other.hash_kv(hashed)
    assert revisions(store) != revisions(other)
    other.store.engine.close()


def test_rule_27_hash_answers_and_refusals(store: StoreDriver) -> None:
    """0 is the current revision; the answer names both revisions; outside the window it is refused."""
    lived(store)
    store.compact(4)
    answer = store.hash_kv().response
    assert (answer.hash_revision, answer.compact_revision, answer.header.revision) == (9, 4, 9)
    assert store.hash_kv(9).response.hash == answer.hash
    assert store.hash_kv(4).code == ErrorCode.OK
    assert store.hash_kv(3).code == ErrorCode.COMPACTED
    assert store.hash_kv(10).code == ErrorCode.FUTURE_REVISION


def test_rule_27_hash_equals_etcds(store: StoreDriver) -> None:
    """The numbers etcd 3.4.23 itself gave for this history, before and after compaction."""
    lived(store)
    assert [store.hash_kv(revision).response.hash for revision in ETCD_HASHES] == list(ETCD_HASHES.values())
    store.compact(7)
    store.finish_compaction()
    assert store.hash_kv().response.hash == ETCD_HASH_AT_9_COMPACTED_AT_7


def test_rule_27_every_change_changes_the_hash(store: StoreDriver) -> None:
    """No two revisions of a history hash the same."""
    lived(store)
    hashes = [store.hash_kv(revision).response.hash for revision in range(1, 10)]
    assert len(set(hashes)) == len(hashes)


def test_rule_30_status(store: StoreDriver) -> None:
    """Version, sizes, indexes and term; size grows with every revision, size in use shrinks with compaction."""
    lived(store)
    before = store.status(commit=30, quota_bytes=1000)
    assert (before.version, before.raftIndex, before.raftAppliedIndex, before.raftTerm) == ("3.7.1", 30, 8, 1)
    assert before.dbSizeQuota == 1000
    assert before.dbSize == before.dbSizeInUse > 0
    store.compact(9)
    store.finish_compaction()
    after = store.status()
    assert after.dbSize == before.dbSize
    assert 0 < after.dbSizeInUse < before.dbSizeInUse
    assert after.raftIndex == after.raftAppliedIndex == 9
