"""Passwords: hashed and checked with bcrypt, which takes a tenth of a second on purpose, so never on the loop.

Owns the algorithm, its cost, and the unguessable part of simple tokens. Everything here may be called from any thread;
bcrypt lets other threads run while it works.
Invariant: what is remembered of a password that was found right is worth nothing to who cannot read this process's
memory, and is never used for another hash than the one it was checked against.
"""

import secrets
import string
from hashlib import blake2b
from typing import Final, Protocol

import bcrypt

from protocol.errors import ClientError, ErrorCode

PASSWORD_BYTES_MAX: Final = 72
"""bcrypt knows no more."""
PREFIX_CHARS: Final = 16
REMEMBERED_MAX: Final = 1000
"""Passwords found right that need not be hashed to be found right again: clients that come back after their token has
run out all at once must not wait for each other."""


class Passwords(Protocol):
    """Slow work on passwords, and chance."""

    def hash(self, password: str) -> bytes:
        """Return a new hash.

        Raises:
            ClientError: the password is too long.
        """
        ...

    def matches(self, password: str, hashed: bytes) -> bool:
        """Whether this is the password that was hashed."""
        ...

    def token_prefix(self) -> str:
        """Return what nobody can guess of a new token."""
        ...


class BcryptPasswords:
    """The real ones."""

    def __init__(self, cost: int) -> None:
        self._cost = cost
        self._key = secrets.token_bytes(32)
        self._remembered: dict[bytes, bytes] = {}
        """By stored hash, a keyed digest of the password that matched it."""

    def hash(self, password: str) -> bytes:
        """See `Passwords`; the form is the one etcd writes."""
        raw = password.encode()
        if len(raw) > PASSWORD_BYTES_MAX:
            raise ClientError(ErrorCode.PASSWORD_TOO_LONG)
        return bcrypt.hashpw(raw, bcrypt.gensalt(self._cost, prefix=b"2a"))

    def matches(self, password: str, hashed: bytes) -> bool:
        """See `Passwords`; as in etcd's library, only the first 72 bytes count."""
        raw = password.encode()[:PASSWORD_BYTES_MAX]
        digest = blake2b(raw, key=self._key).digest()
        known = self._remembered.get(hashed)
        if known is not None and secrets.compare_digest(known, digest):
            return True
        try:
            right = bcrypt.checkpw(raw, hashed)
        except ValueError:  # what is stored is no hash
            return False
        if right:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[hashed] = digest
        return right

    def token_prefix(self) -> str:
        """See `Passwords`."""
        return "".join(secrets.choice(string.ascii_letters) for _ in range(PREFIX_CHARS))
