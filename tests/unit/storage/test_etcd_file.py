"""Snapshots as etcd's clients save them: the bbolt file, and a store that is written and built again."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Corruption, ErrorCode
from protocol.lease import LeaseName, Remaining
from protocol.types import Index, LeaseId, Term
from protocol.wire import rpc_pb2 as rpc
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.store_driver import CLUSTER, MEMBER, StoreDriver, check_leases
from storage.bolt import PAGE_BYTES, BoltFile, BoltWriter, fnv_1a
from storage.engine import Engine
from storage.etcd_file import Built, StoreBuilder, etcd_buckets
from storage.lease import lease_record
from storage.mvcc import MvccStore


def fresh_engine() -> SimEngine:
    """An empty store."""
    return SimEngine(SimDisk(random.Random(0)), "store")


def write(buckets: dict[bytes, dict[bytes, bytes]]) -> bytearray:
    """A file of these buckets."""
    data = bytearray()

    def write_at(at: int, piece: bytes) -> None:
        data.extend(bytes(max(0, at + len(piece) - len(data))))
        data[at : at + len(piece)] = piece

    writer = BoltWriter(write_at)
    for name, pairs in sorted(buckets.items()):
        writer.begin(name)
        for key, value in sorted(pairs.items()):
            writer.put(key, value)
        writer.end()
    assert writer.finish() == len(data)
    return data


def saved(engine: Engine) -> BoltFile:
    """The snapshot of a store."""
    return BoltFile(memoryview(bytes(write({name: dict(pairs) for name, pairs in etcd_buckets(engine)}))))


# --- the file --------------------------------------------------------------------------------------

names = st.binary(min_size=1, max_size=20)
pairs = st.dictionaries(st.binary(min_size=1, max_size=300), st.binary(max_size=9000), max_size=40)


@given(st.dictionaries(names, pairs, max_size=5))
def test_what_is_written_is_read(buckets: dict[bytes, dict[bytes, bytes]]) -> None:
    """Any buckets, keys and values, larger than a page or empty, in their order."""
    file = BoltFile(memoryview(bytes(write(buckets))))
    assert list(file.buckets) == sorted(buckets)
    for name, wanted in buckets.items():
        assert list(file.pairs(name)) == sorted(wanted.items())
    assert list(file.pairs(b"no such bucket" * 3)) == []


def test_a_large_tree_has_branches_and_is_read_in_order() -> None:
    """Some thousand pages: three levels, and a size that is a number of pages."""
    wanted = {number.to_bytes(8, "big") + b"_" * 200: b"v" * (number % 900) for number in range(12_000)}
    data = write({b"key": wanted})
    assert len(data) % PAGE_BYTES == 0
    assert list(BoltFile(memoryview(bytes(data))).pairs(b"key")) == sorted(wanted.items())


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_never_worse(data: st.DataObject) -> None:
    """Whatever byte is wrong and wherever it is cut: words, no crash and no endless loop."""
    file = write({b"key": {bytes((number,)): b"v" * 100 for number in range(200)}, b"meta": {b"a": b"b"}})
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(file)))
    try:
        read = BoltFile(memoryview(bytes(file[:cut])))
        for bucket in read.buckets:
            list(read.pairs(bucket))
    except Corruption:
        return


def test_the_hash_of_a_meta_is_fnv_1a() -> None:
    """Its published test values."""
    assert fnv_1a(b"") == 0xCBF29CE484222325
    assert fnv_1a(b"foobar") == 0x85944171F73967E8


# --- the store -------------------------------------------------------------------------------------


def restored(file: BoltFile, *, bump: int = 0, mark_compacted: bool = False) -> tuple[StoreDriver, Built]:
    """A store built of a snapshot."""
    engine = fresh_engine()
    built = StoreBuilder(engine, Term(1), Index(1)).build(file, bump=bump, mark_compacted=mark_compacted)
    driver = StoreDriver(lambda: engine)
    driver.store = MvccStore(engine, CLUSTER, MEMBER, response_bytes_max=64 << 20)
    driver.check()
    return driver, built


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from((b"a", b"b", b"c\x00", b"d")), st.integers(0, 2)),
        st.tuples(st.just("delete"), st.sampled_from((b"a", b"b", b"c\x00", b"d")), st.booleans()),
        st.tuples(st.just("compact"), st.integers(1, 12), st.integers(0, 3)),
        st.tuples(st.just("revoke"), st.integers(1, 2), st.none()),
    ),
    max_size=25,
)


@given(steps)
def test_a_store_that_is_saved_and_restored_is_the_same(history: list[tuple[str, object, object]]) -> None:
    """Hash at every revision, ranges, leases: whatever was compacted, and however far its space was given back."""
    store = StoreDriver(fresh_engine)
    for step, first, second in history:
        if step == "put":
            lease = int(second)  # type: ignore[call-overload]
            if lease:
                store.grant(lease)
            store.put(first, b"v%d" % store.store.revision, lease=lease)  # type: ignore[arg-type]
        elif step == "delete":
            store.delete(first, b"\x00" if second else b"")  # type: ignore[arg-type]
        elif step == "revoke":
            store.revoke(first)  # type: ignore[arg-type]
        else:
            store.compact(first)  # type: ignore[arg-type]
            for _ in range(second):  # type: ignore[call-overload]
                if store.store.compacting:
                    store.store.compact_step(2)
    again, built = restored(saved(store.store.engine))
    assert (built.revision, built.compacted) == (store.store.revision, store.store.compacted)
    for revision in range(store.store.revision + 2):
        assert again.hash_kv(revision)[0] == store.hash_kv(revision)[0]
        if store.hash_kv(revision).code == ErrorCode.OK:
            assert again.hash_kv(revision).response.hash == store.hash_kv(revision).response.hash
        wanted = store.range(b"\x00", b"\x00", revision=revision)
        got = again.range(b"\x00", b"\x00", revision=revision)
        assert got.code == wanted.code
        if wanted.response is not None:
            assert list(got.response.kvs) == list(wanted.response.kvs)
    assert (built.keys, built.leases) == (store.store.keys.total, len(list(store.store.engine.scan_keys(b"l", b"m"))))
    again.finish_compaction()
    check_leases(again.store.engine)
    assert again.put(b"a").response.header.revision == store.store.revision + 1


def test_what_is_left_of_leases_is_carried(store_of_leases: StoreDriver) -> None:
    """In seconds, as etcd's snapshots have it; a lease that was not recorded has all of its time."""
    again, built = restored(saved(store_of_leases.store.engine))
    records = [lease_record(again.store.engine, lease) for lease in (7, -8)]
    assert [(record.ttl_s, record.remaining_ms) for record in records if record] == [(60, 20_000), (90, -1)]
    assert built.leases == 2
    names = [LeaseName(LeaseId(7), records[0].granted)] if records[0] else []
    again.upkeep(names)
    assert again.range(b"k").response.count == 0


@pytest.fixture
def store_of_leases() -> StoreDriver:
    """Two leases, one with a key and 20 s left."""
    store = StoreDriver(fresh_engine)
    store.grant(7, 60)
    store.grant(-8, 90)
    store.put(b"k", lease=7)
    record = lease_record(store.store.engine, 7)
    assert record is not None
    store.upkeep([], [Remaining(LeaseId(7), record.granted, 20_900)])
    return store


def test_users_and_roles_are_carried() -> None:
    """With their hashes, rights and revision; authentication stays on."""
    store = StoreDriver(fresh_engine)
    store.do(
        rpc.AuthUserAddRequest(name="root", options={"no_password": True}),
        rpc.AuthUserGrantRoleRequest(user="root", role="root"),
        rpc.AuthRoleAddRequest(name="reader"),
        rpc.AuthEnableRequest(),
    )
    again, built = restored(saved(store.store.engine))
    assert again.store.auth.enabled
    assert built.users == 1
    assert (again.store.auth.revision, again.store.auth.roots) == (store.store.auth.revision, ("root",))
    assert "reader" in again.store.auth.roles
    assert again.put(b"k").code == ErrorCode.USER_EMPTY


def test_a_bumped_revision_is_later_than_any_a_client_has_seen() -> None:
    """Marked as compacted, nothing of before may be read at its revision any more; the pairs are still there."""
    store = StoreDriver(fresh_engine)
    store.put(b"a", b"1")
    store.put(b"a", b"2")
    again, built = restored(saved(store.store.engine), bump=1000, mark_compacted=True)
    assert (built.revision, built.compacted) == (1003, 1003)
    assert again.range(b"a").response.kvs[0].value == b"2"
    assert restored(saved(again.store.engine))[1].revision == 1003
    assert again.range(b"a", revision=3).code == ErrorCode.COMPACTED
    again.finish_compaction()
    assert again.put(b"a", b"3").response.header.revision == 1004
    twice, built = restored(saved(again.store.engine))
    assert (built.revision, twice.range(b"a").response.kvs[0].version) == (1004, 3)


def test_what_is_no_snapshot_is_refused() -> None:
    """A bbolt file of something else, records that are none, a pair whose lease is missing."""
    revision = (5).to_bytes(8, "big") + b"_" + bytes(8)
    for buckets, word in (
        ({b"other": {}}, "no snapshot"),
        ({b"key": {b"short": b""}}, "no revision"),
        ({b"key": {revision: b"\xff"}}, "cannot be read"),
        ({b"key": {revision: b"\x0a\x01a\x30\x07"}}, "lease"),
    ):
        with pytest.raises(Corruption, match=word):
            restored(BoltFile(memoryview(bytes(write(buckets)))))
