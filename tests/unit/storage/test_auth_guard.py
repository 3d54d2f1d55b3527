"""Who may do what: etcd's rules 58 to 60, each need with one who has it and one who has not."""

import itertools

import pytest
from auth_world import READ, READWRITE, WRITE, AuthWorld, grant
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.auth import Identity, encode_as
from protocol.command import CommandKind, ReadKind
from protocol.errors import ErrorCode
from protocol.lease import LeaseName
from protocol.types import LeaseId
from protocol.wire import rpc_pb2 as rpc
from sim.store_driver import Request
from storage.auth_spans import Spans
from storage.layout import user_bounds

OK, DENIED = ErrorCode.OK, ErrorCode.PERMISSION_DENIED


@pytest.fixture
def world() -> AuthWorld:
    """Authentication is on; reader, writer and both may touch keys from `m` to `n`; alone may read and write `k`."""
    made = AuthWorld()
    for name, kind in (("reader", READ), ("writer", WRITE), ("both", READWRITE)):
        made.add_role(name, (kind, b"m", b"n"))
        made.add_user(name, name)
    made.add_role("alone", (READWRITE, b"k", b""))
    made.add_user("alone", "alone")
    made.add_user("nothing")
    for key in (b"k", b"k\0", b"ka", b"l", b"m", b"m1", b"n"):
        made.put(key)
    made.enable()
    return made


def test_nobody_and_the_past_are_refused_before_anything_else(world: AuthWorld) -> None:
    """Rule 58: no user, an old revision (root's too), a user that is gone."""
    put = rpc.PutRequest(key=b"m")
    now = world.store.auth.revision
    assert world.do_as(None, put)[0].code == ErrorCode.USER_EMPTY
    assert world.do_as(Identity("root", now - 1), put)[0].code == ErrorCode.AUTH_OLD_REVISION
    assert world.do_as(Identity("both", now - 1), put)[0].code == ErrorCode.AUTH_OLD_REVISION
    assert world.do_as(Identity("gone", now), put)[0].code == DENIED
    assert world.do_as(Identity("gone", now), rpc.AuthUserDeleteRequest(name="x"))[0].code == ErrorCode.USER_NOT_FOUND
    assert world.do_as(Identity("root", now - 1), rpc.AuthRoleAddRequest(name="x"))[0].code == OK


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [
        (rpc.PutRequest(key=b"m"), "writer both"),
        (rpc.PutRequest(key=b"m", prev_kv=True), "both"),
        (rpc.PutRequest(key=b"n"), ""),
        (rpc.DeleteRangeRequest(key=b"m1"), "writer both"),
        (rpc.DeleteRangeRequest(key=b"m1", prev_kv=True), "both"),
        (rpc.DeleteRangeRequest(key=b"m", range_end=b"n"), "writer both"),
        (rpc.DeleteRangeRequest(key=b"m", range_end=b"n\0"), ""),
        (rpc.DeleteRangeRequest(key=b"m", range_end=b"\0"), ""),
        (rpc.CompactionRequest(revision=2), ""),
        (rpc.LeaseGrantRequest(ID=5, TTL=9), "reader writer both alone nothing"),
        (rpc.AuthUserAddRequest(name="x"), ""),
        (rpc.AuthRoleAddRequest(name="x"), ""),
        (rpc.AuthDisableRequest(), ""),
    ],
)
def test_each_command_needs_what_etcd_says(world: AuthWorld, request_: Request, allowed: str) -> None:
    """Everybody is asked in turn; root may do all of it."""
    for name in ("reader", "writer", "both", "alone", "nothing"):
        code = world.code_as(name, request_)
        assert code == (OK if name in allowed.split() else DENIED), name
        if isinstance(request_, rpc.LeaseGrantRequest):
            world.must(rpc.LeaseRevokeRequest(ID=5))
    assert world.code_as("root", request_) == OK


def operation(**request: object) -> rpc.RequestOp:
    """One operation of a txn."""
    return rpc.RequestOp(**request)  # type: ignore[arg-type]


GET_M = operation(request_range=rpc.RangeRequest(key=b"m"))
PUT_M = operation(request_put=rpc.PutRequest(key=b"m"))
PUT_L = operation(request_put=rpc.PutRequest(key=b"l"))


@pytest.mark.parametrize(
    ("txn", "allowed"),
    [
        (rpc.TxnRequest(success=[PUT_M]), "writer both"),
        (rpc.TxnRequest(success=[PUT_M, GET_M]), "both"),
        (rpc.TxnRequest(compare=[rpc.Compare(key=b"m", result=rpc.Compare.GREATER)], success=[PUT_M]), "both"),
        (rpc.TxnRequest(compare=[rpc.Compare(key=b"l")], success=[PUT_M]), ""),
        (rpc.TxnRequest(compare=[rpc.Compare(key=b"m", range_end=b"z")], success=[PUT_M]), ""),
        (rpc.TxnRequest(success=[PUT_M], failure=[PUT_L]), ""),
        (rpc.TxnRequest(success=[operation(request_txn=rpc.TxnRequest(success=[PUT_M]))]), "writer both"),
        (rpc.TxnRequest(success=[operation(request_txn=rpc.TxnRequest(failure=[PUT_L]))]), ""),
        (rpc.TxnRequest(success=[operation(request_delete_range=rpc.DeleteRangeRequest(key=b"m"))]), "writer both"),
    ],
)
def test_a_txn_needs_all_of_its_parts(world: AuthWorld, txn: rpc.TxnRequest, allowed: str) -> None:
    """Compares are reads, and the branch that is not taken counts as well."""
    for name in ("reader", "writer", "both", "nothing"):
        assert world.code_as(name, txn) == (OK if name in allowed.split() else DENIED), name


def test_a_range_must_be_covered_by_the_union_of_all_roles(world: AuthWorld) -> None:
    """Rule 59: ranges that touch are one; a gap of a single key is a gap."""
    world.add_role("left", (READ, b"a", b"c"))
    world.add_role("right", (READ, b"c", b"e"), (READ, b"f", b"\0"), (READ, b"e", b""))
    world.add_user("u", "left", "right")
    assert world.range_as("u", b"a", b"e\0").code == OK
    assert world.range_as("u", b"a", b"e\0\0").code == DENIED
    assert world.range_as("u", b"f", b"\0").code == OK
    assert world.range_as("u", b"a", b"\0").code == DENIED
    world.must(grant("left", READ, b"e", b"f"))
    assert world.range_as("u", b"a", b"\0").code == OK


def test_a_grant_on_one_key_shows_nothing_of_its_neighbours(world: AuthWorld) -> None:
    """Every way to name more than the key itself is refused (GHSA-xg4h-6gfc-h4m8), whatever the request."""
    assert world.range_as("alone", b"k").response.count == 1
    for key, end in ((b"k", b"k\0\0"), (b"k", b"ka"), (b"k", b"l"), (b"k", b"\0"), (b"\0", b"\0"), (b"j", b"k\0")):
        assert world.range_as("alone", key, end).code == DENIED, (key, end)
        world.identity = world.who("alone")
        asked = rpc.RangeRequest(key=key, range_end=end)
        assert world.read(ReadKind.PERMIT_RANGE, asked, rpc.RangeResponse).code == DENIED
        compare = rpc.Compare(key=key, range_end=end)
        assert world.txn_read(rpc.TxnRequest(compare=[compare])).code == DENIED
        assert world.delete(key, end).code == DENIED
    for neighbour in (b"k\0", b"ka", b"j", b"l"):
        assert world.range_as("alone", neighbour).code == DENIED
    assert world.range_as("alone", b"k", b"k\0").response.count == 1


def test_leases_need_their_keys(world: AuthWorld) -> None:
    """Rule 60: naming, keeping and ending a lease needs write on all its keys, its keys and the list read."""
    world.must(rpc.LeaseGrantRequest(ID=7, TTL=60), rpc.LeaseGrantRequest(ID=8, TTL=60))
    world.must(rpc.PutRequest(key=b"l", lease=7))
    assert world.code_as("both", rpc.PutRequest(key=b"m", lease=7)) == DENIED
    assert world.code_as("both", rpc.PutRequest(key=b"m", lease=8)) == OK
    assert world.code_as("reader", rpc.LeaseRevokeRequest(ID=8)) == DENIED
    assert world.code_as("both", rpc.LeaseRevokeRequest(ID=7)) == DENIED
    assert world.do_as(None, rpc.LeaseRevokeRequest(ID=8))[0].code == ErrorCode.USER_EMPTY
    world.identity = world.who("both")
    assert world.read(ReadKind.LEASES, rpc.LeaseLeasesRequest(), rpc.LeaseLeasesResponse).code == DENIED
    world.identity = world.who("root")
    listed = world.read(ReadKind.LEASES, rpc.LeaseLeasesRequest(), rpc.LeaseLeasesResponse).response
    assert [each.ID for each in listed.leases] == [7, 8]
    world.must(rpc.LeaseRevokeRequest(ID=7))
    world.identity = world.who("reader")
    assert world.read(ReadKind.LEASES, rpc.LeaseLeasesRequest(), rpc.LeaseLeasesResponse).code == OK
    assert world.code_as("both", rpc.LeaseRevokeRequest(ID=8)) == OK


def test_an_expiry_asks_for_no_rights(world: AuthWorld) -> None:
    """Rule 64: the leader ends leases in nobody's name."""
    world.must(rpc.LeaseGrantRequest(ID=7, TTL=60), rpc.PutRequest(key=b"l", lease=7))
    world.upkeep([LeaseName(LeaseId(7), world.store.applied)])
    assert world.range(b"l").response.count == 0


@pytest.mark.parametrize(
    ("kind", "request_", "response", "allowed"),
    [
        (ReadKind.USER_GET, rpc.AuthUserGetRequest(name="both"), rpc.AuthUserGetResponse, "both"),
        (ReadKind.ROLE_GET, rpc.AuthRoleGetRequest(role="both"), rpc.AuthRoleGetResponse, "both"),
        (ReadKind.USER_LIST, rpc.AuthUserListRequest(), rpc.AuthUserListResponse, ""),
        (ReadKind.ROLE_LIST, rpc.AuthRoleListRequest(), rpc.AuthRoleListResponse, ""),
        (ReadKind.HASH_KV, rpc.HashKVRequest(), rpc.HashKVResponse, ""),
        (ReadKind.AUTH_STATUS, rpc.AuthStatusRequest(), rpc.AuthStatusResponse, "reader both nothing"),
        (ReadKind.RANGE, rpc.RangeRequest(key=b"m"), rpc.RangeResponse, "reader both"),
        (ReadKind.PERMIT_ROOT, rpc.RangeRequest(), rpc.RangeResponse, ""),
    ],
)
def test_each_read_needs_what_etcd_says(
    world: AuthWorld, kind: ReadKind, request_: rpc.RangeRequest, response: type, allowed: str
) -> None:
    """Own users and roles may be looked at, the others only by root."""
    for name in ("reader", "both", "nothing"):
        world.identity = world.who(name)
        assert world.read(kind, request_, response).code == (OK if name in allowed.split() else DENIED), name
    world.identity = world.who("root")
    assert world.read(kind, request_, response).code == OK
    world.identity = None
    code = world.read(kind, request_, response).code
    assert code == (OK if kind is ReadKind.AUTH_STATUS else ErrorCode.USER_EMPTY)


def test_what_no_table_names_needs_root(world: AuthWorld) -> None:
    """A command that is added and forgotten in the table is too strict, never too lax."""
    guard, reader = world.store.guard, world.store.engine
    with pytest.raises(Exception, match="permission denied"):
        guard.check_command(world.who("both"), 999, b"", reader)
    with pytest.raises(Exception, match="permission denied"):
        guard.check_read(world.who("both"), 999, b"", reader)
    guard.check_command(world.who("root"), 999, b"", reader)


def test_an_identity_costs_nothing_and_means_nothing_while_rights_do_not_matter(world: AuthWorld) -> None:
    """A token that is still sent after authentication ended does no harm."""
    world.must(rpc.AuthDisableRequest())
    assert world.do_as(Identity("gone", 1), rpc.PutRequest(key=b"k"))[0].code == OK
    world.identity = Identity("gone", 1)
    assert world.range(b"k").code == OK
    assert encode_as(Identity("a", 9), int(CommandKind.PUT), b"p") == b"\x94\xa1a\x09\x01\xc4\x01p"


KEYS = [bytes(letters) for size in (1, 2) for letters in itertools.product(b"\x00ab", repeat=size)]
ENDS = [b"", b"\0", *KEYS]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(ENDS)), max_size=5), st.sampled_from(KEYS),
       st.sampled_from(ENDS))  # fmt: skip
def test_spans_cover_exactly_what_their_ranges_name(
    ranges: list[tuple[bytes, bytes]], key: bytes, range_end: bytes
) -> None:
    """Against a model that looks at every key of a small world, one key longer than any bound."""
    keys = [bytes(letters) for size in (1, 2, 3) for letters in itertools.product(b"\x00ab\xff", repeat=size)]

    def named(wanted: bytes, end: bytes) -> set[bytes]:
        first, last = user_bounds(wanted, end)
        return {each for each in keys if first <= each and (last is None or each < last)}

    granted = set().union(*(named(*each) for each in ranges)) if ranges else set()
    wanted = named(key, range_end)
    covers = Spans([user_bounds(*each) for each in ranges]).cover(*user_bounds(key, range_end))
    if covers:
        assert wanted <= granted
    elif wanted:
        assert not wanted <= granted
