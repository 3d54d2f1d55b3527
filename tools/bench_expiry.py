"""A hundred thousand leases that run out in the same second: what puts beside them take, and when all are gone.

Owns the load and its figures; `tools.bench_events` runs it as `expiry`. Each lease has a key: its end is a write.
"""

import asyncio
import time
from typing import Final

from protocol.wire import rpc_pb2 as rpc
from tools import bench_grpc
from tools.bench_grpc import BenchFailed
from tools.bench_targets import Target

LEASES: Final = 100_000
PREFIX: Final = b"held/"
PREFIX_END: Final = b"held0"
SETTING_UP_S: Final = 60.0
"""Granting and attaching must be over by then, the baseline too; what a busy machine does not manage is refused."""
BASELINE_PUTS: Final = 8_000
PUTS_AT_ONCE: Final = 2_000
GONE_WITHIN_S: Final = 120.0
"""Above this the figure is not worth waiting for."""
GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"
PUT: Final = "/etcdserverpb.KV/Put"
RANGE: Final = "/etcdserverpb.KV/Range"


async def _set_up(leader: str, ends_at: float) -> None:
    """Grant leases that all end at one instant, as near as whole seconds allow, and attach a key to each."""
    at_once = 5_000
    for first in range(1, LEASES + 1, at_once):
        ttl_s = round(ends_at - time.perf_counter())
        grants = [rpc.LeaseGrantRequest(ID=first + number, TTL=ttl_s).SerializeToString() for number in range(at_once)]
        await _all(leader, GRANT, grants)
    for first in range(1, LEASES + 1, at_once):
        numbers = range(first, first + at_once)
        puts = [rpc.PutRequest(key=b"held/%06d" % n, value=b"v", lease=n).SerializeToString() for n in numbers]
        await _all(leader, PUT, puts)


async def _all(leader: str, path: str, bodies: list[bytes]) -> None:
    """Make each call once, 80 in flight."""
    connections = 20
    assert len(bodies) % connections == 0, "each connection walks through a share of its own"
    done = await bench_grpc.load(leader, path, bodies, connections, 4, len(bodies))
    if done["failed"] or done["answered"] != len(bodies):
        raise BenchFailed(f"{done['failed']:.0f} calls of {path} failed")


def _held(leader: str) -> int:
    """Return how many keys are still there."""
    request = rpc.RangeRequest(key=PREFIX, range_end=PREFIX_END, count_only=True)
    return rpc.RangeResponse.FromString(bench_grpc.unary(leader, RANGE, request.SerializeToString(), 30.0)).count


def _p99_ms(latencies: list[float]) -> float:
    return sorted(latencies)[len(latencies) * 99 // 100] * 1000


async def _puts(leader: str, count: int) -> list[float]:
    """Put at a pace that leaves the machine room: 8 in flight."""
    bodies = [rpc.PutRequest(key=b"b/%04d" % number, value=b"v" * 256).SerializeToString() for number in range(1000)]
    return await bench_grpc.latencies_of(leader, PUT, bodies, 8, 1, count)


async def expiry(target: Target) -> dict[str, float]:
    """Puts beside 100,000 leases with a key each that run out at once.

    Raises:
        BenchFailed: the load could not be set up in time, or the keys outlive it.
    """
    leader = target.leader()
    ends_at = time.perf_counter() + SETTING_UP_S
    await _set_up(leader, ends_at)
    if _held(leader) != LEASES:
        raise BenchFailed(f"{_held(leader)} keys of {LEASES} are there")
    baseline = await _puts(leader, BASELINE_PUTS)
    if time.perf_counter() > ends_at - 1:
        raise BenchFailed(f"setting up took more than {SETTING_UP_S:.0f} s")
    await asyncio.sleep(ends_at - 1 - time.perf_counter())
    beside: list[float] = []
    while _held(leader):
        beside += await _puts(leader, PUTS_AT_ONCE)
        if time.perf_counter() > ends_at + GONE_WITHIN_S:
            raise BenchFailed(f"{_held(leader)} keys are there {GONE_WITHIN_S:.0f} s after their leases' time")
    gone_s = time.perf_counter() - ends_at
    return {
        "put p99 ms before": _p99_ms(baseline),
        "put p99 ms while they end": _p99_ms(beside),
        "times the p99 before": _p99_ms(beside) / _p99_ms(baseline),
        "s until all are gone": gone_s,
    }
