"""Doors of stores with users: asked by grpcio under the tokens that they gave."""

import re

from google.protobuf.message import Message
from grpc_doors import Door, answer_of
from kv_answers import Answer

from protocol.wire import auth_pb2 as auth
from protocol.wire import rpc_pb2 as rpc

SIMPLE_TOKEN = r"[A-Za-z]{16}\.[0-9]+"
SIGNED_TOKEN = r"[\w-]+\.[\w-]+\.[\w-]+"
AUTH_METHODS = {
    f"Auth/{name}": (getattr(rpc, f"{prefix}{name}Request"), getattr(rpc, f"{prefix}{name}Response"))
    for prefix, names in (
        ("", ("AuthEnable", "AuthDisable", "Authenticate")),
        (
            "Auth",
            (
                *("UserAdd", "UserGet", "UserList", "UserDelete", "UserChangePassword", "UserGrantRole"),
                *("UserRevokeRole", "RoleAdd", "RoleGet", "RoleList", "RoleDelete", "RoleGrantPermission"),
                "RoleRevokePermission",
            ),
        ),
    )
    for name in names
}


class AuthDoor(Door):
    """A door that is asked under tokens, which all have one form."""

    def __init__(self, address: str, token_form: str = SIMPLE_TOKEN) -> None:
        super().__init__(address)
        self.address = address
        self._token_form = token_form
        self.tokens: dict[str, str] = {}
        for path, (request, response) in AUTH_METHODS.items():
            self._methods[request] = self.channel.unary_unary(
                f"/etcdserverpb.{path}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

    def answer_as(self, user: str, request: Message) -> Answer:
        """Ask as a user who has logged in, or as nobody."""
        return self.answer_under(self.tokens.get(user, ""), request)

    def answer_under(self, token: str, request: Message) -> Answer:
        """Ask under any token, or under none."""
        metadata = [("token", token)] if token else []
        future = self._methods[type(request)].future(request, timeout=30, wait_for_ready=True, metadata=metadata)
        return answer_of(future)

    def log_in(self, user: str, password: str) -> Answer:
        """Get a token and keep it."""
        status, response = self.answer(rpc.AuthenticateRequest(name=user, password=password))
        if status == "OK":
            self.tokens[user] = response.token
            assert re.fullmatch(self._token_form, response.token), response.token
            response = type(response)()
        return status, response


def permission(kind: int, key: bytes, range_end: bytes = b"") -> auth.Permission:
    """A permission of a kind by its number."""
    made = auth.Permission(key=key, range_end=range_end)
    made.permType = kind  # type: ignore[assignment]
    return made
