"""actd and real etcd under the same load on this machine: one table, ratios, medians of interleaved rounds.

`python -m tools.bench`. Data directories lie side by side on the same disk. Writes JSON and a plot.
"""

import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tools import bench_loads, bench_million
from tools.bench_loads import CASES, Case, Figure
from tools.bench_targets import Actd, Etcd, cpu_seconds, pss_bytes

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()

Measured = dict[tuple[str, str], list[Figure]]
"""Figures by (target or "actd zmq", case)."""


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


def measure(target: Actd | Etcd, cases: list[Case], measured: Measured) -> dict[str, float]:
    """Run every case once against a fresh cluster; return what its processes used."""
    target.start()
    try:
        pids = target.pids()
        cpu_before = cpu_seconds(pids)
        peak = 0
        for case in cases:
            leader = target.leader()
            before = target.revision()
            figure = bench_loads.varied(leader, case) if case.load == "put varied" else bench_loads.h2load(leader, case)
            written = target.revision() - before
            if case.load.startswith("put") and written < case.requests * 0.99:
                raise RuntimeError(f"{target.name} {case.name}: {case.requests} puts moved the revision by {written}")
            measured.setdefault((target.name, case.name), []).append(figure)
            peak = max(peak, pss_bytes(pids))
            if isinstance(target, Actd):
                door = target.zmq[target.clients.index(leader)]
                measured.setdefault(("actd zmq", case.name), []).append(bench_loads.zmq(door, case))
        return {"cpu_s": cpu_seconds(pids) - cpu_before, "pss_mib_peak": peak / 2**20}
    finally:
        target.stop()
        target.wipe()


def median(figures: list[Figure] | None) -> Figure | None:
    """Return the median of each part."""
    if not figures:
        return None
    return Figure(*(statistics.median(part) for part in zip(*figures, strict=True)))


def table_of(cases: list[Case], measured: Measured, title: str) -> Table:
    """Return the table as people read it."""
    table = Table(title=title, title_justify="left")
    for column in ("case, in flight", "etcd/s", "actd/s", "ratio", "etcd p50/p99 ms", "actd p50/p99 ms", "actd zmq/s"):
        table.add_column(column, justify="left" if column.startswith("case") else "right")
    for case in cases:
        etcd, actd = median(measured.get(("etcd", case.name))), median(measured.get(("actd", case.name)))
        ours = median(measured.get(("actd zmq", case.name)))
        table.add_row(
            case.name,
            f"{etcd.per_s:,.0f}" if etcd else "-",
            f"{actd.per_s:,.0f}" if actd else "-",
            f"{actd.per_s / etcd.per_s:.2f}" if actd and etcd else "-",
            f"{etcd.p50_ms:.1f} / {etcd.p99_ms:.1f}" if etcd else "-",
            f"{actd.p50_ms:.1f} / {actd.p99_ms:.1f}" if actd else "-",
            f"{ours.per_s:,.0f}" if ours else "-",
        )
    return table


def plot(cases: list[Case], measured: Measured, path: Path) -> None:
    """Draw the table."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(11, 5))
    for offset, target in enumerate(("etcd", "actd", "actd zmq")):
        heights = [found.per_s if (found := median(measured.get((target, case.name)))) else 0 for case in cases]
        axes.bar([position + offset * 0.27 for position in range(len(cases))], heights, 0.27, label=target)
    axes.set_xticks(
        [position + 0.27 for position in range(len(cases))], [case.name for case in cases], rotation=45, ha="right"
    )
    axes.set_ylabel("requests per second")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(help="interleaved rounds; figures are medians")] = 5,
    only: Annotated[str, typer.Option(help="comma list of cases, e.g. 'put 64,range 64'; default all")] = "",
    etcd: Annotated[str, typer.Option(help="etcd's binary; default the one on PATH")] = "",
    skip_etcd: Annotated[bool, typer.Option(help="measure actd alone")] = False,
    million: Annotated[bool, typer.Option(help="also load a million keys and page through them")] = False,
    directory: Annotated[Path, typer.Option(help="where data goes")] = Path("build/bench"),
    report: Annotated[Path, typer.Option(help="JSON; the plot lies beside it")] = Path("build/bench.json"),
) -> None:
    """Measure, print one table, write JSON and PNG."""
    binary = etcd or shutil.which("etcd") or ""
    if not binary and not skip_etcd:
        console.print("no etcd on PATH (Debian: apt-get install etcd-server); use --etcd or --skip-etcd", style="red")
        raise typer.Exit(2)
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    cases = [case for case in CASES if not wanted or case.name in wanted]
    directory = directory.resolve()
    measured: Measured = {}
    usage: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        for kind in ("etcd", "actd") if number % 2 == 0 else ("actd", "etcd"):
            if kind == "etcd" and skip_etcd:
                continue
            target = Actd(directory / "actd") if kind == "actd" else Etcd(directory / "etcd", binary)
            used = measure(target, cases, measured)
            usage.setdefault(kind, []).append(used)
            console.print(
                f"round {number + 1} {kind}: {used['cpu_s']:.1f} CPU s, {used['pss_mib_peak']:.0f} MiB PSS peak"
            )
    version = ""
    if not skip_etcd:
        words = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        version = words.splitlines()[0]
    title = f"{rounds} rounds, {version}, fdatasync p50 {fdatasync_p50_us(directory):.0f} µs, {os.cpu_count()} cores"
    console.print(table_of(cases, measured, title))
    results: dict[str, Any] = {
        "title": title,
        "figures": {
            f"{target}: {case}": [one._asdict() for one in figures] for (target, case), figures in measured.items()
        },
        "usage": usage,
    }
    if million:
        results["million"] = bench_million.compare(directory, "" if skip_etcd else binary, console)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(results, indent=2))
    plot(cases, measured, report.with_suffix(".png"))
    console.print(f"wrote {report} and {report.with_suffix('.png')}")


if __name__ == "__main__":
    app()
