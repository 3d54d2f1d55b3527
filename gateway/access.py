"""Who is let in: from credentials to the identity that travels with a request.

Owns what this gateway knows of the auth store: whether rights matter, the auth revision, who has the role root, and
tokens. Knows no keys and no permissions: those are asked where a command is applied or a read served, as of then. Only
what the gateway answers or does by itself is decided here.
Invariant: what is known never goes back, whatever a restarted applier tells while it replays.
"""

from enum import Enum
from typing import Final

from gateway.credentials import NODE_ITSELF, Credentials
from gateway.tokens import Tokens
from protocol.auth import NOBODY_KNOWN, Identity
from protocol.errors import ErrorCode
from protocol.rights import AuthChanged
from protocol.types import Index, Millis

_ITSELF: Final = Identity("", -1)
"""Somebody, but nobody with a right to anything."""


class Need(Enum):
    """What the gateway asks of who calls a method, while rights matter."""

    NOTHING = "nothing"
    """Credentials are not even looked at."""
    STORE = "store"
    """Whatever the store asks, when the request gets there."""
    USER = "user"
    """Any user."""
    ROOT = "root"
    """The role root, as far as this gateway knows."""


class Access:
    """The gateway's side of authentication."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.enabled = False
        self.revision = 0
        self.roots: frozenset[str] = frozenset()
        self.guarded = True
        """Whether `admit` must be asked: rights matter, or nobody has said yet whether they do."""
        self._known = False
        self._applied = Index(0)

    def on_changed(self, message: AuthChanged, now: Millis) -> None:
        """Take in how the auth store stands."""
        if message.applied < self._applied:
            return
        self._applied = message.applied
        self._known = True
        self.enabled = self.guarded = message.enabled
        self.revision = message.revision
        self.roots = frozenset(message.roots)
        self.tokens.on_news(message.token_news, now)

    def admit(self, need: Need, credentials: Credentials, applied: Index, now: Millis) -> tuple[ErrorCode, Identity]:
        """Return whose a request is, or why it is refused.

        `PENDING` says that it cannot be told yet: ask again, with `waited`, once this node has caught up.
        """
        if credentials is NODE_ITSELF:
            return ErrorCode.OK, _ITSELF
        if need is Need.NOTHING:
            return ErrorCode.OK, NOBODY_KNOWN
        if not self._known:
            unsure = bool(credentials.token or credentials.common_name) or need is Need.ROOT
            if unsure and not credentials.waited:
                return ErrorCode.PENDING, NOBODY_KNOWN
            return ErrorCode.UNHEALTHY if need is Need.ROOT else ErrorCode.OK, NOBODY_KNOWN
        identity = NOBODY_KNOWN
        if credentials.token:
            found = self.tokens.identity(credentials.token, self.revision, now)
            if found is None:
                late = not credentials.waited and self.tokens.may_come(credentials.token, applied)
                return ErrorCode.PENDING if late else ErrorCode.INVALID_AUTH_TOKEN, NOBODY_KNOWN
            identity = found
        elif credentials.common_name:
            identity = Identity(credentials.common_name, self.revision)
        if need is not Need.STORE and not identity.revision:
            return ErrorCode.USER_EMPTY, NOBODY_KNOWN
        if need is Need.ROOT and identity.user not in self.roots:
            return ErrorCode.PERMISSION_DENIED, NOBODY_KNOWN
        return ErrorCode.OK, identity
