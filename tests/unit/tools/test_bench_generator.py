"""The load generator sends what it says, over the real door, and tells answers from failures."""

import asyncio
import socket
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hpack import Decoder

sys.path.append(str(Path(__file__).parents[1] / "gateway"))
from echo_door import echo_door

from protocol.errors import ErrorCode
from protocol.wire import rpc_pb2 as rpc
from tools import bench_grpc

PUT_PATH = "/etcdserverpb.KV/Put"
pytestmark = pytest.mark.timeout(60)


def run(work: Coroutine[Any, Any, Any], loops: str) -> Any:
    """Run on the kind of loop."""
    return uvloop.run(work) if loops == "uvloop" else asyncio.run(work)


@pytest.mark.parametrize("loops", ["uvloop", "asyncio"])
@pytest.mark.parametrize(("connections", "inflight"), [(1, 1), (4, 10)])
def test_every_call_is_answered(loops: str, connections: int, inflight: int) -> None:
    """All calls come back, none failed, on the loop the benchmark uses and on the plain one."""
    bodies = bench_grpc.bodies_of("Put", bench_grpc.sequence_of_keys(200, 50), 256)
    with echo_door() as door:
        found = run(bench_grpc.load(door.address, PUT_PATH, bodies, connections, inflight, 200), loops)
    assert found["answered"] == 200
    assert found["failed"] == 0
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["per_s"] > 0


def test_connections_share_the_bodies() -> None:
    """Together the connections send every body once, not each the same first ones."""
    bodies = [rpc.PutRequest(key=b"%d" % number).SerializeToString() for number in range(40)]
    with echo_door() as door:
        seen: list[bytes] = []
        submit = door.core.submit

        def remember(call_id: int, method: Any, body: bytes, *rest: Any) -> None:
            seen.append(bytes(body))
            submit(call_id, method, body, *rest)

        door.core.submit = remember  # type: ignore[method-assign]
        run(bench_grpc.load(door.address, PUT_PATH, bodies, 4, 2, 40), "uvloop")
    assert sorted(seen) == sorted(bodies)


def test_errors_are_counted_as_failures() -> None:
    """A gRPC error is an HTTP 200 without a message, and no answer."""
    with echo_door() as door:
        door.core.code = ErrorCode.NO_SPACE
        bodies = [rpc.PutRequest(key=b"k").SerializeToString()]
        found = run(bench_grpc.load(door.address, PUT_PATH, bodies, 2, 5, 20), "uvloop")
        assert found["failed"] == found["answered"] == 20
        with pytest.raises(RuntimeError, match=r"20 calls failed; .* grpc-status 8: etcdserver"):
            run(bench_grpc.latencies_of(door.address, PUT_PATH, bodies, 2, 5, 20), "uvloop")
        with pytest.raises(RuntimeError, match="grpc-status 8"):
            bench_grpc.unary(door.address, PUT_PATH, bodies[0])


def test_unary_gives_the_message() -> None:
    """The single call returns the response's bytes."""
    with echo_door() as door:
        body = bench_grpc.unary(door.address, PUT_PATH, rpc.PutRequest(key=b"k", value=b"v" * 5000).SerializeToString())
    assert rpc.PutResponse.FromString(body).prev_kv.value == b"v" * 5000


@contextmanager
def server_that_says(data: bytes) -> Iterator[str]:
    """Listen, answer the first bytes of one connection with `data`, and close."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bench_grpc.frame(bench_grpc.RST_STREAM, 0, 1, b"\0\0\0\2"),
        bench_grpc.frame(bench_grpc.GOAWAY, 0, 0, b"\0" * 8),
    ],
    ids=["closed", "stream reset", "going away"],
)
def test_a_server_that_gives_up_ends_the_load(data: bytes) -> None:
    """A load whose answers will never come fails at once instead of waiting for them."""
    with server_that_says(data) as address, pytest.raises(RuntimeError, match="ended"):
        run(bench_grpc.load(address, PUT_PATH, [b""], 1, 1, 1), "uvloop")


def test_frames_come_out_whole() -> None:
    """Frames cut anywhere by the network are put together again, in order."""
    stream = b"".join(bench_grpc.frame(kind, 1, kind + 1, bytes([kind]) * kind) for kind in (0, 1, 9))
    for cut in range(len(stream)):
        data = bytearray(stream[:cut])
        found = bench_grpc.frames_in(data)
        data += stream[cut:]
        found += bench_grpc.frames_in(data)
        assert found == [(kind, 1, kind + 1, bytes([kind]) * kind) for kind in (0, 1, 9)]
        assert not data


def test_the_same_keys_every_time() -> None:
    """A load reads what an earlier one wrote: keys are the same on every run, and shorter loads use the first ones."""
    keys = bench_grpc.sequence_of_keys(500, 100_000)
    assert keys == bench_grpc.sequence_of_keys(1000, 100_000)[:500]
    assert len(set(keys)) > 450


def test_header_blocks_are_those_of_a_usual_client() -> None:
    """The first call fills the dynamic table, every later one refers to it: a block that a server may remember."""
    first, later = bench_grpc.heads(PUT_PATH)
    decoder = Decoder()
    fields = decoder.decode(first)
    assert (":path", PUT_PATH) in [tuple(field) for field in fields]
    assert len(later) == len(fields)
    assert decoder.decode(later) == decoder.decode(later) == fields
