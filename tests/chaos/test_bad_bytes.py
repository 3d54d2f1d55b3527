"""What strangers send to a live node's three ports: noise, half messages, too much. Nothing dies, nothing is lost."""

import contextlib
import random
import socket
from collections.abc import Callable, Iterator

import grpc
import pytest
import zmq
from clusters import Cluster
from loads import Load

from actd.errors import RequestRefused
from actors.links import pack_packet
from protocol.config import load_config
from protocol.peer import PEER_WIRE_VERSION, PeerHeader
from protocol.types import Incarnation, MemberId, StoreId
from protocol.wire import rpc_pb2 as rpc

pytestmark = [pytest.mark.processes, pytest.mark.slow]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ZMTP_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48)
OPENINGS = (b"", PREFACE, PREFACE + bytes(3) + b"\x04" + bytes(5), b"GET /health HTTP/1.1\r\n", b"POST ", ZMTP_GREETING)
"""What makes each door believe that a friend has come."""
SIZES = (0, 1, 10, 64, 1000, 70_000, 2_000_000)


@pytest.fixture
def unharmed(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, under load; afterwards all its processes are those they were, and every promise is kept."""
    before = {title: process.pid for title, process in shared_cluster.processes().items()}
    load = Load(shared_cluster)
    with load.running():
        load.await_more(20)
        yield shared_cluster
        load.await_more(20)
    load.check()
    after = {title: process.pid for title, process in shared_cluster.processes().items()}
    assert after == before, "something died"


def test_random_bytes_on_every_port(unharmed: Cluster) -> None:
    """Noise, alone and behind what each protocol begins with, whole and cut off, on all ports of all nodes."""
    rng = random.Random(7)
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for name in unharmed.names:
            for port in unharmed.ports[name]:
                for opening in OPENINGS:
                    for size in SIZES:
                        # Hanging up on noise is a right answer.
                        with contextlib.suppress(ConnectionError, TimeoutError):
                            noise = socket.create_connection(("127.0.0.1", port), timeout=5)
                            stack.enter_context(noise)
                            noise.settimeout(0.2)
                            noise.sendall(opening + rng.randbytes(size))
                            held.append(noise)
        assert len(held) > 100, "most connections were accepted"


def test_random_messages_of_zeromq(unharmed: Cluster) -> None:
    """Whole ZeroMQ messages that mean nothing, also under a head that is right in every field."""
    rng = random.Random(8)
    config = load_config(unharmed.file)
    me, friend = config.member_id("n1"), config.member_id("n2")
    heads = [
        PeerHeader(PEER_WIRE_VERSION, config.cluster_id, sender, me, StoreId(0), Incarnation(1), actor).pack()
        for sender in (friend, MemberId(77), me)
        for actor in ("raft", "snapshot_receiver", "wal", "../../etc")
    ]
    with zmq.Context() as context:
        for kind, port in ((zmq.PUSH, unharmed.ports["n1"][1]), (zmq.DEALER, unharmed.ports["n1"][2])):
            with context.socket(kind) as stranger:
                stranger.setsockopt(zmq.LINGER, 5000)
                stranger.setsockopt(zmq.SNDTIMEO, 5000)
                stranger.connect(f"tcp://127.0.0.1:{port}")
                for _ in range(300):
                    bodies = [rng.randbytes(rng.choice((0, 1, 9, 60, 3000))) for _ in range(rng.randrange(1, 5))]
                    whole = pack_packet(rng.choice(heads), bodies)
                    half = whole[: rng.randrange(len(whole))]
                    stranger.send_multipart(rng.choice(([whole], [half], bodies, [whole, *bodies])))


def put_over_grpc(address: str, value: bytes) -> grpc.StatusCode:
    """Put a value and return the status."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        request = rpc.PutRequest(key=b"big", value=value).SerializeToString()
        try:
            channel.unary_unary("/etcdserverpb.KV/Put")(request, timeout=30)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return grpc.StatusCode.OK


def http_answer(address: str, request: bytes) -> bytes:
    """Send bytes to the HTTP port; return what comes back before it is closed, at most a little."""
    host, _, port = address.partition(":")
    answer = b""
    with contextlib.suppress(ConnectionError), socket.create_connection((host, int(port)), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        answer = connection.recv(200)
    return answer


OVERSIZED: dict[str, Callable[[str], bool]] = {
    "a little over the limit": lambda address: (
        put_over_grpc(address, bytes(1_600_000)) is grpc.StatusCode.INVALID_ARGUMENT
    ),
    "over any message": lambda address: put_over_grpc(address, bytes(80 << 20)) is grpc.StatusCode.RESOURCE_EXHAUSTED,
    "a header line without end": lambda address: (
        not http_answer(address, b"GET /health HTTP/1.1\r\nX: " + b"a" * (4 << 20)).startswith(b"HTTP/1.1 2")
    ),
    "a body without end": lambda address: (
        not http_answer(
            address, b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + bytes(4 << 20)
        ).startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
    ),
}


@pytest.mark.parametrize("case", OVERSIZED)
def test_oversized_requests_at_the_client_port(shared_cluster: Cluster, case: str) -> None:
    """What is over a limit is refused with the right status; the connection's end or not, the node goes on."""
    assert OVERSIZED[case](shared_cluster.client_address("n1"))


def test_oversized_requests_at_the_zeromq_port(unharmed: Cluster) -> None:
    """A request over the limit is refused by etcd's name, a frame over the limit costs its sender the connection."""
    with unharmed.client("n1") as client:
        with pytest.raises(RequestRefused, match="etcdserver: request is too large"):
            client.put("big", bytes(1_600_000))
        assert client.get("big") is None
        client.put("small", b"x")
    with zmq.Context() as context:
        for kind, port in ((zmq.PUSH, unharmed.ports["n1"][1]), (zmq.DEALER, unharmed.ports["n1"][2])):
            with context.socket(kind) as stranger:
                stranger.setsockopt(zmq.LINGER, 0)
                stranger.setsockopt(zmq.RECONNECT_IVL, -1)
                with stranger.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
                    stranger.connect(f"tcp://127.0.0.1:{port}")
                    stranger.send(bytes(300 << 20), copy=False)
                    assert monitor.poll(20_000), "the door hangs up"
                    stranger.disable_monitor()
