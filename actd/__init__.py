"""What users import: clients for actd's ZeroMQ door."""

from actd.aio import AsyncClient
from actd.client import Client, Pipeline
from actd.errors import ActdError, CallTimedOut, ClientClosed, ProtocolFault, RequestRefused, Unavailable
from actd.results import (
    CompactResult,
    DeleteResult,
    HashResult,
    KeyValue,
    Member,
    PutResult,
    RangeResult,
    StatusResult,
    TxnResult,
)
from actd.txn import Delete, Get, Nested, Put, create_revision, lease, mod_revision, value, version

__all__ = [
    "ActdError",
    "AsyncClient",
    "CallTimedOut",
    "Client",
    "ClientClosed",
    "CompactResult",
    "Delete",
    "DeleteResult",
    "Get",
    "HashResult",
    "KeyValue",
    "Member",
    "Nested",
    "Pipeline",
    "ProtocolFault",
    "Put",
    "PutResult",
    "RangeResult",
    "RequestRefused",
    "StatusResult",
    "TxnResult",
    "Unavailable",
    "create_revision",
    "lease",
    "mod_revision",
    "value",
    "version",
]
