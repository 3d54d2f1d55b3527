"""Simple tokens and signed ones: who stands behind which, and until when."""

from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.signed_tokens import SignedTokens
from gateway.tokens import TOKENS_MAX, SimpleTokens
from protocol.auth import Identity
from protocol.auth_options import TokenOptions, parse_token_options
from protocol.errors import ConfigError
from protocol.types import Millis

NOON_S = 1_800_000_000.0


def at(now: int) -> Millis:
    """An instant."""
    return Millis(now)


def test_each_use_of_a_token_renews_it_and_silence_ends_it() -> None:
    """Rule 63: a token lives for its time after the last use."""
    tokens = SimpleTokens(ttl_ms=1000)
    tokens.on_news([("alice", "a.1")], at(0))
    assert tokens.identity("a.1", 7, at(900)) == Identity("alice", 7)
    assert tokens.identity("a.1", 8, at(1800)) == Identity("alice", 8)
    assert tokens.identity("a.1", 8, at(2800)) is None
    assert tokens.identity("a.1", 8, at(2801)) is None
    assert tokens.identity("b.1", 8, at(0)) is None


def test_news_end_tokens_in_their_order() -> None:
    """A user's tokens end, all of them and nobody else's; what is assigned behind that stands."""
    tokens = SimpleTokens(ttl_ms=1000)
    tokens.on_news([("alice", "a.1"), ("bob", "b.2"), ("alice", "c.3"), ("alice", ""), ("alice", "d.4")], at(0))
    alive = [name for name in ("a.1", "b.2", "c.3", "d.4") if tokens.identity(name, 1, at(1))]
    assert alive == ["b.2", "d.4"]
    tokens.on_news([("", "")], at(2))
    assert len(tokens) == 0


def test_tokens_are_bounded_and_those_unused_for_longest_go() -> None:
    """Who authenticates for ever costs no more memory than the bound."""
    tokens = SimpleTokens(ttl_ms=1000)
    tokens.on_news([("u", f"t.{number}") for number in range(TOKENS_MAX)], at(0))
    assert tokens.identity("t.0", 1, at(1))
    tokens.on_news([("u", "new.1")], at(2))
    assert len(tokens) == TOKENS_MAX
    assert tokens.identity("t.0", 1, at(3))
    assert tokens.identity("t.1", 1, at(3)) is None
    tokens.on_news([("u", "late.1")], at(5000))
    assert len(tokens) == 1


@pytest.mark.parametrize("token", ["", "x", "x.", ".9", "x.y", "x.-9", "x.9.9", "x.٣", "x." + "9" * 30])
def test_what_is_no_simple_token_is_not_waited_for(token: str) -> None:
    """Only prefix, dot and a plausible index of an entry to come make this node catch up."""
    assert not SimpleTokens(1000).may_come(token, 8)
    assert SimpleTokens(1000).may_come("x.9", 8)
    assert not SimpleTokens(1000).may_come("x.8", 8)


# --- signed tokens ---------------------------------------------------------------------------------

KEYS = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS384": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


class Keys:
    """Key files of a method."""

    def __init__(self, directory: Path, method: str) -> None:
        self.method = method
        key = KEYS[method]()
        self.private, self.public = directory / f"{method}.key", directory / f"{method}.pub"
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def forge(self, **claims: object) -> str:
        """Sign any claims."""
        return jwt.encode(claims, self.private.read_bytes(), algorithm=self.method)

    def tokens(self, *, private: bool = True, public: bool = True, wall_s: float = NOON_S) -> SignedTokens:
        """Tokens with some of the keys."""
        parts = [f"jwt,sign-method={self.method},ttl=10m"]
        parts += [f"priv-key={self.private}"] * private + [f"pub-key={self.public}"] * public
        return SignedTokens(parse_token_options(",".join(parts)), lambda: wall_s)


@pytest.mark.parametrize("method", KEYS)
def test_a_signed_token_says_whose_it_is_and_under_which_auth_revision(tmp_path: Path, method: str) -> None:
    """Rule 63: signed by one member, believed by another that has the public key only."""
    keys = Keys(tmp_path, method)
    signer, verifier = keys.tokens(), keys.tokens(private=False)
    assert (signer.may_sign, verifier.may_sign) == (True, False)
    token = signer.sign("alice", 7)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims == {"username": "alice", "revision": 7, "exp": int(NOON_S) + 600}
    for _ in range(2):
        assert verifier.identity(token, 99, at(0)) == Identity("alice", 7)
    assert keys.tokens(public=False).identity(token, 99, at(0)) == Identity("alice", 7)


def test_a_signed_token_ends_with_its_time_even_if_it_was_verified_before(tmp_path: Path) -> None:
    """Signatures are remembered, beginnings and ends are looked at each time."""
    keys = Keys(tmp_path, "EdDSA")
    now = [NOON_S]
    verifier = SignedTokens(parse_token_options(f"jwt,sign-method=EdDSA,pub-key={keys.public}"), lambda: now[0])
    token = keys.tokens().sign("alice", 7)
    assert verifier.identity(token, 1, at(0)) == Identity("alice", 7)
    now[0] += 600
    assert verifier.identity(token, 1, at(0)) is None
    now[0] = NOON_S
    early = keys.forge(username="alice", revision=7, nbf=NOON_S + 1)
    assert verifier.identity(early, 1, at(0)) is None
    now[0] += 2
    assert verifier.identity(early, 1, at(0)) == Identity("alice", 7)


def test_forgeries_are_nobody(tmp_path: Path) -> None:
    """Another key, another method, no signature at all, claims that are missing or of other types, and rubbish."""
    keys = Keys(tmp_path, "ES256")
    verifier = keys.tokens(private=False)
    right = {"username": "alice", "revision": 7}
    assert verifier.identity(keys.forge(**right), 1, at(0)) == Identity("alice", 7)
    (tmp_path / "other").mkdir()
    forged = [
        Keys(tmp_path / "other", "ES256").forge(**right),
        Keys(tmp_path / "other", "EdDSA").forge(**right),
        jwt.encode(right, None, algorithm="none"),
        jwt.encode(right, "x" * 64, algorithm="HS256"),
        keys.forge(username="alice"),
        keys.forge(revision=7),
        keys.forge(username=5, revision=7),
        keys.forge(username="alice", revision="7"),
        keys.forge(username="alice", revision=True),
        keys.forge(username="alice", revision=-1),
        keys.forge(username="alice", revision=1e300),
        keys.forge(username="\ud800", revision=7),
        keys.forge(**right, exp="soon"),
        keys.forge(**right, exp=NOON_S - 1),
        keys.forge(**right) + "x",
        keys.forge(**right, more="x" * 9000),
        "rubbish",
        "a.b.c",
    ]
    for token in forged:
        assert verifier.identity(token, 1, at(0)) is None, token


def test_a_shared_secret_signs_and_verifies(tmp_path: Path) -> None:
    """HS256: the private key file holds the secret."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    tokens = SignedTokens(parse_token_options(f"jwt,sign-method=HS256,priv-key={secret}"), lambda: NOON_S)
    assert tokens.identity(tokens.sign("alice", 7), 1, at(0)) == Identity("alice", 7)


def test_keys_that_do_not_fit_are_refused_with_a_reason(tmp_path: Path) -> None:
    """A missing file, a key of another kind, no key at all, and two keys that are no pair."""
    one = Keys(tmp_path, "ES256")
    (tmp_path / "other").mkdir()
    other = Keys(tmp_path / "other", "ES256")
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("rubbish")
    for text, reason in (
        (f"jwt,sign-method=ES256,pub-key={tmp_path}/none", "cannot be read"),
        (f"jwt,sign-method=RS256,pub-key={one.public}", "is none for RS256"),
        (f"jwt,sign-method=RS256,priv-key={one.private}", "is none for RS256"),
        (f"jwt,sign-method=ES256,priv-key={rubbish}", "no key that can be used"),
        (f"jwt,sign-method=ES256,priv-key={one.private},pub-key={other.public}", "no pair"),
    ):
        with pytest.raises(ConfigError, match=reason):
            SignedTokens(parse_token_options(text), lambda: NOON_S)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "neither"),
        ("simple,ttl=5m", "neither"),
        ("jwt", "sign-method must be"),
        ("jwt,sign-method=none,priv-key=k", "sign-method must be"),
        ("jwt,sign-method=HS256,pub-key=k", "needs priv-key"),
        ("jwt,sign-method=ES256", "is missing"),
        ("jwt,sign-method=ES256,priv-key=k,ttl=5", "no duration"),
        ("jwt,sign-method=ES256,priv-key=k,ttl=0s", "more than nothing"),
        ("jwt,sign-method=ES256,priv-key=k,priv-key=k", "twice"),
        ("jwt,sign-method=ES256,priv-key=k,kid=1", "unknown option 'kid'"),
    ],
)
def test_what_the_option_cannot_mean_is_refused_with_a_reason(text: str, reason: str) -> None:
    """The words are those of etcd's --auth-token."""
    with pytest.raises(ValueError, match=reason):
        parse_token_options(text)


def test_the_option_is_read_as_etcd_reads_it() -> None:
    """Files, method and a duration in Go's form; five minutes if none is given."""
    text = "jwt,pub-key=a.pub,priv-key=a.key,sign-method=RS512,ttl=1h30m0.5s"
    assert parse_token_options(text) == TokenOptions("jwt", "RS512", "a.pub", "a.key", 5400.5)
    assert parse_token_options("jwt,pub-key=a.pub,sign-method=PS256").ttl_s == 300
    assert parse_token_options("simple") == TokenOptions()
