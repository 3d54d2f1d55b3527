"""The plain HTTP pages on the client port, over HTTP/1.1 and over HTTP/2, as etcd answers them."""

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest
from echo_door import EchoDoor, echo_door
from http2_peer import Peer, frame, get_http2, plain, read_frames

from gateway import http2_frames as wire
from gateway.asgi_bridge import BODY_BYTES_MAX
from protocol.config import LimitsConfig
from protocol.errors import ErrorCode
from protocol.types import NOBODY

VERSION = {"etcdserver": "3.7.1", "etcdcluster": "3.7.0", "storage": "3.7.0"}


@pytest.fixture(name="door")
def running_door() -> Iterator[EchoDoor]:
    """A door around a healthy core."""
    with echo_door() as door:
        yield door


def get(door: EchoDoor, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    """Return status, body and fields of one request over HTTP/1.1."""
    connection = http.client.HTTPConnection("127.0.0.1", door.door.port, timeout=20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode(), {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def test_version_names_server_cluster_and_storage(door: EchoDoor) -> None:
    """The page has etcd's three versions; without a leader the cluster's is not decided."""
    status, body, _ = get(door, "/version")
    assert (status, json.loads(body)) == (200, VERSION)

    door.core.leader = NOBODY

    assert json.loads(get(door, "/version")[1])["etcdcluster"] == "not_decided"


def test_health_is_true(door: EchoDoor) -> None:
    """A healthy node says so in etcd's words."""
    assert get(door, "/health")[:2] == (200, '{"health":"true","reason":""}')


def test_health_without_leader_is_false_unless_serializable(door: EchoDoor) -> None:
    """Without a leader only local reads work, and only the local question is answered with yes."""
    door.core.leader = NOBODY

    assert get(door, "/health")[:2] == (503, '{"health":"false","reason":"RAFT NO LEADER"}')
    assert get(door, "/health?serializable=true")[0] == 200


def test_health_tells_alarms_unless_excluded(door: EchoDoor) -> None:
    """An alarm makes the node unhealthy; `exclude` may be repeated."""
    door.core.errors = ["memberID:31 alarm:NOSPACE "]

    assert get(door, "/health")[:2] == (503, '{"health":"false","reason":"ALARM NOSPACE"}')
    assert get(door, "/health?exclude=CORRUPT&exclude=NOSPACE")[0] == 200


def test_health_tells_why_a_read_failed(door: EchoDoor) -> None:
    """The reason of a failed read is the text clients would get."""
    door.core.code = ErrorCode.TIMEOUT

    assert get(door, "/health")[:2] == (
        503,
        '{"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}',
    )


@pytest.mark.parametrize("path", ["/version", "/health", "/metrics", "/livez", "/readyz"])
def test_pages_are_for_get_only(door: EchoDoor, path: str) -> None:
    """Any other method is refused with what is allowed."""
    status, _, fields = get(door, path, "POST")

    assert (status, fields["allow"]) == (405, "GET")


def test_unknown_page_is_not_found(door: EchoDoor) -> None:
    """Other paths are not found, with etcd's text."""
    assert get(door, "/nope")[:2] == (404, "404 page not found\n")
    assert get(door, "/readyz/nope")[:2] == (404, "404 page not found\n")


def test_livez_and_readyz_say_ok(door: EchoDoor) -> None:
    """Short by default, one line per check when verbose, and one page per check."""
    assert get(door, "/livez")[:2] == (200, "ok\n")
    assert get(door, "/readyz")[:2] == (200, "ok\n")
    assert get(door, "/readyz/linearizable_read")[:2] == (200, "ok\n")
    assert get(door, "/livez?verbose")[1] == "[+]serializable_read ok\nok\n"
    assert get(door, "/readyz?verbose&exclude=non_learner")[1] == (
        "[+]data_corruption ok\n[+]linearizable_read ok\n[+]serializable_read ok\nok\n"
    )


def test_readyz_names_what_failed(door: EchoDoor) -> None:
    """A failed check makes the page fail, verbose or not; excluded, it is not run."""
    door.core.errors = ["memberID:31 alarm:CORRUPT "]
    door.core.learner = True

    status, body, _ = get(door, "/readyz")

    assert status == 503
    assert "[-]data_corruption failed: alarm activated: CORRUPT\n" in body
    assert "[-]non_learner failed: this member is a learner\n" in body
    assert "[+]serializable_read ok\n" in body
    assert get(door, "/livez")[0] == 200
    assert get(door, "/readyz?exclude=data_corruption&exclude=non_learner")[0] == 200


def test_metrics_page_is_prometheus_text(door: EchoDoor) -> None:
    """The page has the node's figures, the health counters and the process metrics."""
    get(door, "/health")
    get(door, "/readyz")

    status, body, fields = get(door, "/metrics")

    assert status == 200
    assert fields["content-type"].startswith("text/plain")
    assert 'etcd_server_version{server_version="3.7.1"} 1.0\n' in body
    assert 'etcd_server_id{server_id="1f"} 1.0\n' in body
    assert "etcd_server_health_success 1.0\n" in body
    assert 'etcd_server_healthchecks_total{name="non_learner",status="success",type="readyz"} 1.0\n' in body
    resident = next(line for line in body.splitlines() if line.startswith("process_resident_memory_bytes "))
    assert float(resident.split()[1]) > 1_000_000


def test_keep_alive_serves_several_requests(door: EchoDoor) -> None:
    """One HTTP/1.1 connection is good for many requests."""
    connection = http.client.HTTPConnection("127.0.0.1", door.door.port, timeout=20)
    for _ in range(3):
        connection.request("GET", "/version")
        assert json.loads(connection.getresponse().read()) == VERSION
    connection.close()


def test_first_bytes_may_come_one_by_one(door: EchoDoor) -> None:
    """The protocol is told apart however slowly its first bytes arrive; P begins both."""
    peer = Peer(greet=False)
    http1 = b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    http2 = wire.PREFACE + wire.settings(()) + peer.headers(1, plain(b"/version"), end_stream=True)
    for data, expected in ((http1, b'"etcdserver"'), (b"PUT" + http1[3:], b"405"), (http2, b'"etcdserver"')):
        with socket.create_connection(("127.0.0.1", door.door.port), timeout=20) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in data:
                raw.sendall(bytes((byte,)))
            received = b""
            while expected not in received:
                part = raw.recv(65_536)
                assert part, received
                received += part


def test_strangers_are_closed_without_a_word(door: EchoDoor) -> None:
    """Bytes of neither protocol do not even get the HTTP libraries loaded."""
    with socket.create_connection(("127.0.0.1", door.door.port), timeout=20) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00 a TLS hello")
        assert raw.recv(100) == b""

    assert door.call(lambda: door.door.strangers) == 1
    assert door.call(lambda: door.door.http1.connections) == 0


def test_pages_over_http2(door: EchoDoor) -> None:
    """Requests over HTTP/2 that are not gRPC get the same pages: `curl --http2-prior-knowledge` works."""
    for path, status, text in (
        (b"/health", 200, '{"health":"true","reason":""}'),
        (b"/readyz?verbose&exclude=non_learner&exclude=data_corruption", 200, "[+]linearizable_read ok\n"),
        (b"/nope", 404, "404 page not found\n"),
    ):
        peer = Peer(greet=False)
        got = get_http2(door.door.port, peer.headers(1, plain(path), end_stream=True), peer)
        assert got[0] == status
        assert text in got[1]


def test_body_over_http2_is_bounded(door: EchoDoor) -> None:
    """A page that is sent a huge body refuses it instead of gathering it."""
    peer = Peer(greet=False)
    body = frame(wire.DATA, 0, 1, bytes(16_384)) * (BODY_BYTES_MAX // 16_384 + 2)

    status, _ = get_http2(door.door.port, peer.headers(1, plain(b"/health", b"POST")) + body, peer)

    assert status in (405, 413)


def test_flood_of_pages_over_http2_is_answered_in_turn(door: EchoDoor) -> None:
    """Thousands of pages asked for at once neither hold the loop nor go unanswered: some get 503."""
    count = 3000
    peer = Peer(greet=False)
    request = b"".join(peer.headers(2 * number + 1, plain(b"/livez"), end_stream=True) for number in range(count))
    gaps: list[float] = []

    def tick(last: float) -> None:
        now = door.asyncio_loop.time()
        gaps.append(now - last)
        door.asyncio_loop.call_later(0.001, tick, now)

    assert get(door, "/livez")[0] == 200
    door.asyncio_loop.call_soon_threadsafe(lambda: tick(door.asyncio_loop.time()))
    statuses: list[int] = []
    received = b""
    with socket.create_connection(("127.0.0.1", door.door.port), timeout=20) as raw:
        raw.sendall(wire.PREFACE + wire.settings(()) + request)
        while len(statuses) < count:
            part = raw.recv(65_536)
            assert part, "the server closed instead of answering"
            received += part
            while len(received) >= 9 and len(received) >= 9 + int.from_bytes(received[:3]):
                size = 9 + int.from_bytes(received[:3])
                (sent,) = read_frames(received[:size])
                received = received[size:]
                if sent.kind == wire.HEADERS:
                    statuses.append(int(dict(peer.fields(sent.payload))[b":status"]))

    assert {200, 503} == set(statuses)
    assert statuses.count(200) >= 1000
    assert max(gaps) < 0.5  # measured: 0.03; the rest is for busy machines


def test_connections_over_the_limit_are_closed() -> None:
    """A connection too many is closed at once; those before it are served."""
    with echo_door(LimitsConfig(connections_max=1)) as door:
        first = http.client.HTTPConnection("127.0.0.1", door.door.port, timeout=20)
        first.request("GET", "/version")
        assert json.loads(first.getresponse().read()) == VERSION
        second = socket.create_connection(("127.0.0.1", door.door.port), timeout=20)
        with second, contextlib.suppress(ConnectionResetError):  # aborted: just as closed
            assert second.recv(1) == b""
        first.request("GET", "/version")
        assert json.loads(first.getresponse().read()) == VERSION
        first.close()


def test_loading_the_libraries_does_not_stall_the_loop(door: EchoDoor) -> None:
    """While the first page loads its libraries the loop turns all the time: clients ping and count silences."""
    gaps: list[float] = []
    done = threading.Event()

    def tick(last: float) -> None:
        now = door.asyncio_loop.time()
        gaps.append(now - last)
        if not done.is_set():
            door.asyncio_loop.call_later(0.001, tick, now)

    door.asyncio_loop.call_soon_threadsafe(lambda: tick(door.asyncio_loop.time()))

    assert get(door, "/version")[0] == 200

    done.set()
    assert max(gaps) < 0.25  # measured: 0.03; the rest is for busy machines
