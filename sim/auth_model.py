"""Rights as a small model: what each command of the log must have been answered, and what is left in the end.

Owns an implementation of etcd's rules that shares nothing with `storage`: sets of single keys and plain comparisons.
"""

from typing import Final

from protocol.auth import decode_as, decode_token_order
from protocol.command import CommandKind, decode_batch
from protocol.errors import ErrorCode
from protocol.types import Entry, EntryKind
from protocol.wire import rpc_pb2 as rpc

_E: Final = ErrorCode
_K: Final = CommandKind


class AuthModel:
    """The auth store, keys and values, and by mark how each command was to be answered."""

    def __init__(self) -> None:
        self.enabled = False
        self.revision = 1
        self.users: dict[str, set[str]] = {}
        self.roles: dict[str, dict[tuple[bytes, bytes], int]] = {}
        self.pairs: dict[bytes, bytes] = {}
        self.answers: dict[bytes, ErrorCode] = {}
        self.refused_for_age = 0
        self._seen: set[tuple[int, int, int]] = set()

    def apply(self, entry: Entry) -> None:
        """Apply an entry; batches that were applied before count once."""
        if entry.kind != EntryKind.COMMANDS:
            return
        batch = decode_batch(entry.data)
        origin = (batch.origin.member, batch.origin.incarnation, batch.origin.sequence)
        if origin in self._seen:
            return
        self._seen.add(origin)
        for bare_kind, bare_body in batch.commands:
            user, revision, kind, body = "", 0, bare_kind, bare_body
            if kind == _K.AS_USER:
                (user, revision), kind, body = decode_as(body)
            if kind != _K.AS_NODE:
                code = self._command(user, revision, kind, body)
                self.refused_for_age += code == _E.AUTH_OLD_REVISION
                self.answers[_mark_of(kind, body)] = code

    def _command(self, user: str, revision: int, kind: int, body: bytes) -> ErrorCode:
        if kind == _K.ASSIGN_TOKEN:
            return self._token(body)
        if kind == _K.PUT:
            request = rpc.PutRequest.FromString(body)
            code = self._may_write(user, revision, request.key) if self.enabled else _E.OK
            if not code:
                self.pairs[request.key] = request.value
            return code
        if self.enabled:
            if not user:
                return _E.USER_EMPTY
            if user not in self.users:
                return _E.USER_NOT_FOUND
            if "root" not in self.users[user]:
                return _E.PERMISSION_DENIED
        return self._change(kind, body)

    def _may_write(self, user: str, revision: int, key: bytes) -> ErrorCode:
        if not revision:
            return _E.USER_EMPTY
        if revision < self.revision:
            return _E.AUTH_OLD_REVISION
        if user not in self.users:
            return _E.PERMISSION_DENIED
        if "root" in self.users[user]:
            return _E.OK
        for name in self.users[user]:
            for (first, end), kind in self.roles.get(name, {}).items():
                covers = key == first if not end else key >= first and (end == b"\0" or key < end)
                if kind and covers:
                    return _E.OK
        return _E.PERMISSION_DENIED

    def _token(self, body: bytes) -> ErrorCode:
        order = decode_token_order(body)
        if not self.enabled:
            return _E.AUTH_NOT_ENABLED
        if order.revision != self.revision:
            return _E.AUTH_OLD_REVISION
        return _E.OK if order.user in self.users else _E.AUTH_FAILED

    def _change(self, kind: int, body: bytes) -> ErrorCode:
        before = self.revision
        self.revision += 1
        code = self._changed(kind, body)
        if code is not None:
            self.revision = before
        return code or _E.OK

    def _changed(self, kind: int, body: bytes) -> ErrorCode | None:
        """Make a change; return what it is answered if it is none: OK where nothing was to be changed."""
        if kind == _K.AUTH_ENABLE:
            if "root" not in self.users:
                return _E.ROOT_USER_NOT_EXIST
            self.enabled = True
            return _E.OK
        if kind in (_K.USER_ADD, _K.ROLE_ADD):
            return self._added(kind, body)
        if kind == _K.USER_CHANGE_PASSWORD:
            known = rpc.AuthUserChangePasswordRequest.FromString(body).name in self.users
            return None if known else _E.USER_NOT_FOUND
        if kind in (_K.USER_GRANT_ROLE, _K.USER_REVOKE_ROLE):
            return self._role_of_user(kind, body)
        return self._permission(kind, body)

    def _added(self, kind: int, body: bytes) -> ErrorCode | None:
        name = rpc.AuthUserAddRequest.FromString(body).name
        if kind == _K.USER_ADD:
            if name in self.users:
                return _E.USER_ALREADY_EXISTS
            self.users[name] = set()
        elif name in self.roles:
            return _E.ROLE_ALREADY_EXISTS
        else:
            self.roles[name] = {}
        return None

    def _role_of_user(self, kind: int, body: bytes) -> ErrorCode | None:
        request = rpc.AuthUserGrantRoleRequest.FromString(body)
        roles = self.users.get(request.user)
        if roles is None:
            return _E.USER_NOT_FOUND
        if kind == _K.USER_REVOKE_ROLE:
            if request.role not in roles:
                return _E.ROLE_NOT_GRANTED
            roles.discard(request.role)
            return None
        if request.role != "root" and request.role not in self.roles:
            return _E.ROLE_NOT_FOUND
        if request.role in roles:
            return _E.OK
        roles.add(request.role)
        return None

    def _permission(self, kind: int, body: bytes) -> ErrorCode | None:
        if kind == _K.ROLE_GRANT_PERMISSION:
            given = rpc.AuthRoleGrantPermissionRequest.FromString(body)
            role = self.roles.get(given.name)
            if role is None:
                return _E.ROLE_NOT_FOUND
            role[given.perm.key, given.perm.range_end] = given.perm.permType
            return None
        assert kind == _K.ROLE_REVOKE_PERMISSION, f"nobody asks for {kind}"
        taken = rpc.AuthRoleRevokePermissionRequest.FromString(body)
        role = self.roles.get(taken.role)
        if role is None:
            return _E.ROLE_NOT_FOUND
        return _E.PERMISSION_NOT_GRANTED if role.pop((taken.key, taken.range_end), None) is None else None


def _mark_of(kind: int, body: bytes) -> bytes:
    """Return what tells a command from all others: the value of a put, or the field behind a change."""
    if kind == _K.PUT:
        return rpc.PutRequest.FromString(body).value
    return body[-MARK_BYTES:]


MARK_BYTES: Final = 12
"""Marks of this length are the last bytes of whatever is asked for."""
