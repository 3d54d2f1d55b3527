"""Users, roles, and whether they matter: etcd's rules 56, 57 and 61."""

import pytest
from auth_world import READ, READWRITE, WRITE, AuthWorld, grant, hashed

from protocol.auth import Identity, TokenOrder, encode_token_order
from protocol.command import CommandKind, Origin, ReadKind, encode_batch
from protocol.errors import ErrorCode
from protocol.types import EntryKind, Incarnation
from protocol.wire import auth_pb2 as auth
from protocol.wire import rpc_pb2 as rpc
from sim.store_driver import MEMBER, Request
from storage.auth import TokenNews


@pytest.fixture
def world() -> AuthWorld:
    """A fresh store."""
    return AuthWorld()


def revision(world: AuthWorld) -> int:
    """The auth revision as a client is told it."""
    return int(world.read(ReadKind.AUTH_STATUS, rpc.AuthStatusRequest(), rpc.AuthStatusResponse).response.authRevision)


def test_authentication_is_turned_on_only_with_somebody_who_can_turn_it_off(world: AuthWorld) -> None:
    """Rule 56: user root with role root; doing it twice changes nothing; turning it off moves the auth revision."""
    assert world.one(rpc.AuthEnableRequest()).code == ErrorCode.ROOT_USER_NOT_EXIST
    world.add_user("root")
    assert world.one(rpc.AuthEnableRequest()).code == ErrorCode.ROOT_ROLE_NOT_EXIST
    world.must(rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    before = revision(world)
    world.must(rpc.AuthEnableRequest())
    assert revision(world) == before
    world.identity = world.who("root")
    world.must(rpc.AuthEnableRequest())
    assert revision(world) == before
    world.must(rpc.AuthDisableRequest())
    world.identity = None
    assert revision(world) == before + 1
    world.must(rpc.AuthDisableRequest())
    assert revision(world) == before + 1


def test_every_change_moves_the_auth_revision_and_no_other(world: AuthWorld) -> None:
    """Rule 57: it begins at 1 and moves by one; the store's own revision does not."""
    assert revision(world) == 1
    changes: list[Request] = [
        rpc.AuthUserAddRequest(name="u", hashedPassword=hashed()),
        rpc.AuthRoleAddRequest(name="r"),
        grant("r", READ, b"a"),
        rpc.AuthUserGrantRoleRequest(user="u", role="r"),
        rpc.AuthUserChangePasswordRequest(name="u", hashedPassword=hashed("other")),
        rpc.AuthUserRevokeRoleRequest(name="u", role="r"),
        rpc.AuthRoleRevokePermissionRequest(role="r", key=b"a"),
        rpc.AuthRoleDeleteRequest(role="r"),
        rpc.AuthUserDeleteRequest(name="u"),
    ]
    for number, change in enumerate(changes, 2):
        answer = world.one(change)
        assert answer.code == ErrorCode.OK
        assert answer.response.header.revision == 1
        assert revision(world) == number
    world.must(rpc.AuthRoleAddRequest(name="r"), rpc.AuthUserAddRequest(name="u"))
    world.must(rpc.AuthUserGrantRoleRequest(user="u", role="r"))
    before = revision(world)
    world.must(rpc.AuthUserGrantRoleRequest(user="u", role="r"))
    assert revision(world) == before, "a role that is there already is no change"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (rpc.AuthUserAddRequest(), ErrorCode.USER_EMPTY),
        (rpc.AuthUserAddRequest(name="u"), ErrorCode.USER_ALREADY_EXISTS),
        (rpc.AuthUserAddRequest(name="x", hashedPassword="%"), ErrorCode.NO_PASSWORD_USER),
        (rpc.AuthUserDeleteRequest(name="x"), ErrorCode.USER_NOT_FOUND),
        (rpc.AuthUserChangePasswordRequest(name="x"), ErrorCode.USER_NOT_FOUND),
        (rpc.AuthUserGrantRoleRequest(user="x", role="r"), ErrorCode.USER_NOT_FOUND),
        (rpc.AuthUserGrantRoleRequest(user="u", role="x"), ErrorCode.ROLE_NOT_FOUND),
        (rpc.AuthUserRevokeRoleRequest(name="u", role="x"), ErrorCode.ROLE_NOT_GRANTED),
        (rpc.AuthUserRevokeRoleRequest(name="x", role="r"), ErrorCode.USER_NOT_FOUND),
        (rpc.AuthRoleAddRequest(), ErrorCode.ROLE_EMPTY),
        (rpc.AuthRoleAddRequest(name="r"), ErrorCode.ROLE_ALREADY_EXISTS),
        (rpc.AuthRoleDeleteRequest(role="x"), ErrorCode.ROLE_NOT_FOUND),
        (rpc.AuthRoleGrantPermissionRequest(name="r"), ErrorCode.PERMISSION_NOT_GIVEN),
        (grant("x", READ, b"a"), ErrorCode.ROLE_NOT_FOUND),
        (grant("r", READ, b""), ErrorCode.INVALID_AUTH_MANAGEMENT),
        (grant("r", READ, b"b", b"a"), ErrorCode.INVALID_AUTH_MANAGEMENT),
        (grant("r", READ, b"b", b"b"), ErrorCode.INVALID_AUTH_MANAGEMENT),
        (rpc.AuthRoleRevokePermissionRequest(role="r", key=b"a", range_end=b"c"), ErrorCode.PERMISSION_NOT_GRANTED),
        (rpc.AuthRoleRevokePermissionRequest(role="x", key=b"a"), ErrorCode.ROLE_NOT_FOUND),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(
    world: AuthWorld, request_: Request, code: ErrorCode
) -> None:
    """Each refusal has etcd's code, and the auth revision stays."""
    world.add_role("r", (READ, b"a", b""))
    world.add_user("u", "r")
    before = revision(world)
    assert world.one(request_).code == code
    assert revision(world) == before


def test_users_and_roles_are_shown_in_order(world: AuthWorld) -> None:
    """Lists go by name, roles of a user too; the role root shows that it may do everything."""
    for name in ("b", "a", "root"):
        world.add_role(name)
        world.add_user(name)
    for role in ("root", "b", "a"):
        world.must(rpc.AuthUserGrantRoleRequest(user="b", role=role))
    assert world.read(ReadKind.USER_LIST, rpc.AuthUserListRequest(), rpc.AuthUserListResponse).response.users == [
        "a",
        "b",
        "root",
    ]
    shown = world.read(ReadKind.USER_GET, rpc.AuthUserGetRequest(name="b"), rpc.AuthUserGetResponse).response
    assert shown.roles == ["a", "b", "root"]
    shown = world.read(ReadKind.ROLE_GET, rpc.AuthRoleGetRequest(role="root"), rpc.AuthRoleGetResponse).response
    assert list(shown.perm) == [auth.Permission(permType=READWRITE, key=b"\0", range_end=b"\0")]
    roles = world.read(ReadKind.ROLE_LIST, rpc.AuthRoleListRequest(), rpc.AuthRoleListResponse).response.roles
    assert roles == ["a", "b", "root"]


def test_a_permission_given_again_changes_its_type(world: AuthWorld) -> None:
    """Rule 61: key and end say which permission it is; another end is another permission."""
    world.add_role("r", (READ, b"b", b""), (READ, b"a", b"c"), (WRITE, b"b", b""), (WRITE, b"a", b"d"))
    shown = world.read(ReadKind.ROLE_GET, rpc.AuthRoleGetRequest(role="r"), rpc.AuthRoleGetResponse).response
    assert [(each.permType, each.key, each.range_end) for each in shown.perm] == [
        (READ, b"a", b"c"),
        (WRITE, b"a", b"d"),
        (WRITE, b"b", b""),
    ]


def test_root_stays_while_rights_matter(world: AuthWorld) -> None:
    """Rule 61: neither user, nor role, nor the one from the other; without authentication all of it may go."""
    world.add_role("root")
    world.enable()
    doomed: list[Request] = [
        rpc.AuthUserDeleteRequest(name="root"),
        rpc.AuthRoleDeleteRequest(role="root"),
        rpc.AuthUserRevokeRoleRequest(name="root", role="root"),
    ]
    for request in doomed:
        assert world.one(request).code == ErrorCode.INVALID_AUTH_MANAGEMENT
    world.must(rpc.AuthDisableRequest())
    world.identity = None
    world.must(*reversed(doomed))


def test_deleting_a_role_takes_it_from_everybody(world: AuthWorld) -> None:
    """Users keep their other roles."""
    world.add_role("r")
    world.add_role("s")
    world.add_user("u", "r", "s")
    world.add_user("v", "r")
    world.must(rpc.AuthRoleDeleteRequest(role="r"))
    for name, roles in (("u", ["s"]), ("v", [])):
        shown = world.read(ReadKind.USER_GET, rpc.AuthUserGetRequest(name=name), rpc.AuthUserGetResponse).response
        assert shown.roles == roles


@pytest.mark.parametrize("crash", [False, True])
def test_everything_outlives_a_restart(world: AuthWorld, crash: bool) -> None:
    """Users, roles, permissions, whether they matter and the auth revision are in the store."""
    world.add_role("r", (READ, b"a", b"b"))
    world.add_user("u", "r")
    world.enable()
    before = (world.store.auth.users, world.store.auth.roles, world.store.auth.revision)
    world.restart(crash=crash)
    assert (world.store.auth.users, world.store.auth.roles, world.store.auth.revision) == before
    assert world.store.auth.enabled
    assert world.range_as("u", b"a").code == ErrorCode.OK
    assert world.do_as(None, rpc.PutRequest(key=b"a"))[0].code == ErrorCode.USER_EMPTY


def order_token(world: AuthWorld, order: TokenOrder) -> tuple[ErrorCode, str]:
    """Apply what a right password becomes."""
    world.sequence += 1
    flat: list[int | bytes] = [int(CommandKind.ASSIGN_TOKEN), encode_token_order(order)]
    applied = world.apply(EntryKind.COMMANDS, encode_batch(Origin(MEMBER, Incarnation(1), world.sequence), flat))
    code, body = applied.results[0]
    return ErrorCode(code), rpc.AuthenticateResponse.FromString(body).token


def test_a_token_names_its_entry_and_is_told_to_doors(world: AuthWorld) -> None:
    """Rule 63: prefix, dot, index. A changed password, a deleted user and the end of authentication end tokens."""
    assert order_token(world, TokenOrder("u", "x", 1))[0] == ErrorCode.AUTH_NOT_ENABLED
    world.add_user("u")
    world.enable()
    world.store.auth.take_news()
    now = world.store.auth.revision
    code, token = order_token(world, TokenOrder("u", "abc", now))
    assert (code, token) == (ErrorCode.OK, f"abc.{world.store.applied}")
    assert world.store.auth.take_news() == [TokenNews("u", token)]
    world.must(rpc.AuthUserChangePasswordRequest(name="u", hashedPassword=hashed("other")))
    assert world.store.auth.take_news() == [TokenNews("u", "")]
    assert order_token(world, TokenOrder("u", "abc", now))[0] == ErrorCode.AUTH_OLD_REVISION
    assert order_token(world, TokenOrder("x", "abc", now + 1))[0] == ErrorCode.AUTH_FAILED
    world.must(rpc.AuthUserDeleteRequest(name="u"))
    assert world.store.auth.take_news() == [TokenNews("u", "")]
    world.must(rpc.AuthDisableRequest())
    assert world.store.auth.take_news() == [TokenNews("", "")]


def test_enabling_binds_the_next_command_of_the_same_batch(world: AuthWorld) -> None:
    """What comes behind an AuthEnable in one entry is refused without a user, and what comes behind the end is not."""
    world.add_user("root", "root")
    put = rpc.PutRequest(key=b"k", value=b"v")
    codes = [answer.code for answer in world.do(put, rpc.AuthEnableRequest(), put, rpc.AuthDisableRequest())]
    assert codes == [ErrorCode.OK, ErrorCode.OK, ErrorCode.USER_EMPTY, ErrorCode.USER_EMPTY]
    root = world.who("root")
    codes = [answer.code for answer in world.do_as(root, put, rpc.AuthDisableRequest(), put)]
    assert codes == [ErrorCode.OK] * 3
    assert world.one(put).code == ErrorCode.OK


def test_a_role_change_binds_the_next_command_of_the_same_batch(world: AuthWorld) -> None:
    """Requests let in before a change of rights are checked against the rights after it (etcd#14571)."""
    world.add_role("r", (READWRITE, b"k", b""))
    world.add_user("u", "r")
    world.enable()
    flat: list[Request] = [
        rpc.PutRequest(key=b"k", value=b"1"),
        rpc.AuthUserRevokeRoleRequest(name="u", role="r"),
        rpc.PutRequest(key=b"k", value=b"2"),
    ]
    root = world.who("root")
    assert [answer.code for answer in world.do_as(root, *flat)] == [
        ErrorCode.OK,
        ErrorCode.OK,
        ErrorCode.AUTH_OLD_REVISION,
    ]
    assert world.do_as(Identity("u", root.revision), flat[0])[0].code == ErrorCode.AUTH_OLD_REVISION
    assert world.code_as("u", flat[0]) == ErrorCode.PERMISSION_DENIED
