"""`python -m tools.simulate`: run seeds of the simulated cluster and print what they found.

Owns the command line and the tables; the runs are `sim.run`'s. Every failure prints the one command that replays it.
"""

from tools import native

if __name__ == "__main__":
    native.use()

import gc
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Annotated, Final

import typer
from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sim.core_run import run_core_seed
from sim.core_wishes import CoreWishes
from sim.lease_run import run_lease_seed
from sim.member_run import run_member_seed
from sim.minimize import minimize as shrink
from sim.run import Options, Report, run_seed
from sim.weather import KINDS, KNOBS

FAILURES_SHOWN_MAX: Final = 5
TICKS: Final = Options().ticks
_FAULTS_HELP: Final = f"Kinds: {', '.join(KINDS)}."

app = typer.Typer(add_completion=False)


@app.command()
def main(
    seed: Annotated[int | None, typer.Option(help="Run this one seed and print its digest.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Run a range of seeds, FIRST..LAST, both included.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes to use for a range.")] = os.cpu_count() or 1,
    seconds: Annotated[float | None, typer.Option(help="Begin no seed of a range after so much time.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes in the cluster; default: the seed decides.")] = None,
    clients: Annotated[int | None, typer.Option(help="Clients at most; default: the seed decides.")] = None,
    ticks: Annotated[int, typer.Option(help="Length of the fault phase in tenths of an election timeout.")] = TICKS,
    faults: Annotated[str, typer.Option(help=f"Comma list of fault kinds to be active, or none. {_FAULTS_HELP}")] = "",
    knobs: Annotated[str, typer.Option(help="Comma list of configured values to be hostile, or none.")] = "",
    core: Annotated[bool, typer.Option(help="Run consensus alone, with changes of membership.")] = False,
    wishes: Annotated[bool, typer.Option(help="With --core: members are asked for changes as clients ask.")] = False,
    leases: Annotated[bool, typer.Option(help="Clients hold leases and a lock; every lease runs out.")] = False,
    members: Annotated[bool, typer.Option(help="An administrator adds, removes and replaces members.")] = False,
    minimize: Annotated[bool, typer.Option(help="Shrink the first run that fails.")] = False,
    status: Annotated[bool, typer.Option(help="Print one line of fixed columns per event (one seed only).")] = False,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Run the production actors in virtual time under a faulty network, disk, clock and power supply.

    First safety: whatever happens, no promise is broken. Then everything heals, and the cluster must become live and
    all stores equal within a bound. Exit code 1 when a seed fails.
    """
    console = Console(stderr=True)
    options = Options(
        core=core or wishes,
        wishes=wishes,
        leases=leases,
        members=members,
        nodes=nodes,
        clients=clients,
        ticks=ticks,
        faults=_names("--faults", faults, KINDS),
        knobs=_names("--knobs", knobs, KNOBS),
    )
    if worker:
        _work(options)
        return
    if (seed is None) == (seeds is None):
        raise typer.BadParameter("give --seed N or --seeds FIRST..LAST")
    if minimize and options.core:
        raise typer.BadParameter(
            "--minimize shrinks runs of whole nodes; a schedule of --core has nothing to leave out"
        )
    if sum((options.core, leases, members)) > 1:
        raise typer.BadParameter("--core (or --wishes), --leases and --members are modes: give one of them")
    began = time.perf_counter()
    if seed is not None:
        show = print if status else None
        reports = [_timed(seed, options, show)]
        _print_settings(console, reports[0])
    else:
        until = math.inf if seconds is None else time.monotonic() + seconds
        reports = _run_range(console, _parse_range(seeds or ""), options, jobs, until)
    _print_summary(console, reports, time.perf_counter() - began)
    failed = [report for report in reports if report.failure is not None]
    for report in failed[:FAILURES_SHOWN_MAX]:
        _print_failure(console, report, options)
    if failed and minimize:
        _minimize(console, failed[0], options)
    if failed:
        raise typer.Exit(1)


def _names(option: str, text: str, known: Collection[str]) -> frozenset[str] | None:
    """Return the names in a comma list; None for no list at all, empty for "none"."""
    if not text:
        return None
    names = frozenset() if text == "none" else frozenset(text.split(","))
    unknown = sorted(names - set(known))
    if unknown:
        raise typer.BadParameter(f"{option}: nobody knows {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def _parse_range(text: str) -> range:
    first, separator, last = text.partition("..")
    if not separator or not first.isdigit() or not last.isdigit() or int(last) < int(first):
        raise typer.BadParameter(f"--seeds wants FIRST..LAST, got {text!r}")
    return range(int(first), int(last) + 1)


def _run_range(console: Console, seeds: range, options: Options, jobs: int, until: float) -> list[Report]:
    """Run a range on several processes with a bar that moves; return the reports in the order of the seeds.

    No seed is begun once the monotonic clock has passed `until`.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[Report | BaseException | None] = queue.SimpleQueue()
    for seed in seeds:
        todo.put(seed)
    working = min(jobs, len(seeds))
    for _ in range(working):
        threading.Thread(target=_drive_worker, args=(todo, done, options, until), daemon=True).start()
    reports: list[Report] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("seeds", total=len(seeds))
        failures = 0
        while working:
            report = done.get()
            if isinstance(report, BaseException):
                raise report
            if report is None:
                working -= 1
                continue
            reports.append(report)
            failures += report.failure is not None
            progress.update(task, advance=1, description=f"seeds ({failures} failed)" if failures else "seeds")
    return sorted(reports, key=lambda report: report.seed)


def _drive_worker(
    todo: "queue.SimpleQueue[int]",
    done: "queue.SimpleQueue[Report | BaseException | None]",
    options: Options,
    until: float,
) -> None:
    """Feed one worker process seed after seed until none is left, or no time; None says that it is done."""
    command = [sys.executable, "-m", "tools.simulate", "--worker", *_flags(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None, "the worker reads seeds from a pipe"
        assert worker.stdout is not None, "the worker writes reports to a pipe"
        while time.monotonic() < until:
            try:
                seed = todo.get_nowait()
            except queue.Empty:
                break
            print(seed, file=worker.stdin, flush=True)
            line = worker.stdout.readline()
            if not line:
                done.put(RuntimeError(f"the worker died on seed {seed}; replay: {_command(seed, options)}"))
                return
            done.put(Report.from_json(line))
    done.put(None)


def _work(options: Options) -> None:
    """Be a worker: a seed per line in, a report per line out."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    for line in sys.stdin:
        print(_timed(int(line), options).to_json(), flush=True)


def _timed(seed: int, options: Options, show: Callable[[str], None] | None = None) -> Report:
    """Run a seed and note what it cost."""
    began_s = time.process_time()
    report = _run(seed, options, show)
    report.cpu_s = time.process_time() - began_s
    return report


def _run(seed: int, options: Options, show: Callable[[str], None] | None = None) -> Report:
    """Run a seed in the mode that the options name."""
    if options.core:
        return run_core_seed(seed, mix=CoreWishes(seed) if options.wishes else None)
    if options.leases:
        return run_lease_seed(seed, options, show=show)
    if options.members:
        return run_member_seed(seed, options, show=show)
    return run_seed(seed, options, show=show)


def _flags(options: Options) -> list[str]:
    """What makes another run one with these options."""
    if options.core:
        return ["--core", "--wishes"] if options.wishes else ["--core"]
    flags = ["--leases"] if options.leases else ["--members"] if options.members else []
    flags += [] if options.ticks == TICKS else ["--ticks", str(options.ticks)]
    for name in ("nodes", "clients"):
        number = getattr(options, name)
        flags += [] if number is None else [f"--{name}", str(number)]
    for name in ("faults", "knobs"):
        names = getattr(options, name)
        flags += [] if names is None else [f"--{name}", ",".join(sorted(names)) or "none"]
    return flags


def _command(seed: int, options: Options) -> str:
    return " ".join(["python -m tools.simulate", "--seed", str(seed), *_flags(options), "--status"])


def _print_settings(console: Console, report: Report) -> None:
    table = Table(title=f"seed {report.seed}: {report.nodes} nodes", box=None, title_justify="left")
    table.add_column("setting")
    table.add_column("value", justify="right")
    for name, value in report.settings.items():
        table.add_row(name, str(value))
    console.print(table)


def _print_summary(console: Console, reports: list[Report], took_s: float) -> None:
    virtual_s = sum(report.virtual_us for report in reports) / 1e6
    cpu_s = sum(report.cpu_s for report in reports)
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(report.counts)
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    sizes = Counter(report.nodes for report in reports)
    table.add_row("seeds", f"{len(reports)}")
    table.add_row("by nodes", ", ".join(f"{size}: {count}" for size, count in sorted(sizes.items())))
    table.add_row("failed", f"{sum(report.failure is not None for report in reports)}")
    table.add_row("simulated", f"{virtual_s / 3600:.2f} h ({virtual_s:.0f} s)")
    table.add_row("speed", f"{virtual_s / took_s:.1f} x real time ({took_s:.1f} s)")
    table.add_row("processor", f"{cpu_s / len(reports):.3f} s a seed, {virtual_s / cpu_s:.1f} x real time each")
    table.add_row("events", f"{sum(report.events for report in reports)}")
    table.add_row("calls / acknowledged", f"{sum(r.calls for r in reports)} / {sum(r.acknowledged for r in reports)}")
    table.add_row("entries committed", f"{sum(report.entries for report in reports)}")
    for name, times in (
        ("live after healing", sorted(report.live_after_us for report in reports)),
        ("converged after load", sorted(report.converged_after_us for report in reports)),
    ):
        table.add_row(name, f"median {times[len(times) // 2] / 1e6:.2f} s, most {times[-1] / 1e6:.2f} s")
    console.print(table)
    if len(reports) == 1:
        console.print(f"trace digest {reports[0].digest}", soft_wrap=True)
    struck = {kind: count for kind, count in counts.items() if kind.startswith("fault_")}
    _print_counts(console, f"{sum(struck.values())} faults", struck)
    _print_counts(console, "what happened", {kind: count for kind, count in counts.items() if kind not in struck})


def _print_counts(console: Console, title: str, counts: dict[str, int]) -> None:
    """Print counts, several to a line."""
    words = [f"{kind.removeprefix('fault_')} {count}" for kind, count in sorted(counts.items())]
    console.print(f"[bold]{title}[/]")
    console.print(Columns(words, equal=True, padding=(0, 2)))


def _minimize(console: Console, report: Report, options: Options) -> None:
    """Shrink a failing run and print the command that replays the smaller one."""
    console.rule(f"minimizing seed {report.seed}")
    smaller = shrink(lambda candidate: _run(report.seed, candidate), options, report, console.print)
    console.print(f"smallest of {smaller.runs} runs:", style="bold")
    _print_failure(console, smaller.report, smaller.options)


def _print_failure(console: Console, report: Report, options: Options) -> None:
    console.rule(f"seed {report.seed} failed")
    for line in report.story:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(str(report.failure), style="bold red", markup=False, soft_wrap=True)
    console.print(f"replay: {_command(report.seed, options)}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    if not __debug__:
        sys.exit("the simulator's checks are assertions: do not run it with -O")
    app()
