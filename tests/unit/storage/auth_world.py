"""A store with users and roles, for tests of rights."""

import random
from base64 import b64encode

from protocol.auth import Identity
from protocol.errors import ErrorCode
from protocol.wire import auth_pb2 as auth
from protocol.wire import rpc_pb2 as rpc
from sim.disk import SimDisk
from sim.engine import SimEngine
from sim.store_driver import Answer, Request, StoreDriver

READ = auth.Permission.READ
WRITE = auth.Permission.WRITE
READWRITE = auth.Permission.READWRITE


def hashed(password: str = "right") -> str:
    """What stands for a hash in a request."""
    return b64encode(f"hash of {password}".encode()).decode()


class AuthWorld(StoreDriver):
    """A store that can be restarted."""

    def __init__(self) -> None:
        disk = SimDisk(random.Random(0))
        super().__init__(lambda: SimEngine(disk, "store"))

    def must(self, *requests: Request) -> None:
        """Apply requests that must succeed."""
        assert [answer.code for answer in self.do(*requests)] == [ErrorCode.OK] * len(requests)

    def add_user(self, name: str, *roles: str, no_password: bool = False) -> None:
        """Add a user with roles that are there."""
        options = auth.UserAddOptions(no_password=no_password)
        password = "" if no_password else hashed()
        self.must(rpc.AuthUserAddRequest(name=name, hashedPassword=password, options=options))
        for role in roles:
            self.must(rpc.AuthUserGrantRoleRequest(user=name, role=role))

    def add_role(self, name: str, *permissions: tuple[int, bytes, bytes]) -> None:
        """Add a role with permissions `(type, key, range_end)`."""
        self.must(rpc.AuthRoleAddRequest(name=name), *(grant(name, *each) for each in permissions))

    def enable(self) -> None:
        """Turn authentication on, with a user root, and go on as root."""
        self.add_user("root", "root")
        self.must(rpc.AuthEnableRequest())
        self.identity = self.who("root")

    def who(self, name: str) -> Identity:
        """Return a user as it is known now."""
        return Identity(name, self.store.auth.revision)

    def code_as(self, name: str, request: Request) -> ErrorCode:
        """Apply a request as a user that is known as of now; return how it was answered."""
        return self.do_as(self.who(name), request)[0].code

    def range_as(self, name: str, key: bytes, range_end: bytes = b"") -> Answer:
        """Read as a user."""
        before, self.identity = self.identity, self.who(name)
        try:
            return self.range(key, range_end)
        finally:
            self.identity = before


def grant(role: str, kind: int, key: bytes, range_end: bytes = b"") -> rpc.AuthRoleGrantPermissionRequest:
    """A request that gives a role a permission."""
    permission = auth.Permission(key=key, range_end=range_end)
    permission.permType = kind  # type: ignore[assignment]
    return rpc.AuthRoleGrantPermissionRequest(name=role, perm=permission)
