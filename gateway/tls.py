"""TLS of the client port: the context in force, read anew when a file changes, and who a client's certificate names.

Owns the certificate files and etcd's rules about client certificates. Knows no socket; `gateway.tls_connection` carries
the bytes.

Invariants: a connection is judged by what the files said when its handshake began; files that cannot be used never
replace ones that can; a context is never changed once it is in use, so that a CA or a ticket that is gone is gone.
"""

import ssl
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import structlog

from actors.metrics import ActorMetrics
from protocol.errors import ConfigError
from protocol.security import OPENSSL_SUITES, TlsConfig

APPLICATION_PROTOCOLS: Final = ("h2", "http/1.1")
_VERSIONS: Final = {
    "TLS1.2": ssl.TLSVersion.TLSv1_2,
    "TLS1.3": ssl.TLSVersion.TLSv1_3,
    "": ssl.TLSVersion.MAXIMUM_SUPPORTED,
}

Signature = tuple[tuple[int, int, int, int] | None, ...]
"""Of each file what changes when it is written or replaced; None if it is not there."""


class ClientRefused(Exception):
    """A client's certificate is in order, but not one of those that are let in."""


def make_context(config: TlsConfig, cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """Return a context for connections that begin now.

    Raises:
        ConfigError: a file cannot be read or used; the text names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[config.tls_min_version]
    context.maximum_version = _VERSIONS[config.tls_max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(list(APPLICATION_PROTOCOLS))
    if config.cipher_suites:
        _choose_suites(context, config)
    try:
        # The password is asked for at a terminal unless somebody answers; a node has nobody.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise ConfigError(f"certificate {cert_file} with key {key_file}: {_told(error)}") from error
    if config.wants_client_certificates:
        _trust(context, config)
    return context


def _choose_suites(context: ssl.SSLContext, config: TlsConfig) -> None:
    names = [OPENSSL_SUITES[name] for name in config.cipher_suites if name in OPENSSL_SUITES]
    if names:
        context.set_ciphers(":".join(names))
    elif config.tls_max_version == "TLS1.2":
        raise ConfigError("cipher_suites has suites of TLS 1.3 only, and tls_max_version is TLS1.2")
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_3


def _trust(context: ssl.SSLContext, config: TlsConfig) -> None:
    """Ask clients for certificates, and say whose are good."""
    context.verify_mode = ssl.CERT_REQUIRED
    # As Go does it: whatever stands in the file is trusted, also if it is not a root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not config.trusted_ca_file:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    path = config.trusted_ca_file
    try:
        context.load_verify_locations(path)
        if config.crl_file:
            path = config.crl_file
            context.load_verify_locations(path)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{'crl_file' if path == config.crl_file else 'trusted_ca_file'} {path}: {_told(error)}"
        ) from error
    if config.crl_file and not context.cert_store_stats()["crl"]:
        raise ConfigError(f"crl_file {config.crl_file}: there is no list of revoked certificates in it")


def _told(error: OSError | ValueError) -> str:
    """Say what OpenSSL has against a file."""
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "not usable").replace("_", " ").lower()
        return "not PEM" if reason == "pem lib" else reason
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class ServerTls:
    """The TLS settings of a running node.

    Args:
        config: what the cluster file says.
        cert_file: the certificate to show; the configured one, or one we have made.
        key_file: its key.
        metrics: where reloads are counted.

    Raises:
        ConfigError: as `make_context`.
    """

    def __init__(self, config: TlsConfig, cert_file: Path, key_file: Path, metrics: ActorMetrics) -> None:
        self.config = config
        self._cert_file = cert_file
        self._key_file = key_file
        self._metrics = metrics
        self._log = structlog.get_logger().bind(actor="gateway", door="tls")
        files = (str(cert_file), str(key_file), config.trusted_ca_file, config.crl_file)
        self._files = tuple(Path(name) for name in files if name)
        self._seen = self._signature()
        self._context = make_context(config, cert_file, key_file)

    def _signature(self) -> Signature:
        signature: list[tuple[int, int, int, int] | None] = []
        for path in self._files:
            entry = None
            with suppress(OSError):
                status = path.stat()
                entry = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            signature.append(entry)
        return tuple(signature)

    def context(self) -> ssl.SSLContext:
        """Return what holds for a connection that begins now; files that have changed are read again."""
        signature = self._signature()
        if signature != self._seen:
            self._seen = signature
            try:
                self._context = make_context(self.config, self._cert_file, self._key_file)
            except ConfigError as error:
                # Half of a pair is there, most often: the other half changes the signature again.
                self._metrics.count("actd_tls_reloads_failed_total")
                self._log.warning("tls_reload_failed", reason=str(error))
            else:
                self._metrics.count("actd_tls_reloads_total")
                self._log.info("tls_reloaded", files=[str(path) for path in self._files])
        return self._context

    def identify(self, certificate: Mapping[str, Any] | None) -> str:
        """Return the common name a client is known by; "" where certificates are no proof of who somebody is.

        Args:
            certificate: what `SSLObject.getpeercert` tells; None or empty if the client has shown none.

        Raises:
            ClientRefused: the certificate is not one of those that are let in.
        """
        config = self.config
        if not certificate:
            return ""
        name = common_name_of(certificate)
        if config.allowed_cns and name not in config.allowed_cns:
            raise ClientRefused(f"common name {name!r} is not allowed")
        if config.allowed_hostnames and not any(is_good_for(certificate, host) for host in config.allowed_hostnames):
            raise ClientRefused(f"the certificate of {name!r} is for none of {', '.join(config.allowed_hostnames)}")
        return name if config.client_cert_auth else ""


def common_name_of(certificate: Mapping[str, Any]) -> str:
    """Return the last common name of the subject, as Go does, or ""."""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names[-1] if names else ""


def is_good_for(certificate: Mapping[str, Any], host: str) -> bool:
    """Whether a certificate's alternative names cover `host`, as Go sees it: the common name counts for nothing."""
    named = certificate.get("subjectAltName", ())
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return any(kind == "DNS" and _matches(pattern, host) for kind, pattern in named)
    return any(kind == "IP Address" and ip_address(value.strip()) == address for kind, value in named)


def _matches(pattern: str, host: str) -> bool:
    """Whether a DNS name of a certificate covers `host`; `*` stands for the whole first label and nothing else."""
    wanted = host.lower().rstrip(".").split(".")
    given = pattern.lower().rstrip(".").split(".")
    if len(wanted) != len(given) or not all(wanted):
        return False
    return given[1:] == wanted[1:] and (given[0] == wanted[0] or (given[0] == "*" and len(given) > 1))
