"""actd and real etcd under the same load on this machine: one table, ratios, medians of interleaved rounds.

`python -m tools.bench`. Every round starts fresh clusters of three nodes, one kind after the other, whose data
directories lie side by side on the same disk. Writes JSON, the table as Markdown, and a plot.
"""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from tools import bench_loads, bench_million, bench_report
from tools.bench_grpc import BenchFailed
from tools.bench_loads import CASES, Case
from tools.bench_report import Report, Usage
from tools.bench_targets import Actd, Etcd, Target, cpu_seconds, pss_bytes

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=max(Console().width, 150))
QUICK_SHARE = 10
"""`--quick` makes this part of the requests and keys."""


def fdatasync_p50_us(directory: Path) -> float:
    """Return the median time of a small write and fdatasync on the disk of `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "fdatasync"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, 1 << 20)
        times = []
        for number in range(300):
            os.pwrite(descriptor, b"x" * 400, number * 400)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(times) * 1e6


def measure_case(target: Target, case: Case, report: Report, usage: Usage) -> None:
    """Run one case over gRPC against the leader, and hold what the cluster says happened against it.

    Raises:
        BenchFailed: a request failed, or the cluster did not do what was counted, or a server process died.
    """
    leader = target.leader()
    pids = target.pids()
    revision = target.revision()
    cpu = cpu_seconds(pids)
    figure = bench_loads.varied(leader, case) if case.varied else bench_loads.h2load(leader, case)
    cpu = cpu_seconds(pids) - cpu
    usage.add(cpu, pss_bytes(pids))
    written = target.revision() - revision
    if written != (case.requests if case.writes else 0):
        raise BenchFailed(f"{target.name} {case.name}: {case.requests} requests moved the revision by {written}")
    if target.pids() != pids:
        raise BenchFailed(f"{target.name} {case.name}: a server process ended; see {target.directory}")
    report.add(target.name, case, figure._replace(cpu_us=cpu / case.requests * 1e6))


def measure(target: Target, cases: list[Case], report: Report, *, with_zmq: bool) -> Usage:
    """Run every case once against a fresh cluster; return what its processes used for the gRPC part.

    After a failure data and logs stay where they are.
    """
    usage = Usage()
    target.wipe()
    try:
        target.start()
        bench_loads.prepare(target.leader(), cases)
        for case in cases:
            measure_case(target, case, report, usage)
        for case in cases if with_zmq and target.zmq else ():
            report.add("actd zmq", case, bench_loads.zmq(target.zmq[target.clients.index(target.leader())], case))
    finally:
        target.stop()
    target.wipe()
    return usage


def wanted_cases(only: str, *, quick: bool) -> list[Case]:
    """Return the cases `--only` names (a case or a whole load), shortened by `--quick`.

    Raises:
        typer.BadParameter: there is no such case.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = {case.name for case in CASES} | {case.load for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(f"no case is called {unknown[0]!r}; there are {', '.join(sorted(known))}")
    cases = [case for case in CASES if not names or case.name in names or case.load in names]
    return [shortened(case) if quick else case for case in cases]


def shortened(case: Case) -> Case:
    """Return a case with a part of the requests, still a whole number for each of those in flight."""
    return case._replace(requests=max(case.requests // QUICK_SHARE // case.inflight, 1) * case.inflight)


def version_of(etcd: str) -> str:
    """Return how etcd's binary names itself."""
    return subprocess.run([etcd, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _stop_cleanly(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit("stopped by a signal")


def run_rounds(cases: list[Case], directory: Path, etcd: str, rounds: int, *, with_zmq: bool) -> Report:
    """Run all rounds, the kinds taking turns at being first."""
    report = Report(rounds=rounds, etcd=version_of(etcd) if etcd else "", cores=os.cpu_count() or 0)
    for number in range(rounds):
        kinds: list[Target] = [Etcd(directory / "etcd", etcd)] if etcd else []
        kinds.append(Actd(directory / "actd"))
        for target in kinds if number % 2 == 0 else kinds[::-1]:
            report.fdatasync_us.append(fdatasync_p50_us(directory))
            usage = measure(target, cases, report, with_zmq=with_zmq)
            report.usage.setdefault(target.name, []).append(usage)
            console.print(f"round {number + 1} of {rounds}, {target.name}: {usage}")
    return report


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds; figures are medians")] = 5,
    only: Annotated[str, typer.Option(help="comma list of cases or loads, e.g. 'put 64,range'; default all")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="a tenth of requests and keys: shows that it works")] = False,
    etcd: Annotated[str, typer.Option(help="etcd's binary; default the one on PATH")] = "",
    skip_etcd: Annotated[bool, typer.Option("--skip-etcd", help="measure actd alone")] = False,
    skip_zmq: Annotated[bool, typer.Option("--skip-zmq", help="leave out our own client")] = False,
    skip_million: Annotated[bool, typer.Option("--skip-million", help="leave out loading, paging, restarting")] = False,
    million_only: Annotated[bool, typer.Option("--million-only", help="nothing but the million keys")] = False,
    keys: Annotated[int, typer.Option(min=1000, help="how many keys a million is")] = bench_million.KEYS,
    directory: Annotated[Path, typer.Option(help="where data goes; use the disk you mean")] = Path("build/bench"),
    report: Annotated[Path, typer.Option(help="JSON; table and plot lie beside it")] = Path("build/bench.json"),
) -> None:
    """Measure, print the tables, write JSON, Markdown and PNG. `--only` leaves out the million keys as well."""
    binary = "" if skip_etcd else etcd or shutil.which("etcd") or ""
    if not binary and not skip_etcd:
        console.print("no etcd on PATH (Debian: apt-get install etcd-server); use --etcd or --skip-etcd", style="red")
        raise typer.Exit(2)
    signal.signal(signal.SIGTERM, _stop_cleanly)
    cases = [] if million_only else wanted_cases(only, quick=quick)
    keys = keys // QUICK_SHARE if quick else keys
    directory = directory.resolve()
    try:
        found = run_rounds(cases, directory, binary, rounds if cases else 0, with_zmq=not skip_zmq)
        if cases:
            console.print(bench_report.table_of(cases, found))
        if million_only or not (only or skip_million):
            found.fdatasync_us.append(fdatasync_p50_us(directory))
            found.million = bench_million.compare(directory, binary, keys, console)
            console.print(bench_report.million_table(keys, found))
    except BenchFailed as failed:
        console.print(f"{failed}\ndata and logs are left in {directory}", style="red", markup=False)
        raise typer.Exit(1) from failed
    for path in bench_report.write(cases, keys, found, report):
        console.print(f"wrote {path}", markup=False)


if __name__ == "__main__":
    sys.exit(app())
