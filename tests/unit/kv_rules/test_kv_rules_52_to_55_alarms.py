"""etcd's rules 52 to 55 as far as the store decides them: alarms, what they refuse, and the sizes quotas look at."""

import random

from hypothesis import given
from hypothesis import strategies as st

from protocol.command import CommandKind, Origin, ReadKind, encode_batch
from protocol.errors import ErrorCode
from protocol.types import EntryKind, Incarnation
from protocol.wire import rpc_pb2 as rpc
from protocol.wire.rpc_pb2 import (
    CORRUPT,
    NONE,
    NOSPACE,
    AlarmRequest,
    AlarmResponse,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.store_driver import MEMBER, StoreDriver

GET, ACTIVATE, DEACTIVATE = AlarmRequest.GET, AlarmRequest.ACTIVATE, AlarmRequest.DEACTIVATE
PUT_TXN = TxnRequest(failure=[RequestOp(request_put=PutRequest(key=b"t"))])
NESTED_PUT_TXN = TxnRequest(success=[RequestOp(request_txn=PUT_TXN)])
READ_TXN = TxnRequest(success=[RequestOp(request_range=RangeRequest(key=b"a"))])


def listed(store: StoreDriver, kind: int = NONE) -> list[tuple[int, int]]:
    """The alarms as a read lists them."""
    answer = store.read(ReadKind.ALARMS, AlarmRequest(alarm=kind), AlarmResponse)  # type: ignore[arg-type]
    return [(each.memberID, each.alarm) for each in answer.response.alarms]


def test_rule_53_without_space_what_grows_is_refused_and_what_shrinks_is_not(store: StoreDriver) -> None:
    """Puts, txns that may put anywhere and grants fail; the very next command may come again after the disarm."""
    store.put(b"a")
    store.grant(7)
    store.alarm(ACTIVATE, NOSPACE, 9)
    for refused in (store.put(b"b"), store.grant(8), store.one(PUT_TXN), store.one(NESTED_PUT_TXN)):
        assert refused.code == ErrorCode.NO_SPACE
    assert store.one(READ_TXN).response.succeeded
    assert store.delete(b"a").response.deleted == 1
    assert store.revoke(7).code == store.compact(2).code == ErrorCode.OK
    put, disarm = PutRequest(key=b"b"), AlarmRequest(action=DEACTIVATE, alarm=NOSPACE, memberID=9)
    codes = [answer.code for answer in store.do(put, disarm, put)]
    assert codes == [ErrorCode.NO_SPACE, ErrorCode.OK, ErrorCode.OK]


def test_rule_54_a_corrupt_cluster_takes_no_command_of_clients(store: StoreDriver) -> None:
    """Reads are served; when the alarm is taken back another one may still forbid something."""
    store.put(b"a")
    store.grant(7)
    store.alarm(ACTIVATE, NOSPACE, 9)
    store.alarm(ACTIVATE, CORRUPT, 9)
    for refused in (store.put(b"b"), store.delete(b"a"), store.one(READ_TXN), store.compact(2), store.grant(8)):
        assert refused.code == ErrorCode.CORRUPT
    assert store.revoke(7).code == ErrorCode.CORRUPT
    assert store.range(b"a").response.count == 1
    store.alarm(DEACTIVATE, CORRUPT, 9)
    assert store.put(b"b").code == ErrorCode.NO_SPACE
    assert store.compact(2).code == ErrorCode.OK


def test_rule_55_alarms_are_listed_by_kind_and_named_when_they_change(store: StoreDriver) -> None:
    """NONE lists all and raises nothing; what is there already is named again; what is not is nobody."""
    assert not store.alarm(ACTIVATE, NONE, 9).response.alarms
    for member in (5, 3, 5):
        (raised,) = store.alarm(ACTIVATE, NOSPACE, member).response.alarms
        assert (raised.memberID, raised.alarm) == (member, NOSPACE)
    store.alarm(ACTIVATE, CORRUPT, 3)
    assert listed(store) == [(3, NOSPACE), (5, NOSPACE), (3, CORRUPT)]
    assert listed(store, CORRUPT) == [(3, CORRUPT)]
    assert len(store.alarm(GET, NOSPACE, 0).response.alarms) == 2
    assert store.status().errors == [
        "memberID:3 alarm:NOSPACE ",
        "memberID:5 alarm:NOSPACE ",
        "memberID:3 alarm:CORRUPT ",
    ]
    assert not store.alarm(DEACTIVATE, NOSPACE, 4).response.alarms
    assert [each.memberID for each in store.alarm(DEACTIVATE, NOSPACE, 5).response.alarms] == [5]
    assert listed(store) == [(3, NOSPACE), (3, CORRUPT)]


def test_rule_55_alarms_outlive_a_restart(store: StoreDriver) -> None:
    """They are rows of the store, written with the entry that raised them."""
    store.alarm(ACTIVATE, NOSPACE, 9)
    store.restart()
    assert listed(store) == [(9, NOSPACE)]
    assert store.put(b"a").code == ErrorCode.NO_SPACE


def test_rule_30_room_given_back_is_used_again_before_more_is_taken(store: StoreDriver) -> None:
    """As a database file: compaction lowers what is in use, not what is taken; overwrites then fit into the room."""
    for _ in range(10):
        store.put(b"k", b"v" * 100)
    taken = store.store.size
    assert taken == store.store.size_in_use
    store.compact(11)
    store.finish_compaction()
    assert (store.store.size, store.store.size_in_use < taken // 5) == (taken, True)
    for _ in range(5):
        store.put(b"k", b"v" * 100)
    assert store.store.size == taken
    store.restart()
    assert store.store.size == taken
    for _ in range(10):
        store.put(b"k", b"v" * 100)
    assert store.store.size == store.store.size_in_use > taken


def test_what_a_member_does_by_itself_asks_for_nobodys_rights(store: StoreDriver) -> None:
    """Alarms and compaction go on when authentication is on, and another alarm forbids them as it does clients'."""
    store.one(rpc.AuthUserAddRequest(name="root", options={"no_password": True}))
    store.one(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    assert store.one(rpc.AuthEnableRequest()).code == ErrorCode.OK
    assert store.alarm(ACTIVATE, NOSPACE, 9).code == ErrorCode.USER_EMPTY
    request = AlarmRequest(action=ACTIVATE, alarm=NOSPACE, memberID=9)
    origin = Origin(MEMBER, Incarnation(2), 1)
    body = bytes((CommandKind.ALARM,)) + request.SerializeToString()
    applied = store.apply(EntryKind.COMMANDS, encode_batch(origin, [CommandKind.AS_NODE, body]))
    assert applied.results[0][0] == ErrorCode.OK
    assert list(store.store.alarms.raised) == [(NOSPACE, 9)]


@given(kind=st.integers(-(1 << 31), (1 << 31) - 1), member=st.integers(0, (1 << 64) - 1))
def test_an_alarm_of_any_kind_and_member_is_kept_as_it_is(kind: int, member: int) -> None:
    """Enumerations of proto3 are open: a client may name a kind nobody knows, and it is told back."""
    disk = SimDisk(random.Random(0))
    store = StoreDriver(lambda: SimEngine(disk, "store"))
    store.alarm(ACTIVATE, kind, member)  # type: ignore[arg-type]
    store.restart(crash=True)
    assert listed(store) == ([(member, kind)] if kind else [])
    assert len(store.status().errors) == len(listed(store))
