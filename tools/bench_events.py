"""Watches, leases, transactions and what Kubernetes asks: actd and real etcd under the same load, one after the other.

`python -m tools.bench_events`. Each target gets a fresh cluster of three nodes; watchers sit on a member that does not
lead, over a hundred connections. What was delivered is checked after the clock has stopped: every event once, in order;
also where that member dies and comes back while they watch (`resume`).
"""

import asyncio
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop
from rich.console import Console

from protocol.wire import rpc_pb2 as rpc
from tools import bench_grpc
from tools.bench_expiry import expiry
from tools.bench_grpc import BenchFailed
from tools.bench_targets import Actd, Etcd, Target, pss_bytes
from tools.bench_watchers import Watchers

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=max(Console().width, 120))
VALUE: Final = b"v" * 256
PUT_PATH: Final = "/etcdserverpb.KV/Put"
PUTS: Final = 12_000
RESUME_PUTS: Final = 300
RESUME_PAUSE_S: Final = 0.02
"""Between two puts of `resume`: the member must be away for some of them, and back for others."""
CASES: Final = ("watch", "fan", "resume", "idle", "lease", "txn", "kubernetes", "expiry")


def put_bodies(keys: list[bytes]) -> list[bytes]:
    """Return a put for each key."""
    return [rpc.PutRequest(key=key, value=VALUE).SerializeToString() for key in keys]


async def puts_per_s(target: Target, bodies: list[bytes], count: int) -> float:
    """Put at the leader, 64 in flight."""
    measured = await bench_grpc.load(target.leader(), PUT_PATH, bodies, 16, 4, count)
    if measured["failed"]:
        raise BenchFailed("puts failed")
    return measured["per_s"]


async def deliver(target: Target, watchers: Watchers, bodies: list[bytes], count: int, each: int) -> dict[str, float]:
    """Put `count` times, each delivered to `each` watchers; return events per second and memory per watcher."""
    member = next(address for address in target.clients if address != target.leader())
    before = pss_bytes(target.pids())
    await watchers.open(member)
    memory = (pss_bytes(target.pids()) - before) / watchers.count
    began = time.perf_counter()
    await puts_per_s(target, bodies, count)
    await watchers.wait(count * each)
    took = time.perf_counter() - began
    delivered = watchers.check()
    watchers.close()
    if delivered != count * each:
        raise BenchFailed(f"{delivered} events were delivered of {count * each}")
    return {"events/s": delivered / took, "KiB per watcher": memory / 1024}


async def watch(target: Target) -> dict[str, float]:
    """1,000 watchers on one prefix."""
    bodies = put_bodies([b"w/%04d" % number for number in range(320)])
    return await deliver(target, Watchers([(b"w/", b"w0")] * 1000), bodies, 320, 1000)


async def fan(target: Target) -> dict[str, float]:
    """10,000 watchers on distinct keys."""
    keys = [b"f/%05d" % number for number in range(10_000)]
    return await deliver(target, Watchers([(key, b"") for key in keys]), put_bodies(keys), 9_600, 1)


async def resume(target: Target) -> dict[str, float]:
    """1,000 watchers on one prefix whose member is killed, and started again, while they watch."""
    leader = target.leader()
    member = next(address for address in target.clients if address != leader)
    watchers = Watchers([(b"r/", b"r0")] * 1000)
    await watchers.open(member)
    keeper = asyncio.create_task(watchers.keep(member))
    for number, body in enumerate(put_bodies([b"r/%04d" % number for number in range(RESUME_PUTS)])):
        if number == RESUME_PUTS // 3:
            target.restart(member)
        await asyncio.to_thread(bench_grpc.unary, leader, PUT_PATH, body)
        await asyncio.sleep(RESUME_PAUSE_S)
    began = time.perf_counter()
    await watchers.wait(RESUME_PUTS * watchers.count)
    took = time.perf_counter() - began
    keeper.cancel()
    delivered = watchers.check()
    watchers.close()
    if delivered != RESUME_PUTS * watchers.count or not watchers.resumed:
        raise BenchFailed(f"{delivered} events were delivered, {watchers.resumed} streams resumed")
    return {"events, each once": delivered, "streams resumed": watchers.resumed, "s until all are heard": took}


async def idle(target: Target) -> dict[str, float]:
    """Puts beside 1,000 watchers that hear nothing."""
    bodies = put_bodies([b"i/%04d" % number for number in range(1000)])
    watchers = Watchers([(b"other/%04d" % number, b"") for number in range(1000)])
    await puts_per_s(target, bodies, PUTS)
    alone = [await puts_per_s(target, bodies, PUTS) for _ in range(3)]
    await watchers.open(target.leader())
    beside = [await puts_per_s(target, bodies, PUTS) for _ in range(3)]
    watchers.close()
    share = statistics.median(beside) / statistics.median(alone)
    return {"puts/s beside 1,000 idle watchers": statistics.median(beside), "share of the puts/s alone": share}


async def lease(target: Target) -> dict[str, float]:
    """Grants, 64 in flight."""
    bodies = [rpc.LeaseGrantRequest(TTL=3600).SerializeToString()]
    measured = await bench_grpc.load(target.leader(), "/etcdserverpb.Lease/LeaseGrant", bodies, 16, 4, PUTS // 2)
    return {"grants/s": measured["per_s"]}


async def txn(target: Target) -> dict[str, float]:
    """Two compares, a put and a range, 64 in flight."""
    bodies = []
    for number in range(1000):
        key = b"t/%04d" % number
        compares = [
            rpc.Compare(key=key, target=rpc.Compare.VERSION, result=rpc.Compare.GREATER, version=-1),
            rpc.Compare(key=b"t/none", target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0),
        ]
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=VALUE))
        get = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
        bodies.append(rpc.TxnRequest(compare=compares, success=[put, get]).SerializeToString())
    measured = await bench_grpc.load(target.leader(), "/etcdserverpb.KV/Txn", bodies, 16, 4, PUTS)
    return {"txns/s": measured["per_s"]}


async def kubernetes(target: Target) -> dict[str, float]:
    """Creates guarded by `mod_revision == 0`, and pages of 500 objects."""
    bodies = []
    for number in range(PUTS):
        key = b"/registry/pods/default/pod-%06d" % number
        absent = rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=0)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=VALUE * 4))
        get = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
        bodies.append(rpc.TxnRequest(compare=[absent], success=[put], failure=[get]).SerializeToString())
    created = await bench_grpc.load(target.leader(), "/etcdserverpb.KV/Txn", bodies, 16, 4, PUTS)
    page = rpc.RangeRequest(key=b"/registry/pods/", range_end=b"/registry/pods0", limit=500).SerializeToString()
    listed = await bench_grpc.load(target.leader(), "/etcdserverpb.KV/Range", [page], 4, 1, 200)
    return {"creates/s": created["per_s"], "pages of 500/s": listed["per_s"]}


LOADS: Final[dict[str, Callable[[Target], Coroutine[object, object, dict[str, float]]]]] = {
    "watch": watch,
    "fan": fan,
    "resume": resume,
    "idle": idle,
    "lease": lease,
    "txn": txn,
    "kubernetes": kubernetes,
    "expiry": expiry,
}


def measure(target: Target, names: list[str]) -> dict[str, dict[str, float]]:
    """Run loads against a fresh cluster; after a failure data and logs stay where they are."""
    target.wipe()
    try:
        target.start()
        found = {}
        for name in names:
            found[name] = uvloop.run(LOADS[name](target))
            console.print(f"{target.name} {name}: {found[name]}")
    finally:
        target.stop()
    target.wipe()
    return found


@app.command()
def bench(
    only: Annotated[str, typer.Option(help=f"comma list of {', '.join(CASES)}; default all")] = "",
    skip_etcd: Annotated[bool, typer.Option("--skip-etcd", help="measure actd alone")] = False,
    directory: Annotated[Path, typer.Option(help="where data goes")] = Path("build/bench_events"),
    report: Annotated[Path, typer.Option(help="JSON of all figures")] = Path("build/bench_events.json"),
) -> None:
    """Measure, print figures and ratios, write JSON."""
    names = [name.strip() for name in only.split(",") if name.strip()] or list(CASES)
    if unknown := [name for name in names if name not in LOADS]:
        raise typer.BadParameter(f"no load is called {unknown[0]!r}; there are {', '.join(CASES)}")
    directory = directory.resolve()
    binary = shutil.which("etcd")
    if binary is None and not skip_etcd:
        console.print("no etcd on PATH (Debian: apt-get install etcd-server); use --skip-etcd", style="red")
        raise typer.Exit(2)
    try:
        theirs = measure(Etcd(directory / "etcd", binary), names) if binary and not skip_etcd else {}
        ours = measure(Actd(directory / "actd"), names)
    except BenchFailed as failed:
        console.print(f"{failed}\ndata and logs are left in {directory}", style="red", markup=False)
        raise typer.Exit(1) from failed
    for name in names:
        for figure, value in ours[name].items():
            other = theirs.get(name, {}).get(figure)
            beside = f"  etcd {other:12,.2f}  ratio {value / other:.2f}" if other else ""
            console.print(f"{name:12} {figure:36} actd {value:12,.2f}{beside}")
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps({"actd": ours, "etcd": theirs}, indent=2))
    console.print(f"wrote {report}", markup=False)


if __name__ == "__main__":
    sys.exit(app())
