"""Where each RPC is found on the JSON gateway: etcd's paths, and one of ours.

Owns the table of paths. What serves an RPC is looked up in the table of gRPC methods, so whatever is served there is
served here; what is not is told so.
Invariant: every RPC of etcd's API has a path. `RangeStream`, which etcd offers over gRPC only, has one of ours.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.grpc_methods import GrpcMethod
from gateway.json_wire import MessageJson, form_of

PREFIX: Final = "/v3"
OLD_PREFIX: Final = "/v3beta"
"""What etcd 3.3 called it; etcd still answers there."""

_KV: Final = "etcdserverpb.KV"
_LEASE: Final = "etcdserverpb.Lease"
_CLUSTER: Final = "etcdserverpb.Cluster"
_MAINTENANCE: Final = "etcdserverpb.Maintenance"
_AUTH: Final = "etcdserverpb.Auth"
_ELECTION: Final = "v3electionpb.Election"

PATHS: Final[dict[str, tuple[str, str]]] = {
    "/kv/range": (_KV, "Range"),
    "/kv/rangestream": (_KV, "RangeStream"),
    "/kv/put": (_KV, "Put"),
    "/kv/deleterange": (_KV, "DeleteRange"),
    "/kv/txn": (_KV, "Txn"),
    "/kv/compaction": (_KV, "Compact"),
    "/watch": ("etcdserverpb.Watch", "Watch"),
    "/lease/grant": (_LEASE, "LeaseGrant"),
    "/lease/revoke": (_LEASE, "LeaseRevoke"),
    "/kv/lease/revoke": (_LEASE, "LeaseRevoke"),
    "/lease/keepalive": (_LEASE, "LeaseKeepAlive"),
    "/lease/timetolive": (_LEASE, "LeaseTimeToLive"),
    "/kv/lease/timetolive": (_LEASE, "LeaseTimeToLive"),
    "/lease/leases": (_LEASE, "LeaseLeases"),
    "/kv/lease/leases": (_LEASE, "LeaseLeases"),
    "/cluster/member/add": (_CLUSTER, "MemberAdd"),
    "/cluster/member/remove": (_CLUSTER, "MemberRemove"),
    "/cluster/member/update": (_CLUSTER, "MemberUpdate"),
    "/cluster/member/list": (_CLUSTER, "MemberList"),
    "/cluster/member/promote": (_CLUSTER, "MemberPromote"),
    "/maintenance/alarm": (_MAINTENANCE, "Alarm"),
    "/maintenance/status": (_MAINTENANCE, "Status"),
    "/maintenance/defragment": (_MAINTENANCE, "Defragment"),
    "/maintenance/hash": (_MAINTENANCE, "Hash"),
    "/maintenance/hashkv": (_MAINTENANCE, "HashKV"),
    "/maintenance/snapshot": (_MAINTENANCE, "Snapshot"),
    "/maintenance/transfer-leadership": (_MAINTENANCE, "MoveLeader"),
    "/maintenance/downgrade": (_MAINTENANCE, "Downgrade"),
    "/auth/enable": (_AUTH, "AuthEnable"),
    "/auth/disable": (_AUTH, "AuthDisable"),
    "/auth/status": (_AUTH, "AuthStatus"),
    "/auth/authenticate": (_AUTH, "Authenticate"),
    "/auth/user/add": (_AUTH, "UserAdd"),
    "/auth/user/get": (_AUTH, "UserGet"),
    "/auth/user/list": (_AUTH, "UserList"),
    "/auth/user/delete": (_AUTH, "UserDelete"),
    "/auth/user/changepw": (_AUTH, "UserChangePassword"),
    "/auth/user/grant": (_AUTH, "UserGrantRole"),
    "/auth/user/revoke": (_AUTH, "UserRevokeRole"),
    "/auth/role/add": (_AUTH, "RoleAdd"),
    "/auth/role/get": (_AUTH, "RoleGet"),
    "/auth/role/list": (_AUTH, "RoleList"),
    "/auth/role/delete": (_AUTH, "RoleDelete"),
    "/auth/role/grant": (_AUTH, "RoleGrantPermission"),
    "/auth/role/revoke": (_AUTH, "RoleRevokePermission"),
    "/lock/lock": ("v3lockpb.Lock", "Lock"),
    "/lock/unlock": ("v3lockpb.Lock", "Unlock"),
    "/election/campaign": (_ELECTION, "Campaign"),
    "/election/proclaim": (_ELECTION, "Proclaim"),
    "/election/leader": (_ELECTION, "Leader"),
    "/election/observe": (_ELECTION, "Observe"),
    "/election/resign": (_ELECTION, "Resign"),
}
"""By what follows `PREFIX`."""


GOES_ON_SPEAKING: Final = frozenset({"/watch", "/lease/keepalive"})
"""Where a client may say more than one thing."""


class JsonRoute(NamedTuple):
    """One path: the method behind it, and the types of what is said there."""

    entry: GrpcMethod
    request: type[Message]
    response: type[Message]
    form: MessageJson
    """How a response is written."""


def json_routes(methods: Mapping[bytes, GrpcMethod]) -> dict[str, JsonRoute]:
    """Return what is behind every path; `methods` is the table of gRPC methods."""
    routes: dict[str, JsonRoute] = {}
    for path, (service, name) in PATHS.items():
        entry = methods[f"/{service}/{name}".encode()]
        described = Default().FindMethodByName(f"{service}.{name}")
        response = described.output_type
        routes[path] = JsonRoute(
            entry, GetMessageClass(described.input_type), GetMessageClass(response), form_of(response)
        )
    return routes
