"""Compiled modules: which they are, when they are taken, and what is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import compile as compiling
from tools import native

ROOT = Path(__file__).parent.parent.parent.parent
WHICH = """
from tools import native
print(native.use())
import raft.core, raft.membership
print(raft.core.__file__, native.in_use())
"""


def run_which(**environment: str) -> list[str]:
    """Say in a process of its own which modules are imported."""
    kept = {name: value for name, value in os.environ.items() if name != native.SWITCH}
    done = subprocess.run(
        [sys.executable, "-c", WHICH], cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_every_module_that_is_compiled_exists() -> None:
    """A module that was renamed is not left out in silence."""
    missing = [
        f"{package}/{name}.py"
        for package, names in compiling.HOT.items()
        for name in names.split()
        if not (ROOT / package / f"{name}.py").exists()
    ]
    assert not missing
    assert set(compiling.HOT) == set(native.PACKAGES)


def test_fitting_modules_are_taken_and_the_switch_leaves_them_out() -> None:
    """Where setup could compile, and always in CI, the compiled modules run, unless somebody wants the sources."""
    fitting = native.place().is_dir()
    assert fitting or "CI" not in os.environ, "CI runs what was compiled of these very sources"
    taken, path, in_use = run_which()
    assert (taken == "True") == (path.startswith(str(native.place()))) == (in_use == "True") == fitting
    taken, path, in_use = run_which(**{native.SWITCH: "1"})
    assert (taken, path, in_use) == ("False", str(ROOT / "raft" / "core.py"), "False")


def test_modules_of_other_sources_are_not_taken(tmp_path: Path) -> None:
    """One changed letter in a source, and what was compiled before fits no more."""
    for name in (*native.SOURCES, "tools"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "raft" / "core.py").write_text("x = 1\n")
    (tmp_path / "raft" / "membership.py").write_text("")
    for name in ("native.py", "compile.py"):
        (tmp_path / "tools" / name).write_text((ROOT / "tools" / name).read_text())

    def which() -> list[str]:
        command = [sys.executable, "-c", WHICH + "print(native.place())"]
        kept = {name: value for name, value in os.environ.items() if name != native.SWITCH}
        done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=True)
        return done.stdout.split()

    place = Path(which()[-1])
    (place / "raft").mkdir(parents=True)
    for name in ("__init__", "core", "membership"):
        (place / "raft" / f"{name}.py").write_text("")
    assert which()[0] == "True"
    (tmp_path / "raft" / "core.py").write_text("x = 2\n")
    assert which()[:2] == ["False", str(tmp_path / "raft" / "core.py")]


def test_choosing_after_an_import_is_refused() -> None:
    """Half of a package compiled and half of it not would be two classes of one name."""
    code = "import raft.core\nfrom tools import native\nnative.use()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "imported before it was known in which form" in done.stderr


def test_without_a_compiler_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names what to install."""
    monkeypatch.setenv("CC", "no-such-compiler-here")
    assert "no-such-compiler-here; Debian: apt-get install gcc" in (compiling.obstacle() or "")


DIFFERENT = """from collections.abc import Iterator


class Shelf:
    def __init__(self) -> None:
        self.due: int | str | None = None

    def change(self) -> None:
        self.due = "now"

    def is_empty(self) -> bool:
        self.due = None
        self.change()
        return self.due is None and bool(self.due)

    def is_honest(self) -> bool:
        self.change()
        return self.due is None


def lazy(numbers: Iterator[int]) -> Iterator[int]:
    return (number + 1 for number in numbers)


def joined(numbers: Iterator[int]) -> int:
    return sum(number + 1 for number in numbers)
"""
TO_C = "import sys; from mypyc.build import mypycify; mypycify(['shelf.py'])"


@pytest.mark.slow
def test_what_means_something_else_once_compiled_is_found(tmp_path: Path) -> None:
    """Mypyc itself is asked: an attribute that a call changed since it was None, and a generator that became a list."""
    (tmp_path / "shelf.py").write_text(DIFFERENT)
    done = subprocess.run([sys.executable, "-c", TO_C], cwd=tmp_path, check=True, capture_output=True, text=True)
    code = "".join(path.read_text() for path in (tmp_path / "build").glob("*.c"))
    assert set(compiling.believed_none(code)) == {"Shelf___is_empty: due"}
    line = DIFFERENT.splitlines().index("    return (number + 1 for number in numbers)") + 1
    assert compiling.made_eager(done.stdout + done.stderr) == [f"shelf.py:{line}"]


def test_a_directory_in_use_is_not_unused(tmp_path: Path) -> None:
    """What a process holds stays, also while only a child of it lives that it forked, and after it was renamed."""
    directory, renamed = tmp_path / "making", tmp_path / "made"
    directory.mkdir()
    code = f"""
import os, sys, pathlib
from tools import native
native.hold(pathlib.Path({str(directory)!r}))
if os.fork():
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert holder.wait(30) == 0
        directory.rename(renamed)
        assert not native.unused(renamed)
        holder.stdin.close()
        assert holder.stdout.read() == b"", "the child has ended"
    assert native.unused(renamed)
