"""One function per call of the Auth service: arguments in, request bytes and a way to read the answer out. Pure."""

from typing import Any, Final, Literal

from actd import wire
from actd.calls import Call, Key, raw
from actd.results import AuthStatusResult, Permission, Result

PermissionKind = Literal["read", "write", "readwrite"]
KINDS: Final[tuple[PermissionKind, ...]] = ("read", "write", "readwrite")
"""In the order of their numbers."""


def _text(number: int, value: str) -> bytes:
    return wire.blob(number, value.encode())


def _read_done(body: bytes) -> Result:
    return Result(revision=wire.decode(wire.COMPACT, body).get("header", {}).get("revision", 0))


def _read_token(body: bytes) -> str:
    token: str = wire.decode(wire.AUTHENTICATED, body).get("token", "")
    return token


def _read_names(body: bytes) -> tuple[str, ...]:
    return tuple(wire.decode(wire.NAMES, body).get("names", ()))


def _read_status(body: bytes) -> AuthStatusResult:
    fields = wire.decode(wire.AUTH_STATUS, body)
    header = fields.pop("header", {})
    return AuthStatusResult(revision=header.get("revision", 0), **fields)


def _read_role(body: bytes) -> tuple[Permission, ...]:
    found = wire.decode(wire.ROLE, body).get("permissions", ())
    return tuple(_permission(**fields) for fields in found)


def _permission(kind: int = 0, key: bytes = b"", range_end: bytes = b"") -> Permission:
    return Permission(kind=KINDS[kind] if kind < len(KINDS) else "read", key=key, range_end=range_end)


def _done(number: int, body: bytes = b"") -> Call[Result]:
    return Call(number, body, _read_done, False)


def authenticate(user: str, password: str) -> Call[str]:
    """Show a password; the result is a token. Never repeated by itself: a login begins anew."""
    return Call(23, _text(1, user) + _text(2, password), _read_token, False)


def enable() -> Call[Result]:
    """Make rights matter."""
    return _done(20)


def disable() -> Call[Result]:
    """Let everybody do everything."""
    return _done(21)


def status() -> Call[AuthStatusResult]:
    """Ask whether rights matter."""
    return Call(22, b"", _read_status, True)


def user_add(name: str, password: str = "", *, no_password: bool = False) -> Call[Result]:
    """Add a user; one without a password comes with a certificate."""
    options = wire.message(3, wire.integer(1, 1)) if no_password else b""
    return _done(24, _text(1, name) + _text(2, password) + options)


def user_roles(name: str) -> Call[tuple[str, ...]]:
    """List the roles of a user."""
    return Call(25, _text(1, name), _read_names, True)


def users() -> Call[tuple[str, ...]]:
    """List the users."""
    return Call(26, b"", _read_names, True)


def user_delete(name: str) -> Call[Result]:
    """Delete a user."""
    return _done(27, _text(1, name))


def user_change_password(name: str, password: str) -> Call[Result]:
    """Give a user another password."""
    return _done(28, _text(1, name) + _text(2, password))


def user_grant_role(name: str, role: str) -> Call[Result]:
    """Give a user a role."""
    return _done(29, _text(1, name) + _text(2, role))


def user_revoke_role(name: str, role: str) -> Call[Result]:
    """Take a role from a user."""
    return _done(30, _text(1, name) + _text(2, role))


def role_add(name: str) -> Call[Result]:
    """Add a role."""
    return _done(31, _text(1, name))


def role_permissions(name: str) -> Call[tuple[Permission, ...]]:
    """List what a role permits."""
    return Call(32, _text(1, name), _read_role, True)


def roles() -> Call[tuple[str, ...]]:
    """List the roles."""
    return Call(33, b"", _read_names, True)


def role_delete(name: str) -> Call[Result]:
    """Delete a role."""
    return _done(34, _text(1, name))


def role_grant(name: str, kind: PermissionKind, key: Key, range_end: Key = b"") -> Call[Result]:
    """Let a role read or write a key or a range."""
    permission: Any = wire.integer(1, KINDS.index(kind)) + wire.blob(2, raw(key)) + wire.blob(3, raw(range_end))
    return _done(35, _text(1, name) + wire.message(2, permission))


def role_revoke(name: str, key: Key, range_end: Key = b"") -> Call[Result]:
    """Take the permission on exactly this key or range from a role."""
    return _done(36, _text(1, name) + wire.blob(2, raw(key)) + wire.blob(3, raw(range_end)))
