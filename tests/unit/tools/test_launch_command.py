"""The launch command's own words: what it explains, and what it refuses before anything is started."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.launch import EXIT_REFUSED, app

GOOD = '[[nodes]]\nname = "n1"\nclient = "127.0.0.1:1"\npeer = "127.0.0.1:2"\nzmq = "127.0.0.1:3"\n'


def launch(*arguments: str) -> tuple[int, str]:
    """Exit status and everything that was printed."""
    result = CliRunner().invoke(app, arguments, terminal_width=200)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_help_explains_every_option_and_exit_status() -> None:
    """Whoever asks learns what is started, where the data goes, how to stop, and what the exit status says."""
    status, text = launch("--help")
    assert status == 0
    for word in ("--node", "--data-dir", "--log-format", "--log-level", "Ctrl-C", "DATA_DIR/NAME", "2 refused"):
        assert word in text


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("nodes = [", (), "cluster.toml: not valid TOML: "),
        (GOOD + "colour = 1\n", (), "cluster.toml: nodes.0.colour: unknown key"),
        (GOOD.replace("127.0.0.1:1", "10.0.0.1:1"), (), "is not a loopback address"),
        (None, (), "cluster.toml: cannot be read: No such file or directory"),
        (GOOD, ("--node", "n1", "--node", "n9"), "no node is called 'n9'; there are n1"),
        (GOOD, ("--log-format", "xml"), "--log-format is console or json, not 'xml'"),
        (GOOD, ("--log-level", "loud"), "--log-level is one of debug, info, warning, error, not 'loud'"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_started(
    tmp_path: Path, text: str | None, options: tuple[str, ...], told: str
) -> None:
    """The status is that of a refusal, and the one line says what is wrong."""
    file = tmp_path / "cluster.toml"
    if text is not None:
        file.write_text(text)
    status, output = launch(str(file), "--data-dir", str(tmp_path / "data"), *options)
    assert status == EXIT_REFUSED
    assert told in output
    assert output.startswith("actd: ")
    assert not (tmp_path / "data").exists()


def test_optimized_python_is_refused(tmp_path: Path) -> None:
    """`python -O` would take away the assertions that guard the data."""
    (tmp_path / "cluster.toml").write_text(GOOD)
    command = [sys.executable, "-O", "-m", "tools.launch", str(tmp_path / "cluster.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_REFUSED
    assert "will not run under python -O" in done.stderr
