"""Who a client is: when it must show its password, and what waits for that. Sans-IO, like the session.

Owns the token and the doubt about it. Knows no socket; `actd.session` sends what it asks for.
Invariants: a call is sent under a token, or without one where the cluster asks for none, never in between; a call that
was refused for its token alone was not begun, and is sent again at most `LOGINS_PER_CALL_MAX` times.
"""

from collections.abc import Sequence
from typing import Final

from actd import wire
from actd.auth_calls import authenticate
from actd.calls import Call
from actd.errors import ActdError
from actd.watching import WATCH_METHOD
from protocol.errors import WIRE_ERRORS, ErrorCode

LOGIN_S: Final = 10.0
"""How long an answer to a password may take."""
LOGINS_PER_CALL_MAX: Final = 3
PAUSE_S: Final = 0.1
"""Between two attempts when nobody could answer the first."""
REFUSED_TOKEN: Final = frozenset({ErrorCode.INVALID_AUTH_TOKEN, ErrorCode.AUTH_OLD_REVISION, ErrorCode.USER_EMPTY})
"""What a call is answered with that another token, or one at all, may cure."""
_SHORT_BYTES: Final = 1024
_TEXTS: Final = tuple(WIRE_ERRORS[code].text for code in REFUSED_TOKEN)


class Login:
    """One client's standing; without a user it has none and needs none."""

    def __init__(self, user: str = "", password: str = "") -> None:
        self.user = user
        self.token = ""
        self.asking = False
        """Whether a password is on its way."""
        self.announced = False
        """Whether the door in use knows the token."""
        self.at = 0.0
        """No password is sent before."""
        self._password = password
        self._open = False
        """Whether the cluster asks for no token at all."""

    @property
    def ready(self) -> bool:
        """Whether calls may be sent."""
        return not self.user or self._open or bool(self.token)

    @property
    def cures(self) -> bool:
        """Whether being refused for a token is something this client can do anything about."""
        return bool(self.user)

    def due(self, now: float) -> bool:
        """Whether the password should be sent now."""
        return not self.ready and not self.asking and now >= self.at

    def call(self) -> Call[str]:
        """Return the call that shows the password."""
        self.asking = True
        return authenticate(self.user, self._password)

    def doubt(self, token: str) -> None:
        """A call under `token` was refused for it: it is worth nothing any more, unless there is another by now."""
        if token == self.token:
            self.token = ""
            self._open = False

    def answered(self, token: str | None, error: ActdError | None, now: float) -> ActdError | None:
        """Take the answer to a password; return the error if no other answer is to be had."""
        self.asking = False
        self.announced = False
        if error is None:
            self.token = token or ""
            return None
        if error.code == ErrorCode.AUTH_NOT_ENABLED:
            self._open = True
            return None
        self.at = now + PAUSE_S
        return None if error.retryable else error


def refused_watch(method: int, messages: Sequence[bytes]) -> bool:
    """Whether a watcher was not created for want of a token that is believed."""
    if method != WATCH_METHOD or len(messages) != 1 or len(messages[0]) > _SHORT_BYTES:
        return False
    try:
        fields = wire.decode(wire.WATCH, messages[0])
    except wire.WireFault:
        return False
    reason: str = fields.get("cancel_reason", "")
    return bool(fields.get("created") and fields.get("canceled")) and reason.endswith(_TEXTS)
