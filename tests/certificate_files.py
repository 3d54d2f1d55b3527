"""Certificates on disk for tests: a CA, what it has issued, and client contexts that use them."""

import ssl
from pathlib import Path
from typing import Any

import grpc

from gateway.certificates import Pair, issue, make_ca, revoke, write_file, write_pair
from protocol.security import TlsConfig

HOSTS = ("127.0.0.1", "localhost")


class CertificateFiles:
    """A directory with a CA and a server certificate; clients are issued as a test needs them."""

    def __init__(self, directory: Path, ca_name: str = "test CA") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca = make_ca(ca_name, 10)
        self.ca_file = directory / "ca.pem"
        write_file(self.ca_file, self.ca.certificate_pem, 0o644)
        self.cert_file, self.key_file = self.write("server", issue(self.ca, "server", HOSTS, 10, server=True))

    def write(self, name: str, pair: Pair) -> tuple[Path, Path]:
        """Put a pair where `name` says."""
        files = (self.directory / f"{name}.pem", self.directory / f"{name}-key.pem")
        write_pair(pair, *files)
        return files

    def client(self, name: str, *, days: float = 10, ca: Pair | None = None, hosts: tuple[str, ...] = ()) -> Pair:
        """Issue a client certificate and put it on disk as `name`."""
        pair = issue(ca or self.ca, name, hosts, days, client=True)
        self.write(name, pair)
        return pair

    def revoke(self, *pairs: Pair) -> Path:
        """Put a list of what the CA has revoked on disk."""
        path = self.directory / "revoked.pem"
        write_file(path, revoke(self.ca, [pair.certificate.serial_number for pair in pairs], 10), 0o644)
        return path

    def config(self, **settings: Any) -> TlsConfig:
        """Settings of a server with the server certificate."""
        return TlsConfig(cert_file=str(self.cert_file), key_file=str(self.key_file), **settings)

    def context(self, client: str = "", *, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
        """How a client in this process connects; with the certificate called `client`, if that is given."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.set_alpn_protocols(list(alpn))
        if client:
            context.load_cert_chain(self.directory / f"{client}.pem", self.directory / f"{client}-key.pem")
        return context

    def channel(self, address: str, client: str = "") -> grpc.Channel:
        """A gRPC channel to `address`; with the certificate called `client`, if that is given."""
        mine: list[bytes | None] = [None, None]
        if client:
            mine = [(self.directory / f"{client}{end}.pem").read_bytes() for end in ("-key", "")]
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.ca_file.read_bytes(), *mine))
