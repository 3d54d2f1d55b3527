"""The rows of `daemon.flag_table` about TLS, CURVE, HTTP access and auth."""

from typing import Final

from daemon.flag import Fate, Flag, Kind

_M, _N, _R = Fate.MAPPED, Fate.NOTED, Fate.REFUSED
_NO_TLS: Final = "this version has no TLS yet"
_NO_AUTH: Final = "this version has no auth yet"
_PEER_TLS: Final = "members speak CURVE to each other, which this version does not have yet"

SECURITY_FLAGS: Final = (
    Flag("cert-file", Kind.TEXT, "", _R, _NO_TLS),
    Flag("key-file", Kind.TEXT, "", _R, _NO_TLS),
    Flag(
        "client-cert-file", Kind.TEXT, "", _N, "the JSON gateway is no client of its own node and shows no certificate"
    ),
    Flag(
        "client-key-file", Kind.TEXT, "", _N, "the JSON gateway is no client of its own node and shows no certificate"
    ),
    Flag("client-cert-auth", Kind.TRUTH, "false", _R, _NO_TLS),
    Flag("client-crl-file", Kind.TEXT, "", _R, _NO_TLS),
    Flag("client-cert-allowed-hostname", Kind.LIST, "", _R, _NO_TLS),
    Flag("trusted-ca-file", Kind.TEXT, "", _R, _NO_TLS),
    Flag("auto-tls", Kind.TRUTH, "false", _R, _NO_TLS),
    Flag("self-signed-cert-validity", Kind.COUNT, "1", _N, _NO_TLS),
    Flag("cipher-suites", Kind.LIST, "", _R, _NO_TLS),
    Flag("tls-min-version", Kind.TEXT, "TLS1.2", _R, _NO_TLS, choices=("TLS1.2", "TLS1.3")),
    Flag("tls-max-version", Kind.TEXT, "", _R, _NO_TLS, choices=("", "TLS1.2", "TLS1.3")),
    Flag("peer-cert-file", Kind.TEXT, "", _R, _PEER_TLS),
    Flag("peer-key-file", Kind.TEXT, "", _R, _PEER_TLS),
    Flag("peer-client-cert-file", Kind.TEXT, "", _R, _PEER_TLS),
    Flag("peer-client-key-file", Kind.TEXT, "", _R, _PEER_TLS),
    Flag("peer-client-cert-auth", Kind.TRUTH, "false", _R, _PEER_TLS),
    Flag("peer-trusted-ca-file", Kind.TEXT, "", _R, _PEER_TLS),
    Flag("peer-cert-allowed-cn", Kind.LIST, "", _R, _PEER_TLS),
    Flag("peer-cert-allowed-hostname", Kind.LIST, "", _R, _PEER_TLS),
    Flag("peer-auto-tls", Kind.TRUTH, "false", _R, _PEER_TLS),
    Flag("peer-crl-file", Kind.TEXT, "", _R, _PEER_TLS),
    Flag("peer-skip-client-san-verification", Kind.TRUTH, "false", _N, "members show no certificates to each other"),
    Flag("cors", Kind.LIST, "*", _M, "origins whose pages may use the HTTP side; * or nothing: all"),
    Flag("host-whitelist", Kind.LIST, "*", _M, "names that plain HTTP requests may call this host; * or nothing: all"),
    Flag("auth-token", Kind.TEXT, "simple", _R, _NO_AUTH),
    Flag("bcrypt-cost", Kind.COUNT, "10", _R, _NO_AUTH),
    Flag("auth-token-ttl", Kind.COUNT, "300", _R, _NO_AUTH),
)
