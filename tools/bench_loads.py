"""The loads: h2load for gRPC, our generator for varied keys, our client for the ZeroMQ door.

Each returns requests per second with p50 and p99. Owns the proof that what was measured was really answered: a figure
from a load with failed, empty or lost requests is an error, not a figure.
"""

import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from protocol.wire import rpc_pb2 as rpc
from tools import bench_grpc
from tools.bench_grpc import BenchFailed

VALUE_BYTES: Final = 256
INFLIGHT: Final[dict[int, tuple[int, int]]] = {1: (1, 1), 16: (16, 1), 64: (64, 1), 1000: (100, 10)}
"""Requests in flight as (connections, streams each)."""
KEY: Final = b"bench/fixed-key"
KEYS_VARIED: Final = 100_000
PUT_PATH: Final = "/etcdserverpb.KV/Put"
RANGE_PATH: Final = "/etcdserverpb.KV/Range"


class Figure(NamedTuple):
    """One measurement. `cpu_us` is what all server processes together spent on one request; 0: not measured."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float = 0.0


class Case(NamedTuple):
    """One row of the table."""

    load: str
    inflight: int
    requests: int

    @property
    def name(self) -> str:
        """What `--only` calls it."""
        return f"{self.load} {self.inflight}"

    @property
    def varied(self) -> bool:
        """Whether the keys differ."""
        return self.load.endswith("varied")

    @property
    def writes(self) -> bool:
        """Whether each request makes a revision."""
        return self.load.startswith("put")

    @property
    def serializable(self) -> bool:
        """Whether reads may be served by one member alone."""
        return "serializable" in self.load


LOADS: Final = ("put", "put varied", "range", "range varied", "range serializable")
CASES: Final = tuple(
    Case(load, inflight, requests)
    for load in LOADS
    for inflight, requests in ((1, 1500), (16, 12_000), (64, 24_000), (1000, 60_000))
)


def prepare(address: str, cases: list[Case]) -> None:
    """Put what the ranges will read: a range that finds nothing is cheaper than one that does."""
    put = rpc.PutRequest(key=KEY, value=b"v" * VALUE_BYTES)
    bench_grpc.unary(address, PUT_PATH, put.SerializeToString())
    if any(case.varied and not case.writes for case in cases):
        varied(address, Case("put varied", 1000, bench_grpc.SEQUENCE_MAX))


def body_of(case: Case) -> bytes:
    """Return the request of a load with one fixed key."""
    if case.writes:
        return rpc.PutRequest(key=KEY, value=b"v" * VALUE_BYTES).SerializeToString()
    return rpc.RangeRequest(key=KEY, serializable=case.serializable).SerializeToString()


def h2load(address: str, case: Case) -> Figure:
    """Run one case by h2load against `address`.

    Raises:
        BenchFailed: h2load is missing, or a request was not answered in full.
    """
    binary = shutil.which("h2load")
    if binary is None:
        raise BenchFailed("h2load is not installed (Debian: apt-get install nghttp2-client)")
    path = PUT_PATH if case.writes else RANGE_PATH
    body = body_of(case)
    answer = b"" if case.writes else bench_grpc.unary(address, path, body)
    if not case.writes and not rpc.RangeResponse.FromString(answer).kvs:
        raise BenchFailed(f"{case.name}: there is nothing at {KEY!r} to be read")
    connections, streams = INFLIGHT[case.inflight]
    with tempfile.TemporaryDirectory() as directory:
        data, log = Path(directory, "body"), Path(directory, "log")
        data.write_bytes(b"\0" + struct.pack(">I", len(body)) + body)
        command = [binary, "-n", str(case.requests), "-c", str(connections), "-m", str(streams), "-d", str(data)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "--log-file", str(log)]
        command.append(f"http://{address}{path}")
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return h2load_figure(case, text, log.read_text(), 5 + len(answer) if answer else 0)


def h2load_figure(case: Case, text: str, log: str, answer_bytes: int) -> Figure:
    """Return what h2load's report says.

    h2load counts any HTTP 200 as success, and a gRPC error is one: but it carries no message. So the bytes of all
    messages together must be what that many answers take.

    Args:
        case: what was run.
        text: what h2load printed.
        log: its log file: a line of start, status and microseconds for each request.
        answer_bytes: bytes of one answer with its length prefix; 0 where answers differ (the revision proves puts).

    Raises:
        BenchFailed: a request failed.
    """
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", text)
    succeeded = re.search(r"(\d+) succeeded", text)
    data = re.search(r"\((\d+)\) data", text)
    if rate is None or succeeded is None or data is None or int(succeeded[1]) != case.requests:
        raise BenchFailed(f"{case.name}: h2load: {text.strip()}")
    if answer_bytes and int(data[1]) != answer_bytes * case.requests:
        raise BenchFailed(f"{case.name}: {data[1]} bytes came for {case.requests} answers of {answer_bytes}")
    rows = [line.split("\t") for line in log.splitlines()]
    if len(rows) != case.requests or any(row[1] != "200" for row in rows):
        raise BenchFailed(f"{case.name}: h2load logged {len(rows)} answers, or some that failed")
    latencies = sorted(int(row[2]) for row in rows)
    p50, p99 = (latencies[len(latencies) * share // 100] / 1000 for share in (50, 99))
    return Figure(float(rate[1]), p50, p99)


def varied(address: str, case: Case) -> Figure:
    """Run a load over many keys by our own generator, in a process of its own."""
    connections, streams = INFLIGHT[case.inflight]
    method = "Put" if case.writes else "Range"
    words: list[str | int] = [address, method, connections, streams, case.requests, KEYS_VARIED, VALUE_BYTES]
    return _run("tools.bench_grpc", words, case)


def zmq(endpoint: str, case: Case) -> Figure:
    """Run one case by one Python process over the ZeroMQ door."""
    return _run("tools.bench_zmq", [endpoint, case.load, case.inflight, case.requests], case)


def _run(module: str, words: list[str | int], case: Case) -> Figure:
    command = [sys.executable, "-m", module, *(str(word) for word in words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchFailed(f"{case.name}: {module}: {done.stderr.strip()[-1000:]}")
    measured = json.loads(done.stdout)
    if measured["failed"] or measured["answered"] != case.requests:
        raise BenchFailed(
            f"{case.name}: {measured['failed']:.0f} of {case.requests} requests failed, "
            f"{measured['answered']:.0f} were answered"
        )
    return Figure(measured["per_s"], measured["p50_ms"], measured["p99_ms"])
