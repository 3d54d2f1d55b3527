"""etcd's lease semantics as far as the store decides them, rules 45, 48 and 50: grant, revoke, attachment, expiry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.command import ReadKind
from protocol.errors import Corruption, ErrorCode
from protocol.lease import LEASE_TTL_S_MAX, LeaseName, LeaseUpkeep, Remaining, decode_upkeep, encode_upkeep
from protocol.types import Index, LeaseId, Term
from protocol.wire.rpc_pb2 import (
    Compare,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    PutRequest,
    RequestOp,
    TxnRequest,
)
from sim.store_driver import StoreDriver
from storage.lease import attached_count, attached_keys, lease_record, leases_from

WHOLE = (b"\x00", b"\x00")
int64 = st.integers(-(1 << 63), (1 << 63) - 1)


def keys_of(store: StoreDriver) -> list[bytes]:
    """Every live key."""
    return [pair.key for pair in store.range(*WHOLE).response.kvs]


def name_of(store: StoreDriver, lease: int) -> LeaseName:
    """The grant an upkeep has to name."""
    record = lease_record(store.store.engine, lease)
    assert record is not None
    return LeaseName(LeaseId(lease), record.granted)


def test_rule_45_a_grant_answers_with_id_and_time_and_takes_no_revision(store: StoreDriver) -> None:
    """The header's revision stays where it was."""
    granted = store.grant(7, 60).response
    assert (granted.ID, granted.TTL, granted.error, granted.header.revision) == (7, 60, "", 1)


def test_rule_45_an_id_in_use_or_a_time_too_long_is_refused(store: StoreDriver) -> None:
    """The first lease stays what it is."""
    store.grant(7, 60)
    assert store.grant(7, 90).code == ErrorCode.LEASE_EXISTS
    assert store.grant(8, LEASE_TTL_S_MAX + 1).code == ErrorCode.LEASE_TTL_TOO_LARGE
    assert store.grant(8, LEASE_TTL_S_MAX).code == ErrorCode.OK
    assert store.grant(0).code == ErrorCode.LEASE_NOT_FOUND
    found, rest = leases_from(store.store.engine, b"", 10)
    assert [(lease, record.ttl_s) for lease, record in found] == [(7, 60), (8, LEASE_TTL_S_MAX)]
    assert rest == b""


def test_rule_14_a_put_names_a_lease_that_is_there(store: StoreDriver) -> None:
    """Alone or in a txn; negative ids are ids."""
    assert store.put(b"k", lease=-3).code == ErrorCode.LEASE_NOT_FOUND
    txn = TxnRequest(success=[RequestOp(request_put=PutRequest(key=b"k", lease=-3))])
    assert store.one(txn).code == ErrorCode.LEASE_NOT_FOUND
    store.grant(-3)
    assert store.put(b"k", lease=-3).code == ErrorCode.OK
    assert store.one(txn).code == ErrorCode.OK
    assert store.range(b"k").response.kvs[0].lease == -3
    compare = Compare(key=b"k", target=Compare.LEASE, result=Compare.EQUAL, lease=-3)
    assert store.one(TxnRequest(compare=[compare])).response.succeeded


def test_rule_48_a_revoke_deletes_what_is_attached_in_order_in_one_revision(store: StoreDriver) -> None:
    """Other keys stay; each deletion has its sub-revision; without keys there is no revision."""
    store.grant(7)
    store.grant(8)
    for key in (b"c", b"a", b"b\x00"):
        store.put(key, lease=7)
    store.put(b"other", lease=8)
    before = store.store.revision
    answer = store.revoke(7)
    assert answer.response.header.revision == before + 1 == store.store.revision
    assert keys_of(store) == [b"other"]
    assert store.revoke(7).code == ErrorCode.LEASE_NOT_FOUND
    store.delete(b"other")
    before = store.store.revision
    assert store.revoke(8).response.header.revision == before


def test_rule_48_the_history_before_a_revoke_stays_readable(store: StoreDriver) -> None:
    """The revoke is a deletion like any other."""
    store.grant(7)
    store.put(b"a", b"1", lease=7)
    at = store.store.revision
    store.revoke(7)
    assert store.range(b"a", revision=at).response.kvs[0].value == b"1"
    assert store.range(b"a").response.count == 0


def test_rule_50_attachment_moves_with_the_last_put(store: StoreDriver) -> None:
    """Put without lease detaches, put with another moves, ignore_lease keeps, a deletion detaches."""
    store.grant(7)
    store.grant(8)
    engine = store.store.engine
    for key in (b"stays", b"moves", b"leaves", b"goes"):
        store.put(key, lease=7)
    store.put(b"stays", ignore_lease=True)
    store.put(b"moves", lease=8)
    store.put(b"leaves")
    store.delete(b"goes")
    assert attached_keys(engine, 7) == [b"stays"]
    assert attached_keys(engine, 8) == [b"moves"]
    store.revoke(7)
    assert keys_of(store) == [b"leaves", b"moves"]


def test_leases_of_neighbouring_ids_share_no_keys(store: StoreDriver) -> None:
    """The last id's keys end where the table ends."""
    for lease in (-1, -2, 1, (1 << 63) - 1, -(1 << 63)):
        store.grant(lease)
        store.put(b"%d" % lease, lease=lease)
        store.put(b"%d/" % lease, lease=lease)
    for lease in (-1, -2, 1, (1 << 63) - 1, -(1 << 63)):
        assert attached_keys(store.store.engine, lease) == [b"%d" % lease, b"%d/" % lease]
        assert [attached_count(store.store.engine, lease, at_most) for at_most in (0, 1, 2, 9)] == [0, 1, 2, 2]


def test_rule_49_each_expired_lease_has_a_revision_of_its_own(store: StoreDriver) -> None:
    """Several in one entry; one without keys takes none."""
    for lease in (1, 2, 3):
        store.grant(lease)
    store.put(b"a", lease=1)
    store.put(b"b", lease=1)
    store.put(b"c", lease=3)
    before = store.store.revision
    store.upkeep([name_of(store, lease) for lease in (1, 2, 3)])
    assert store.store.revision == before + 2
    assert keys_of(store) == []
    assert leases_from(store.store.engine, b"", 9) == ([], b"")
    assert store.store.leases.counters == {"granted": 3, "revoked": 3, "expired": 3}


def test_an_expiry_of_another_term_ends_nothing(store: StoreDriver) -> None:
    """Only the leader of the entry's own term may say that time is over (etcd#15247)."""
    store.grant(7)
    store.put(b"a", lease=7)
    store.upkeep([name_of(store, 7)], term=Term(store.term - 1))
    assert keys_of(store) == [b"a"]
    store.upkeep([name_of(store, 7)])
    assert keys_of(store) == []


def test_an_expiry_spares_a_lease_granted_anew_under_the_same_id(store: StoreDriver) -> None:
    """The leader meant the lease before it."""
    store.grant(7)
    old = name_of(store, 7)
    store.revoke(7)
    store.grant(7)
    store.put(b"a", lease=7)
    store.upkeep([old], [Remaining(old.lease, old.granted, 5)])
    record = lease_record(store.store.engine, 7)
    assert record is not None
    assert record.remaining_ms == -1
    assert keys_of(store) == [b"a"]


def test_rule_50_what_is_left_of_a_lease_is_replicated_and_taken_back(store: StoreDriver) -> None:
    """It is in the store, so a restart keeps it; -1 is all of it."""
    store.grant(7, 60)
    name = name_of(store, 7)
    store.upkeep(recorded=[Remaining(name.lease, name.granted, 12_345)])
    store.restart()
    record = lease_record(store.store.engine, 7)
    assert record is not None
    assert (record.ttl_s, record.remaining_ms) == (60, 12_345)
    store.upkeep(recorded=[Remaining(name.lease, name.granted, -1)])
    assert lease_record(store.store.engine, 7) == record._replace(remaining_ms=-1)


def test_the_hash_does_not_see_leases(store: StoreDriver) -> None:
    """HashKV is over keys and revisions, as etcd's."""
    store.put(b"a")
    before = store.hash_kv().response.hash
    store.grant(7)
    assert store.hash_kv().response.hash == before


def test_sizes_return_to_what_they_were_when_a_lease_ends(store: StoreDriver) -> None:
    """A lease weighs 64 bytes while it lives; the room it leaves is used again before more is taken."""
    before = (store.store.size, store.store.size_in_use)
    store.grant(7)
    taken = store.store.size
    assert taken == before[0] + 64
    store.revoke(7)
    assert (store.store.size, store.store.size_in_use) == (taken, before[1])
    store.grant(8)
    assert store.store.size == taken


def test_changes_are_told_only_to_who_follows(store: StoreDriver) -> None:
    """In their order, once."""
    store.grant(7)
    assert store.store.leases.take_changes() == []
    store.store.leases.followed = True
    store.grant(8, 10)
    store.revoke(7)
    changes = store.store.leases.take_changes()
    assert [(change.lease, change.record is not None) for change in changes] == [(8, True), (7, False)]
    assert store.store.leases.take_changes() == []


@pytest.mark.parametrize("serial", [1, 2, 3])
def test_rule_47_leases_are_listed_however_many_slices_it_takes(store: StoreDriver, serial: int) -> None:
    """All ids, in the order of ids where no leader knows better."""
    wanted = [-5, 3, 4, 1 << 40][:serial]
    for lease in reversed(wanted):
        store.grant(lease)
    answer = store.read(ReadKind.LEASES, LeaseLeasesRequest(), LeaseLeasesResponse)
    assert [status.ID for status in answer.response.leases] == wanted
    assert answer.response.header.revision == 1


@given(
    term=st.integers(0, 1 << 60),
    expired=st.lists(st.tuples(int64, st.integers(0, 1 << 60)), max_size=5),
    recorded=st.lists(st.tuples(int64, st.integers(0, 1 << 60), st.integers(-1, 1 << 60)), max_size=5),
)
def test_an_upkeep_comes_back_as_it_was(
    term: int, expired: list[tuple[int, int]], recorded: list[tuple[int, int, int]]
) -> None:
    """Whatever ids and times are in it."""
    upkeep = LeaseUpkeep(
        Term(term),
        tuple(LeaseName(LeaseId(lease), Index(granted)) for lease, granted in expired),
        tuple(Remaining(LeaseId(lease), Index(granted), left) for lease, granted, left in recorded),
    )
    assert decode_upkeep(encode_upkeep(upkeep)) == upkeep


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x94\x02\x01\x90\x90", b"\x94\x01\x01\x91\x01\x90", b"\x01"])
def test_an_upkeep_that_makes_no_sense_halts_the_node(data: bytes) -> None:
    """Skipping it would make members differ."""
    with pytest.raises(Corruption):
        decode_upkeep(data)
