"""`python -m tools.fuzz`: hostile bytes for everything that reads bytes from outside.

Owns the command line and the table; what is fed to whom, and what must never happen, is package `fuzz`. With the
package `atheris` (extra `fuzz`) the code's coverage guides the inputs, without it chance alone.
"""

import importlib.util
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from fuzz.judge import InputFailed, Judge
from fuzz.targets import TARGETS
from fuzz.worker import REPORT

CACHE: Final = Path.home() / ".cache" / "actd" / "fuzz"
FOUND: Final = Path("fuzz-found")
START_S_MAX: Final = 120
"""How much longer than its time a worker may live: it imports, runs its seeds and writes its report."""

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    target: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(TARGETS)}; again for more.")] = None,
    seconds: Annotated[float, typer.Option(help="For each target.")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Of the inputs; default: any.")] = None,
    blind: Annotated[bool, typer.Option(help="By chance alone, although coverage could guide.")] = False,
    replay: Annotated[Path | None, typer.Option(help="Run this one input instead, and show what happens.")] = None,
    corpus: Annotated[Path, typer.Option(help="Where inputs that reached something new are kept.")] = CACHE,
    found: Annotated[Path, typer.Option(help="Where failing inputs are kept.")] = FOUND,
) -> None:
    """Feed each target for some time; exit 1 if an input broke something, which prints the command that replays it."""
    names = target or list(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown:
        raise typer.BadParameter(f"no target {unknown[0]}; there are {', '.join(TARGETS)}")
    if replay is not None:
        raise typer.Exit(_replay(names, replay, found))
    engine = "blind" if blind or importlib.util.find_spec("atheris") is None else "guided"
    seed = random.randrange(1, 1 << 31) if seed is None else seed
    table = Table(box=None, pad_edge=False)
    for column in ("target", "engine", "inputs", "seconds", "peak MiB", "slowest ms", "result"):
        table.add_column(column, justify="left" if column in ("target", "engine", "result") else "right")
    failures = []
    for name in names:
        began = time.monotonic()
        figures = _work(name, engine, seconds, seed, corpus / name, found)
        failure = str(figures["failure"])
        failures += [f"{name}: {failure}"] if failure else []
        table.add_row(
            name,
            engine,
            f"{figures['inputs']:,}",
            f"{time.monotonic() - began:.0f}",
            f"{figures['peak_mib']:.0f}",
            f"{figures['slowest_s'] * 1000:.0f}",
            "FAILED" if failure else "passed",
        )
    Console().print(table)
    for failure in failures:
        print(failure)
    raise typer.Exit(1 if failures else 0)


def _work(name: str, engine: str, seconds: float, seed: int, corpus: Path, found: Path) -> dict[str, Any]:
    """Fuzz one target in a process of its own; return its figures, with a failure if its end was another."""
    words = [
        sys.executable, "-m", "fuzz.worker", name, f"--engine={engine}", f"--seconds={seconds}", f"--seed={seed}",
        f"--corpus={corpus}", f"--found={found}",
    ]  # fmt: skip
    figures: dict[str, Any] = {"inputs": 0, "peak_mib": 0.0, "slowest_s": 0.0, "failure": ""}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + START_S_MAX, check=False)
        said, status = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        said, status = f"{error.stdout!r}{error.stderr!r}", -1
    for line in said.splitlines():
        if line.startswith(REPORT):
            figures = json.loads(line.removeprefix(REPORT))
        elif line.startswith("stat::number_of_executed_units:"):
            figures["inputs"] = int(line.rpartition(" ")[2])
        elif line.startswith("stat::peak_rss_mb:"):
            figures["peak_mib"] = float(line.rpartition(" ")[2])
    if status and not figures["failure"]:
        figures["failure"] = f"the worker ended with {status}; it said last:\n" + "\n".join(said.splitlines()[-25:])
    return figures


def _replay(names: list[str], path: Path, found: Path) -> int:
    """Run one input as it would be run while fuzzing."""
    if len(names) != 1:
        raise typer.BadParameter("--replay wants the one --target whose input it is")
    judge = Judge(TARGETS[names[0]], found)
    try:
        judge.run(path.read_bytes())
    except InputFailed as failed:
        print(failed)
        return 1
    print(f"nothing happens, in {judge.slowest_s * 1000:.1f} ms")
    return 0


if __name__ == "__main__":
    app()
