"""Users, roles and permissions, as `client.auth`: what an administrator calls."""

from collections.abc import Awaitable, Callable
from typing import Any

from actd import auth_calls
from actd.auth_calls import PermissionKind
from actd.calls import FROM_KEY, Call, Key, prefix_end, raw
from actd.results import AuthStatusResult, Permission, Result


class Auth:
    """The Auth service of a blocking client; every method raises `RequestRefused` with etcd's text."""

    def __init__(self, call: Callable[[Call[Any]], Any]) -> None:
        self._call = call

    def enable(self) -> Result:
        """Make rights matter; user `root` must have the role `root`."""
        done: Result = self._call(auth_calls.enable())
        return done

    def disable(self) -> Result:
        """Let everybody do everything."""
        done: Result = self._call(auth_calls.disable())
        return done

    def status(self) -> AuthStatusResult:
        """Return whether rights matter, and the auth revision."""
        done: AuthStatusResult = self._call(auth_calls.status())
        return done

    def user_add(self, name: str, password: str = "", *, no_password: bool = False) -> Result:
        """Add a user; one without a password comes with a certificate."""
        done: Result = self._call(auth_calls.user_add(name, password, no_password=no_password))
        return done

    def user_delete(self, name: str) -> Result:
        """Delete a user."""
        done: Result = self._call(auth_calls.user_delete(name))
        return done

    def user_roles(self, name: str) -> tuple[str, ...]:
        """Return the roles of a user."""
        done: tuple[str, ...] = self._call(auth_calls.user_roles(name))
        return done

    def users(self) -> tuple[str, ...]:
        """Return the users."""
        done: tuple[str, ...] = self._call(auth_calls.users())
        return done

    def user_change_password(self, name: str, password: str) -> Result:
        """Give a user another password; its tokens end."""
        done: Result = self._call(auth_calls.user_change_password(name, password))
        return done

    def user_grant_role(self, name: str, role: str) -> Result:
        """Give a user a role."""
        done: Result = self._call(auth_calls.user_grant_role(name, role))
        return done

    def user_revoke_role(self, name: str, role: str) -> Result:
        """Take a role from a user."""
        done: Result = self._call(auth_calls.user_revoke_role(name, role))
        return done

    def role_add(self, name: str) -> Result:
        """Add a role."""
        done: Result = self._call(auth_calls.role_add(name))
        return done

    def role_delete(self, name: str) -> Result:
        """Delete a role, and take it from everybody."""
        done: Result = self._call(auth_calls.role_delete(name))
        return done

    def roles(self) -> tuple[str, ...]:
        """Return the roles."""
        done: tuple[str, ...] = self._call(auth_calls.roles())
        return done

    def role_permissions(self, name: str) -> tuple[Permission, ...]:
        """Return what a role permits."""
        done: tuple[Permission, ...] = self._call(auth_calls.role_permissions(name))
        return done

    def role_grant(self, name: str, kind: PermissionKind, key: Key, range_end: Key = b"") -> Result:
        """Let a role "read", "write" or "readwrite" a key or `[key, range_end)`."""
        done: Result = self._call(auth_calls.role_grant(name, kind, key, range_end))
        return done

    def role_grant_prefix(self, name: str, kind: PermissionKind, prefix: Key) -> Result:
        """The same for every key that begins with `prefix`."""
        first = raw(prefix)
        return self.role_grant(name, kind, first or FROM_KEY, prefix_end(first))

    def role_revoke(self, name: str, key: Key, range_end: Key = b"") -> Result:
        """Take the permission on exactly this key or range from a role."""
        done: Result = self._call(auth_calls.role_revoke(name, key, range_end))
        return done


class AsyncAuth:
    """The same of an asyncio client."""

    def __init__(self, call: Callable[[Call[Any]], Awaitable[Any]]) -> None:
        self._call = call

    async def enable(self) -> Result:
        """Make rights matter; user `root` must have the role `root`."""
        done: Result = await self._call(auth_calls.enable())
        return done

    async def disable(self) -> Result:
        """Let everybody do everything."""
        done: Result = await self._call(auth_calls.disable())
        return done

    async def status(self) -> AuthStatusResult:
        """Return whether rights matter, and the auth revision."""
        done: AuthStatusResult = await self._call(auth_calls.status())
        return done

    async def user_add(self, name: str, password: str = "", *, no_password: bool = False) -> Result:
        """Add a user; one without a password comes with a certificate."""
        done: Result = await self._call(auth_calls.user_add(name, password, no_password=no_password))
        return done

    async def user_delete(self, name: str) -> Result:
        """Delete a user."""
        done: Result = await self._call(auth_calls.user_delete(name))
        return done

    async def user_roles(self, name: str) -> tuple[str, ...]:
        """Return the roles of a user."""
        done: tuple[str, ...] = await self._call(auth_calls.user_roles(name))
        return done

    async def users(self) -> tuple[str, ...]:
        """Return the users."""
        done: tuple[str, ...] = await self._call(auth_calls.users())
        return done

    async def user_change_password(self, name: str, password: str) -> Result:
        """Give a user another password; its tokens end."""
        done: Result = await self._call(auth_calls.user_change_password(name, password))
        return done

    async def user_grant_role(self, name: str, role: str) -> Result:
        """Give a user a role."""
        done: Result = await self._call(auth_calls.user_grant_role(name, role))
        return done

    async def user_revoke_role(self, name: str, role: str) -> Result:
        """Take a role from a user."""
        done: Result = await self._call(auth_calls.user_revoke_role(name, role))
        return done

    async def role_add(self, name: str) -> Result:
        """Add a role."""
        done: Result = await self._call(auth_calls.role_add(name))
        return done

    async def role_delete(self, name: str) -> Result:
        """Delete a role, and take it from everybody."""
        done: Result = await self._call(auth_calls.role_delete(name))
        return done

    async def roles(self) -> tuple[str, ...]:
        """Return the roles."""
        done: tuple[str, ...] = await self._call(auth_calls.roles())
        return done

    async def role_permissions(self, name: str) -> tuple[Permission, ...]:
        """Return what a role permits."""
        done: tuple[Permission, ...] = await self._call(auth_calls.role_permissions(name))
        return done

    async def role_grant(self, name: str, kind: PermissionKind, key: Key, range_end: Key = b"") -> Result:
        """Let a role "read", "write" or "readwrite" a key or `[key, range_end)`."""
        done: Result = await self._call(auth_calls.role_grant(name, kind, key, range_end))
        return done

    async def role_grant_prefix(self, name: str, kind: PermissionKind, prefix: Key) -> Result:
        """The same for every key that begins with `prefix`."""
        first = raw(prefix)
        return await self.role_grant(name, kind, first or FROM_KEY, prefix_end(first))

    async def role_revoke(self, name: str, key: Key, range_end: Key = b"") -> Result:
        """Take the permission on exactly this key or range from a role."""
        done: Result = await self._call(auth_calls.role_revoke(name, key, range_end))
        return done
