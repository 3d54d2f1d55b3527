"""One seed with authentication: clients under tokens, fresh, stale and none, while root changes users and rights.

Owns these clients, the run and the verdict: every answer is what the model says of the log, every member's auth store
and keys are the model's, and after the healing everybody is served. Knows no actor's inside.
"""

import random
from hashlib import blake2b
from typing import Any, Final

from actors.actor import Actor, Source
from gateway.auth_desk import Doorman
from gateway.core import GatewayCore
from gateway.credentials import NO_CREDENTIALS, Credentials
from gateway.methods import METHODS
from gateway.tokens import SimpleTokens
from protocol.config import ClusterConfig
from protocol.errors import WIRE_ERRORS, ErrorCode
from protocol.identity import NodeIdentity
from protocol.types import Millis
from protocol.wire import auth_pb2 as auth
from protocol.wire import rpc_pb2 as rpc
from protocol.wire.mvcc_pb2 import KeyValue
from sim.auth_model import MARK_BYTES, AuthModel
from sim.node import SimNode
from sim.parts import ProductionParts
from sim.process import Parcel
from sim.run import CONVERGED_WITHIN_TIMEOUTS, LIVE_WITHIN_TIMEOUTS, NODE_COUNTS, SLACK_US
from sim.trouble import SimulationFailed
from sim.weather import draw_config, draw_weather
from sim.world import World
from storage.layout import KV, key_value_bytes

FIRST_CALL_ID: Final = 1 << 41
USERS: Final = ("u0", "u1", "u2")
ROLES: Final = ("r0", "r1")
KEYS: Final = (b"a", b"a\0", b"b", b"c")
ANSWER_US_MAX: Final = 8_000_000
_MARK_TAG: Final = b"\xc2\x3e"
"""Field 1000, length-delimited: etcd's messages do not know it and parsers keep it."""
_NEVER_LOGGED: Final = frozenset({ErrorCode.INVALID_AUTH_TOKEN, ErrorCode.AUTH_FAILED, ErrorCode.AUTH_NOT_ENABLED})


class SimPasswords:
    """Passwords without bcrypt, and chance from a seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def hash(self, password: str) -> bytes:
        """Return a digest."""
        return blake2b(password.encode(), digest_size=8).digest()

    def matches(self, password: str, hashed: bytes) -> bool:
        """Compare digests."""
        return self.hash(password) == hashed

    def token_prefix(self) -> str:
        """Return letters."""
        return f"{self._rng.getrandbits(64):x}"


class Step:
    """One call of a client within a gateway's turn; stands where a call of the usual ones would."""

    def __init__(self, call: "AuthCall") -> None:
        self.call = call


class AuthCall:
    """One request and how it was answered, if it was."""

    def __init__(self, call_id: int, client: "AuthClient", name: str, body: bytes, credentials: Credentials) -> None:
        self.call_id = call_id
        self.client = client
        self.name = name
        self.body = body
        self.credentials = credentials
        self.node = ""
        self.code: int | None = None

    @property
    def mark(self) -> bytes:
        """What the command in the log ends with."""
        return self.body[-MARK_BYTES:]


class AuthParts(ProductionParts):
    """Production parts whose gateways serve these clients and hash nothing."""

    def __init__(self, config: ClusterConfig) -> None:
        super().__init__(config)
        self.calls: dict[int, AuthCall] = {}

    def make_gateway(self, node: SimNode, identity: NodeIdentity) -> Actor:
        """The gateway's core."""
        passwords = SimPasswords(random.Random(node.rng.getrandbits(64)))
        return GatewayCore(identity, self._config, Doorman(SimpleTokens(60_000), passwords))

    def submit(self, gateway: GatewayCore, call: Any, now: Millis) -> None:
        """Hand a call to the gateway."""
        made: AuthCall = call.call
        method = METHODS[f"/etcdserverpb.{made.name}".encode()]
        gateway.submit(made.call_id, method, made.body, now, Millis(now + 5000), made.credentials)

    def drain_answers(self, gateway: GatewayCore) -> list[tuple[int, int, bytes]]:
        """Tell these clients what they were answered."""
        for call_id, code, body in super().drain_answers(gateway):
            self.calls[call_id].client.answered(self.calls[call_id], code, body)
        return []


class AuthClient:
    """Root, who sets everything up and changes it, or a user who puts."""

    def __init__(self, world: World, parts: AuthParts, number: int) -> None:
        self.user = "root" if not number else USERS[number - 1]
        self.served: set[str] = set()
        """The nodes that have answered it since the healing."""
        self.stopped = False
        self.open: AuthCall | None = None
        self._world = world
        self._parts = parts
        self._number = number
        self._rng = world.rng(f"auth:{number}")
        self._made = 0
        self._tokens: list[str] = []
        self._set_up = self._plan() if not number else []

    @staticmethod
    def _plan() -> list[tuple[str, Any]]:
        users = [("Auth/UserAdd", rpc.AuthUserAddRequest(name=name, password=name)) for name in ("root", *USERS)]
        roles = [("Auth/RoleAdd", rpc.AuthRoleAddRequest(name=name)) for name in ROLES]
        root = ("Auth/UserGrantRole", rpc.AuthUserGrantRoleRequest(user="root", role="root"))
        return [*users, *roles, root, ("Auth/AuthEnable", rpc.AuthEnableRequest())]

    def later(self, delay_us: int) -> None:
        """Do the next thing after a while."""
        self._world.at(self._world.now_us + 1 + delay_us, self._act)

    def _act(self) -> None:
        if self.stopped or self.open is not None:
            return
        node = self._rng.choice(self._world.nodes)
        process = node.processes.get("gateway")
        if process is None or not process.alive:
            self.later(self._rng.randrange(20_000, 200_000))
            return
        name, request, credentials = self._choose()
        self._made += 1
        mark = b"m%d.%d" % (self._number, self._made)
        mark += b"." * (MARK_BYTES - len(mark))
        if isinstance(request, rpc.PutRequest):
            request.value = mark
        body = request.SerializeToString()
        if not isinstance(request, rpc.PutRequest):
            body += _MARK_TAG + bytes([len(mark)]) + mark
        call_id = FIRST_CALL_ID + len(self._parts.calls)
        call = self.open = self._parts.calls[call_id] = AuthCall(call_id, self, name, body, credentials)
        call.node = node.name
        self._world.trace.note(self._world.now_us, "-", f"auth{self._number}", name, body)
        process.deliver(Parcel(Source("client"), b"", Step(call)))  # type: ignore[arg-type]
        self._world.at(self._world.now_us + ANSWER_US_MAX, self._give_up, call)

    def _give_up(self, call: AuthCall) -> None:
        if self.open is call:
            self.open = None
            self.later(0)

    def _choose(self) -> tuple[str, Any, Credentials]:
        rng = self._rng
        if self._set_up:
            return *self._set_up[0], NO_CREDENTIALS
        if not self._tokens or rng.random() < 0.1:
            request = rpc.AuthenticateRequest(name=self.user, password=self.user)
            return "Auth/Authenticate", request, NO_CREDENTIALS
        stale = rng.random() < 0.1
        credentials = Credentials(rng.choice(self._tokens) if stale else self._tokens[-1])
        if rng.random() < 0.03:
            credentials = NO_CREDENTIALS
        if self.user == "root" and rng.random() < 0.7:
            return *self._change(), credentials
        return "KV/Put", rpc.PutRequest(key=rng.choice(KEYS)), credentials

    def _change(self) -> tuple[str, Any]:
        rng = self._rng
        user, role, key = rng.choice(USERS), rng.choice(ROLES), rng.choice(KEYS)
        end = rng.choice((b"", b"", b"\0", b"d"))
        given = auth.Permission(key=key, range_end=end)
        given.permType = rng.randrange(3)  # type: ignore[assignment]
        return rng.choice(
            [
                ("Auth/UserGrantRole", rpc.AuthUserGrantRoleRequest(user=user, role=role)),
                ("Auth/UserGrantRole", rpc.AuthUserGrantRoleRequest(user=user, role=role)),
                ("Auth/UserRevokeRole", rpc.AuthUserRevokeRoleRequest(name=user, role=role)),
                ("Auth/UserChangePassword", rpc.AuthUserChangePasswordRequest(name=user, password=user)),
                ("Auth/RoleGrantPermission", rpc.AuthRoleGrantPermissionRequest(name=role, perm=given)),
                ("Auth/RoleGrantPermission", rpc.AuthRoleGrantPermissionRequest(name=role, perm=given)),
                ("Auth/RoleRevokePermission", rpc.AuthRoleRevokePermissionRequest(role=role, key=key, range_end=end)),
            ]
        )

    def answered(self, call: AuthCall, code: int, body: bytes) -> None:
        """Take an answer, and go on after a while."""
        call.code = code
        if self.open is not call:
            return
        self.open = None
        if self._set_up and (code in _SETTLED or (code == ErrorCode.USER_EMPTY and len(self._set_up) == 1)):
            self._set_up.pop(0)
        elif call.name == "Auth/Authenticate" and not code:
            self._tokens.append(rpc.AuthenticateResponse.FromString(body).token)
        elif code == ErrorCode.INVALID_AUTH_TOKEN and call.credentials.token == self._tokens[-1]:
            self._tokens.pop()
        if not self._world.faulty and not WIRE_ERRORS.get(ErrorCode(code), _FINE).retryable:
            self.served.add(call.node)
        self.later(self._rng.randrange(5_000, 120_000))


_FINE: Final = WIRE_ERRORS[ErrorCode.EMPTY_KEY]
_SETTLED: Final = (ErrorCode.OK, ErrorCode.USER_ALREADY_EXISTS, ErrorCode.ROLE_ALREADY_EXISTS)


def run_auth_seed(seed: int, *, nodes: int | None = None, ticks: int = 60) -> dict[str, int]:
    """Run one seed to its verdict; return what it met.

    Raises:
        SimulationFailed: a promise is broken.
    """
    node_count = nodes or random.Random(f"{seed}/setting").choice(NODE_COUNTS)
    config = draw_config(seed, node_count, None)
    parts = AuthParts(config)
    world = World(seed, config, draw_weather(seed, config.raft.election_timeout_ms, None), parts)
    unit_us = config.raft.election_timeout_ms * 1000
    luck = world.rng("storm")
    for node in world.nodes:
        world.at(luck.randrange(1 + unit_us // 2), node.boot)
    clients = [AuthClient(world, parts, number) for number in range(1 + len(USERS))]
    for client in clients:
        client.later(luck.randrange(1, unit_us))
    world.at(luck.randrange(1, 2 * unit_us), world.faults.begin)
    world.run_until(ticks * unit_us // 10)
    world.faulty = False
    world.faults.heal()
    everywhere = {node.name for node in world.nodes}
    until_us = world.now_us + 2 * LIVE_WITHIN_TIMEOUTS * unit_us + 4 * SLACK_US
    if not world.run_until(until_us, lambda: all(client.served == everywhere for client in clients)):
        raise SimulationFailed("becomes live", f"served at {[sorted(client.served) for client in clients]}")
    for client in clients:
        client.stopped = True
    until_us = world.now_us + CONVERGED_WITHIN_TIMEOUTS * unit_us + 2 * SLACK_US
    while world.now_us < until_us and not _settled(world, clients):
        world.run_until(world.now_us + 20_000)
    if not _settled(world, clients):
        raise SimulationFailed("converges", "members differ, or calls are open, after the bound")
    return _judge(world, parts)


def _settled(world: World, clients: list[AuthClient]) -> bool:
    if any(client.open is not None for client in clients):
        return False
    if not all({"applier", "raft"} <= node.processes.keys() for node in world.nodes):
        return False
    states = [world.parts.store_of(node.processes["applier"].actor) for node in world.nodes]
    return all(state is not None and state[0] >= world.logs.committed.last for state in states)


def _judge(world: World, parts: AuthParts) -> dict[str, int]:
    """Hold every answer and every member against the model of the log."""
    model = AuthModel()
    for _, entry in sorted(world.logs.committed.entries.items()):
        model.apply(entry)
    met = {"calls": len(parts.calls), "refused_for_age": model.refused_for_age, "denied": 0, "acknowledged": 0}
    for call in parts.calls.values():
        code = call.code
        if code is None or call.name == "Auth/Authenticate":
            continue
        if code and WIRE_ERRORS[ErrorCode(code)].retryable:
            continue
        expected = model.answers.get(call.mark)
        met["denied"] += code == ErrorCode.PERMISSION_DENIED
        met["acknowledged"] += not code
        # A password is hashed only for who may have it done, which a read tells before anything is proposed.
        unlogged = code in _NEVER_LOGGED or (call.name == "Auth/UserChangePassword" and code == ErrorCode.USER_EMPTY)
        if code != expected and not (expected is None and unlogged):
            text = f"{call.name} of {call.client.user} was answered {code}, the log says {expected}"
            raise SimulationFailed("answers are the model's", text)
    for node in world.nodes:
        store: Any = node.processes["applier"].actor.store  # type: ignore[attr-defined]
        book = store.auth
        users = {name: set(user.roles) for name, user in book.users.items()}
        roles = {
            name: {(each.key, each.range_end): each.permType for each in role.keyPermission}
            for name, role in book.roles.items()
        }
        found = (book.enabled, book.revision, users, roles)
        if found != (model.enabled, model.revision, model.users, model.roles):
            raise SimulationFailed("stores are the model's", f"{node.name} holds other users or rights: {found}")
        for key, value in model.pairs.items():
            record = store.engine.get(KV + key)
            if record is None or KeyValue.FromString(key_value_bytes(record)).value != value:
                raise SimulationFailed("stores are the model's", f"{node.name} holds another value of {key!r}")
    return met
