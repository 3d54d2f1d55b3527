"""The load of one Python process over the ZeroMQ door: an `AsyncClient` with as many workers as calls in flight.

`python -m tools.bench_zmq ENDPOINT LOAD INFLIGHT REQUESTS` is started by `tools.bench` as a process of its own and
prints its figure as JSON.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator

import uvloop

from actd import AsyncClient
from tools.bench_grpc import sequence_of_keys
from tools.bench_loads import KEY, KEYS_VARIED, VALUE_BYTES, Case


async def worker(client: AsyncClient, case: Case, count: int, keys: Iterator[bytes], latencies: list[float]) -> None:
    """Make `count` calls one after the other; any that fails ends the process with its error."""
    value = b"v" * VALUE_BYTES
    for _ in range(count):
        key = next(keys)
        began = time.perf_counter()
        if case.writes:
            await client.put(key, value)
        elif await client.get(key, serializable=case.serializable) is None:
            raise RuntimeError(f"there is nothing at {key!r} to be read")
        latencies.append(time.perf_counter() - began)


async def run(endpoint: str, case: Case) -> dict[str, float]:
    """Run the load and return its figure."""
    keys = itertools.cycle(sequence_of_keys(case.requests, KEYS_VARIED) if case.varied else [KEY])
    latencies: list[float] = []
    async with AsyncClient(endpoint) as client:
        await client.get(KEY)
        began = time.perf_counter()
        share = case.requests // case.inflight
        await asyncio.gather(*(worker(client, case, share, keys, latencies) for _ in range(case.inflight)))
        took = time.perf_counter() - began
    latencies.sort()
    return {
        "per_s": len(latencies) / took,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
        "answered": len(latencies),
        "failed": 0,
    }


def main() -> int:
    """Print the figure."""
    endpoint, load = sys.argv[1:3]
    inflight, requests = (int(word) for word in sys.argv[3:5])
    print(json.dumps(uvloop.run(run(endpoint, Case(load, inflight, requests)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
