"""What a request says of who makes it, before anybody has looked whether it is true.

Owns the form and the header fields it is read from (feature map, section 1). `docs/decisions/0015-auth.md` says which
doors fill in what.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

_BEARER: Final = "Bearer "


class Credentials(NamedTuple):
    """A token, or the common name of a verified client certificate; the token counts where both are there."""

    token: str = ""
    common_name: str = ""
    waited: bool = False
    """Whether this node has caught up since the request came: a token nobody knows then is none."""


NO_CREDENTIALS: Final = Credentials()
NODE_ITSELF: Final = Credentials()
"""The node's own health checks: somebody without any right. Recognised by identity, so that nobody else can be it."""
assert NODE_ITSELF is not NO_CREDENTIALS, "they are told apart by identity"


def read_credentials(field: Callable[[bytes], bytes | None], common_name: str = "") -> Credentials:
    """Return what a header list says.

    Args:
        field: returns the first value of a header field, or None.
        common_name: that of the connection's verified certificate; it does not count for what comes through a JSON
            gateway, whose certificate is its own.
    """
    token = field(b"token")
    if token is None:
        token = field(b"authorization")
    name = common_name if field(b"grpcgateway-accept") is None else ""
    if token is None:
        return Credentials(common_name=name) if name else NO_CREDENTIALS
    return Credentials(token.decode("utf-8", "replace").removeprefix(_BEARER), name)
