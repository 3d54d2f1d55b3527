"""The rows of `daemon.flag_table` about TLS, CURVE, HTTP access and auth."""

from typing import Final

from daemon.flag import Fate, Flag, Kind

_M, _N, _R = Fate.MAPPED, Fate.NOTED, Fate.REFUSED
_PEER_TLS: Final = "members speak CURVE and not TLS to each other: give --curve-secret-key-file"

SECURITY_FLAGS: Final = (
    Flag("cert-file", Kind.TEXT, "", _M, "certificate of the https client URLs, PEM; read anew when it changes"),
    Flag("key-file", Kind.TEXT, "", _M, "its private key, PEM, without a password"),
    Flag(
        "client-cert-file", Kind.TEXT, "", _N, "the JSON gateway is no client of its own node and shows no certificate"
    ),
    Flag(
        "client-key-file", Kind.TEXT, "", _N, "the JSON gateway is no client of its own node and shows no certificate"
    ),
    Flag(
        "client-cert-auth", Kind.TRUTH, "false", _M, "every client must show a certificate; its common name is a user"
    ),
    Flag("client-crl-file", Kind.TEXT, "", _M, "revoked client certificates, PEM"),
    Flag(
        "client-cert-allowed-hostname", Kind.LIST, "", _M, "names, one of which a client certificate must be good for"
    ),
    Flag("trusted-ca-file", Kind.TEXT, "", _M, "CAs of client certificates, PEM; with it every client must show one"),
    Flag("auto-tls", Kind.TRUTH, "false", _M, "make a certificate of our own for the https client URLs"),
    Flag("self-signed-cert-validity", Kind.COUNT, "1", _M, "how many years that one is good for"),
    Flag("cipher-suites", Kind.LIST, "", _M, "suites of TLS 1.2, by their Go names"),
    Flag("tls-min-version", Kind.TEXT, "TLS1.2", _M, "oldest version to speak", choices=("TLS1.2", "TLS1.3")),
    Flag("tls-max-version", Kind.TEXT, "", _M, "newest version to speak", choices=("", "TLS1.2", "TLS1.3")),
    Flag("peer-cert-file", Kind.TEXT, "", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-key-file", Kind.TEXT, "", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-client-cert-file", Kind.TEXT, "", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-client-key-file", Kind.TEXT, "", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-client-cert-auth", Kind.TRUTH, "false", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-trusted-ca-file", Kind.TEXT, "", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-cert-allowed-cn", Kind.LIST, "", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-cert-allowed-hostname", Kind.LIST, "", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-auto-tls", Kind.TRUTH, "false", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-crl-file", Kind.TEXT, "", _R, _PEER_TLS, unless="curve-secret-key-file"),
    Flag("peer-skip-client-san-verification", Kind.TRUTH, "false", _N, "members show no certificates to each other"),
    Flag(
        "curve-secret-key-file",
        Kind.TEXT,
        "",
        _M,
        "this node's CURVE key pair, for members and ZeroMQ clients (python -m tools.keygen curve)",
        ours=True,
    ),
    Flag(
        "curve-peer-keys-dir",
        Kind.TEXT,
        "",
        _M,
        "public keys of the members, NAME.key; without: all have one pair",
        ours=True,
    ),
    Flag(
        "curve-client-keys-dir", Kind.TEXT, "", _M, "public keys of ZeroMQ clients; without: the node's own", ours=True
    ),
    Flag(
        "allow-insecure-listen",
        Kind.TRUTH,
        "false",
        _M,
        "listen beyond loopback without TLS; anybody there may read and write everything",
        ours=True,
    ),
    Flag("cors", Kind.LIST, "*", _M, "origins whose pages may use the HTTP side; * or nothing: all"),
    Flag("host-whitelist", Kind.LIST, "*", _M, "names that plain HTTP requests may call this host; * or nothing: all"),
    Flag("auth-token", Kind.TEXT, "simple", _M, "simple, or jwt,sign-method=…,pub-key=…,priv-key=…,ttl=…"),
    Flag("bcrypt-cost", Kind.COUNT, "10", _M, "each more doubles what hashing a password takes; 4 to 31"),
    Flag("auth-token-ttl", Kind.COUNT, "300", _M, "seconds without use after which a simple token ends"),
)
