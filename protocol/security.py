"""How a node's sockets are secured, as frozen models: TLS for gRPC and HTTP clients, CURVE for ZeroMQ.

Owns what the settings may say, etcd's names for them, and Go's names of cipher suites. Opens no file: whether a
certificate can be used is found out by `gateway.tls`, whether a key can, by `actors.curve`.
Invariant: a `TlsConfig` that exists names only versions and suites that OpenSSL has.
"""

import os.path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TlsVersion = Literal["TLS1.2", "TLS1.3"]

TLS13_SUITES: Final = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"})
"""Always offered where TLS 1.3 is; like Go, OpenSSL under Python lets nobody choose among them."""
OPENSSL_SUITES: Final = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
"""OpenSSL's name for each suite of Go's that can be chosen."""
BROKEN_SUITES: Final = frozenset(
    {
        "TLS_RSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    }
)
"""Suites that Go still knows and OpenSSL no longer has."""

_STRICT = ConfigDict(frozen=True, extra="forbid")


def _absolute(path: str) -> str:
    """Return where `path` leads from the directory the program was started in; actors work elsewhere."""
    return os.path.abspath(path) if path else ""  # noqa: PTH100 - a string in, a string out; no file is looked at


class TlsConfig(BaseModel):
    """TLS of the client port; keys are etcd's flags. With a certificate, or `auto_tls`, the port speaks TLS only."""

    model_config = _STRICT

    cert_file: str = Field("", description="certificate, and those between it and its CA, PEM; read anew when changed")
    key_file: str = Field("", description="its private key, PEM, without a password")
    trusted_ca_file: str = Field(
        "", description="CAs of clients, PEM; when given, every client must show a certificate, as in etcd"
    )
    client_cert_auth: bool = Field(
        False, description="every client must show a certificate; its common name is a user where there is no token"
    )
    crl_file: str = Field("", description="revoked client certificates, PEM, with a list of each CA")
    allowed_cns: tuple[str, ...] = Field((), description="common names of clients that are let in; empty: all")
    allowed_hostnames: tuple[str, ...] = Field(
        (), description="names and IP addresses, one of which a client's certificate must be good for; empty: all"
    )
    auto_tls: bool = Field(False, description="make a certificate of our own in <data_dir>/fixtures/client")
    self_signed_cert_validity_years: int = Field(1, ge=1, le=100, description="how long that one is good for, in years")
    tls_min_version: TlsVersion = Field("TLS1.2", description="oldest version to speak: TLS1.2 or TLS1.3")
    tls_max_version: TlsVersion | Literal[""] = Field("", description="newest version to speak; empty: the newest")
    cipher_suites: tuple[str, ...] = Field((), description="for TLS 1.2, by their Go names; empty: OpenSSL's good ones")

    @field_validator("cert_file", "key_file", "trusted_ca_file", "crl_file")
    @classmethod
    def _path(cls, value: str) -> str:
        return _absolute(value)

    @field_validator("cipher_suites")
    @classmethod
    def _suites(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in BROKEN_SUITES:
                raise ValueError(f"{name} is broken, and OpenSSL no longer has it; leave it out")
            if name not in OPENSSL_SUITES and name not in TLS13_SUITES:
                raise ValueError(f"unexpected TLS cipher suite {name!r}; known are {', '.join(OPENSSL_SUITES)}")
        return value

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if bool(self.cert_file) != bool(self.key_file):
            given, missing = ("cert_file", "key_file") if self.cert_file else ("key_file", "cert_file")
            raise ValueError(f"{given} without {missing}: both must be given, or none")
        if self.tls_max_version and self.tls_max_version < self.tls_min_version:
            raise ValueError(
                f"tls_max_version ({self.tls_max_version}) is older than tls_min_version ({self.tls_min_version})"
            )
        if self.tls_min_version == "TLS1.3" and self.cipher_suites:
            raise ValueError("cipher_suites are for TLS 1.2 only, and tls_min_version is TLS1.3; leave one out")
        if self.allowed_cns and self.allowed_hostnames:
            raise ValueError("allowed_cns and allowed_hostnames are mutually exclusive; leave one out")
        for key in ("trusted_ca_file", "client_cert_auth", "crl_file", "allowed_cns", "allowed_hostnames"):
            if getattr(self, key) and not self.enabled:
                raise ValueError(f"{key} means nothing without TLS; give cert_file and key_file, or auto_tls")
        for key in ("crl_file", "allowed_cns", "allowed_hostnames"):
            if getattr(self, key) and not self.wants_client_certificates:
                raise ValueError(f"{key} is about client certificates; give trusted_ca_file or client_cert_auth, too")
        if self.crl_file and not self.trusted_ca_file:
            raise ValueError("crl_file without trusted_ca_file: whose list it is cannot be checked")
        return self

    @property
    def enabled(self) -> bool:
        """Whether the client port speaks TLS."""
        return bool(self.cert_file) or self.auto_tls

    @property
    def wants_client_certificates(self) -> bool:
        """Whether a client without a good certificate is refused; as in etcd, either setting alone is enough."""
        return self.client_cert_auth or bool(self.trusted_ca_file)


class CurveConfig(BaseModel):
    """CURVE of the peer links and of the ZeroMQ client port; with a secret key both speak nothing else."""

    model_config = _STRICT

    secret_key_file: str = Field("", description="this node's key pair, as `python -m tools.keygen curve` writes it")
    peer_keys_dir: str = Field(
        "", description="public keys of the members, <name>.key; read anew when changed; empty: all have one key pair"
    )
    client_keys_dir: str = Field(
        "",
        description="public keys of ZeroMQ clients to let in; read anew when changed; empty: the node's own key",
    )

    @field_validator("secret_key_file", "peer_keys_dir", "client_keys_dir")
    @classmethod
    def _path(cls, value: str) -> str:
        return _absolute(value)

    @model_validator(mode="after")
    def _relations(self) -> Self:
        for key in ("peer_keys_dir", "client_keys_dir"):
            if getattr(self, key) and not self.enabled:
                raise ValueError(f"{key} without secret_key_file: a node needs a key pair of its own")
        return self

    @property
    def enabled(self) -> bool:
        """Whether peers and ZeroMQ clients must speak CURVE."""
        return bool(self.secret_key_file)
