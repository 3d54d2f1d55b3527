"""CURVE on the links between nodes: who comes in, who does not, and what changes without a restart."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from clusters import free_ports, wait_until
from zmq_sockets import Context

from actors.curve import CLIENTS, PEERS, Curve, KnownKeys, check_curve, make_keys
from actors.links import PeerDoor, PeerLinks
from actors.metrics import ActorMetrics
from protocol.curve_keys import KeyFile, key_file_text, read_key_file
from protocol.errors import ConfigError
from protocol.identity import NodeIdentity
from protocol.security import CurveConfig
from protocol.types import ClusterId, Incarnation, MemberId, StoreId

WAIT_S = 20
ONE, TWO = MemberId(0x11), MemberId(0x22)
REFUSED = 'actd_curve_refused_total{door="peers",reason="%s"}'


def identity(member: MemberId) -> NodeIdentity:
    """A member of a cluster."""
    return NodeIdentity(ClusterId(5), member, f"n{member}", StoreId(3), Incarnation(1), ())


class KeyRing:
    """Keys in a directory: `keys/<name>.key_secret` of everybody, `keys/known/<name>.key` of those who are let in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.known = directory / "known"
        self.known.mkdir()

    def make(self, name: str, address: str = "", *, known: bool = True) -> KeyFile:
        """Make a key pair, known to the others or not."""
        keys = make_keys(address)
        (self.directory / f"{name}.key_secret").write_bytes(key_file_text(keys, secret=True))
        if known:
            self.let_in(name, keys)
        return keys

    def let_in(self, name: str, keys: KeyFile) -> None:
        """Make a public key known."""
        (self.known / f"{name}.key").write_bytes(key_file_text(keys, secret=False))

    def config(self, name: str, *, directory: bool = True) -> CurveConfig:
        """The settings of the node called `name`."""
        known = str(self.known) if directory else ""
        return CurveConfig(secret_key_file=str(self.directory / f"{name}.key_secret"), peer_keys_dir=known)


class Pair:
    """Member ONE, which dials, and member TWO, which listens; each with or without CURVE."""

    def __init__(self, context: Context, one: CurveConfig | None, two: CurveConfig | None) -> None:
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.metrics = ActorMetrics()
        """Of the member that listens."""
        self.link_metrics = ActorMetrics()
        self.context = context
        self.theirs = Context()
        endpoint = f"tcp://{self.address}"
        self.curves = [
            config and Curve(config, context, metrics, "raft", {endpoint: "two"})
            for config, context, metrics in ((one, context, self.link_metrics), (two, self.theirs, self.metrics))
        ]
        self.door = PeerDoor(self.theirs, identity(TWO), endpoint, self.metrics, self.curves[1])
        self.links = PeerLinks(context, identity(ONE), {TWO: endpoint}, self.link_metrics, curve=self.curves[0])

    def say(self) -> bool:
        """Say something, and whether anything has arrived."""
        self.links.stage(TWO, b"hello", bulk=False, actor="raft")
        self.links.flush()
        return bool(self.door.inbox.poll(20) and self.door.receive())

    def close(self) -> None:
        """Close everything."""
        self.links.close()
        self.door.close()
        for curve in self.curves:
            if curve is not None:
                curve.close()
        self.theirs.close_all()


MakePair = Callable[..., Pair]


@pytest.fixture(name="ring")
def key_ring(tmp_path: Path) -> KeyRing:
    """A directory for keys."""
    return KeyRing(tmp_path)


@pytest.fixture(name="make_pair")
def pair_maker(context: Context) -> Iterator[MakePair]:
    """Makes pairs that are closed at the end."""
    made: list[Pair] = []

    def make(one: CurveConfig | None, two: CurveConfig | None) -> Pair:
        made.append(Pair(context, one, two))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


def test_members_with_keys_of_their_own_hear_each_other(ring: KeyRing, make_pair: MakePair) -> None:
    """Each has its own pair and knows the other's public key by name."""
    ring.make("one")
    ring.make("two")
    pair = make_pair(ring.config("one"), ring.config("two"))
    wait_until(pair.say, WAIT_S)
    assert pair.metrics.counters.get(REFUSED % "key") is None


def test_members_that_share_one_key_pair_hear_each_other(ring: KeyRing, make_pair: MakePair) -> None:
    """Without a directory the node's own pair is everybody's."""
    ring.make("all")
    config = ring.config("all", directory=False)
    wait_until(make_pair(config, config).say, WAIT_S)


def test_an_unknown_key_is_refused_counted_and_comes_in_once_it_is_known(ring: KeyRing, make_pair: MakePair) -> None:
    """Whoever is not on the list is kept out; put on the list, it comes in without a restart on either side."""
    stranger = ring.make("one", known=False)
    ring.make("two")
    pair = make_pair(ring.config("one"), ring.config("two"))
    wait_until(lambda: pair.say() or pair.metrics.counters.get(REFUSED % "key"), WAIT_S)
    assert pair.link_metrics.counters['etcd_network_peer_sent_failures_total{To="22"}'] > 0
    ring.let_in("one", stranger)
    wait_until(pair.say, WAIT_S)


def test_a_member_whose_key_has_changed_is_found_again(ring: KeyRing, make_pair: MakePair) -> None:
    """Who answers at a member's address without its key is not believed; a new key is taken up from the file."""
    ring.make("one")
    real = ring.make("two")
    ring.let_in("two", make_keys())
    pair = make_pair(ring.config("one"), ring.config("two"))
    wait_until(lambda: pair.say() or pair.metrics.counters.get(REFUSED % "protocol"), WAIT_S)
    ring.let_in("two", real)
    wait_until(pair.say, WAIT_S)


def test_a_member_that_joined_later_is_known_by_its_address(ring: KeyRing, make_pair: MakePair) -> None:
    """A key file may say where its member listens; until there is one, nobody is dialled there."""
    ring.make("one")
    ring.make("listener", known=False)
    pair = make_pair(ring.config("one"), ring.config("listener"))
    wait_until(lambda: pair.say() or pair.link_metrics.counters.get("actd_curve_keys_missing_total"), WAIT_S)
    keys = read_key_file(ring.directory / "listener.key_secret")
    ring.let_in("joined", keys._replace(address=pair.address))
    wait_until(pair.say, WAIT_S)


@pytest.mark.parametrize("dials", [True, False])
def test_plain_and_secured_members_do_not_hear_each_other(ring: KeyRing, make_pair: MakePair, dials: bool) -> None:
    """Neither side falls back to plain text, and whichever side has CURVE counts the failure."""
    ring.make("one")
    ring.make("two")
    pair = make_pair(ring.config("one"), None) if dials else make_pair(None, ring.config("two"))

    def failed() -> bool:
        assert not pair.say()
        counters = pair.link_metrics.counters if dials else pair.metrics.counters
        return any(key.startswith("actd_curve_") for key in list(counters))

    wait_until(failed, WAIT_S)


def test_a_door_lets_in_nobody_unless_somebody_answers_for_it(ring: KeyRing, context: Context) -> None:
    """Libzmq's default would let in everybody where nobody answers its question."""
    ring.make("all")
    curve = Curve(ring.config("all", directory=False), context, ActorMetrics(), "raft", {})
    door = context.socket(zmq.PULL)
    curve.secure_door(door, CLIENTS)
    assert (door.zap_enforce_domain, door.zap_domain, door.curve_server) == (1, CLIENTS.encode(), 1)
    door.close(linger=0)
    curve.close()


def test_a_key_for_one_door_opens_no_other(ring: KeyRing) -> None:
    """Keys of clients and of members are lists of their own."""
    keys = ring.make("client")
    (ring.directory / "members").mkdir()
    assert KnownKeys(ring.known, b"").name_of(keys.public) == "client"
    assert KnownKeys(ring.directory / "members", b"").name_of(keys.public) is None
    assert PEERS != CLIENTS


def test_files_that_are_no_keys_let_in_nobody_and_harm_nobody(ring: KeyRing) -> None:
    """Garbage among the keys is passed over; what disappears is known no more."""
    keys = ring.make("good")
    for name, text in (("empty", b""), ("short", b'public-key = "abc"'), ("binary", bytes(range(256)))):
        (ring.known / f"{name}.key").write_bytes(text)
    known = KnownKeys(ring.known, b"")
    assert known.name_of(keys.public) == "good"
    (ring.known / "good.key").unlink()
    assert known.name_of(keys.public) is None


def test_a_key_file_of_zmq_auth_is_understood(tmp_path: Path) -> None:
    """Keys that other ZeroMQ programs have made can be used as they are."""
    import zmq.auth

    public_file, secret_file = zmq.auth.create_certificates(tmp_path, "theirs")
    assert read_key_file(Path(public_file)) == read_key_file(Path(secret_file))._replace(secret=b"")
    check_curve(CurveConfig(secret_key_file=secret_file))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "No such file"),
        (b"public-key = abc", "there is no CURVE key in it"),
        (key_file_text(make_keys(), secret=False), "there is no secret key in it"),
        (key_file_text(make_keys()._replace(public=make_keys().public), secret=True), "do not belong together"),
    ],
)
def test_keys_that_cannot_be_used_are_refused_before_anything_starts(
    tmp_path: Path, text: bytes | None, told: str
) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / "node.key_secret"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=told) as caught:
        check_curve(CurveConfig(secret_key_file=str(path)))
    assert str(path) in str(caught.value)
