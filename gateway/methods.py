"""The table of RPCs: where a request goes, and what is refused at once.

Owns which request is a command, which a read, and which is answered from what the gateway knows.
Invariant: numbers are part of the ZeroMQ protocol and never reused; those of streaming RPCs begin at 101.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError, Message

from gateway import validate
from gateway.access import Need
from gateway.members import MemberCall
from gateway.streams import StreamMethod
from protocol.command import CommandKind, ReadKind
from protocol.errors import ErrorCode
from protocol.lease import LEASE_TTL_S_MAX
from protocol.membership import parse_peer_urls
from protocol.wire import election_pb2 as election
from protocol.wire import lock_pb2 as lock
from protocol.wire import rpc_pb2 as rpc


class Route(Enum):
    """Where a request goes."""

    COMMAND = "command"
    """Into the log."""
    LINEARIZABLE = "linearizable"
    """To the applier, once this node has everything that was committed when it came."""
    LOCAL = "local"
    """To the applier as it stands."""
    GRANT = "grant"
    """Into the log, once the gateway has chosen what the client left open."""
    LESSOR = "lessor"
    """To the applier of the leader, wherever that is."""
    RAFT = "raft"
    """To raft: the members, and who leads."""
    STEPS = "steps"
    """To a service of the gateway that asks several things for it, and may wait."""
    MEMBERS = "members"
    """Answered from the member table, behind a barrier if it must be linearizable."""
    DESK = "desk"
    """Through several steps, because a password must be hashed or checked on the way."""


class Ruling(NamedTuple):
    """What a request's own bytes decide: a refusal, or where it goes and as what."""

    code: ErrorCode
    route: Route
    kind: int
    quota: bool = False
    """Whether it makes the store grow."""


_REFUSED: Final = Route.LOCAL


def _refuse(code: ErrorCode) -> Ruling:
    return Ruling(code, _REFUSED, 0)


def _malformed() -> Ruling:
    return _refuse(ErrorCode.MALFORMED)


_PUT: Final = Ruling(ErrorCode.OK, Route.COMMAND, int(CommandKind.PUT), quota=True)
_DELETE: Final = Ruling(ErrorCode.OK, Route.COMMAND, int(CommandKind.DELETE_RANGE))
_COMPACT: Final = Ruling(ErrorCode.OK, Route.COMMAND, int(CommandKind.COMPACT))
_TXN: Final = Ruling(ErrorCode.OK, Route.COMMAND, int(CommandKind.TXN))
_TXN_PUT: Final = _TXN._replace(quota=True)
_TXN_READ: Final = Ruling(ErrorCode.OK, Route.LINEARIZABLE, int(ReadKind.TXN))
_TXN_LOCAL: Final = Ruling(ErrorCode.OK, Route.LOCAL, int(ReadKind.TXN))
_RANGE: Final = Ruling(ErrorCode.OK, Route.LINEARIZABLE, int(ReadKind.RANGE))
_RANGE_LOCAL: Final = Ruling(ErrorCode.OK, Route.LOCAL, int(ReadKind.RANGE))
_RANGE_PAGE: Final = Ruling(ErrorCode.OK, Route.LINEARIZABLE, int(ReadKind.RANGE_PAGE))
_RANGE_PAGE_LOCAL: Final = Ruling(ErrorCode.OK, Route.LOCAL, int(ReadKind.RANGE_PAGE))
_STATUS: Final = Ruling(ErrorCode.OK, Route.LOCAL, int(ReadKind.STATUS))
_HASH_KV: Final = Ruling(ErrorCode.OK, Route.LOCAL, int(ReadKind.HASH_KV))
_GRANT: Final = Ruling(ErrorCode.OK, Route.GRANT, int(CommandKind.LEASE_GRANT), quota=True)
_REVOKE: Final = Ruling(ErrorCode.OK, Route.COMMAND, int(CommandKind.LEASE_REVOKE))
_KEEP_ALIVE: Final = Ruling(ErrorCode.OK, Route.LESSOR, int(ReadKind.LEASE_KEEP_ALIVE))
_TIME_TO_LIVE: Final = Ruling(ErrorCode.OK, Route.LESSOR, int(ReadKind.LEASE_TIME_TO_LIVE))
_LEASES: Final = Ruling(ErrorCode.OK, Route.LINEARIZABLE, int(ReadKind.LEASES))
_ALARM: Final = Ruling(ErrorCode.OK, Route.COMMAND, int(CommandKind.ALARM))
_ALARMS: Final = Ruling(ErrorCode.OK, Route.LINEARIZABLE, int(ReadKind.ALARMS))
_STEPS: Final = Ruling(ErrorCode.OK, Route.STEPS, 0)
_DOWNGRADE: Final = Ruling(ErrorCode.OK, Route.COMMAND, int(CommandKind.DOWNGRADE))
_DOWNGRADE_VALIDATE: Final = Ruling(ErrorCode.OK, Route.LINEARIZABLE, int(ReadKind.DOWNGRADE_VALIDATE))
_DEFRAGMENT: Final = Ruling(ErrorCode.OK, Route.LOCAL, int(ReadKind.DEFRAGMENT))
_HASH: Final = Ruling(ErrorCode.OK, Route.LOCAL, int(ReadKind.HASH))
_MEMBERS: Final = Ruling(ErrorCode.OK, Route.MEMBERS, int(ReadKind.BARRIER))
_MEMBERS_LOCAL: Final = Ruling(ErrorCode.OK, Route.MEMBERS, 0)


def _rule_put(body: bytes, _operations_max: int) -> Ruling:
    try:
        code = validate.check_put(rpc.PutRequest.FromString(body))
    except DecodeError:
        return _malformed()
    return _refuse(code) if code else _PUT


def _rule_range(body: bytes, _operations_max: int) -> Ruling:
    try:
        request = rpc.RangeRequest.FromString(body)
    except DecodeError:
        return _malformed()
    code = validate.check_range(request)
    if code:
        return _refuse(code)
    return _RANGE_LOCAL if request.serializable else _RANGE


def _rule_range_page(body: bytes, _operations_max: int) -> Ruling:
    return _RANGE_PAGE_LOCAL if rpc.RangeRequest.FromString(body).serializable else _RANGE_PAGE


def _rule_delete(body: bytes, _operations_max: int) -> Ruling:
    try:
        code = validate.check_delete(rpc.DeleteRangeRequest.FromString(body))
    except DecodeError:
        return _malformed()
    return _refuse(code) if code else _DELETE


def _rule_txn(body: bytes, operations_max: int) -> Ruling:
    try:
        request = rpc.TxnRequest.FromString(body)
    except DecodeError:
        return _malformed()
    verdict = validate.check_txn(request, operations_max)
    if verdict.code:
        return _refuse(verdict.code)
    if verdict.read_only:
        return _TXN_LOCAL if validate.is_serializable(request) else _TXN_READ
    return _TXN_PUT if verdict.has_put else _TXN


def _rule_lease_grant(body: bytes, _operations_max: int) -> Ruling:
    try:
        request = rpc.LeaseGrantRequest.FromString(body)
    except DecodeError:
        return _malformed()
    return _refuse(ErrorCode.LEASE_TTL_TOO_LARGE) if request.TTL > LEASE_TTL_S_MAX else _GRANT


def _parsed(request: type[Message], ruling: Ruling) -> "Rule":
    def rule(body: bytes, _operations_max: int) -> Ruling:
        try:
            request.FromString(body)
        except DecodeError:
            return _malformed()
        return ruling

    return rule


def _command(request: type[Message], kind: CommandKind, route: Route = Route.COMMAND) -> "Rule":
    return _parsed(request, Ruling(ErrorCode.OK, route, int(kind)))


def _read(request: type[Message], kind: ReadKind, route: Route = Route.LINEARIZABLE) -> "Rule":
    return _parsed(request, Ruling(ErrorCode.OK, route, int(kind)))


def _rule_members(body: bytes, _operations_max: int) -> Ruling:
    try:
        request = rpc.MemberListRequest.FromString(body)
    except DecodeError:
        return _malformed()
    return _MEMBERS if request.linearizable else _MEMBERS_LOCAL


def _rule_alarm(body: bytes, _operations_max: int) -> Ruling:
    try:
        request = rpc.AlarmRequest.FromString(body)
    except DecodeError:
        return _malformed()
    return _ALARMS if request.action == rpc.AlarmRequest.GET else _ALARM


def _rule_downgrade(body: bytes, _operations_max: int) -> Ruling:
    try:
        request = rpc.DowngradeRequest.FromString(body)
    except DecodeError:
        return _malformed()
    if request.action == rpc.DowngradeRequest.VALIDATE:
        return _DOWNGRADE_VALIDATE
    known = request.action in (rpc.DowngradeRequest.ENABLE, rpc.DowngradeRequest.CANCEL)
    return _DOWNGRADE if known else _refuse(ErrorCode.UNIMPLEMENTED)


Rule = Callable[[bytes, int], Ruling]


def _rule_member_urls(request: type[rpc.MemberAddRequest | rpc.MemberUpdateRequest], kind: MemberCall) -> Rule:
    def rule(body: bytes, _operations_max: int) -> Ruling:
        try:
            urls = request.FromString(body).peerURLs
        except DecodeError:
            return _malformed()
        if parse_peer_urls(urls) is None:
            return _refuse(ErrorCode.MEMBER_BAD_URLS)
        return Ruling(ErrorCode.OK, Route.RAFT, int(kind))

    return rule


def _to_raft(request: type[Message], kind: MemberCall) -> Rule:
    return _parsed(request, Ruling(ErrorCode.OK, Route.RAFT, int(kind)))


class Method(NamedTuple):
    """One RPC. `rule` looks at a request's bytes; `number` is its name on the ZeroMQ door.

    `need` is what the gateway itself asks of who calls it while rights matter. With `STORE` the table of
    `storage.auth_guard` decides; what is answered without the store, or does something besides, needs another.
    """

    number: int
    service: str
    name: str
    rule: Rule
    need: Need = Need.ROOT

    @property
    def path(self) -> bytes:
        """The gRPC path."""
        return f"/{self.service}/{self.name}".encode()


_KV: Final = "etcdserverpb.KV"
_LEASE: Final = "etcdserverpb.Lease"
_CLUSTER: Final = "etcdserverpb.Cluster"
_AUTH: Final = "etcdserverpb.Auth"
_STORE: Final = Need.STORE
_ALL: Final = (
    Method(1, _KV, "Put", _rule_put, _STORE),
    Method(2, _KV, "Range", _rule_range, _STORE),
    Method(3, _KV, "DeleteRange", _rule_delete, _STORE),
    Method(4, _KV, "Txn", _rule_txn, _STORE),
    Method(5, _KV, "Compact", _parsed(rpc.CompactionRequest, _COMPACT), _STORE),
    Method(6, "etcdserverpb.Maintenance", "Status", _parsed(rpc.StatusRequest, _STATUS), _STORE),
    Method(7, "etcdserverpb.Maintenance", "HashKV", _parsed(rpc.HashKVRequest, _HASH_KV), _STORE),
    Method(8, _CLUSTER, "MemberList", _rule_members, Need.USER),
    Method(9, _LEASE, "LeaseGrant", _rule_lease_grant, _STORE),
    Method(10, _LEASE, "LeaseRevoke", _parsed(rpc.LeaseRevokeRequest, _REVOKE), _STORE),
    Method(12, _LEASE, "LeaseTimeToLive", _parsed(rpc.LeaseTimeToLiveRequest, _TIME_TO_LIVE), _STORE),
    Method(13, _LEASE, "LeaseLeases", _parsed(rpc.LeaseLeasesRequest, _LEASES), _STORE),
    Method(41, _CLUSTER, "MemberAdd", _rule_member_urls(rpc.MemberAddRequest, MemberCall.ADD)),
    Method(42, _CLUSTER, "MemberRemove", _to_raft(rpc.MemberRemoveRequest, MemberCall.REMOVE)),
    Method(43, _CLUSTER, "MemberUpdate", _rule_member_urls(rpc.MemberUpdateRequest, MemberCall.UPDATE)),
    Method(44, _CLUSTER, "MemberPromote", _to_raft(rpc.MemberPromoteRequest, MemberCall.PROMOTE)),
    Method(45, "etcdserverpb.Maintenance", "MoveLeader", _to_raft(rpc.MoveLeaderRequest, MemberCall.MOVE_LEADER)),
    Method(60, "etcdserverpb.Maintenance", "Alarm", _rule_alarm, _STORE),
    Method(61, "etcdserverpb.Maintenance", "Defragment", _parsed(rpc.DefragmentRequest, _DEFRAGMENT), _STORE),
    Method(62, "etcdserverpb.Maintenance", "Hash", _parsed(rpc.HashRequest, _HASH), _STORE),
    Method(63, "etcdserverpb.Maintenance", "Downgrade", _rule_downgrade, _STORE),
)

_AUTH_CALLS: Final = (
    Method(20, _AUTH, "AuthEnable", _command(rpc.AuthEnableRequest, CommandKind.AUTH_ENABLE), _STORE),
    Method(21, _AUTH, "AuthDisable", _command(rpc.AuthDisableRequest, CommandKind.AUTH_DISABLE), _STORE),
    Method(22, _AUTH, "AuthStatus", _read(rpc.AuthStatusRequest, ReadKind.AUTH_STATUS), _STORE),
    Method(
        23,
        _AUTH,
        "Authenticate",
        _command(rpc.AuthenticateRequest, CommandKind.ASSIGN_TOKEN, Route.DESK),
        Need.NOTHING,
    ),
    Method(24, _AUTH, "UserAdd", _command(rpc.AuthUserAddRequest, CommandKind.USER_ADD, Route.DESK), _STORE),
    Method(25, _AUTH, "UserGet", _read(rpc.AuthUserGetRequest, ReadKind.USER_GET), _STORE),
    Method(26, _AUTH, "UserList", _read(rpc.AuthUserListRequest, ReadKind.USER_LIST), _STORE),
    Method(27, _AUTH, "UserDelete", _command(rpc.AuthUserDeleteRequest, CommandKind.USER_DELETE), _STORE),
    Method(
        28,
        _AUTH,
        "UserChangePassword",
        _command(rpc.AuthUserChangePasswordRequest, CommandKind.USER_CHANGE_PASSWORD, Route.DESK),
        _STORE,
    ),
    Method(29, _AUTH, "UserGrantRole", _command(rpc.AuthUserGrantRoleRequest, CommandKind.USER_GRANT_ROLE), _STORE),
    Method(30, _AUTH, "UserRevokeRole", _command(rpc.AuthUserRevokeRoleRequest, CommandKind.USER_REVOKE_ROLE), _STORE),
    Method(31, _AUTH, "RoleAdd", _command(rpc.AuthRoleAddRequest, CommandKind.ROLE_ADD), _STORE),
    Method(32, _AUTH, "RoleGet", _read(rpc.AuthRoleGetRequest, ReadKind.ROLE_GET), _STORE),
    Method(33, _AUTH, "RoleList", _read(rpc.AuthRoleListRequest, ReadKind.ROLE_LIST), _STORE),
    Method(34, _AUTH, "RoleDelete", _command(rpc.AuthRoleDeleteRequest, CommandKind.ROLE_DELETE), _STORE),
    Method(
        35,
        _AUTH,
        "RoleGrantPermission",
        _command(rpc.AuthRoleGrantPermissionRequest, CommandKind.ROLE_GRANT_PERMISSION),
        _STORE,
    ),
    Method(
        36,
        _AUTH,
        "RoleRevokePermission",
        _command(rpc.AuthRoleRevokePermissionRequest, CommandKind.ROLE_REVOKE_PERMISSION),
        _STORE,
    ),
)

_STEPPED: Final = (
    Method(80, "v3lockpb.Lock", "Lock", _parsed(lock.LockRequest, _STEPS), _STORE),
    Method(81, "v3lockpb.Lock", "Unlock", _parsed(lock.UnlockRequest, _STEPS), _STORE),
    Method(82, "v3electionpb.Election", "Campaign", _parsed(election.CampaignRequest, _STEPS), _STORE),
    Method(83, "v3electionpb.Election", "Proclaim", _parsed(election.ProclaimRequest, _STEPS), _STORE),
    Method(84, "v3electionpb.Election", "Leader", _parsed(election.LeaderRequest, _STEPS), _STORE),
    Method(85, "v3electionpb.Election", "Resign", _parsed(election.ResignRequest, _STEPS), _STORE),
)

_UNARY: Final = (*_ALL, *_AUTH_CALLS, *_STEPPED)

_STREAMS: Final = (
    StreamMethod(101, "grpc.health.v1.Health", "Watch"),
    StreamMethod(102, "etcdserverpb.Watch", "Watch"),
    StreamMethod(103, _LEASE, "LeaseKeepAlive"),
    StreamMethod(120, "v3electionpb.Election", "Observe"),
    StreamMethod(150, _KV, "RangeStream"),
    StreamMethod(160, "etcdserverpb.Maintenance", "Snapshot"),
)

KEEP_ALIVE: Final = Method(11, _LEASE, "LeaseKeepAlive", _parsed(rpc.LeaseKeepAliveRequest, _KEEP_ALIVE), _STORE)
"""One keep-alive as a call of its own: what the ZeroMQ door has, and what a gRPC stream of them is made of."""
PERMIT_WATCH: Final = Method(
    0, "", "permit a watch", _read(rpc.RangeRequest, ReadKind.PERMIT_RANGE, Route.LOCAL), _STORE
)
"""What a watch asks before it begins; no door knows it."""
PERMIT_ROOT: Final = Method(0, "", "permit root", _read(rpc.RangeRequest, ReadKind.PERMIT_ROOT, Route.LOCAL), _STORE)
"""What a stream asks that only root may have."""
METHODS: Final[dict[bytes, Method]] = {method.path: method for method in _UNARY}
"""By gRPC path."""
METHODS_BY_NUMBER: Final[dict[int, Method]] = {method.number: method for method in (*_UNARY, KEEP_ALIVE)}
"""By number on the ZeroMQ door."""
STREAM_METHODS: Final[dict[bytes, StreamMethod]] = {method.path: method for method in _STREAMS}
"""Streaming RPCs by gRPC path."""
STREAM_METHODS_BY_NUMBER: Final[dict[int, StreamMethod]] = {method.number: method for method in _STREAMS}
"""By number on the ZeroMQ door."""
OWN_CALL: Final = 0
"""The number of what a node asks itself, for its health pages: a learner answers that too."""
RANGE_PAGE: Final = Method(OWN_CALL, _KV, "RangePage", _rule_range_page, _STORE)
"""A page of a RangeStream, which a gateway asks for itself; no client can."""
RANGE_STREAM: Final = STREAM_METHODS[b"/etcdserverpb.KV/RangeStream"]
WATCH: Final = STREAM_METHODS[b"/etcdserverpb.Watch/Watch"]
KEEP_ALIVE_STREAM: Final = STREAM_METHODS[b"/etcdserverpb.Lease/LeaseKeepAlive"]
OBSERVE: Final = STREAM_METHODS[b"/v3electionpb.Election/Observe"]
STEPPED: Final[dict[int, StreamMethod]] = {
    method.number: StreamMethod(method.number, method.service, method.name) for method in _STEPPED
}
"""The streams behind unary methods that take steps, by the method's number; no door names them as streams."""
SNAPSHOT: Final = STREAM_METHODS[b"/etcdserverpb.Maintenance/Snapshot"]
HEALTH_WATCH: Final = STREAM_METHODS[b"/grpc.health.v1.Health/Watch"]
PUT: Final = METHODS[b"/etcdserverpb.KV/Put"]
"""The busiest method, for the short cut in the core."""
