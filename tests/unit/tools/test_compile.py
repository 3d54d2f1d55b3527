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


def test_an_attribute_that_is_believed_to_be_none_is_found() -> None:
    """The C that mypyc makes of `self.x = None; self.change(); return self.x is None` is recognized."""
    code = """
char CPyDef_core___Raft___change(PyObject *cpy_r_self) {
    cpy_r_r1 = ((raft___core___RaftObject *)cpy_r_self)->_due;
    if (cpy_r_r1 != Py_None)
        CPy_TypeError("None", cpy_r_r1); cpy_r_r3 = 2;
    cpy_r_r4 = PyObject_VectorcallMethod(cpy_r_r2, cpy_r_r1, 0, 0);
        CPy_TypeError("None", cpy_r_r4); cpy_r_r5 = 2;
}
"""
    assert list(compiling.believed_none(code)) == ["core___Raft___change: due"]
