"""What users import: clients for actd's ZeroMQ door."""

from actd.aio import AsyncClient
from actd.client import Client, Pipeline
from actd.errors import (
    ActdError,
    CallTimedOut,
    ClientClosed,
    ProtocolFault,
    RequestRefused,
    Unavailable,
    WatchCompacted,
)
from actd.keys import CurveKeys
from actd.leases import AsyncLease, Lease, LeaseLost
from actd.range_stream import AsyncRangeStream, RangeStream
from actd.results import (
    Alarm,
    AuthStatusResult,
    CompactResult,
    DeleteResult,
    HashResult,
    KeyValue,
    LeaseResult,
    LeaseTimeResult,
    Member,
    Permission,
    PutResult,
    RangeResult,
    SavedSnapshot,
    StatusResult,
    TxnResult,
    WatchEvent,
)
from actd.txn import Delete, Get, Nested, Put, create_revision, lease, mod_revision, value, version
from actd.watch import Cache, Watch
from actd.watch_aio import AsyncCache, AsyncWatch

__all__ = [
    "ActdError",
    "Alarm",
    "AsyncCache",
    "AsyncClient",
    "AsyncLease",
    "AsyncRangeStream",
    "AsyncWatch",
    "AuthStatusResult",
    "Cache",
    "CallTimedOut",
    "Client",
    "ClientClosed",
    "CompactResult",
    "CurveKeys",
    "Delete",
    "DeleteResult",
    "Get",
    "HashResult",
    "KeyValue",
    "Lease",
    "LeaseLost",
    "LeaseResult",
    "LeaseTimeResult",
    "Member",
    "Nested",
    "Permission",
    "Pipeline",
    "ProtocolFault",
    "Put",
    "PutResult",
    "RangeResult",
    "RangeStream",
    "RequestRefused",
    "SavedSnapshot",
    "StatusResult",
    "TxnResult",
    "Unavailable",
    "Watch",
    "WatchCompacted",
    "WatchEvent",
    "create_revision",
    "lease",
    "mod_revision",
    "value",
    "version",
]
