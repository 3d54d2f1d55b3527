"""`--client-cert-auth`: the common name of a certificate is the user, asked of a real node and of a real etcd alike."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from certificate_files import CertificateFiles
from clusters import free_ports, wait_until
from etcd_server import ETCD, need_etcd
from flag_nodes import FlagNode

from gateway.certificates import issue

pytestmark = [pytest.mark.processes, pytest.mark.slow]
WAIT_S = 30.0


class Named(NamedTuple):
    """Two servers that take clients of one CA only; both have the same users, and authentication on."""

    files: CertificateFiles
    actd: str
    etcd: str

    def etcdctl(self, address: str, name: str, *words: str) -> tuple[int, str, str]:
        """Run Debian's etcdctl with a certificate: status, output, the last line of the error."""
        papers = [f"--cacert={self.files.ca_file}", f"--cert={self.pem(name)}", f"--key={self.pem(name, '-key')}"]
        command = ["etcdctl", f"--endpoints=https://{address}", *papers, *words]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr.rpartition("Error: ")[2]

    def both(self, name: str, *words: str) -> tuple[int, str, str]:
        """Ask both; the answers must be the same."""
        found, expected = (self.etcdctl(address, name, *words) for address in (self.actd, self.etcd))
        assert found == expected, (name, words)
        return found

    def gateway(self, address: str, name: str, path: str, body: str) -> tuple[str, str]:
        """Ask the JSON gateway with a certificate: status and body."""
        papers = ["--cacert", str(self.files.ca_file), "--cert", self.pem(name), "--key", self.pem(name, "-key")]
        command = ["curl", "-sS", "-w", "\n%{http_code}", *papers, "-d", body, f"https://{address}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        said, _, status = done.stdout.rpartition("\n")
        return status, said

    def pem(self, name: str, kind: str = "") -> str:
        """A file of a client."""
        return str(self.files.directory / f"{name or 'nameless'}{kind}.pem")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    """They run under the same flags."""
    need_etcd("etcdctl", "curl")
    assert ETCD is not None
    directory = tmp_path_factory.mktemp("names")
    files = CertificateFiles(directory / "keys")
    for name in ("root", "alice", "stranger"):
        files.client(name)
    files.write("nameless", issue(files.ca, "", (), 10, client=True))
    addresses = [f"127.0.0.1:{port}" for port in free_ports(4)]
    node = FlagNode(directory, "actd", [*words(files, directory / "a", *addresses[:2]), "--listen-zmq-urls=none"])
    with (directory / "etcd.log").open("wb") as log:
        etcd = subprocess.Popen([ETCD, *words(files, directory / "e", *addresses[2:])], stdout=log, stderr=log)
    made = Named(files, addresses[0], addresses[2])
    try:
        node.start()
        node.await_ready()
        for address in (made.actd, made.etcd):
            wait_until(lambda: made.etcdctl(address, "root", "get", "x")[0] == 0, WAIT_S, "it serves")  # noqa: B023
            for line in (
                "role add own",
                "role grant-permission own readwrite --prefix own/",
                "user add root:rootpw",
                "user add bob:bobpw",
                "user add alice --no-password",
                "user grant-role root root",
                "user grant-role alice own",
                "auth enable",
            ):
                status, _, error = made.etcdctl(address, "root", *line.split())
                assert status == 0, (line, error)
        yield made
    finally:
        node.close()
        etcd.kill()
        etcd.wait(WAIT_S)


def words(files: CertificateFiles, data: Path, client: str, peer: str) -> list[str]:
    """The flags of a single server whose clients must show a certificate."""
    urls = [f"--{what}-client-urls=https://{client}" for what in ("listen", "advertise")]
    urls += [f"--listen-peer-urls=http://{peer}", f"--initial-advertise-peer-urls=http://{peer}"]
    papers = [f"--cert-file={files.cert_file}", f"--key-file={files.key_file}", f"--trusted-ca-file={files.ca_file}"]
    start = [f"--initial-cluster=default=http://{peer}", "--bcrypt-cost=4"]
    return [f"--data-dir={data}", *urls, *papers, "--client-cert-auth", *start]


def test_a_name_is_a_user_with_his_rights(named: Named) -> None:
    """What he may do, and may not; what nobody is, who has no name or one that is no user's."""
    assert named.both("alice", "put", "own/a", "1") == (0, "OK\n", "")
    assert named.both("alice", "get", "--prefix", "own/")[1] == "own/a\n1\n"
    assert "permission denied" in named.both("alice", "put", "foreign", "1")[2]
    assert "permission denied" in named.both("alice", "user", "list")[2]
    assert "permission denied" in named.both("stranger", "get", "own/a")[2]
    assert "user name is empty" in named.etcdctl(named.actd, "", "get", "own/a")[2]
    assert "permission denied" in named.etcdctl(named.etcd, "", "get", "own/a")[2]
    assert named.both("root", "put", "foreign", "1") == (0, "OK\n", "")


def test_a_token_goes_before_a_name(named: Named) -> None:
    """Who logs in is who he logs in as, whatever his certificate says; a user without a password cannot."""
    assert "permission denied" in named.both("alice", "--user=bob:bobpw", "get", "own/a")[2]
    assert named.both("alice", "--user=root:rootpw", "put", "foreign", "2") == (0, "OK\n", "")
    assert "authentication failed" in named.both("stranger", "--user=alice:", "--password=x", "get", "own/a")[2]


def test_the_gateway_takes_no_name_for_a_user(named: Named) -> None:
    """A call of JSON over a certificate with a name is refused while authentication is on, as etcd does."""
    body = '{"key": "b3duL2E="}'
    for name in ("alice", "root"):
        found, expected = (named.gateway(at, name, "/v3/kv/range", body) for at in (named.actd, named.etcd))
        assert (found, found[0]) == (expected, "400")
    status, said = named.gateway(named.actd, "", "/v3/kv/range", body)
    assert (status, "user name is empty" in said) == ("400", True)
    login = '{"name": "root", "password": "rootpw"}'
    assert named.gateway(named.actd, "", "/v3/auth/authenticate", login)[0] == "200"
