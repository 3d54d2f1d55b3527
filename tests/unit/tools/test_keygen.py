"""The command that makes certificates and keys: what it writes, for whom, and what it refuses."""

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from actors.curve import check_curve
from gateway.certificates import load_pair, load_revoked
from gateway.tls import make_context
from protocol.curve_keys import read_key_file
from protocol.security import CurveConfig, TlsConfig
from tools.keygen import app


def keygen(directory: Path, *words: str) -> Result:
    """Run the command with `directory` for its files."""
    return CliRunner().invoke(app, [words[0], "--dir", str(directory / "keys"), *words[1:]])


def made(directory: Path, *words: str) -> str:
    """Run the command, which must succeed; return what it says."""
    result = keygen(directory, *words)
    assert result.exit_code == 0, result.output
    return result.output


def mode(path: Path) -> int:
    """Return who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_cluster_can_be_secured_with_what_is_made(tmp_path: Path) -> None:
    """CA, server, client and list of revoked ones are what a node's TLS accepts; CURVE keys what its links accept."""
    keys = tmp_path / "keys"
    made(tmp_path, "ca")
    made(tmp_path, "server", "n1", "--host", "10.0.0.1", "--host", "n1.example")
    made(tmp_path, "client", "alice")
    made(tmp_path, "revoke", "alice")
    config = TlsConfig(
        cert_file=str(keys / "n1.pem"),
        key_file=str(keys / "n1-key.pem"),
        trusted_ca_file=str(keys / "ca.pem"),
        crl_file=str(keys / "revoked.pem"),
    )
    context = make_context(config, keys / "n1.pem", keys / "n1-key.pem")
    assert context.verify_mode is ssl.CERT_REQUIRED
    made(tmp_path, "curve", "n1", "--peer", "10.0.0.1:2380")
    check_curve(CurveConfig(secret_key_file=str(keys / "n1.key_secret"), peer_keys_dir=str(keys)))
    assert read_key_file(keys / "n1.key").address == "10.0.0.1:2380"


def test_certificates_are_for_what_they_were_asked_for(tmp_path: Path) -> None:
    """A server certificate names its hosts, a client certificate its user; neither serves as the other, nor as a CA."""
    made(tmp_path, "ca", "--name", "our CA")
    made(tmp_path, "server", "n1", "--host", "10.0.0.1", "--host", "n1.example", "--days", "7")
    made(tmp_path, "client", "alice@example")
    server, client = (
        load_pair(tmp_path / "keys" / f"{name}.pem", tmp_path / "keys" / f"{name}-key.pem").certificate
        for name in ("n1", "alice@example")
    )
    hosts = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == ["n1.example"]
    assert [str(one) for one in hosts.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert client.subject.rfc4514_string() == "CN=alice@example,O=actd"
    for certificate, purpose in ((server, "serverAuth"), (client, "clientAuth")):
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert [one._name for one in usage] == [purpose]
        assert certificate.issuer.rfc4514_string() == "CN=our CA,O=actd"
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert 6 < (server.not_valid_after_utc - server.not_valid_before_utc).total_seconds() / 86400 < 8


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    """Private keys have mode 600 in a directory of mode 700; what is public can be read."""
    for words in (("ca",), ("server", "n1", "--host", "a"), ("client", "alice"), ("curve", "n1")):
        said = made(tmp_path, *words)
        assert "(mode 600)" in said
    keys = tmp_path / "keys"
    assert mode(keys) == 0o700
    modes = {path.name: mode(path) for path in keys.iterdir()}
    secret = {"ca-key.pem", "n1-key.pem", "alice-key.pem", "n1.key_secret"}
    assert modes == {name: 0o600 if name in secret else 0o644 for name in modes}
    assert secret < modes.keys()
    assert b"secret" not in (keys / "n1.key").read_bytes()


def test_what_is_there_is_not_lost(tmp_path: Path) -> None:
    """A second CA would make all certificates worthless: nothing is replaced without --force."""
    made(tmp_path, "ca")
    before = (tmp_path / "keys" / "ca-key.pem").read_bytes()
    result = keygen(tmp_path, "ca")
    assert (result.exit_code, "is there already" in result.output) == (2, True)
    assert (tmp_path / "keys" / "ca-key.pem").read_bytes() == before
    made(tmp_path, "ca", "--force")
    assert (tmp_path / "keys" / "ca-key.pem").read_bytes() != before


def test_revoked_certificates_stay_revoked(tmp_path: Path) -> None:
    """Each call adds to the list; without names it is only made anew."""
    made(tmp_path, "ca")
    for name in ("alice", "bob"):
        made(tmp_path, "client", name)
        made(tmp_path, "revoke", name)
    made(tmp_path, "revoke", "--days", "60")
    assert len(load_revoked((tmp_path / "keys" / "revoked.pem").read_bytes())) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("server", "n1", "--host", "a"), "keygen ca makes a CA"),
        (("client", "../../etc/passwd"), "keygen ca makes a CA"),
        (("curve", "../n1"), "is no name for a file"),
        (("curve", ".n1"), "is no name for a file"),
        (("curve", "n1", "--peer", "10.0.0.1"), "--peer 10.0.0.1"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    """What cannot be made is refused with what to do instead."""
    result = keygen(tmp_path, *words)
    assert (result.exit_code, told in result.output) == (2, True), result.output
    assert list(tmp_path.rglob("*.*")) == []
