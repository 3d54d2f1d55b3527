"""Who may do what: etcd's rules 58 to 60, asked for each command when it is applied and each read when it is served.

Owns the table of needs. Knows the auth store and what is attached to leases; changes nothing. What is not in a table
needs the role root, so that a command that is added and forgotten here is too strict and never too lax.

Two rules, both etcd's: keys are checked under the auth revision of the request, and one that is older than the store's
is refused, root's too; what takes the role root looks at the user as it is now.
"""

from collections.abc import Callable
from typing import Final

from protocol.auth import ROOT, Identity
from protocol.command import CommandKind, ReadKind
from protocol.errors import ClientError, ErrorCode
from protocol.wire import rpc_pb2 as rpc
from storage.auth import AuthBook
from storage.layout import user_bounds
from storage.lease import attached_keys, lease_record
from storage.overlay import Reader


class Guard:
    """Asks the auth store, while rights matter."""

    def __init__(self, book: AuthBook) -> None:
        self._book = book

    # --- keys --------------------------------------------------------------------------------------

    def may_read(self, identity: Identity, key: bytes, range_end: bytes = b"") -> None:
        """Raise `ClientError` unless all of a range may be read."""
        if self._has_limits(identity):
            self._demand(self._book.grants_of(identity.user).read.cover(*user_bounds(key, range_end)))

    def may_write(self, identity: Identity, key: bytes, range_end: bytes = b"") -> None:
        """Raise `ClientError` unless all of a range may be written."""
        if self._has_limits(identity):
            self._demand(self._book.grants_of(identity.user).write.cover(*user_bounds(key, range_end)))

    def _has_limits(self, identity: Identity) -> bool:
        """Whether permissions decide; False if the user may touch every key.

        Raises:
            ClientError: there is nobody to ask about, or what is known of it is old.
        """
        book = self._book
        if not identity.revision:
            raise ClientError(ErrorCode.USER_EMPTY)
        if identity.revision < book.revision:
            raise ClientError(ErrorCode.AUTH_OLD_REVISION)
        self._demand(identity.user in book.users)
        return not book.has_role(identity.user, ROOT)

    @staticmethod
    def _demand(holds: bool) -> None:
        if not holds:
            raise ClientError(ErrorCode.PERMISSION_DENIED)

    # --- offices -----------------------------------------------------------------------------------

    def is_somebody(self, identity: Identity) -> None:
        """Raise `ClientError` if the request came with no user."""
        if not identity.revision:
            raise ClientError(ErrorCode.USER_EMPTY)

    def is_root(self, identity: Identity) -> None:
        """Raise `ClientError` unless the user has the role root now."""
        if not identity.user:
            raise ClientError(ErrorCode.USER_EMPTY)
        if identity.user not in self._book.users:
            raise ClientError(ErrorCode.USER_NOT_FOUND)
        self._demand(self._book.has_role(identity.user, ROOT))

    def _is_root_now(self, identity: Identity) -> bool:
        return self._book.has_role(identity.user, ROOT)

    # --- leases ------------------------------------------------------------------------------------

    def may_write_attached(self, identity: Identity, reader: Reader, lease: int) -> None:
        """Raise `ClientError` unless every key attached to a lease may be written: naming or ending it is as much."""
        if self._is_root_now(identity) or lease_record(reader, lease) is None:
            return
        for key in attached_keys(reader, lease):
            self.may_write(identity, key)

    def may_read_attached(self, identity: Identity, reader: Reader, lease: int) -> None:
        """Raise `ClientError` unless every key attached to a lease may be read."""
        if self._is_root_now(identity):
            return
        for key in attached_keys(reader, lease):
            self.may_read(identity, key)

    # --- requests ----------------------------------------------------------------------------------

    def check_command(self, identity: Identity, kind: int, body: bytes, reader: Reader) -> None:
        """Raise `ClientError` unless the command may be applied."""
        need = _COMMANDS.get(kind)
        if need is None:
            self.is_root(identity)
        else:
            need(self, identity, body, reader)

    def check_read(self, identity: Identity, kind: int, body: bytes, reader: Reader) -> None:
        """Raise `ClientError` unless the read may be served."""
        need = _READS.get(kind)
        if need is None:
            self.is_root(identity)
        else:
            need(self, identity, body, reader)

    def put(self, identity: Identity, put: rpc.PutRequest, reader: Reader) -> None:
        """Raise `ClientError` unless the put may be done, the lease it names and the pair it returns included."""
        self.may_write(identity, put.key)
        if put.lease:
            self.may_write_attached(identity, reader, put.lease)
        if put.prev_kv:
            self.may_read(identity, put.key)

    def delete(self, identity: Identity, request: rpc.DeleteRangeRequest) -> None:
        """Raise `ClientError` unless the deletion may be done."""
        self.may_write(identity, request.key, request.range_end)
        if request.prev_kv:
            self.may_read(identity, request.key, request.range_end)

    def txn(self, identity: Identity, txn: rpc.TxnRequest, reader: Reader) -> None:
        """Raise `ClientError` unless compares and both branches may be done, whichever would be taken."""
        for compare in txn.compare:
            self.may_read(identity, compare.key, compare.range_end)
        for operation in (*txn.success, *txn.failure):
            which = operation.WhichOneof("request")
            if which == "request_range":
                self.may_read(identity, operation.request_range.key, operation.request_range.range_end)
            elif which == "request_put":
                self.put(identity, operation.request_put, reader)
            elif which == "request_delete_range":
                self.delete(identity, operation.request_delete_range)
            elif which == "request_txn":
                self.txn(identity, operation.request_txn, reader)

    def own_user(self, identity: Identity, name: str) -> None:
        """Raise `ClientError` unless a user may be shown: root sees all, everybody itself."""
        if not identity.user or identity.user != name:
            self.is_root(identity)

    def own_role(self, identity: Identity, role: str) -> None:
        """Raise `ClientError` unless a role may be shown: root sees all, everybody its own."""
        if not self._book.has_role(identity.user, role):
            self.is_root(identity)


Need = Callable[[Guard, Identity, bytes, Reader], None]


def _nothing(_guard: Guard, _identity: Identity, _body: bytes, _reader: Reader) -> None:
    """Whoever asks."""


def _somebody(guard: Guard, identity: Identity, _body: bytes, _reader: Reader) -> None:
    guard.is_somebody(identity)


def _lease_revoke(guard: Guard, identity: Identity, body: bytes, reader: Reader) -> None:
    guard.is_somebody(identity)
    guard.may_write_attached(identity, reader, rpc.LeaseRevokeRequest.FromString(body).ID)


def _keep_alive(guard: Guard, identity: Identity, body: bytes, reader: Reader) -> None:
    guard.is_somebody(identity)
    guard.may_write_attached(identity, reader, rpc.LeaseKeepAliveRequest.FromString(body).ID)


def _time_to_live(guard: Guard, identity: Identity, body: bytes, reader: Reader) -> None:
    guard.is_somebody(identity)
    request = rpc.LeaseTimeToLiveRequest.FromString(body)
    if request.keys:
        guard.may_read_attached(identity, reader, request.ID)


def _range(guard: Guard, identity: Identity, body: bytes, _reader: Reader) -> None:
    request = rpc.RangeRequest.FromString(body)
    guard.may_read(identity, request.key, request.range_end)


def _txn(guard: Guard, identity: Identity, body: bytes, reader: Reader) -> None:
    guard.txn(identity, rpc.TxnRequest.FromString(body), reader)


_COMMANDS: Final[dict[int, Need]] = {
    CommandKind.PUT: lambda guard, who, body, reader: guard.put(who, rpc.PutRequest.FromString(body), reader),
    CommandKind.DELETE_RANGE: lambda guard, who, body, _: guard.delete(who, rpc.DeleteRangeRequest.FromString(body)),
    CommandKind.TXN: _txn,
    CommandKind.LEASE_GRANT: _somebody,
    CommandKind.LEASE_REVOKE: _lease_revoke,
    CommandKind.ASSIGN_TOKEN: _nothing,
}
_READS: Final[dict[int, Need]] = {
    ReadKind.RANGE: _range,
    ReadKind.RANGE_PAGE: _range,
    ReadKind.PERMIT_RANGE: _range,
    ReadKind.TXN: _txn,
    ReadKind.STATUS: _somebody,
    ReadKind.BARRIER: _nothing,
    ReadKind.LEASES: _somebody,  # the list itself asks about the keys of each lease
    ReadKind.ALARMS: _somebody,
    ReadKind.LEASE_KEEP_ALIVE: _keep_alive,
    ReadKind.LEASE_TIME_TO_LIVE: _time_to_live,
    ReadKind.AUTH_STATUS: _nothing,
    ReadKind.CREDENTIALS: _nothing,
    ReadKind.USER_GET: lambda guard, who, body, _: guard.own_user(who, rpc.AuthUserGetRequest.FromString(body).name),
    ReadKind.ROLE_GET: lambda guard, who, body, _: guard.own_role(who, rpc.AuthRoleGetRequest.FromString(body).role),
}
