"""Everything there is to check, in parts with times: `python -m tools.check`, and `--full` at length.

Quick is what `.ci/run` runs. Full adds every chaos scenario, the tests marked `long`, thousands of simulator seeds,
tens of thousands of random requests to etcd and actd alike, clients that take minutes to build, and the benchmark's
shortest round; the machine should have nothing else to do.
"""

import os
import subprocess
import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

PACKAGES = (
    "actd", "actors", "chaos", "checker", "daemon", "fuzz", "gateway", "protocol", "raft", "sim", "storage", "tools",
)  # fmt: skip
QUICK = (
    ("lint", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy", *PACKAGES]),
    ("compile", ["tools.compile"]),
    ("tests", ["pytest", "-n", "auto", "-q"]),
)
FULL = (
    ("chaos, every scenario", ["pytest", "-n", "auto", "-q", "-m", "chaos"]),
    ("long tests", ["pytest", "-m", "long", "-q"]),
    ("simulator, 2,000 seeds", ["tools.simulate", "--seeds", "0..2000", "--jobs", "2"]),
    ("memberships, 2,000 seeds", ["tools.simulate", "--core", "--seeds", "0..2000", "--jobs", "2"]),
    ("members by the API, 300 seeds", ["tools.simulate", "--members", "--seeds", "0..300", "--jobs", "2"]),
    ("fuzzing, a minute for each target", ["tools.fuzz", "--seconds", "60"]),
    ("300 rounds against etcd", ["pytest", "-q", "tests/interop/test_kv_against_etcd.py", "--etcd-rounds=300"]),
    ("benchmark, one round", ["tools.bench", "--rounds", "1", "--quick"]),
)

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def check(full: Annotated[bool, typer.Option("--full", help="everything, at length")] = False) -> None:
    """Run every part; exit 1 if one fails."""
    table = Table(box=None, pad_edge=False)
    for column in ("part", "result", "seconds"):
        table.add_column(column)
    failed = False
    environment = os.environ | ({"ACTD_BUILD_SLOW_CLIENTS": "1"} if full else {})
    for name, words in (*QUICK, *(FULL if full else ())):
        began = time.monotonic()
        status = subprocess.run([sys.executable, "-m", *words], env=environment, check=False).returncode
        failed = failed or status != 0
        table.add_row(name, "passed" if status == 0 else f"FAILED ({status})", f"{time.monotonic() - began:.0f}")
    Console().print(table)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    app()
