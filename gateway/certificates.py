"""Makes X.509 certificates: a CA, what it issues, its list of what it has revoked, and self-signed ones.

Owns which extensions they have, and how keys come to disk. Knows no connection and no configuration. Loaded only where
a certificate is made: the library behind it is not small.

Invariants: keys are elliptic (P-256), the cheapest handshake every TLS client knows; a private key is never readable by
others, not even for a moment, and a file is there whole or not at all.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ORGANIZATION: Final = "actd"
CLOCK_SKEW: Final = timedelta(minutes=5)
"""A certificate is good from a little before now on, for machines whose clocks are behind."""
_PEM: Final = serialization.Encoding.PEM


class Pair(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as it is shown to others."""
        return self.certificate.public_bytes(_PEM)

    @property
    def key_pem(self) -> bytes:
        """The key, without a password."""
        return self.key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def make_ca(name: str, days: float) -> Pair:
    """Return a new CA called `name`, good for `days`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = _builder(subject, subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(ca=True), critical=True)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def issue(
    ca: Pair | None, common_name: str, hosts: Sequence[str], days: float, *, server: bool = False, client: bool = False
) -> Pair:
    """Return a certificate that `ca` has signed, or that has signed itself.

    Args:
        ca: the issuer; None: the new pair itself.
        common_name: who it is for; "": only `hosts` say so.
        hosts: names and IP addresses it is good for.
        days: how long; not positive: it has run out already.
        server: whether a server may show it.
        client: whether a client may show it; its user is `common_name`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name)
    builder = _builder(subject, subject if ca is None else ca.certificate.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(ca=False), critical=True)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    if ca is not None:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
    return Pair(builder.sign(key if ca is None else ca.key, hashes.SHA256()), key)


def revoke(ca: Pair, serials: Sequence[int], days: float) -> bytes:
    """Return the list, PEM, of what `ca` has revoked; good for `days`."""
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    builder = builder.last_update(now - CLOCK_SKEW).next_update(now + timedelta(days=days))
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - CLOCK_SKEW).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(ca.key, hashes.SHA256()).public_bytes(_PEM)


def load_revoked(pem: bytes) -> list[int]:
    """Return the serial numbers on a list that `revoke` has made.

    Raises:
        ValueError: it is none.
    """
    return [entry.serial_number for entry in x509.load_pem_x509_crl(pem)]


def load_pair(cert_file: Path, key_file: Path) -> Pair:
    """Return the pair in two files.

    Raises:
        OSError: one cannot be read.
        ValueError: one is no PEM, has a password, or they do not belong together.
    """
    certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except TypeError as error:
        raise ValueError(f"{key_file} has a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{key_file} is not an elliptic key")
    if key.public_key() != certificate.public_key():
        raise ValueError(f"{cert_file} and {key_file} do not belong together")
    return Pair(certificate, key)


def write_pair(pair: Pair, cert_file: Path, key_file: Path) -> None:
    """Put a pair on disk, the key first and for its owner only."""
    write_file(key_file, pair.key_pem, 0o600)
    write_file(cert_file, pair.certificate_pem, 0o644)


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Put `data` where `path` is, whole or not at all, readable by whom `mode` says."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    beside.rename(path)


def _name(common_name: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION)]
    if common_name:
        parts.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    return x509.Name(parts)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    public = key.public_key()
    return (
        x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        .not_valid_before(min(now, end) - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
