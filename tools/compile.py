"""Compiles the modules that every request passes: `python -m tools.compile`. Needs a C compiler and Python's headers.

Owns which modules are compiled, and how. The sources stay what is written, read, tested and simulated; mypyc, of the
mypy project, makes C of them by their types. What comes of it lies under `build/compiled/`, named after the sources
it was made of, and `tools.launch`, `tools.simulate` and `actd` take it while it fits (`tools.native`). Without it
everything works the same, slower.

Three things in Python mean something else once compiled, and the sources keep clear of them: a narrowed attribute
(`self.x = None; self.change(); if self.x is None`) is believed although a call has changed it, so C code that insists
on None is refused here; a generator expression becomes a list, of all there is, which is refused here too; and a tuple
has no identity, so `id()` and `is` are for other objects.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tools.native import DIRECTORY, PACKAGES, ROOT, SOURCES, SWITCH, hold, place, unused

HOT: Final = {
    "raft": (
        "configuration core durability election following invariants leading lessor_calls log progress proposals "
        "quorum read_index replication spares transitions"
    ),
    "actors": "actor applier effects event_feed links memory metrics raft raft_health read_queue shell wal",
    "storage": (
        "dedupe disk engine history key_count key_ranges layout lease mvcc mvcc_write overlay range_page range_read "
        "reads rocks txn wal wal_format wire_bytes"
    ),
    "gateway": (
        "calls core grpc_door grpc_methods grpc_streams grpc_wire http2 http2_answers http2_frames http2_hpack "
        "http2_limits http2_send loop streams validate watch_hub watch_stream watch_wire zmq_door zmq_streams"
    ),
}
"""What a put, a range, a keep-alive or an event passes. The rest is as fast as it needs to be, or has reasons of its
own: pydantic makes its classes itself, asynchronous generators cannot be compiled, chaos puts a failing disk under
`storage.posix_disk`."""
OPTIMIZATION: Final = "2"
_STRUCT_READ: Final = re.compile(r"\b(cpy_r_r\d+) = \(\(\w+Object \*\)cpy_r_\w+\)->_(\w+);")
_NONE_WANTED: Final = re.compile(r'CPy_TypeError\("None", (cpy_r_r\d+)\)')
_FUNCTION: Final = re.compile(r"^\w[\w *]*\bCPyDef_(\w+)\(")
_EAGER: Final = re.compile(r"^(\S+:\d+): .*generator comprehension as list", re.MULTILINE)
LINES_BACK_MAX: Final = 40
"""A value is read at most so many lines before it is found to be wrong."""

app = typer.Typer(add_completion=False)


def obstacle() -> str | None:
    """Return why nothing can be compiled here, or None."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler}; Debian: apt-get install gcc)"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        return f"Python's headers are not installed ({header}; Debian: apt-get install python3-dev)"
    return None


def believed_none(code: str) -> Iterator[str]:
    """Yield the functions of a C module that take an attribute for None because it was None before a call."""
    lines = code.split("\n")
    function = ""
    for number, line in enumerate(lines):
        if begun := _FUNCTION.match(line):
            function = begun[1]
        wanted = _NONE_WANTED.search(line)
        for before in reversed(lines[max(0, number - LINES_BACK_MAX) : number]) if wanted else ():
            if wanted and before.lstrip().startswith(f"{wanted[1]} = "):
                if read := _STRUCT_READ.search(before):
                    yield f"{function}: {read[2]}"
                break


def made_eager(output: str) -> list[str]:
    """Return where, by the compiler's words, a generator expression became a list."""
    return _EAGER.findall(output)


def _make(directory: Path) -> None:
    """Compile in `directory`, which is thrown away if this fails; runs in a process of its own, which it changes."""
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    class ParallelBuild(build_ext):
        """Compiles the C files of one extension side by side."""

        def build_extension(self, ext: Any) -> None:
            """Compile, then link."""

            def compile_one(source: str) -> list[str]:
                made: list[str] = self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    include_dirs=ext.include_dirs,
                    extra_postargs=ext.extra_compile_args,
                    depends=ext.depends,
                )
                return made

            largest_first = sorted(ext.sources, key=lambda source: -Path(source).stat().st_size)
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                ext.extra_objects = [made for each in pool.map(compile_one, largest_first) for made in each]
            ext.sources = []
            super().build_extension(ext)

    os.chdir(directory)
    files = [f"{package}/{name}.py" for package, names in HOT.items() for name in names.split()]
    extensions = mypycify(files, opt_level=OPTIMIZATION, debug_level="0", multi_file=True, verbose=False)
    wrong = [found for path in sorted((directory / "build").glob("*.c")) for found in believed_none(path.read_text())]
    if wrong:
        sys.exit("these believe an attribute to be None although a call may have changed it: " + "; ".join(wrong))
    command: Any = ParallelBuild(Distribution({"name": "actd", "ext_modules": extensions, "packages": []}))
    command.inplace = True
    command.ensure_finalized()
    command.run()
    shutil.rmtree(directory / "build")


@app.command(help=__doc__)
def main(
    if_possible: Annotated[
        bool, typer.Option("--if-possible", help="where it cannot be done, say why and call it a success")
    ] = False,
    within: Annotated[Path | None, typer.Option(hidden=True, help="internal: compile in this directory")] = None,
) -> None:
    """Compile, unless that has been done."""
    if within is not None:
        _make(within)
        return
    target = place()
    if target.is_dir():
        return
    why_not = f"{SWITCH} is set" if SWITCH in os.environ else obstacle()
    if why_not is None:
        why_not = compile_into(target)
    if why_not is not None:
        print(f"actd runs interpreted, at about three quarters of its speed: {why_not}", file=sys.stderr)
        raise typer.Exit(0 if if_possible else 1)


def compile_into(target: Path) -> str | None:
    """Make `target`, whole or not at all, and remove what was made of other sources; return what went wrong."""
    print("compiling the modules that requests pass (a minute or two; once) ...", file=sys.stderr)
    began = time.monotonic()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="making-", dir=DIRECTORY))
    hold(directory)
    try:
        for package in SOURCES:
            shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", directory)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tools.compile", "--within", str(directory)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        if done.returncode:
            return "compiling failed:\n" + "\n".join(output.splitlines()[-30:])
        if eager := made_eager(output):
            return f"these would become lists: {', '.join(eager)}; write a list, a generator function, or `map`"
        for name in set(SOURCES) - set(PACKAGES):
            shutil.rmtree(directory / name)
        for old in DIRECTORY.iterdir():
            if old not in (directory, target) and unused(old):
                shutil.rmtree(old, ignore_errors=True)
        if not target.is_dir():
            directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"compiled in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return None


if __name__ == "__main__":
    app()
