"""Users, roles and whether they matter: the auth store, replicated like everything else.

Owns the tables of users and roles, the auth revision, and etcd's rules 56, 57 and 61 for changing them. Knows no
password, only hashes, and no clock: how long a token lives is the door's business. Who may do what is asked of
`storage.auth_guard`.

Invariants: every change of a user, a role or a permission moves the auth revision by one, and so does turning
authentication off; what is in memory is what the tables say; members that applied the same entries hold the same.
"""

from base64 import b64decode
from binascii import Error as Base64Error
from struct import Struct
from typing import Final, NamedTuple

from protocol.auth import FIRST_AUTH_REVISION, ROOT, TokenOrder
from protocol.errors import ClientError, Corruption, ErrorCode
from protocol.types import Index
from protocol.wire import rpc_pb2 as rpc
from protocol.wire.auth_pb2 import Permission, Role, User, UserAddOptions
from storage.auth_spans import Span, Spans
from storage.engine import Engine
from storage.layout import AUTH_KEY, ROLE, ROLE_END, USER, USER_END, user_bounds
from storage.overlay import Overlay

_STATE: Final = Struct(">BBQ")
_STATE_FORMAT: Final = 1
_EVERYTHING: Final = Permission(permType=Permission.READWRITE, key=b"\x00", range_end=b"\x00")
"""What the role root shows; what it may do is written nowhere."""


class TokenNews(NamedTuple):
    """What an entry did to tokens. Without a token, all of the user's end; without a user, all there are."""

    user: str
    token: str


class Grants(NamedTuple):
    """What a user may read and what it may write, over all its roles."""

    read: Spans
    write: Spans


class AuthBook:
    """The auth store of one member. Like the writer it works in the changes of the running entry."""

    def __init__(self, engine: Engine, overlay: Overlay) -> None:
        self._overlay = overlay
        self.enabled = False
        self.revision = FIRST_AUTH_REVISION
        self.changed = False
        """Whether an entry has changed anything that doors should know, since `take_news`."""
        self._news: list[TokenNews] = []
        self._grants: dict[str, Grants] = {}
        """Worked out when first asked for; forgotten with every change."""
        state = engine.get(AUTH_KEY)
        if state is not None:
            self.enabled, self.revision = _unpack_state(state)
        self.users: dict[str, User] = {}
        self.roles: dict[str, Role] = {}
        for key, data in engine.scan(USER, USER_END):
            self.users[key[1:].decode()] = User.FromString(data)
        for key, data in engine.scan(ROLE, ROLE_END):
            self.roles[key[1:].decode()] = Role.FromString(data)

    # --- what it says ------------------------------------------------------------------------------

    def has_role(self, user: str, role: str) -> bool:
        """Whether a user of this name has this role."""
        found = self.users.get(user)
        return found is not None and role in found.roles

    @property
    def roots(self) -> tuple[str, ...]:
        """The users who may do everything, in the order of their names."""
        return tuple(sorted(name for name, user in self.users.items() if ROOT in user.roles))

    def grants_of(self, user: str) -> Grants:
        """Return what a user may touch by permission; a role that is gone gives nothing."""
        known = self._grants.get(user)
        if known is not None:
            return known
        read: list[Span] = []
        write: list[Span] = []
        for name in self.users[user].roles:
            for permission in self.roles.get(name, Role()).keyPermission:
                span = user_bounds(permission.key, permission.range_end)
                if permission.permType in (Permission.READ, Permission.READWRITE):
                    read.append(span)
                if permission.permType in (Permission.WRITE, Permission.READWRITE):
                    write.append(span)
        made = self._grants[user] = Grants(Spans(read), Spans(write))
        return made

    def take_news(self) -> list[TokenNews]:
        """Return what happened to tokens since the last call, in order."""
        self.changed = False
        news, self._news = self._news, []
        return news

    def status(self) -> bytes:
        """Return an AuthStatusResponse without its header."""
        return rpc.AuthStatusResponse(enabled=self.enabled, authRevision=self.revision).SerializeToString()

    def show_user(self, name: str) -> bytes:
        """Return an AuthUserGetResponse without its header."""
        return rpc.AuthUserGetResponse(roles=self._user(name).roles).SerializeToString()

    def show_users(self) -> bytes:
        """Return an AuthUserListResponse without its header."""
        return rpc.AuthUserListResponse(users=_in_order(self.users)).SerializeToString()

    def show_role(self, name: str) -> bytes:
        """Return an AuthRoleGetResponse without its header."""
        role = self._role(name)
        shown = [_EVERYTHING] if name == ROOT else role.keyPermission
        return rpc.AuthRoleGetResponse(perm=shown).SerializeToString()

    def show_roles(self) -> bytes:
        """Return an AuthRoleListResponse without its header."""
        return rpc.AuthRoleListResponse(roles=_in_order(self.roles)).SerializeToString()

    def password_hash(self, name: str) -> bytes:
        """Return what the password of a user is checked against.

        Raises:
            ClientError: authentication is off, or there is nothing to check.
        """
        if not self.enabled:
            raise ClientError(ErrorCode.AUTH_NOT_ENABLED)
        user = self.users.get(name)
        if user is None:
            raise ClientError(ErrorCode.AUTH_FAILED)
        if user.options.no_password:
            raise ClientError(ErrorCode.NO_PASSWORD_USER)
        return user.password

    # --- on and off --------------------------------------------------------------------------------

    def enable(self) -> None:
        """Make rights matter; nothing happens if they do already.

        Raises:
            ClientError: nobody could turn it off again: user root is not there, or lacks the role root.
        """
        if self.enabled:
            return
        if ROOT not in self.users:
            raise ClientError(ErrorCode.ROOT_USER_NOT_EXIST)
        if not self.has_role(ROOT, ROOT):
            raise ClientError(ErrorCode.ROOT_ROLE_NOT_EXIST)
        self.enabled = True
        self._save_state()

    def disable(self) -> None:
        """Let everybody do everything; all tokens end."""
        if not self.enabled:
            return
        self.enabled = False
        self._news.append(TokenNews("", ""))
        self._moved()

    def assign_token(self, order: TokenOrder, index: Index) -> str:
        """Return the new token of a user who has shown its password.

        Raises:
            ClientError: it must be checked again, because users or roles have changed since; or rights matter no more.
        """
        if not self.enabled:
            raise ClientError(ErrorCode.AUTH_NOT_ENABLED)
        if order.revision != self.revision:
            raise ClientError(ErrorCode.AUTH_OLD_REVISION)
        user = self.users.get(order.user)
        if user is None or user.options.no_password:
            raise ClientError(ErrorCode.AUTH_FAILED)
        token = f"{order.prefix}.{index}"
        self._news.append(TokenNews(order.user, token))
        self.changed = True
        return token

    # --- users -------------------------------------------------------------------------------------

    def add_user(self, request: rpc.AuthUserAddRequest) -> None:
        """Add a user without roles."""
        if not request.name:
            raise ClientError(ErrorCode.USER_EMPTY)
        if request.name in self.users:
            raise ClientError(ErrorCode.USER_ALREADY_EXISTS)
        user = User(name=request.name.encode(), options=UserAddOptions(no_password=request.options.no_password))
        if not request.options.no_password:
            user.password = _hash_in(request.hashedPassword)
        self._put_user(request.name, user)
        self._moved()

    def delete_user(self, name: str) -> None:
        """Delete a user; its tokens end."""
        if self.enabled and name == ROOT:
            raise ClientError(ErrorCode.INVALID_AUTH_MANAGEMENT)
        self._user(name)
        self._put_user(name, None)
        self._news.append(TokenNews(name, ""))
        self._moved()

    def change_password(self, request: rpc.AuthUserChangePasswordRequest) -> None:
        """Replace the hash of a user; its tokens end. A user without a password stays without."""
        user = self._user(request.name)
        if not user.options.no_password:
            user.password = _hash_in(request.hashedPassword)
        self._put_user(request.name, user)
        self._news.append(TokenNews(request.name, ""))
        self._moved()

    def grant_role(self, request: rpc.AuthUserGrantRoleRequest) -> None:
        """Give a user a role; one it has already changes nothing. The role root may be given without being there."""
        user = self._user(request.user)
        if request.role != ROOT:
            self._role(request.role)
        if request.role in user.roles:
            return
        roles = sorted([*user.roles, request.role], key=str.encode)
        user.roles[:] = roles
        self._put_user(request.user, user)
        self._moved()

    def revoke_role(self, request: rpc.AuthUserRevokeRoleRequest) -> None:
        """Take a role from a user."""
        if self.enabled and request.name == ROOT and request.role == ROOT:
            raise ClientError(ErrorCode.INVALID_AUTH_MANAGEMENT)
        user = self._user(request.name)
        if not self._strip(request.name, user, request.role):
            raise ClientError(ErrorCode.ROLE_NOT_GRANTED)
        self._moved()

    # --- roles -------------------------------------------------------------------------------------

    def add_role(self, name: str) -> None:
        """Add a role without permissions."""
        if not name:
            raise ClientError(ErrorCode.ROLE_EMPTY)
        if name in self.roles:
            raise ClientError(ErrorCode.ROLE_ALREADY_EXISTS)
        self._put_role(name, Role(name=name.encode()))
        self._moved()

    def delete_role(self, name: str) -> None:
        """Delete a role, and take it from everybody who has it."""
        if self.enabled and name == ROOT:
            raise ClientError(ErrorCode.INVALID_AUTH_MANAGEMENT)
        self._role(name)
        self._put_role(name, None)
        for user_name, user in self.users.items():
            self._strip(user_name, user, name)
        self._moved()

    def grant_permission(self, request: rpc.AuthRoleGrantPermissionRequest) -> None:
        """Give a role a permission on a key or a range; of the same range again, change what it permits."""
        if not request.HasField("perm"):
            raise ClientError(ErrorCode.PERMISSION_NOT_GIVEN)
        given = request.perm
        if not given.key or (given.range_end and given.range_end != b"\x00" and given.range_end <= given.key):
            raise ClientError(ErrorCode.INVALID_AUTH_MANAGEMENT)
        role = self._role(request.name)
        for permission in role.keyPermission:
            if (permission.key, permission.range_end) == (given.key, given.range_end):
                permission.permType = given.permType
                break
        else:
            ordered = sorted([*role.keyPermission, given], key=lambda permission: permission.key)
            role = Role(name=role.name, keyPermission=ordered)
        self._put_role(request.name, role)
        self._moved()

    def revoke_permission(self, request: rpc.AuthRoleRevokePermissionRequest) -> None:
        """Take the permission on exactly this key or range from a role."""
        role = self._role(request.role)
        kept = [
            permission
            for permission in role.keyPermission
            if (permission.key, permission.range_end) != (request.key, request.range_end)
        ]
        if len(kept) == len(role.keyPermission):
            raise ClientError(ErrorCode.PERMISSION_NOT_GRANTED)
        self._put_role(request.role, Role(name=role.name, keyPermission=kept))
        self._moved()

    # --- tables ------------------------------------------------------------------------------------

    def _user(self, name: str) -> User:
        user = self.users.get(name)
        if user is None:
            raise ClientError(ErrorCode.USER_NOT_FOUND)
        return user

    def _role(self, name: str) -> Role:
        role = self.roles.get(name)
        if role is None:
            raise ClientError(ErrorCode.ROLE_NOT_FOUND)
        return role

    def _strip(self, name: str, user: User, role: str) -> bool:
        if role not in user.roles:
            return False
        user.roles.remove(role)
        self._put_user(name, user)
        return True

    def _put_user(self, name: str, user: User | None) -> None:
        if user is None:
            del self.users[name]
        else:
            self.users[name] = user
        self._overlay.changes[USER + name.encode()] = None if user is None else user.SerializeToString()

    def _put_role(self, name: str, role: Role | None) -> None:
        if role is None:
            del self.roles[name]
        else:
            self.roles[name] = role
        self._overlay.changes[ROLE + name.encode()] = None if role is None else role.SerializeToString()

    def _moved(self) -> None:
        self.revision += 1
        self._save_state()

    def _save_state(self) -> None:
        self._grants.clear()
        self.changed = True
        self._overlay.changes[AUTH_KEY] = _STATE.pack(_STATE_FORMAT, self.enabled, self.revision)

    def check(self, engine: Engine) -> None:
        """Assert that memory and tables agree; between entries only."""
        stored = {key: User.FromString(data) for key, data in engine.scan(USER, USER_END)}
        assert stored == {USER + name.encode(): user for name, user in self.users.items()}, "users differ"
        roles = {key: Role.FromString(data) for key, data in engine.scan(ROLE, ROLE_END)}
        assert roles == {ROLE + name.encode(): role for name, role in self.roles.items()}, "roles differ"
        state = engine.get(AUTH_KEY)
        if state is not None:
            assert _unpack_state(state) == (self.enabled, self.revision), "the auth state differs"


def _unpack_state(data: bytes) -> tuple[bool, int]:
    if len(data) != _STATE.size or data[0] != _STATE_FORMAT:
        raise Corruption(f"auth state of {len(data)} bytes and format {data[:1].hex()}")
    _, enabled, revision = _STATE.unpack(data)
    return bool(enabled), revision


def _hash_in(hashed: str) -> bytes:
    """Return the hash a request carries; etcd's words for one that is no base64 are these."""
    try:
        return b64decode(hashed, validate=True)
    except (Base64Error, ValueError) as error:
        raise ClientError(ErrorCode.NO_PASSWORD_USER) from error


def _in_order(names: dict[str, User] | dict[str, Role]) -> list[str]:
    return sorted(names, key=str.encode)
