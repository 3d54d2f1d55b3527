"""Simple tokens: who stands behind one, and until when. Members learn them from the log and keep them in memory.

Knows no request and no clock of its own. `gateway.signed_tokens` is the other kind.
Invariants: a token that was not used for its time to live is none; there are at most `TOKENS_MAX`, and the ones unused
for longest go first.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from protocol.auth import Identity
from protocol.types import Millis

TOKENS_MAX: Final = 100_000


class Tokens(Protocol):
    """Tokens of either kind."""

    def identity(self, token: str, auth_revision: int, now: Millis) -> Identity | None:
        """Return who stands behind a token, as of the auth revision the door knows; None: nobody."""
        ...

    def on_news(self, news: Sequence[tuple[str, str]], now: Millis) -> None:
        """Take what an entry did to tokens, as `AuthChanged` has it."""
        ...

    def may_come(self, token: str, applied: int) -> bool:
        """Whether the log may still tell of this token, behind entry `applied`."""
        ...


class SimpleTokens:
    """Random names, assigned by entries of the log; each use renews one."""

    def __init__(self, ttl_ms: int) -> None:
        self._ttl_ms = ttl_ms
        self._tokens: dict[str, tuple[str, Millis]] = {}
        """User and end of each, in the order of their ends: what is used moves to the back."""

    def __len__(self) -> int:
        return len(self._tokens)

    def identity(self, token: str, auth_revision: int, now: Millis) -> Identity | None:
        """See `Tokens`."""
        known = self._tokens.pop(token, None)
        if known is None or known[1] <= now:
            return None
        user = known[0]
        self._tokens[token] = (user, Millis(now + self._ttl_ms))
        return Identity(user, auth_revision)

    def on_news(self, news: Sequence[tuple[str, str]], now: Millis) -> None:
        """See `Tokens`."""
        for user, token in news:
            if token:
                self._tokens.pop(token, None)
                self._tokens[token] = (user, Millis(now + self._ttl_ms))
            elif user:
                self._tokens = {name: known for name, known in self._tokens.items() if known[0] != user}
            else:
                self._tokens.clear()
        tokens = self._tokens
        while tokens:
            oldest = next(iter(tokens))
            if tokens[oldest][1] > now and len(tokens) <= TOKENS_MAX:
                break
            del tokens[oldest]

    def may_come(self, token: str, applied: int) -> bool:
        """See `Tokens`."""
        prefix, dot, index = token.partition(".")
        return bool(prefix and dot) and index.isascii() and index.isdigit() and len(index) < 20 and int(index) > applied
