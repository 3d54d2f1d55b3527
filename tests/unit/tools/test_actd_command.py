"""The command actd: what it prints of itself, and what it refuses before anything is started."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.plan import LogPlan
from protocol.errors import ConfigError
from tools.actd import EXIT_BAD_LINE, EXIT_REFUSED, main, open_outputs, resolve


def test_version_is_etcds_with_our_name_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads etcd's finds the API's version where it looks."""
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "etcd Version: 3.7.1"
    assert [line.partition(":")[0] for line in lines] == [
        "etcd Version", "Git SHA", "Go Version", "Go OS/Arch", "actd Version",
    ]  # fmt: skip


def test_help_explains_precedence_and_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    """And every flag below its heading."""
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--config-file FILE", "A flag wins over its variable", "Exit status: 0", "Member:", "--data-dir"):
        assert word in text


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--colour"], EXIT_BAD_LINE, "actd: flag provided but not defined: -colour. See 'actd --help'."),
        (["serve"], EXIT_BAD_LINE, 'actd: "serve" is not a valid flag'),
        (["gateway", "start"], EXIT_REFUSED, "actd: gateway is refused: actd has no proxy"),
        (["--unsafe-no-fsync"], EXIT_REFUSED, "actd: --unsafe-no-fsync=true is refused: an acknowledged write is on"),
        (["--listen-peer-urls=http://10.0.0.1:1"], EXIT_REFUSED, "is not a loopback address"),
        (["--log-outputs=/no/such/directory/log"], EXIT_REFUSED, "cannot be written: No such file or directory"),
        (["--curve-secret-key-file=/no/such/key"], EXIT_REFUSED, "/no/such/key"),
        (["--cert-file=/no/such", "--key-file=/no/such"], EXIT_REFUSED, "/no/such"),
        (["--config-file=/no/such/file"], EXIT_REFUSED, "actd: /no/such/file: cannot be read"),
    ],
)
def test_a_refusal_is_one_line_with_its_reason(
    words: list[str], status: int, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """2 for a bad command line, 1 for everything else, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tools.actd.check_ports", lambda _nodes: None)
    assert main(words) == status
    text = capsys.readouterr().err
    assert told in text
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With flag-like words, after the moment that a dying predecessor may need."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        words = [f"--data-dir={tmp_path}/data", f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
        assert main(words) == EXIT_REFUSED
        assert (
            f"default: client address {url.removeprefix('http://')}: Address already in use" in capsys.readouterr().err
        )


def test_a_directory_of_etcds_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Its data is not ours to read, and not ours to write beside."""
    (tmp_path / "member" / "wal").mkdir(parents=True)
    assert main([f"--data-dir={tmp_path}"]) == EXIT_REFUSED
    assert "holds etcd's own data, which actd does not read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["member"]


def test_optimized_python_is_refused() -> None:
    """`python -O` would take away the assertions that guard the data."""
    done = subprocess.run([sys.executable, "-O", "-m", "tools.actd"], capture_output=True, text=True, check=False)
    assert done.returncode == EXIT_BAD_LINE
    assert "will not run under python -O" in done.stderr


def test_names_are_resolved_and_unknown_ones_have_no_address() -> None:
    """To what the machine's resolver says."""
    assert "127.0.0.1" in resolve("127.0.0.1")
    assert resolve("no-such-name.invalid") == frozenset()


def test_a_log_file_is_appended_to(tmp_path: Path) -> None:
    """What stood there stays; a directory that is not there is told."""
    file = tmp_path / "log"
    file.write_text("before\n")
    for output in open_outputs(LogPlan("zap", "info", (str(file),))):
        output.write("after\n")
        output.close()
    assert file.read_text() == "before\nafter\n"
    with pytest.raises(ConfigError, match="cannot be written"):
        open_outputs(LogPlan("zap", "info", (str(tmp_path / "none" / "log"),)))
