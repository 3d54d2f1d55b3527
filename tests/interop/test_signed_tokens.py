"""Signed tokens (`--auth-token jwt,...`) with real nodes, and with a real etcd under the same keys.

Who is believed, what a client sees of a token that has run out, and what outlives it.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jwt
import jwt.types
import pytest
from auth_doors import SIGNED_TOKEN, AuthDoor, permission
from clusters import Cluster, free_ports, running, wait_until
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from etcd_server import need_etcd, running_etcd
from flag_nodes import FlagNode
from google.protobuf.message import Message
from kv_answers import Answer
from watch_talk import WatchTalk

from actd import Client
from actd.errors import ActdError
from protocol.wire import rpc_pb2 as rpc

pytestmark = [pytest.mark.processes, pytest.mark.slow]
TTL_S = 4
WAIT_S = 30.0
RUN_OUT = ("UNAUTHENTICATED", "etcdserver: invalid auth token")
_NO_END: jwt.types.Options = {"verify_exp": False}
DENIED = ("PERMISSION_DENIED", "etcdserver: permission denied")
OWN = rpc.RangeRequest(key=b"own/a")
FOREIGN = rpc.RangeRequest(key=b"foreign")


class Signer(NamedTuple):
    """A key pair on disk, and what it signs with."""

    method: str
    private: Path
    public: Path

    def option(self, *, signs: bool = True, ttl: str = "5m") -> str:
        """The value of --auth-token."""
        private = f",priv-key={self.private}" if signs else ""
        return f"jwt,pub-key={self.public}{private},sign-method={self.method},ttl={ttl}"


def signer(directory: Path, method: str) -> Signer:
    """Make a key pair for a method."""
    made = Signer(method, directory / f"{method}.key", directory / f"{method}.pub")
    form = PrivateFormat.TraditionalOpenSSL  # what etcd 3.4 reads
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    if method == "RS256":
        key = rsa.generate_private_key(65537, 2048)
    elif method == "ES256":
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        key, form = ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8
    made.private.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
    made.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return made


def set_up(door: AuthDoor) -> None:
    """Users root and u, who may use what begins with own/, and authentication on: always the same auth revision."""
    for request in (
        rpc.AuthUserAddRequest(name="root", password="rootpw"),
        rpc.AuthUserAddRequest(name="u", password="upw"),
        rpc.AuthRoleAddRequest(name="own"),
        rpc.AuthRoleGrantPermissionRequest(name="own", perm=permission(2, b"own/", b"own0")),
        rpc.AuthUserGrantRoleRequest(user="u", role="own"),
        rpc.AuthUserGrantRoleRequest(user="root", role="root"),
        rpc.AuthEnableRequest(),
    ):
        assert door.answer(request)[0] == "OK", request


def fresh(door: AuthDoor, user: str = "u") -> str:
    """Return a new token."""
    assert door.log_in(user, f"{user}pw")[0] == "OK"
    return door.tokens[user]


def answer(asked: AuthDoor, giver: AuthDoor, request: Message, user: str = "u") -> Answer:
    """Ask one door under a token of another; once more where a busy machine let the token run out on the way."""
    for _ in range(5):
        found = asked.answer_under(fresh(giver, user), request)
        if found != RUN_OUT:
            break
    return found


def put(door: AuthDoor, key: bytes) -> None:
    """Write as root."""
    assert answer(door, door, rpc.PutRequest(key=key, value=b"v"), "root")[0] == "OK"


def written(client: Client, key: str) -> bool:
    """Whether a put went through; the first one may still meet a door that is about to be gone."""
    with contextlib.suppress(ActdError):
        return bool(client.put(key, "3").revision)
    return False


def etcdctl(address: str, login: str, *words: str) -> tuple[int, str, str]:
    """Run Debian's etcdctl as a user: status, output, error."""
    command = ["etcdctl", f"--endpoints={address}", f"--user={login}", *words]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    return done.returncode, done.stdout, done.stderr


class Signed(NamedTuple):
    """Three members and an etcd, all under one key pair, whose tokens live for TTL_S."""

    cluster: Cluster
    doors: list[AuthDoor]
    etcd: AuthDoor
    signer: Signer


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    """They have the same users and rights."""
    need_etcd("etcdctl")
    directory = tmp_path_factory.mktemp("signed")
    keys = signer(directory, "RS256")
    option = keys.option(ttl=f"{TTL_S}s")
    sections: dict[str, dict[str, object]] = {"auth": {"token": f'"{option}"', "bcrypt_cost": 4}}
    with (
        running_etcd(directory, "--auth-token", option, "--bcrypt-cost", "4") as address,
        running(Cluster(directory / "actd", 3, **sections)) as cluster,
    ):
        cluster.start()
        doors = [AuthDoor(cluster.client_address(name), SIGNED_TOKEN) for name in cluster.names]
        etcd = AuthDoor(address, SIGNED_TOKEN)
        for door in (doors[0], etcd):
            set_up(door)
        yield Signed(cluster, doors, etcd, keys)


def test_every_member_believes_what_any_has_signed(signed: Signed, tmp_path: Path) -> None:
    """So does an etcd with the same keys, and the other way round; another key's word is nobody's."""
    first, *others = signed.doors
    for asked in (*others, signed.etcd):
        assert answer(asked, first, OWN)[0] == "OK"
        assert answer(asked, first, FOREIGN) == DENIED
        assert asked.answer_under("", OWN) == ("INVALID_ARGUMENT", "etcdserver: user name is empty")
    assert answer(first, signed.etcd, OWN)[0] == "OK"
    public = signed.signer.public.read_bytes()
    claims, etcds = (jwt.decode(fresh(door), public, ["RS256"], _NO_END) for door in (first, signed.etcd))
    claims["exp"] = etcds["exp"] = 1 << 32
    assert claims == etcds
    forged = jwt.encode(claims, signer(tmp_path, "RS256").private.read_bytes(), algorithm="RS256")
    outdated = jwt.encode({**claims, "revision": 1}, signed.signer.private.read_bytes(), algorithm="RS256")
    for asked in (*signed.doors, signed.etcd):
        assert asked.answer_under(forged, OWN) == RUN_OUT
        assert asked.answer_under(outdated, OWN) == ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old")


def test_a_watch_outlives_its_token_and_a_call_does_not(signed: Signed) -> None:
    """As in etcd: who was let in goes on hearing, and the next that is asked on the same stream is refused aloud."""
    told = []
    for door, address in ((signed.doors[1], signed.cluster.client_address("n2")), (signed.etcd, signed.etcd.address)):
        token = fresh(door)
        talk = WatchTalk(address, (("token", token),))
        try:
            talk.watch(b"own/", b"own0")
            wait_until(lambda: door.answer_under(token, OWN)[0] != "OK", WAIT_S, "the token runs out")  # noqa: B023
            assert door.answer_under(token, OWN) == RUN_OUT
            put(door, b"own/late")
            talk.wait(lambda: any(event.what == "put" for event in talk.told[0]), "what came later")  # noqa: B023
            talk.say(create_request=rpc.WatchCreateRequest(key=b"own/more"))
            talk.wait(lambda: talk.responses[-1].canceled, "the refusal")  # noqa: B023
            told.append((talk.responses[-1].watch_id, talk.responses[-1].created, talk.responses[-1].cancel_reason))
        finally:
            talk.close()
    assert told[0] == told[1]


def test_etcdctl_and_our_client_watch_for_longer_than_a_token_lives(signed: Signed) -> None:
    """A watch of each hears what comes after; ours also after every door has closed, when it has to log in again."""
    door, cluster = signed.doors[0], signed.cluster
    token = fresh(door)
    command = ["etcdctl", f"--endpoints={cluster.client_address('n1')}", "--user=u:upw", "watch", "--prefix", "own/"]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    addresses = [cluster.zmq(name) for name in cluster.names]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as etcdctl_watch,
        Client(addresses, user="u", password="upw", timeout_s=WAIT_S) as client,
        client.watch("own/", timeout_s=WAIT_S) as ours,
    ):
        try:
            assert etcdctl_watch.stdout is not None
            client.put("own/early", "1")
            assert next(ours).key == b"own/early"
            wait_until(lambda: door.answer_under(token, OWN) == RUN_OUT, WAIT_S, "the token runs out")
            client.put("own/later", "2")
            assert next(ours).key == b"own/later"
            heard = [etcdctl_watch.stdout.readline() for _ in range(3)]
            while heard[-3:] != ["PUT\n", "own/later\n", "2\n"]:
                heard.append(etcdctl_watch.stdout.readline())
                assert heard[-1], heard
            token = fresh(door)
            wait_until(lambda: door.answer_under(token, OWN) == RUN_OUT, WAIT_S, "it runs out again")
            for name in cluster.names:
                cluster.kill("gateway", name)
            wait_until(lambda: written(client, "own/last"), WAIT_S, "a door is open again")
            assert next(ours).key == b"own/last"
        finally:
            etcdctl_watch.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("method", ["ES256", "EdDSA"])
def test_a_node_by_flags_signs_with_elliptic_keys(tmp_path: Path, method: str) -> None:
    """Etcdctl works under its tokens; started with the public key only, it believes them and gives out no more."""
    need_etcd("etcdctl")
    keys = signer(tmp_path, method)
    client, peer = free_ports(2)
    address = f"127.0.0.1:{client}"

    def words(option: str) -> list[str]:
        urls = [f"--{what}-client-urls=http://{address}" for what in ("listen", "advertise")]
        urls += [
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        ]
        urls += [f"--initial-cluster=default=http://127.0.0.1:{peer}", "--listen-zmq-urls=none", "--bcrypt-cost=4"]
        return [f"--data-dir={tmp_path}/data", *urls, "--auth-token", option]

    node = FlagNode(tmp_path, "n", words(keys.option()))
    try:
        node.start()
        node.await_ready()
        door = AuthDoor(address, SIGNED_TOKEN)
        set_up(door)
        assert etcdctl(address, "u:upw", "put", "own/a", "1") == (0, "OK\n", "")
        status, _, error = etcdctl(address, "u:upw", "put", "foreign", "1")
        assert (status, "permission denied" in error) == (1, True)
        token = fresh(door)
        claims = jwt.decode(token, keys.public.read_bytes(), algorithms=[method])
        assert claims["username"] == "u"
        assert node.stop() == 0
        node.words = words(keys.option(signs=False))
        node.start()
        node.await_ready()
        assert door.answer_under(token, OWN)[0] == "OK"
        assert door.log_in("u", "upw") == ("UNKNOWN", "auth: token signing attempted with verify-only key")
    finally:
        node.close()
