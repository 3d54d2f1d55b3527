"""etcd's `--auth-token`: which kind of tokens a cluster uses, in the words of that flag.

Owns the syntax. Knows no file: key files are read by who signs and verifies.
Worked example: `jwt,pub-key=app.pub,priv-key=app.key,sign-method=RS256,ttl=10m`.
"""

import re
from typing import Final, NamedTuple

SIMPLE: Final = "simple"
JWT: Final = "jwt"
SIGN_METHODS: Final = (*(f"{family}{bits}" for family in ("RS", "PS", "ES", "HS") for bits in (256, 384, 512)), "EdDSA")
DEFAULT_SIGNED_TTL_S: Final = 300.0
_OPTIONS: Final = frozenset({"pub-key", "priv-key", "sign-method", "ttl"})
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+")
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|ms|s|m|h)")


class TokenOptions(NamedTuple):
    """What the flag says; but for the kind, all of it is about signed tokens."""

    kind: str = SIMPLE
    sign_method: str = ""
    public_key: str = ""
    private_key: str = ""
    ttl_s: float = DEFAULT_SIGNED_TTL_S


def parse_token_options(text: str) -> TokenOptions:
    """Return what `text` says.

    Raises:
        ValueError: it says nothing that could be done; the text says what to write instead.
    """
    kind, *pairs = text.split(",")
    given: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or "=" in value or name in given or not value:
            raise ValueError(f"{pair!r} is not name=value, or stands there twice")
        given[name] = value
    if kind == SIMPLE and not given:
        return TokenOptions()
    if kind != JWT:
        raise ValueError(f"{text!r} is neither 'simple' nor 'jwt,sign-method=…,pub-key=…,priv-key=…,ttl=…'")
    unknown = sorted(given.keys() - _OPTIONS)
    if unknown:
        raise ValueError(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(_OPTIONS))}")
    method = given.get("sign-method", "")
    if method not in SIGN_METHODS:
        raise ValueError(f"sign-method must be one of {', '.join(SIGN_METHODS)}, not {method!r}")
    if method.startswith("HS") and "priv-key" not in given:
        raise ValueError(f"{method} needs priv-key: the file that holds the shared secret")
    if not given.keys() & {"pub-key", "priv-key"}:
        raise ValueError("priv-key to sign and verify, or pub-key to verify only, is missing")
    ttl_s = parse_duration_s(given["ttl"]) if "ttl" in given else DEFAULT_SIGNED_TTL_S
    return TokenOptions(JWT, method, given.get("pub-key", ""), given.get("priv-key", ""), ttl_s)


def parse_duration_s(text: str) -> float:
    """Return a duration in Go's form, such as `1h30m`, in seconds.

    Raises:
        ValueError: it is none, or nothing lasts so short.
    """
    if _DURATION.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no duration such as 5m or 1h30m")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))
    if seconds <= 0:
        raise ValueError(f"{text!r} must be more than nothing")
    return seconds
