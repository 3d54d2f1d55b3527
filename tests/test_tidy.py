"""Taste that a machine can check: sizes, banned calls, docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "actd",
    "actors",
    "chaos",
    "checker",
    "daemon",
    "fuzz",
    "gateway",
    "protocol",
    "raft",
    "sim",
    "storage",
    "tools",
)
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
BANNED = {
    r"\bpickle\b": "msgpack through protocol.codec",
    r"\b(TODO|FIXME|XXX|HACK)\b": "an issue, or the work itself",
    r"NotImplementedError": "the work itself, or a Protocol",
    r"except:\s*$": "the exception that is meant",
}


def modules() -> list[Path]:
    """Our own modules, generated code left out."""
    return [
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.name.endswith("_pb2.py")
    ]


def suites() -> list[Path]:
    """Every test module."""
    return sorted((ROOT / "tests").rglob("test_*.py"))


def label(path: Path) -> str:
    """The path as it is read in a report."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules(), ids=label)
def test_modules_and_functions_stay_small(path: Path) -> None:
    """No module is over 600 lines and no function over 70."""
    text = path.read_text()
    assert text.count("\n") <= MODULE_LINES_MAX, f"{label(path)} is too long: split it"
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long, f"{label(path)}: {', '.join(long)}"


@pytest.mark.parametrize("path", [*modules(), *suites()], ids=label)
def test_nothing_banned_is_used(path: Path) -> None:
    """Calls that hide errors, lose data or mark unfinished work have a better replacement."""
    if path.name == Path(__file__).name:
        return
    found = [
        f"{label(path)}:{number}: use {better}: {line.strip()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for pattern, better in BANNED.items()
        if re.search(pattern, line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", [path for path in modules() if path.parent.name != "tools"], ids=label)
def test_only_commands_print(path: Path) -> None:
    """What runs inside a node or a client logs, or stays silent; only commands for people print."""
    printing = [
        f"{label(path)}:{node.lineno}: log an event with keys"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing, "\n".join(printing)


@pytest.mark.parametrize("path", suites(), ids=label)
def test_tests_wait_for_conditions_and_never_sleep(path: Path) -> None:
    """A sleep is either too short or too long."""
    banned = "time." + "sleep("
    assert banned not in path.read_text(), f"{label(path)}: wait for a condition with a deadline"


@pytest.mark.parametrize("path", suites(), ids=label)
def test_every_test_says_what_it_shows(path: Path) -> None:
    """Each test has a docstring in the language of behaviour."""
    silent = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not silent, f"{label(path)}: {', '.join(silent)}"


@pytest.mark.parametrize("path", modules(), ids=label)
def test_public_things_have_docstrings(path: Path) -> None:
    """Modules, and public classes and functions at their top, promise something."""
    tree = ast.parse(path.read_text())
    silent = [] if ast.get_docstring(tree) else ["the module"]
    silent += [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not silent, f"{label(path)}: {', '.join(silent)}"
