"""The client port under TLS: who is let in, who is told why not, and what changes without a restart."""

import asyncio
import http.client
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import grpc
import pytest
from certificate_files import CertificateFiles
from clusters import wait_until
from echo_door import EchoDoor, echo_door

from actors.metrics import ActorMetrics
from gateway.certificates import issue, make_ca, write_file
from gateway.sniff import Http2Protocol
from gateway.tls import ServerTls
from gateway.tls_connection import HANDSHAKE_MS_MAX, Handshakes, TlsConnection
from protocol.security import TlsConfig
from protocol.wire import rpc_pb2 as rpc

PUT = "/etcdserverpb.KV/Put"
WAIT_S = 10


@pytest.fixture(name="files")
def certificate_files(tmp_path: Path) -> CertificateFiles:
    """A CA and a server certificate."""
    return CertificateFiles(tmp_path)


def put(channel: grpc.Channel, value: bytes = b"v") -> bytes:
    """Put and return the value the echo brings back."""
    request = rpc.PutRequest(key=b"k", value=value).SerializeToString()
    return rpc.PutResponse.FromString(channel.unary_unary(PUT)(request, timeout=WAIT_S)).prev_kv.value


def page(door: EchoDoor, context: ssl.SSLContext, path: str = "/version") -> int:
    """Ask for a page over HTTP/1.1 and TLS; return the status."""
    connection = http.client.HTTPSConnection("127.0.0.1", door.door.port, context=context, timeout=WAIT_S)
    with closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@contextmanager
def secured(door: EchoDoor, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A bare TLS connection whose handshake the client believes to be done."""
    with (
        socket.create_connection(("127.0.0.1", door.door.port), WAIT_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        yield connection


def failures(door: EchoDoor) -> dict[str, float]:
    """Handshakes that failed, by reason."""
    counters = dict(door.core.metrics.counters)
    start = 'actd_tls_handshakes_failed_total{reason="'
    return {key[len(start) : -2]: count for key, count in counters.items() if key.startswith(start)}


def refusal(door: EchoDoor, context: ssl.SSLContext) -> str:
    """Try to get a page and return what the client's TLS says about it."""
    with pytest.raises((ssl.SSLError, OSError, http.client.HTTPException)) as caught:
        page(door, context)
    return str(caught.value)


def test_grpc_and_pages_are_served_on_one_port_under_tls(files: CertificateFiles) -> None:
    """GRPC over h2 and pages over HTTP/1.1 come through the same port, both encrypted."""
    with echo_door(tls=files.config()) as door, files.channel(door.address) as channel:
        assert put(channel, bytes(range(256)) * 4000) == bytes(range(256)) * 4000
        assert page(door, files.context()) == 200
        assert door.core.metrics.counters["actd_tls_handshakes_total"] == 2


@pytest.mark.parametrize(("offered", "chosen"), [(("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1")])
def test_the_protocol_is_agreed_on_in_the_handshake(
    files: CertificateFiles, offered: tuple[str, ...], chosen: str
) -> None:
    """ALPN names h2 where the client has it, else http/1.1."""
    with echo_door(tls=files.config()) as door, secured(door, files.context(alpn=offered)) as connection:
        assert connection.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("setting", ["client_cert_auth", "trusted_ca_file"])
def test_a_client_without_certificate_is_refused_and_told(files: CertificateFiles, setting: str) -> None:
    """Either setting alone asks for a certificate, as in etcd; the client's TLS says what is missing."""
    settings = {setting: True if setting == "client_cert_auth" else str(files.ca_file)}
    with echo_door(tls=files.config(**settings)) as door:
        assert "certificate required" in refusal(door, files.context()).lower()
        assert failures(door) == {"no_certificate": 1}


@pytest.mark.parametrize(("auth", "name"), [(True, "alice"), (False, "")])
def test_the_common_name_is_known_where_certificates_are_proof(files: CertificateFiles, auth: bool, name: str) -> None:
    """With client_cert_auth the connection knows whom the certificate names; a CA alone names nobody."""
    files.client("alice")
    config = files.config(trusted_ca_file=str(files.ca_file), client_cert_auth=auth)
    with echo_door(tls=config) as door, files.channel(door.address, "alice") as channel:
        assert put(channel) == b"v"
        names = [one.grpc.common_name for one in door.door.connections if isinstance(one, Http2Protocol)]
        assert names == [name]


def expired(files: CertificateFiles) -> dict[str, object]:
    """A certificate whose time is over."""
    files.client("mallory", days=-1)
    return {}


def foreign(files: CertificateFiles) -> dict[str, object]:
    """A certificate of a CA that nobody here trusts."""
    files.client("mallory", ca=make_ca("another CA", 10))
    return {}


def for_servers(files: CertificateFiles) -> dict[str, object]:
    """A certificate that only a server may show."""
    files.write("mallory", issue(files.ca, "mallory", (), 10, server=True))
    return {}


def revoked(files: CertificateFiles) -> dict[str, object]:
    """A certificate that its CA has taken back."""
    return {"crl_file": str(files.revoke(files.client("mallory")))}


def unnamed(files: CertificateFiles) -> dict[str, object]:
    """A good certificate of somebody who is not on the list."""
    files.client("mallory")
    return {"allowed_cns": ("alice", "bob")}


def misplaced(files: CertificateFiles) -> dict[str, object]:
    """A good certificate for another host than those on the list; the common name is no host."""
    files.client("mallory", hosts=("other.example",))
    return {"allowed_hostnames": ("mallory", "a.example", "10.0.0.1")}


@pytest.mark.parametrize(
    ("prepare", "told", "reason"),
    [
        (expired, "certificate expired", "bad_certificate"),
        (foreign, "unknown ca", "bad_certificate"),
        (for_servers, "certificate", "bad_certificate"),
        (revoked, "certificate revoked", "bad_certificate"),
        (unnamed, "", "not_allowed"),
        (misplaced, "", "not_allowed"),
    ],
)
def test_a_client_with_a_bad_certificate_is_refused(
    files: CertificateFiles, prepare: Callable[[CertificateFiles], dict[str, object]], told: str, reason: str
) -> None:
    """Each is refused, counted under its reason, and where TLS has a word for it the client is told; others go on."""
    settings = prepare(files)
    good = files.client("alice", hosts=("a.example",))
    assert good.certificate
    config = files.config(trusted_ca_file=str(files.ca_file), client_cert_auth=True, **settings)
    with echo_door(tls=config) as door:
        assert told in refusal(door, files.context("mallory")).lower()
        assert failures(door) == {reason: 1}
        assert page(door, files.context("alice")) == 200


def test_a_client_that_does_not_trust_us_is_counted(files: CertificateFiles) -> None:
    """The client's alert reaches the counter."""
    with echo_door(tls=files.config()) as door:
        with pytest.raises(ssl.SSLCertVerificationError):
            page(door, ssl.create_default_context())
        wait_until(lambda: failures(door) == {"client_refused_us": 1}, WAIT_S)


def test_plain_http_is_answered_with_words(files: CertificateFiles) -> None:
    """Whoever forgets the s of https reads what is wrong."""
    with echo_door(tls=files.config()) as door:
        connection = http.client.HTTPConnection("127.0.0.1", door.door.port, timeout=WAIT_S)
        with closing(connection):
            connection.request("GET", "/version")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (400, b"Client sent an HTTP request to an HTTPS server.\n")
        assert failures(door) == {"plain_text": 1}


def test_plain_grpc_is_told_once_and_comes_again_later(files: CertificateFiles) -> None:
    """A gRPC client without TLS hears at once why it fails, and does not dial again without a pause."""
    with echo_door(tls=files.config()) as door, grpc.insecure_channel(f"127.0.0.1:{door.door.port}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/a.B/C")(b"", timeout=WAIT_S)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "HTTP status 400" in refused.value.details()
        assert failures(door) == {"plain_text": 1}


@pytest.mark.parametrize("data", [b"\x00\x01\x02", b"\x16\x03\x01\x00\x05hello", b"\x16" * 2000])
def test_strangers_are_shown_out(files: CertificateFiles, data: bytes) -> None:
    """Bytes that are no handshake end the connection and nothing else."""
    with echo_door(tls=files.config()) as door:
        with socket.create_connection(("127.0.0.1", door.door.port), WAIT_S) as plain:
            plain.sendall(data)
            while plain.recv(4096):
                pass
        assert page(door, files.context()) == 200
        assert sum(failures(door).values()) == 1


def test_a_new_certificate_is_shown_without_restart(files: CertificateFiles) -> None:
    """A connection that begins after the change sees the new one; an older connection goes on."""
    with echo_door(tls=files.config()) as door, files.channel(door.address) as channel:
        assert put(channel) == b"v"
        renewed = issue(files.ca, "server", ("127.0.0.1", "localhost", "renewed"), 10, server=True)
        files.write("server", renewed)
        with secured(door, files.context()) as connection:
            shown = connection.getpeercert()
        assert shown is not None
        assert int(str(shown["serialNumber"]), 16) == renewed.certificate.serial_number
        assert put(channel) == b"v"
        assert door.core.metrics.counters["actd_tls_reloads_total"] == 1


def test_half_a_change_is_not_taken_into_use(files: CertificateFiles) -> None:
    """A certificate whose key is not there yet is waited for; until then the old pair is shown."""
    with echo_door(tls=files.config()) as door:
        renewed = issue(files.ca, "server", ("127.0.0.1", "localhost"), 10, server=True)
        write_file(files.cert_file, renewed.certificate_pem, 0o644)
        assert page(door, files.context()) == 200
        assert door.core.metrics.counters["actd_tls_reloads_failed_total"] == 1
        write_file(files.key_file, renewed.key_pem, 0o600)
        with secured(door, files.context()) as connection:
            shown = connection.getpeercert()
        assert shown is not None
        assert int(str(shown["serialNumber"]), 16) == renewed.certificate.serial_number


def test_a_changed_ca_is_believed_without_restart(files: CertificateFiles) -> None:
    """Clients of a new CA come in, those of the one that is gone do not, not even with a session from before."""
    files.client("alice")
    old_ca, new_ca = files.ca, make_ca("new CA", 10)
    files.client("carol", ca=new_ca)
    alice, carol = files.context("alice"), files.context("carol")
    with echo_door(tls=files.config(trusted_ca_file=str(files.ca_file))) as door:
        clients_ca = files.directory / "ca.pem"
        assert page(door, alice) == 200
        assert "unknown ca" in refusal(door, carol).lower()
        write_file(clients_ca, old_ca.certificate_pem + new_ca.certificate_pem, 0o644)
        assert (page(door, alice), page(door, carol)) == (200, 200)
        write_file(clients_ca, new_ca.certificate_pem, 0o644)
        assert "unknown ca" in refusal(door, alice).lower()
        assert page(door, carol) == 200


def test_a_certificate_is_revoked_without_restart(files: CertificateFiles) -> None:
    """The list of revoked certificates is read anew like everything else."""
    alice = files.client("alice")
    config = files.config(trusted_ca_file=str(files.ca_file), crl_file=str(files.revoke()))
    with echo_door(tls=config) as door:
        assert page(door, files.context("alice")) == 200
        files.revoke(alice)
        assert "certificate revoked" in refusal(door, files.context("alice")).lower()


def test_old_versions_are_refused(files: CertificateFiles) -> None:
    """A client that is older than tls_min_version is told so."""
    context = files.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with echo_door(tls=files.config(tls_min_version="TLS1.3")) as door:
        assert "protocol version" in refusal(door, context).lower()
        assert failures(door) == {"protocol": 1}


def test_versions_and_suites_are_those_that_are_asked_for(files: CertificateFiles) -> None:
    """tls_max_version and cipher_suites, by Go's names, decide what is spoken."""
    config = files.config(tls_max_version="TLS1.2", cipher_suites=("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",))
    with echo_door(tls=config) as door, secured(door, files.context()) as connection:
        assert connection.cipher() == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2", 256)


def test_silent_connections_do_not_keep_others_out(files: CertificateFiles) -> None:
    """Of connections that never finish their handshake only so many stay, whether they begin it or not."""
    with echo_door(tls=files.config(), half_open_max=20) as door:
        address = ("127.0.0.1", door.door.port)
        silent = [socket.create_connection(address, WAIT_S) for _ in range(50)]
        for number, one in enumerate(silent):
            if number % 2:
                one.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")  # the beginning of a ClientHello
        try:
            assert page(door, files.context()) == 200
            wait_until(lambda: door.door.half_open_dropped >= 31, WAIT_S)
            assert len(door.door.half_open) <= 20
        finally:
            for one in silent:
                one.close()
        wait_until(lambda: not door.door.half_open, WAIT_S)


def test_many_handshakes_at_once_all_succeed(files: CertificateFiles) -> None:
    """A crowd that comes at one instant is let in a few at a time, and nobody is forgotten."""
    context = files.context()
    with echo_door(tls=files.config()) as door:
        statuses: list[int] = []
        threads = [threading.Thread(target=lambda: statuses.append(page(door, context))) for _ in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert statuses == [200] * 60
        assert failures(door) == {}


def test_a_client_that_does_not_read_is_not_read_from(files: CertificateFiles) -> None:
    """Answers wait encrypted up to the bounds of the plain port; then they come whole and in order."""
    value = bytes(1_000_000)
    with echo_door(tls=files.config()) as door, files.channel(door.address) as channel:
        request = rpc.PutRequest(key=b"k", value=value).SerializeToString()
        futures = [channel.unary_unary(PUT).future(request, timeout=30) for _ in range(30)]
        for future in futures:
            assert len(future.result()) > len(value)


def test_the_openssl_way_of_the_documentation_works(tmp_path: Path) -> None:
    """The commands in docs/security.md make what server and client accept."""
    page_text = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    script = page_text[page_text.index("```sh\n") + 6 :].partition("```")[0]
    assert script.count("openssl ") == 8
    subprocess.run(["sh", "-eu"], input=script, text=True, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    config = TlsConfig(
        cert_file=str(tmp_path / "n1.pem"),
        key_file=str(tmp_path / "n1-key.pem"),
        trusted_ca_file=str(tmp_path / "ca.pem"),
        client_cert_auth=True,
    )
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "alice.pem", tmp_path / "alice-key.pem")
    with echo_door(tls=config) as door:
        assert page(door, context) == 200
        assert tmp_path.joinpath("ca-key.pem").stat().st_mode & 0o077 == 0


class StoppedLoop:
    """A loop whose clock stands where a test puts it, and which runs nothing by itself."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def time(self) -> float:
        """Return the clock."""
        return self.now_s

    def call_soon(self, function: Callable[[], None]) -> None:
        """Forget it."""


class OpenSocket(asyncio.Transport):
    """A socket whose client says nothing more."""

    aborted = False

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.aborted

    def abort(self) -> None:
        """Close it."""
        self.aborted = True

    def pause_reading(self) -> None:
        """Nothing comes anyway."""


class OpenDoor:
    """Lets everybody in."""

    def enter(self, _connection: object) -> bool:
        """Yes."""
        return True

    def leave(self, _connection: object) -> None:
        """Forget it."""

    def welcome(self, _common_name: str) -> asyncio.Protocol:
        """Nobody gets so far."""
        raise AssertionError("no handshake was finished")


@pytest.mark.parametrize("begun", [True, False])
def test_a_handshake_that_takes_too_long_is_ended(files: CertificateFiles, begun: bool) -> None:
    """After ten seconds without an end, or without a beginning, the connection is closed and counted."""
    metrics, loop, transport = ActorMetrics(), StoppedLoop(), OpenSocket()
    tls = ServerTls(files.config(), files.cert_file, files.key_file, metrics)
    connection = TlsConnection(OpenDoor(), Handshakes(cast("asyncio.AbstractEventLoop", loop), tls, metrics))
    connection.connection_made(transport)
    if begun:
        connection.data_received(b"\x16\x03\x01\x02\x00")
    loop.now_s += HANDSHAKE_MS_MAX / 1000 - 0.1
    connection.sweep(0)
    assert not transport.aborted
    loop.now_s += 0.2
    connection.sweep(0)
    assert transport.aborted
    assert metrics.counters == {'actd_tls_handshakes_failed_total{reason="timeout"}': 1}
