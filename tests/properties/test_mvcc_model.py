"""The store against the plain dict model, over real RocksDB and the simulated engine, whatever the order of things."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from protocol.command import ReadKind
from protocol.config import StorageConfig
from protocol.errors import ClientError, ErrorCode
from protocol.lease import LeaseName, Remaining
from protocol.types import Index, LeaseId, Term
from protocol.wire.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
)
from sim.engine import SimEngine
from sim.kv_model import KvModel
from sim.store_driver import Answer, Request, StoreDriver
from storage.engine import Engine
from storage.lease import leases_from
from storage.posix_disk import PosixDisk
from storage.rocks import RocksEngine

KEYS = [b"\x00", b"a", b"a\x00", b"a\x00\x01", b"a\xff", b"ab", b"b", b"b\x00\xff", b"\xff", b"\xff\xff"]
keys = st.sampled_from(KEYS)
ends = st.sampled_from([b"", b"", b"\x00", *KEYS[1:], b"c"])
values = st.sampled_from([b"", b"1", b"2", b"\xff" * 200])
revisions = st.integers(-1, 40)
small = st.integers(0, 6)

puts = st.builds(
    PutRequest,
    key=keys,
    value=values,
    prev_kv=st.booleans(),
    ignore_value=st.sampled_from([False, False, False, True]),
    ignore_lease=st.sampled_from([False, False, False, True]),
    lease=st.sampled_from([0, 0, 0, 7, -7]),
)
deletes = st.builds(DeleteRangeRequest, key=keys, range_end=ends, prev_kv=st.booleans())
ranges = st.builds(
    RangeRequest,
    key=keys,
    range_end=ends,
    limit=st.integers(-1, 4),
    revision=st.one_of(st.just(0), revisions),
    sort_order=st.integers(0, 2),
    sort_target=st.sampled_from([0, 0, 3]),
    keys_only=st.booleans(),
    count_only=st.sampled_from([False, False, False, True]),
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
    branch = st.lists(operations, max_size=4)
    return st.builds(TxnRequest, compare=st.lists(compares, max_size=2), success=branch, failure=branch)


flat = st.one_of(
    st.builds(RequestOp, request_put=puts),
    st.builds(RequestOp, request_delete_range=deletes),
    st.builds(RequestOp, request_range=ranges),
)
txns = _txns(st.one_of(flat, flat, st.builds(RequestOp, request_txn=_txns(flat))))
leases = st.sampled_from([7, -7, 8])
grants = st.builds(LeaseGrantRequest, ID=leases, TTL=st.integers(2, 100))
revokes = st.builds(LeaseRevokeRequest, ID=leases)
requests = st.one_of(
    puts, puts, deletes, txns, st.builds(CompactionRequest, revision=revisions), st.one_of(grants, grants, revokes)
)
read_txns = _txns(st.builds(RequestOp, request_range=ranges))


def expected(model: KvModel, request: Any, index: int = 0) -> Answer:
    """What the model answers to a request, which is in the entry of that index if it is a write."""
    try:
        return Answer(ErrorCode.OK, _ask(model, request, index))
    except ClientError as error:
        return Answer(error.code, None)


def _ask(model: KvModel, request: Any, index: int) -> Any:
    if isinstance(request, LeaseGrantRequest):
        return model.lease_grant(request, index)
    if isinstance(request, LeaseRevokeRequest):
        return model.lease_revoke(request)
    if isinstance(request, PutRequest):
        return model.put(request)
    if isinstance(request, DeleteRangeRequest):
        return model.delete_range(request)
    if isinstance(request, TxnRequest):
        return model.txn(request)
    return model.compact(request) if isinstance(request, CompactionRequest) else model.range(request)


def bare(answer: Answer) -> Answer:
    """Drop from the answer's own header what the model does not know."""
    if answer.response is not None:
        header = answer.response.header
        assert header.cluster_id, "a top-level header is complete"
        for name in ("cluster_id", "member_id", "raft_term"):
            header.ClearField(name)
    return answer


class _MvccAgainstModel(RuleBasedStateMachine):
    """Two stores, one compacting eagerly and one lazily, and the model."""

    def make_engine(self, name: str) -> Engine:
        """Open one of the engines."""
        raise AssertionError("each subclass has its own")

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="mvcc-model-"))
        self.disk = PosixDisk(self.root)
        self.model = KvModel()

    @initialize()
    def open(self) -> None:
        self.eager = StoreDriver(lambda: self.make_engine("eager"))
        self.lazy = StoreDriver(lambda: self.make_engine("lazy"))

    @rule(batch=st.lists(requests, min_size=1, max_size=5))
    def apply(self, batch: list[Request]) -> None:
        """A batch is answered as if its commands had come one by one."""
        index = self.lazy.store.applied + 1
        wanted = [expected(self.model, request, index) for request in batch]
        assert [bare(answer) for answer in self.lazy.do(*batch)] == wanted
        assert [bare(answer) for answer in self.eager.do(*batch)] == wanted
        self.eager.finish_compaction(rows=1)
        self.eager.check()

    @rule(
        expired=st.lists(leases, max_size=3),
        recorded=st.lists(leases, max_size=2),
        stale=st.booleans(),
        other_term=st.sampled_from([False, False, False, True]),
    )
    def upkeep(self, expired: list[int], recorded: list[int], *, stale: bool, other_term: bool) -> None:
        """A leader's word ends what it names in its own term, and nothing else: not what was granted anew since."""
        names = [LeaseName(LeaseId(lease), Index(self.model.leases.get(lease, 1) - stale)) for lease in expired]
        left = [Remaining(LeaseId(lease), Index(self.model.leases.get(lease, 1)), 1500) for lease in recorded]
        if not other_term:
            for lease, granted in names:
                self.model.expire(lease, granted)
        for driver in (self.lazy, self.eager):
            driver.upkeep(names, left, term=Term(driver.term + other_term))
        self.eager.finish_compaction(rows=1)

    @rule(request=ranges)
    def read(self, request: RangeRequest) -> None:
        """A range reads the same whether old revisions are physically gone or not."""
        wanted = expected(self.model, request)
        for driver in (self.eager, self.lazy):
            assert bare(driver.read(ReadKind.RANGE, request, RangeResponse)) == wanted

    @rule(request=read_txns)
    def read_txn(self, request: TxnRequest) -> None:
        """A txn of ranges served as a read answers as the same txn through the log would."""
        revision = self.model.revision
        wanted = expected(self.model, request)
        assert self.model.revision == revision
        assert bare(self.lazy.txn_read(request)) == wanted

    @rule(revision=st.integers(0, 40))
    def hashes(self, revision: int) -> None:
        """HashKV does not depend on how far physical compaction got."""
        assert self.eager.hash_kv(revision) == self.lazy.hash_kv(revision)

    @precondition(lambda self: self.lazy.store.compacting)
    @rule(rows=st.integers(1, 4))
    def compact_a_slice(self, rows: int) -> None:
        """The lazy store gives back a slice."""
        self.lazy.store.compact_step(rows)
        self.lazy.check()

    @rule()
    def restart(self) -> None:
        """A clean restart changes nothing."""
        before = self.lazy.store.state()
        self.lazy.restart()
        assert self.lazy.store.state() == before

    @invariant()
    def same_history(self) -> None:
        """Revision, compacted revision and all live pairs agree."""
        if not hasattr(self, "lazy"):
            return
        for driver in (self.eager, self.lazy):
            assert driver.store.revision == self.model.revision
            assert driver.store.compacted == self.model.compacted
            assert driver.store.keys.total == len(self.model.live)
            found, _ = leases_from(driver.store.engine, b"", 10)
            assert {lease: record.granted for lease, record in found} == self.model.leases

    def teardown(self) -> None:
        for name in ("eager", "lazy"):
            if hasattr(self, name):
                getattr(self, name).store.engine.close()
        shutil.rmtree(self.root)


class _OverRocks(_MvccAgainstModel):
    """RocksDB."""

    def make_engine(self, name: str) -> Engine:
        return RocksEngine(self.root, name, StorageConfig())


class _OverSim(_MvccAgainstModel):
    """The simulated engine, which can also lose what was not flushed."""

    def make_engine(self, name: str) -> Engine:
        return SimEngine(self.disk, name)

    @rule()
    def flush(self) -> None:
        """Make the lazy store durable."""
        self.lazy.store.engine.flush()

    @rule()
    def crash(self) -> None:
        """A store that lost what was not flushed is the same again once the log is replayed."""
        before = self.lazy.store.state()
        self.lazy.restart(crash=True)
        after = self.lazy.store.state()
        assert (after.applied, after.revision, after.compacted) == (before.applied, before.revision, before.compacted)


def _settings(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


@pytest.mark.slow
def test_the_store_over_rocksdb_answers_what_the_model_answers() -> None:
    """Whatever is done in whatever order, over real RocksDB."""
    run_state_machine_as_test(_OverRocks, settings=_settings(25))


@pytest.mark.slow
def test_the_store_over_the_simulated_engine_answers_what_the_model_answers() -> None:
    """Whatever is done in whatever order, with crashes that lose what was not flushed."""
    run_state_machine_as_test(_OverSim, settings=_settings(100))
