"""Signed tokens: JSON web tokens that say by themselves whose they are, for members and for whoever else has the key.

Owns keys, signing and verifying. Knows no request; the time of day is handed in.
Invariant: a token is believed only under the one method that is configured, whatever it says of itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import jwt
import jwt.types
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from protocol.auth import Identity
from protocol.auth_options import TokenOptions
from protocol.errors import ConfigError
from protocol.types import Millis

VERIFIED_MAX: Final = 10_000
"""Tokens whose signature need not be checked again."""
TOKEN_CHARS_MAX: Final = 8192
"""Longer ones are not looked at."""
_CHECKS: Final[jwt.types.Options] = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_aud": False,
    "verify_iat": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
"""Only what etcd looks at as well: the signature here, end and beginning by the clock that was handed in."""


class _Verified(NamedTuple):
    identity: Identity
    ends_at_s: float
    begins_at_s: float


class SignedTokens:
    """JSON web tokens, as etcd makes them: claims `username`, `revision` and `exp`."""

    def __init__(self, options: TokenOptions, wall_s: Callable[[], float]) -> None:
        """`wall_s` is the time of day: tokens outlive processes and come from other machines.

        Raises:
            ConfigError: a key cannot be read, or fits neither method nor the other key.
        """
        self.ttl_s = options.ttl_s
        self._method = options.sign_method
        self._wall_s = wall_s
        self._private, self._public = _keys(options)
        self._verified: dict[str, _Verified] = {}

    @property
    def may_sign(self) -> bool:
        """Whether there is a private key."""
        return self._private is not None

    def sign(self, user: str, auth_revision: int) -> str:
        """Return a new token; slow, and safe to call from any thread."""
        claims = {"username": user, "revision": auth_revision, "exp": int(self._wall_s() + self.ttl_s)}
        return jwt.encode(claims, self._private, algorithm=self._method)

    def identity(self, token: str, auth_revision: int, now: Millis) -> Identity | None:
        """See `gateway.tokens.Tokens`; the auth revision is the one that was signed."""
        wall_s = self._wall_s()
        known = self._verified.get(token)
        if known is None:
            known = self._verify(token)
            if known is None:
                return None
            while len(self._verified) >= VERIFIED_MAX:
                del self._verified[next(iter(self._verified))]
            self._verified[token] = known
        if not known.begins_at_s <= wall_s < known.ends_at_s:
            return None
        return known.identity

    def on_news(self, news: Sequence[tuple[str, str]], now: Millis) -> None:
        """Nothing ends a signed token but its time; rights are asked under the revision it carries."""

    def may_come(self, token: str, applied: int) -> bool:
        """It says all there is to know."""
        return False

    def _verify(self, token: str) -> _Verified | None:
        if len(token) > TOKEN_CHARS_MAX:
            return None
        try:
            claims = jwt.decode(token, self._public, algorithms=[self._method], options=_CHECKS)
            user, revision = claims["username"], claims["revision"]
            if not isinstance(user, str) or isinstance(revision, bool) or not isinstance(revision, int | float):
                return None
            user.encode()
            identity = Identity(user, int(revision))
            begins_at_s, ends_at_s = float(claims.get("nbf", 0)), float(claims.get("exp", "inf"))
        except (jwt.PyJWTError, KeyError, ValueError, OverflowError, TypeError):
            return None
        return _Verified(identity, ends_at_s, begins_at_s) if 0 <= identity.revision < 1 << 63 else None


def _keys(options: TokenOptions) -> tuple[Any, Any]:
    """Return the keys to sign and to verify with; the first is None where tokens are only verified."""
    method = options.sign_method
    try:
        if method.startswith("HS"):
            secret = _read(options.private_key)
            return secret, secret
        public = _public_key(_read(options.public_key)) if options.public_key else None
        if not options.private_key:
            return None, _fits(public, method, options.public_key)
        private = load_pem_private_key(_read(options.private_key), None)
        own: Any = private.public_key()
        if public is not None and public != own:
            raise ConfigError("auth.token: the public and the private key are no pair")
        _fits(own, method, options.private_key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"auth.token: a key file holds no key that can be used: {error}") from error
    return private, own


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the only file a gateway reads, once
            return file.read()
    except OSError as error:
        raise ConfigError(f"auth.token: {path}: cannot be read: {error.strerror}") from error


def _public_key(pem: bytes) -> Any:
    if b"BEGIN CERTIFICATE" in pem:
        return load_pem_x509_certificate(pem).public_key()
    return load_pem_public_key(pem)


def _fits(key: Any, method: str, path: str) -> Any:
    kind: type = {"RS": rsa.RSAPublicKey, "PS": rsa.RSAPublicKey, "ES": ec.EllipticCurvePublicKey}.get(
        method[:2], ed25519.Ed25519PublicKey
    )
    if not isinstance(key, kind):
        raise ConfigError(f"auth.token: the key in {path} is none for {method}")
    return key
