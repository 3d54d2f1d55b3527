"""A million keys: how fast they load, what they take, how soon a node serves again, what paging costs others.

`python -m tools.bench_million ADDRESS` is the client that pages, a process of its own so that it does not stand in the
way of the one that measures: it says when it has read its first page, pages until its standard input ends, and says how
many pages it read.
"""

import json
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from protocol.wire import rpc_pb2 as rpc
from tools import bench_grpc
from tools.bench_grpc import BenchFailed
from tools.bench_loads import PUT_PATH, RANGE_PATH
from tools.bench_targets import Actd, Etcd, Target, pss_bytes

KEYS: Final = 1_000_000
VALUE_BYTES: Final = 256
PAGE: Final = 500
PART: Final = 50_000
PROBE_S: Final = 10.0
NODES: Final = 3
OVERWRITTEN_SHARE: Final = 10
"""One key in so many is put once more before the processes are killed: a restart then has a log to catch up with."""
SETTLE_S: Final = 5.0
"""How long memory may settle before it is looked at: both kinds give back what they have freed a little later."""
PREFIX: Final = b"m/"
PREFIX_END: Final = b"m0"


def load_keys(address: str, keys: int, between: Callable[[], None] = lambda: None) -> float:
    """Put every key once at 1,000 in flight, each with a value that does not compress; return puts per second.

    The making of requests is left out, and so is `between`, called after each part.
    """
    rng = random.Random(1)
    took = 0.0
    for start in range(0, keys, PART):
        bodies = [
            rpc.PutRequest(key=PREFIX + b"%012d" % number, value=rng.randbytes(VALUE_BYTES)).SerializeToString()
            for number in range(start, min(start + PART, keys))
        ]
        took += _put_all(address, bodies)
        between()
    return keys / took


def _put_all(address: str, bodies: list[bytes]) -> float:
    connections = next(count for count in (100, 50, 20, 10, 5, 2, 1) if len(bodies) % count == 0)
    began = time.perf_counter()
    latencies = uvloop.run(
        bench_grpc.latencies_of(address, PUT_PATH, bodies, connections, 1000 // connections, len(bodies))
    )
    took = time.perf_counter() - began
    if len(latencies) != len(bodies):
        raise BenchFailed(f"{len(latencies)} of {len(bodies)} puts were answered while loading")
    return took


def page_through(address: str) -> int:
    """Page through all keys again and again until standard input ends; return how many pages were read."""
    pages = 0
    key = PREFIX
    while not select.select([sys.stdin], [], [], 0)[0]:
        request = rpc.RangeRequest(key=key, range_end=PREFIX_END, limit=PAGE)
        response = rpc.RangeResponse.FromString(
            bench_grpc.unary(address, RANGE_PATH, request.SerializeToString(), 60.0)
        )
        assert len(response.kvs) == PAGE or not response.more, "a page that is not the last one is full"
        pages += 1
        if pages == 1:
            print(json.dumps({"paging": True}), flush=True)
        key = response.kvs[-1].key + b"\0" if response.more else PREFIX
    return pages


@contextmanager
def pager(address: str) -> Iterator[list[int]]:
    """Run a paging client; the list it yields holds its pages once it has ended.

    It pages already when this yields: starting a Python process takes a second of one core, which is not what is asked.
    """
    pages: list[int] = []
    command = [sys.executable, "-m", "tools.bench_million", address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None, "its output is piped"
        try:
            if not process.stdout.readline():
                raise BenchFailed("the paging client did not start")
            yield pages
            output, _ = process.communicate(timeout=90)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise BenchFailed("the paging client failed")
    pages.append(int(json.loads(output)["pages"]))


def probe_put_ms(address: str) -> tuple[float, float]:
    """Return p50 and p99 of puts at 16 in flight over some seconds, all of them together."""
    body = rpc.PutRequest(key=b"probe", value=b"v" * VALUE_BYTES).SerializeToString()
    until = time.monotonic() + PROBE_S
    latencies: list[float] = []
    while time.monotonic() < until:
        latencies += uvloop.run(bench_grpc.latencies_of(address, PUT_PATH, [body], 16, 1, 1600))
    latencies.sort()
    return tuple(latencies[len(latencies) * share // 100] * 1000 for share in (50, 99))  # type: ignore[return-value]


def count_keys(address: str) -> int:
    """Return how many of the keys the store holds."""
    request = rpc.RangeRequest(key=PREFIX, range_end=PREFIX_END, count_only=True)
    body = bench_grpc.unary(address, RANGE_PATH, request.SerializeToString(), 60.0)
    return rpc.RangeResponse.FromString(body).count


def serving_again_s(target: Target, keys: int) -> float:
    """Start a stopped cluster; return the time until its leader answers a linearizable read, and nothing is lost."""
    began = time.monotonic()
    target.start()
    target.revision()
    took = time.monotonic() - began
    held = count_keys(target.leader())
    if held != keys:
        raise BenchFailed(f"{target.name} holds {held} of {keys} keys after a restart")
    return took


def measure(target: Target, keys: int) -> dict[str, float]:
    """Return all figures of one target."""
    target.wipe()
    try:
        target.start()
        figures = {"PSS of a node when empty, MiB": _pss_of_a_node(target, SETTLE_S)}
        figures |= _loading(target, keys)
        used = sum(file.stat().st_blocks * 512 for file in target.directory.rglob("*") if file.is_file())
        figures["disk of a node, MiB"] = used / NODES / 2**20
        figures |= _paging(target.leader())
        target.stop()
        figures["restart to serving, s"] = serving_again_s(target, keys)
        load_keys(target.leader(), keys // OVERWRITTEN_SHARE)
        target.kill()
        figures["restart after SIGKILL to serving, s"] = serving_again_s(target, keys)
        figures["PSS of a node after the restart, MiB"] = _pss_of_a_node(target, SETTLE_S)
    finally:
        target.stop()
    target.wipe()
    return figures


def _pss_of_a_node(target: Target, after_s: float = 0.0) -> float:
    """Return the mean PSS of a node's processes together in MiB, `after_s` from now."""
    time.sleep(after_s)
    return pss_bytes(target.pids()) / NODES / 2**20


def _loading(target: Target, keys: int) -> dict[str, float]:
    """Load all keys; memory is looked at between parts, most of all while nothing has settled yet."""
    seen: list[float] = []
    rate = load_keys(target.leader(), keys, lambda: seen.append(_pss_of_a_node(target)))
    return {
        "load, puts/s": rate,
        "PSS of a node while loading at most, MiB": max(seen),
        "PSS of a node after the load, MiB": _pss_of_a_node(target, SETTLE_S),
    }


def _paging(leader: str) -> dict[str, float]:
    """Measure puts with nobody else there, then while a client pages through everything."""
    figures: dict[str, float] = {}
    figures["put p50 idle, ms"], figures["put p99 idle, ms"] = probe_put_ms(leader)
    with pager(leader) as pages:
        began = time.monotonic()
        figures["put p50 while paging, ms"], figures["put p99 while paging, ms"] = probe_put_ms(leader)
        paged_s = time.monotonic() - began
    figures["put p99 paging : idle"] = figures["put p99 while paging, ms"] / figures["put p99 idle, ms"]
    figures[f"pages of {PAGE}/s meanwhile"] = sum(pages) / paged_s
    return figures


def compare(directory: Path, etcd: str, keys: int, console: Console) -> dict[str, dict[str, float]]:
    """Measure one kind after the other; return their figures by name."""
    results: dict[str, dict[str, float]] = {}
    targets: list[Target] = [Etcd(directory / "etcd-million", etcd)] if etcd else []
    for target in (*targets, Actd(directory / "actd-million")):
        began = time.monotonic()
        results[target.name] = measure(target, keys)
        console.print(f"{keys:,} keys, {target.name}: {time.monotonic() - began:.0f} s")
    return results


if __name__ == "__main__":
    print(json.dumps({"pages": page_through(sys.argv[1])}))
