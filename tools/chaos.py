"""Real processes under real faults: `python -m tools.chaos --minutes 10 --seed 7`, and the same against real etcd.

Starts a cluster of its own, loads it through gRPC and ZeroMQ, kills, pauses and parts its processes, and judges every
answer. Prints each fault as it happens, ends with a verdict, and leaves history, logs and a plot behind.
"""

import shutil
import sys
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from chaos.report import HISTORY, PLOT, summary, write
from chaos.run import Settings, Verdict, run
from chaos.scenarios import SCENARIOS
from chaos.targets import TargetFailed

app = typer.Typer(add_completion=False, help=__doc__)
TARGETS = ("actd", "etcd")


@app.command()
def main(
    minutes: Annotated[float, typer.Option(help="how long faults strike")] = 1.0,
    seed: Annotated[int, typer.Option(help="decides the plan of faults and what each client does")] = 1,
    target: Annotated[str, typer.Option(help="actd, or etcd as a control")] = "actd",
    scenario: Annotated[str, typer.Option(help="one of: " + ", ".join(SCENARIOS))] = "combined",
    clients: Annotated[int, typer.Option(help="clients, half of them through each door")] = 8,
    calls_per_s: Annotated[float, typer.Option(help="calls of all clients together at most; 0: no limit")] = 150.0,
    report: Annotated[Path | None, typer.Option(help="report directory; default: chaos-SCENARIO-SEED")] = None,
) -> None:
    """Run one scenario and judge it; exit 1 when a promise was broken."""
    if target not in TARGETS:
        raise typer.BadParameter(f"--target is one of {', '.join(TARGETS)}, not {target!r}")
    if scenario not in SCENARIOS:
        raise typer.BadParameter(f"--scenario is one of {', '.join(SCENARIOS)}, not {scenario!r}")
    console = Console(highlight=False)
    settings = Settings(SCENARIOS[scenario], seed, minutes * 60, target, clients, calls_per_s=calls_per_s)
    into = report or Path(f"chaos-{scenario}-{seed}")
    directory = Path(mkdtemp(prefix="actd-chaos-"))
    console.print(f"{target}, {scenario}, seed {seed}, {minutes:g} min; nodes run in {directory}", soft_wrap=True)
    began = time.monotonic()
    try:
        verdict = run(settings, directory, lambda line: console.print(line, markup=False, soft_wrap=True))
    except TargetFailed as error:
        console.print(f"not run: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    write(verdict, into)
    shutil.rmtree(directory, ignore_errors=True)
    _print(console, verdict, into, time.monotonic() - began)
    raise typer.Exit(0 if verdict.ok else 1)


def _print(console: Console, verdict: Verdict, into: Path, took_s: float) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    told = summary(verdict)
    table.add_row("calls", f"{told['calls']} in {took_s:.0f} s")
    for name in ("outcomes", "workloads", "faults"):
        table.add_row(name, ", ".join(f"{key} {count}" for key, count in told[name].items()) or "none")
    table.add_row("history", f"{told['linearizability']}, in {told['judged_in_s']} s")
    table.add_row("feed", told["feed"])
    table.add_row("host stood still", f"{sum(told['host_stood_still_s']):.1f} s, {len(verdict.standstills)} times")
    table.add_row("report", f"{into}: {HISTORY}, {PLOT}, …")
    console.print(table)
    for name in ("safety", "liveness"):
        for line in told[name]:
            console.print(f"{name}: {line}", style="red", markup=False, soft_wrap=True)
    console.print(told["verdict"], style="bold green" if verdict.ok else "bold red")


if __name__ == "__main__":
    if not __debug__:
        sys.exit("the checks of a run are assertions: do not run it with -O")
    app()
