"""A million keys: how fast they load, what they take, how soon a node serves again, what paging costs others."""

import statistics
import threading
import time
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.table import Table

from protocol.wire import rpc_pb2 as rpc
from tools import bench_grpc
from tools.bench_targets import Actd, Etcd, pss_bytes

KEYS: Final = 1_000_000
VALUE_BYTES: Final = 256
PAGE: Final = 500
PROBE_S: Final = 5.0


def load_keys(address: str) -> float:
    """Put every key once; return puts per second."""
    value = b"v" * VALUE_BYTES
    began = time.perf_counter()
    for start in range(0, KEYS, 50_000):
        bodies = [
            rpc.PutRequest(key=b"m/%012d" % number, value=value).SerializeToString()
            for number in range(start, start + 50_000)
        ]
        measured = uvloop.run(bench_grpc.load(address, "/etcdserverpb.KV/Put", bodies, 50, 20, 50_000))
        if measured["failed"]:
            raise RuntimeError(f"{measured['failed']} puts failed while loading")
    return KEYS / (time.perf_counter() - began)


def page_through(address: str, stop: threading.Event) -> int:
    """Page through all keys again and again; return how many pages were read."""
    pages = 0
    key = b"m/"
    while not stop.is_set():
        request = rpc.RangeRequest(key=key, range_end=b"m0", limit=PAGE)
        body = bench_grpc.unary(address, "/etcdserverpb.KV/Range", request.SerializeToString(), 30.0)
        response = rpc.RangeResponse.FromString(body)
        pages += 1
        key = response.kvs[-1].key + b"\0" if response.more else b"m/"
    return pages


def probe_put_p99_ms(address: str) -> float:
    """Return the p99 of puts at 16 in flight over some seconds."""
    bodies = [rpc.PutRequest(key=b"probe", value=b"v" * VALUE_BYTES).SerializeToString()]
    until = time.monotonic() + PROBE_S
    found = []
    while time.monotonic() < until:
        measured = uvloop.run(bench_grpc.load(address, "/etcdserverpb.KV/Put", bodies, 16, 1, 3200))
        found.append(measured["p99_ms"])
    return statistics.median(found)


def measure(target: Actd | Etcd) -> dict[str, float]:
    """Return all figures of one target."""
    target.start()
    try:
        leader = target.leader()
        figures = {"load_per_s": load_keys(leader)}
        figures["pss_mib_per_node"] = pss_bytes(target.pids()) / 3 / 2**20
        used = sum(file.stat().st_blocks * 512 for file in target.directory.rglob("*") if file.is_file())
        figures["disk_mib_per_node"] = used / 3 / 2**20
        figures["put_p99_ms_idle"] = probe_put_p99_ms(leader)
        stop = threading.Event()
        pages: list[int] = []
        pagers = [
            threading.Thread(target=lambda: pages.append(page_through(leader, stop)), daemon=True) for _ in range(2)
        ]
        for pager in pagers:
            pager.start()
        figures["put_p99_ms_paged"] = probe_put_p99_ms(leader)
        stop.set()
        for pager in pagers:
            pager.join()
        figures["pages"] = float(sum(pages))
        target.stop()
        began = time.monotonic()
        target.start()
        target.revision()
        figures["restart_s"] = time.monotonic() - began
        return figures
    finally:
        target.stop()
        target.wipe()


def compare(directory: Path, etcd: str, console: Console) -> dict[str, dict[str, float]]:
    """Measure both targets and print them side by side."""
    results: dict[str, dict[str, float]] = {}
    if etcd:
        results["etcd"] = measure(Etcd(directory / "etcd-million", etcd))
    results["actd"] = measure(Actd(directory / "actd-million"))
    table = Table(title=f"{KEYS:,} keys of {VALUE_BYTES} bytes", title_justify="left")
    table.add_column("figure")
    for name in results:
        table.add_column(name, justify="right")
    for figure in results["actd"]:
        table.add_row(figure, *(f"{results[name][figure]:,.2f}" for name in results))
    console.print(table)
    return results
