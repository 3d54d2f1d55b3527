"""Which request changes users and roles how, and which shows them: from bytes to the auth store.

Owns the table of auth commands and reads. Knows no rights: `storage.auth_guard` is asked before.
"""

from collections.abc import Callable
from typing import Final

import msgpack

from protocol.command import CommandKind, ReadKind
from protocol.wire import rpc_pb2 as rpc
from storage.auth import AuthBook

Change = Callable[[AuthBook, bytes], None]
"""Does what a request's bytes ask for; raises `ClientError` if it cannot be done."""
Show = Callable[[AuthBook, bytes], bytes]
"""Returns a response without its header."""

CHANGES: Final[dict[int, Change]] = {
    CommandKind.AUTH_ENABLE: lambda book, _: book.enable(),
    CommandKind.AUTH_DISABLE: lambda book, _: book.disable(),
    CommandKind.USER_ADD: lambda book, body: book.add_user(rpc.AuthUserAddRequest.FromString(body)),
    CommandKind.USER_DELETE: lambda book, body: book.delete_user(rpc.AuthUserDeleteRequest.FromString(body).name),
    CommandKind.USER_CHANGE_PASSWORD: lambda book, body: book.change_password(
        rpc.AuthUserChangePasswordRequest.FromString(body)
    ),
    CommandKind.USER_GRANT_ROLE: lambda book, body: book.grant_role(rpc.AuthUserGrantRoleRequest.FromString(body)),
    CommandKind.USER_REVOKE_ROLE: lambda book, body: book.revoke_role(rpc.AuthUserRevokeRoleRequest.FromString(body)),
    CommandKind.ROLE_ADD: lambda book, body: book.add_role(rpc.AuthRoleAddRequest.FromString(body).name),
    CommandKind.ROLE_DELETE: lambda book, body: book.delete_role(rpc.AuthRoleDeleteRequest.FromString(body).role),
    CommandKind.ROLE_GRANT_PERMISSION: lambda book, body: book.grant_permission(
        rpc.AuthRoleGrantPermissionRequest.FromString(body)
    ),
    CommandKind.ROLE_REVOKE_PERMISSION: lambda book, body: book.revoke_permission(
        rpc.AuthRoleRevokePermissionRequest.FromString(body)
    ),
}
"""Every change but the assignment of a token, which also needs to know its entry."""

SHOWS: Final[dict[int, Show]] = {
    ReadKind.AUTH_STATUS: lambda book, _: book.status(),
    ReadKind.USER_GET: lambda book, body: book.show_user(rpc.AuthUserGetRequest.FromString(body).name),
    ReadKind.USER_LIST: lambda book, _: book.show_users(),
    ReadKind.ROLE_GET: lambda book, body: book.show_role(rpc.AuthRoleGetRequest.FromString(body).role),
    ReadKind.ROLE_LIST: lambda book, _: book.show_roles(),
}
"""Reads that clients know; their answers have a header."""


def credentials(book: AuthBook, body: bytes) -> bytes:
    """Answer `CREDENTIALS`: the auth revision, and what a user's password is checked against."""
    packed: bytes = msgpack.packb((book.revision, book.password_hash(body.decode())))
    return packed
