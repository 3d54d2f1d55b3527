"""Authentication asked of real etcd and of actd: the same users and rights, the same requests, the same answers.

Left out is what etcd has changed since 3.4.23: needs of Compact, MemberList, Status and of leases; the auth status.
"""

import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from auth_doors import AuthDoor, permission
from clusters import Cluster, running
from etcd_server import need_etcd, running_etcd
from google.protobuf.message import Message
from kv_answers import Answer, comparable

from actd import Client, RequestRefused
from protocol.errors import ErrorCode
from protocol.wire import rpc_pb2 as rpc

ETCDCTL = shutil.which("etcdctl")
pytestmark = [pytest.mark.processes, pytest.mark.slow]
ROOT = ("root", "rootpw")
STEPS = 250


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AuthDoor, AuthDoor, Cluster, str]]:
    """A fresh etcd, and three fresh nodes of ours of which one is asked."""
    need_etcd("etcdctl")
    directory = tmp_path_factory.mktemp("auth")
    options = ("--bcrypt-cost", "4", "--auth-token-ttl", "300")
    sections: dict[str, dict[str, object]] = {"auth": {"bcrypt_cost": 4}}
    with (
        running_etcd(directory, *options) as address,
        running(Cluster(directory / "actd", 3, **sections)) as cluster,
    ):
        cluster.start()
        yield AuthDoor(address), AuthDoor(cluster.client_address("n1")), cluster, address


@pytest.fixture(autouse=True)
def both_begin_alike(doors: tuple[AuthDoor, AuthDoor, Cluster, str]) -> Iterator[None]:
    """No users, no roles, no keys, and authentication off."""
    yield
    for door in doors[:2]:
        if door.log_in(*ROOT)[0] == "OK":
            assert door.answer_as("root", rpc.AuthDisableRequest())[0] == "OK"
        door.tokens.clear()
        for name in door.answer(rpc.AuthUserListRequest())[1].users:
            door.answer(rpc.AuthUserDeleteRequest(name=name))
        for name in door.answer(rpc.AuthRoleListRequest())[1].roles:
            door.answer(rpc.AuthRoleDeleteRequest(role=name))
        door.answer(rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0"))


def both(doors: Sequence[AuthDoor], user: str, request: Message) -> Answer:
    """Ask both as a user; return the answer, which must be the same."""
    expected, found = (comparable(request, _plain(door.answer_as(user, request))) for door in doors[:2])
    assert found == expected, f"{type(request).__name__} as {user or 'nobody'}: {request}"
    return found


def _plain(answer: Answer) -> Answer:
    """Without the header's revision: the two stores have another past."""
    status, response = answer
    if status == "OK":
        response = type(response).FromString(response.SerializeToString())
        response.header.ClearField("revision")
        for pair in getattr(response, "kvs", ()):
            for field in ("create_revision", "mod_revision", "version"):
                pair.ClearField(field)
    return status, response


USERS = ("root", "a", "b", "")
ROLES = ("r", "s", "root")
KEYS = (b"k", b"k\0", b"l", b"m", b"n")
ENDS = (b"", b"", b"m", b"n", b"\0", b"z")


def set_up(doors: Sequence[AuthDoor]) -> None:
    """Users root, a and b, roles r and s, and authentication on."""
    for name in ("root", "a", "b"):
        both(doors, "", rpc.AuthUserAddRequest(name=name, password=f"{name}pw"))
    for name in ("r", "s"):
        both(doors, "", rpc.AuthRoleAddRequest(name=name))
    both(doors, "", rpc.AuthUserGrantRoleRequest(user="root", role="root"))
    both(doors, "", rpc.AuthEnableRequest())


def change(rng: random.Random) -> Message:
    """A change of users or roles; many of them cannot be made."""
    name, role = rng.choice(("a", "b", "c", "root")), rng.choice(("r", "s", "x", "root"))
    given = permission(rng.randrange(3), rng.choice(KEYS), rng.choice(ENDS))
    if given.range_end not in (b"", b"\0") and given.range_end <= given.key:
        given.range_end = b""  # etcd 3.4.23 takes these
    keeper = rng.choice(("a", "b", "c"))
    made: list[Message] = [
        *[rpc.AuthUserAddRequest(name=name, password=f"{name}pw")] * 3,
        rpc.AuthUserDeleteRequest(name=name),
        rpc.AuthUserChangePasswordRequest(name=keeper, password=f"{keeper}pw"),
        rpc.AuthRoleAddRequest(name=role),
        rpc.AuthRoleDeleteRequest(role=role),
        rpc.AuthUserRevokeRoleRequest(name=name, role=role),
        rpc.AuthRoleRevokePermissionRequest(role=role, key=given.key, range_end=given.range_end),
        *[rpc.AuthUserGrantRoleRequest(user=name, role=role)] * 4,
        *[rpc.AuthRoleGrantPermissionRequest(name=role, perm=given)] * 6,
    ]
    return rng.choice(made)


def use(rng: random.Random) -> Message:
    """A request that needs rights."""
    key, end = rng.choice(KEYS), rng.choice(ENDS)
    put = rpc.PutRequest(key=key, value=b"v", prev_kv=rng.random() < 0.3)
    read = rpc.RangeRequest(key=key, range_end=end, serializable=rng.random() < 0.3)
    delete = rpc.DeleteRangeRequest(key=key, range_end=end, prev_kv=rng.random() < 0.3)
    operations = [
        rpc.RequestOp(request_put=rpc.PutRequest(key=rng.choice(KEYS), value=b"t")),
        rpc.RequestOp(request_range=rpc.RangeRequest(key=rng.choice(KEYS), range_end=rng.choice(ENDS))),
        rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=rng.choice(KEYS))),
    ]
    compare = rpc.Compare(key=rng.choice(KEYS), target=rpc.Compare.VALUE, value=b"v")
    txn = rpc.TxnRequest(
        compare=[compare] * rng.randrange(2),
        success=[rng.choice(operations)],
        failure=[rng.choice(operations)] * rng.randrange(2),
    )
    shown = [
        rpc.AuthUserGetRequest(name=rng.choice(("a", "b", "c"))),
        rpc.AuthRoleGetRequest(role=rng.choice(("r", "s", "x"))),
        rpc.AuthUserListRequest(),
        rpc.AuthRoleListRequest(),
    ]
    return rng.choice([put, put, read, read, delete, txn, txn, rng.choice(shown)])


@pytest.mark.parametrize("seed", range(3))
def test_random_rights_decide_alike(doors: tuple[AuthDoor, AuthDoor, Cluster, str], seed: int) -> None:
    """Users, roles and permissions change at random, and everybody tries everything; statuses and texts are equal."""
    pair = doors[:2]
    rng = random.Random(f"auth:{seed}")
    set_up(pair)
    met: Counter[str] = Counter()
    for _ in range(STEPS):
        for door in pair:
            if "root" not in door.tokens:
                assert door.log_in(*ROOT)[0] == "OK"
        if rng.random() < 0.35:
            request, user = change(rng), rng.choice(("root", "root", "root", "a", ""))
        else:
            request, user = use(rng), rng.choice(USERS)
        if user in ("a", "b"):
            statuses = [door.log_in(user, f"{user}pw")[0] for door in pair]
            assert statuses[0] == statuses[1]
            if statuses[0] != "OK":
                for door in pair:
                    door.tokens.pop(user, None)
        if isinstance(request, rpc.AuthRoleGetRequest):
            shown = [door.answer_as(user, request) for door in pair]
            assert _sorted(shown[0]) == _sorted(shown[1])
            met[shown[0][0]] += 1
            continue
        met[both(pair, user, request)[0]] += 1
    assert met["OK"] > STEPS // 5
    assert met["PERMISSION_DENIED"]
    assert met["INVALID_ARGUMENT"]


def _sorted(answer: Answer) -> Any:
    status, response = answer
    if status != "OK":
        return answer
    return sorted((each.key, each.range_end, each.permType) for each in response.perm)


def test_refusals_have_etcds_words(doors: tuple[AuthDoor, AuthDoor, Cluster, str]) -> None:
    """Before and after authentication is on, step by step."""
    pair = doors[:2]
    assert both(pair, "", rpc.AuthEnableRequest())[0] == "FAILED_PRECONDITION"
    for door in pair:
        assert door.log_in("root", "rootpw") == ("FAILED_PRECONDITION", "etcdserver: authentication is not enabled")
    for request in (
        rpc.AuthUserAddRequest(password="x"),
        rpc.AuthUserGetRequest(name="x"),
        rpc.AuthUserDeleteRequest(name="x"),
        rpc.AuthUserChangePasswordRequest(name="x", password="y"),
        rpc.AuthUserGrantRoleRequest(user="x", role="y"),
        rpc.AuthUserRevokeRoleRequest(name="x", role="y"),
        rpc.AuthRoleGetRequest(role="x"),
        rpc.AuthRoleDeleteRequest(role="x"),
        rpc.AuthRoleGrantPermissionRequest(name="x", perm=permission(0, b"k")),
        rpc.AuthRoleRevokePermissionRequest(role="x", key=b"k"),
    ):
        assert both(pair, "", request)[0] in ("FAILED_PRECONDITION", "INVALID_ARGUMENT")
    set_up(pair)
    both(pair, "", rpc.PutRequest(key=b"k"))
    for door in pair:
        door.tokens["forged"] = "abcdefghijklmnop.1"
    assert both(pair, "forged", rpc.PutRequest(key=b"k")) == ("UNAUTHENTICATED", "etcdserver: invalid auth token")
    for name, password in (("a", "wrong"), ("nobody", "x"), ("a", "")):
        assert pair[0].log_in(name, password) == pair[1].log_in(name, password)
    for door in pair:
        assert door.log_in(*ROOT)[0] == "OK"
        assert door.log_in("a", "apw")[0] == "OK"
    both(pair, "root", rpc.AuthUserDeleteRequest(name="root"))
    both(pair, "root", rpc.AuthUserRevokeRoleRequest(name="root", role="root"))
    both(pair, "a", rpc.AuthUserListRequest())
    both(pair, "a", rpc.AuthUserGetRequest(name="a"))
    both(pair, "root", rpc.AuthUserDeleteRequest(name="a"))
    both(pair, "a", rpc.PutRequest(key=b"k"))  # its token ended with it


def test_a_watch_needs_the_right_to_read_and_says_why_not(doors: tuple[AuthDoor, AuthDoor, Cluster, str]) -> None:
    """The first response of a refused watcher is etcd's, field by field; neighbours of a granted key are refused."""
    pair = doors[:2]
    set_up(pair)
    for door in pair:
        assert door.log_in(*ROOT)[0] == "OK"
    both(pair, "root", rpc.AuthRoleGrantPermissionRequest(name="r", perm=permission(0, b"k")))
    both(pair, "root", rpc.AuthUserGrantRoleRequest(user="a", role="r"))
    for door in pair:
        assert door.log_in("a", "apw")[0] == "OK"
        door.tokens["forged"] = "abcdefghijklmnop.1"
    for user, key, end, allowed in (
        ("a", b"k", b"", True),
        ("a", b"k", b"k\0", True),
        ("a", b"k\0", b"", False),
        ("a", b"", b"\0", False),
        ("", b"k", b"", False),
        ("forged", b"k", b"", False),
        ("root", b"", b"\0", True),
    ):
        expected, found = (first_of_watch(door, user, key, end) for door in pair)
        assert found == expected, (user, key, end)
        assert found.canceled != allowed
    # etcd 3.4.23 lets this one through, and with it every later key (GHSA-xg4h-6gfc-h4m8).
    assert first_of_watch(pair[1], "a", b"k", b"\0").canceled


def first_of_watch(door: AuthDoor, user: str, key: bytes, end: bytes) -> rpc.WatchResponse:
    """Return what a watcher is told first."""
    call = door.channel.stream_stream(
        "/etcdserverpb.Watch/Watch",
        request_serializer=rpc.WatchRequest.SerializeToString,
        response_deserializer=rpc.WatchResponse.FromString,
    )
    metadata = [("token", door.tokens[user])] if user else []
    create = rpc.WatchCreateRequest(key=key, range_end=end)
    stream = call(iter([rpc.WatchRequest(create_request=create)]), metadata=metadata, timeout=30)
    first: rpc.WatchResponse = next(stream)
    stream.cancel()
    first.ClearField("header")
    return first


SCRIPT = [
    ["", "user", "add", "root:rootpw"],
    ["", "user", "add", "a:apw"],
    ["", "user", "add", "n", "--no-password"],
    ["", "user", "add", "a:again"],
    ["", "role", "add", "r"],
    ["", "role", "add", "r"],
    ["", "role", "grant-permission", "r", "readwrite", "k", "m"],
    ["", "role", "grant-permission", "r", "read", "--prefix", "p/"],
    ["", "role", "grant-permission", "r", "write", "z", "--from-key"],
    ["", "role", "get", "r"],
    ["", "role", "revoke-permission", "r", "z", "--from-key"],
    ["", "role", "revoke-permission", "r", "y"],
    ["", "user", "grant-role", "a", "r"],
    ["", "user", "grant-role", "a", "x"],
    ["", "user", "get", "a", "--detail"],
    ["", "user", "list"],
    ["", "role", "list"],
    ["", "auth", "enable"],
    ["", "user", "grant-role", "root", "root"],
    ["", "auth", "enable"],
    ["", "put", "k", "1"],
    ["a:apw", "put", "k", "1"],
    ["a:apw", "get", "k"],
    ["a:apw", "get", "k", "m"],
    ["a:apw", "get", "k", "n"],
    ["a:apw", "get", "p/", "--prefix"],
    ["a:apw", "put", "p/1", "1"],
    ["a:apw", "del", "k", "--prev-kv"],
    ["a:wrong", "get", "k"],
    ["n:any", "get", "k"],
    ["a:apw", "user", "list"],
    ["a:apw", "user", "get", "a"],
    ["a:apw", "role", "get", "r"],
    ["a:apw", "role", "list"],
    ["a:apw", "user", "add", "b:bpw"],
    ["root:rootpw", "user", "revoke-role", "a", "r"],
    ["a:apw", "get", "k"],
    ["root:rootpw", "user", "revoke-role", "root", "root"],
    ["root:rootpw", "user", "delete", "root"],
    ["root:rootpw", "role", "delete", "r"],
    ["root:rootpw", "user", "delete", "a"],
    ["root:rootpw", "lease", "list"],
    ["root:rootpw", "auth", "disable"],
    ["", "get", "k"],
]


def etcdctl(address: str, user: str, words: Sequence[str]) -> tuple[int, str, str]:
    """Run etcdctl; return its code, what it printed, and the error it told last."""
    assert ETCDCTL is not None, "need_etcd was asked before"
    command = [ETCDCTL, f"--endpoints={address}", *([f"--user={user}"] if user else []), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"ETCDCTL_API": "3"})
    errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return done.returncode, done.stdout, "\n".join(errors)


def test_etcdctl_prints_the_same(doors: tuple[AuthDoor, AuthDoor, Cluster, str]) -> None:
    """`user`, `role`, `auth` and `--user`, word for word, errors included."""
    _, _, cluster, address = doors
    for user, *words in SCRIPT:
        expected = etcdctl(address, user, words)
        assert etcdctl(cluster.client_address("n2"), user, words) == expected, (user, words)


# --- our own client, and what a cluster adds -------------------------------------------------------


def client_of(cluster: Cluster, node: str, user: str = "", password: str = "") -> Client:
    """A client of one node."""
    return Client(cluster.zmq(node), timeout_s=30, user=user, password=password)


def test_our_client_logs_in_by_itself_and_again(doors: tuple[AuthDoor, AuthDoor, Cluster, str]) -> None:
    """Over the end of its token, and authentication that comes and goes; a watch lives on."""
    cluster = doors[2]
    with client_of(cluster, "n1", *ROOT) as root, client_of(cluster, "n3", "a", "apw") as client:
        root.put("k", "before")
        root.auth.user_add("root", "rootpw")
        root.auth.user_grant_role("root", "root")
        root.auth.user_add("a", "apw")
        root.auth.role_add("r")
        root.auth.role_grant_prefix("r", "readwrite", "k")
        root.auth.user_grant_role("a", "r")
        found = client.get("k")
        assert found is not None
        root.auth.enable()
        assert root.auth.status().enabled
        with client.watch("k") as watch:
            for number in range(3):
                client.put("k", str(number))
                event = watch.next(30)
                assert event is not None
                assert event.pair.text == str(number)
                root.auth.user_change_password("a", "apw")  # which ends its tokens
            with pytest.raises(RequestRefused, match="permission denied"):
                client.put("other", "x")
            root.auth.user_revoke_role("a", "r")
            with pytest.raises(RequestRefused, match="permission denied"):
                client.get("k")
            root.put("k", "after")
            event = watch.next(30)
            assert event is not None, "a watch that has begun goes on, as etcd's"
        with client_of(cluster, "n2", "a", "wrong") as stranger, pytest.raises(RequestRefused, match="invalid user ID"):
            stranger.get("k")
        with client_of(cluster, "n2") as nobody, pytest.raises(RequestRefused) as refused:
            nobody.get("k")
        assert refused.value.code == ErrorCode.USER_EMPTY
        assert root.auth.users() == ("a", "root")
        assert [permission.range_end for permission in root.auth.role_permissions("r")] == [b"l"]
        root.auth.disable()
        assert client.get("k") is not None


def test_every_member_knows_users_and_tokens(doors: tuple[AuthDoor, AuthDoor, Cluster, str]) -> None:
    """A token of one member is taken by all at once; what a restarted member has forgotten, its clients mend."""
    cluster = doors[2]
    set_up(doors[:2])
    assert doors[1].log_in(*ROOT)[0] == "OK"
    token = doors[1].tokens["root"]
    for name in cluster.names:
        door = AuthDoor(cluster.client_address(name))
        door.tokens["root"] = token
        status, response = door.answer_as("root", rpc.AuthUserListRequest())
        assert (status, list(response.users)) == ("OK", ["a", "b", "root"])
        door.channel.close()
    with client_of(cluster, "n2", *ROOT) as client:
        client.put("k", "1")
        for actor in ("applier", "gateway"):
            cluster.kill(actor, "n2")
            found = client.get("k")
            assert found is not None
            assert found.text == "1"
        assert client.auth.users() == ("a", "b", "root")
