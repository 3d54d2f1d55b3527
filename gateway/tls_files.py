"""Which certificate a node shows: the configured one, or one it has made for itself (`auto_tls`).

Owns `<data_dir>/fixtures/client`, where etcd keeps its own as well. Knows no connection.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from actors.metrics import ActorMetrics
from gateway.tls import ServerTls
from protocol.config import NodeConfig
from protocol.errors import ConfigError
from protocol.security import TlsConfig

SELF_SIGNED_DIR: Final = Path("fixtures", "client")


def open_tls(node: NodeConfig, data_dir: Path, metrics: ActorMetrics) -> ServerTls | None:
    """Return what the client port of `node` needs to speak TLS; None if it speaks plain text.

    Raises:
        ConfigError: a file cannot be used; the text names it.
    """
    config = node.client_transport_security
    if not config.enabled:
        return None
    if config.cert_file:
        return ServerTls(config, Path(config.cert_file), Path(config.key_file), metrics)
    hosts = sorted({address.host for address in node.client_listeners if address.secure and not address.is_unix})
    cert_file, key_file = self_signed(data_dir / SELF_SIGNED_DIR, hosts, config)
    return ServerTls(config, cert_file, key_file, metrics)


def check_tls(node: NodeConfig) -> None:
    """Find out before anything is started whether the configured files can be used.

    Raises:
        ConfigError: they cannot; the text names node and file.
    """
    if node.client_transport_security.cert_file:
        try:
            open_tls(node, Path(), ActorMetrics())
        except ConfigError as error:
            raise ConfigError(f"{node.name}: client_transport_security: {error}") from error


def self_signed(directory: Path, hosts: Sequence[str], config: TlsConfig) -> tuple[Path, Path]:
    """Return certificate and key of a self-signed pair; one that is still good is used again, as in etcd.

    Args:
        directory: where the pair is kept.
        hosts: the names or addresses it is for.
        config: how long a new one is good for.

    Raises:
        ConfigError: what is there cannot be used.
    """
    from gateway import certificates

    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    if cert_file.exists() and key_file.exists():
        try:
            old = certificates.load_pair(cert_file, key_file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{directory}: {error}; delete it to have a new certificate made") from error
        if old.certificate.not_valid_after_utc > datetime.now(UTC):
            return cert_file, key_file
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    days = 365 * config.self_signed_cert_validity_years
    certificates.write_pair(certificates.issue(None, "", hosts, days, server=True), cert_file, key_file)
    structlog.get_logger().info("tls_self_signed", certificate=str(cert_file), hosts=hosts, days=days)
    return cert_file, key_file
