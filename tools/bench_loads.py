"""The loads: h2load for gRPC, our generator for varied keys, our client for the ZeroMQ door.

Each returns requests per second with p50 and p99; failed requests make the figure void.
"""

import json
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from protocol.wire import rpc_pb2 as rpc

VALUE_BYTES: Final = 256
INFLIGHT: Final[dict[int, tuple[int, int]]] = {1: (1, 1), 16: (16, 1), 64: (64, 1), 1000: (100, 10)}
"""Requests in flight as (connections, streams each)."""
KEY: Final = b"bench/fixed-key"


class Figure(NamedTuple):
    """One measurement."""

    per_s: float
    p50_ms: float
    p99_ms: float


class Case(NamedTuple):
    """One row of the table."""

    name: str
    load: str
    inflight: int
    requests: int


CASES: Final = tuple(
    Case(f"{load} {inflight}", load, inflight, requests)
    for load in ("put", "put varied", "range", "range serializable")
    for inflight, requests in ((1, 1500), (16, 12_000), (64, 24_000), (1000, 60_000))
)


def h2load(address: str, case: Case) -> Figure:
    """Run one case by h2load against `address`.

    Raises:
        RuntimeError: h2load is missing, or a request failed.
    """
    binary = shutil.which("h2load")
    if binary is None:
        raise RuntimeError("h2load is not installed (Debian: apt-get install nghttp2-client)")
    if case.load == "put":
        method, body = "Put", rpc.PutRequest(key=KEY, value=b"v" * VALUE_BYTES).SerializeToString()
    else:
        method = "Range"
        body = rpc.RangeRequest(key=KEY, serializable=case.load != "range").SerializeToString()
    connections, streams = INFLIGHT[case.inflight]
    with tempfile.TemporaryDirectory() as directory:
        data, log = Path(directory, "body"), Path(directory, "log")
        data.write_bytes(b"\0" + struct.pack(">I", len(body)) + body)
        command = [binary, "-n", str(case.requests), "-c", str(connections), "-m", str(streams), "-d", str(data)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "--log-file", str(log)]
        command.append(f"http://{address}/etcdserverpb.KV/{method}")
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rate = re.search(r"finished in .*?, ([\d.]+) req/s", text)
        succeeded = re.search(r"(\d+) succeeded", text)
        if rate is None or succeeded is None or int(succeeded[1]) != case.requests:
            raise RuntimeError(f"h2load: {text}")
        latencies = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    p50, p99 = (latencies[len(latencies) * share // 100] / 1000 for share in (50, 99))
    return Figure(float(rate[1]), p50, p99)


def varied(address: str, case: Case) -> Figure:
    """Run puts over 100,000 keys by our own generator."""
    connections, streams = INFLIGHT[case.inflight]
    words = [address, str(connections), str(streams), str(case.requests), "100000", str(VALUE_BYTES)]
    output = subprocess.run([sys.executable, "-m", "tools.bench_grpc", *words], check=True, capture_output=True).stdout
    return _figure(output)


def zmq(endpoint: str, case: Case) -> Figure:
    """Run one case by one Python process over the ZeroMQ door."""
    words = [endpoint, case.load, str(case.inflight), str(case.requests)]
    output = subprocess.run([sys.executable, "-m", "tools.bench_loads", *words], check=True, capture_output=True).stdout
    return _figure(output)


def _figure(output: bytes) -> Figure:
    measured = json.loads(output)
    if measured["failed"]:
        raise RuntimeError(f"{measured['failed']} requests failed")
    return Figure(measured["per_s"], measured["p50_ms"], measured["p99_ms"])


def _client_process() -> int:
    """One AsyncClient with a number of workers; prints the figure as JSON."""
    import asyncio
    import time

    import uvloop

    from actd import AsyncClient

    endpoint, load, inflight, requests = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    rng = random.Random(1)
    value = rng.randbytes(VALUE_BYTES)
    latencies: list[float] = []

    async def worker(client: AsyncClient, count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            if load == "put":
                await client.put(KEY, value)
            elif load == "put varied":
                await client.put(b"bench/%012d" % rng.randrange(100_000), value)
            else:
                await client.get(KEY, serializable=load != "range")
            latencies.append(time.perf_counter() - began)

    async def run() -> float:
        async with AsyncClient(endpoint) as client:
            await client.get(KEY)
            began = time.perf_counter()
            await asyncio.gather(*(worker(client, requests // inflight) for _ in range(inflight)))
            return time.perf_counter() - began

    took = uvloop.run(run())
    latencies.sort()
    p50, p99 = (latencies[len(latencies) * share // 100] * 1000 for share in (50, 99))
    print(json.dumps({"per_s": len(latencies) / took, "p50_ms": p50, "p99_ms": p99, "failed": 0}))
    return 0


if __name__ == "__main__":
    sys.exit(_client_process())
