"""The examples in deploy/ start nodes: every flag and variable in them is understood, and none is without effect."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from daemon_starts import planned, warned

DEPLOY = Path(__file__).parents[3] / "deploy"


def commands(document: Any) -> list[list[str]]:
    """The words of every container in a manifest, with its variables filled in."""
    if isinstance(document, dict):
        if "containers" in document:
            return [
                [word.replace("$(POD_NAME)", "actd-1") for word in container["command"]]
                for container in document["containers"]
            ]
        return [words for value in document.values() for words in commands(value)]
    return []


@pytest.mark.parametrize("file", ["statefulset.yaml", "static-pod.yaml"])
def test_a_manifest_starts_a_node(file: str) -> None:
    """Its words are a plan without warnings, and its probes ask pages that are served there."""
    text = (DEPLOY / file).read_text()
    (words,) = [words for document in yaml.safe_load_all(text) for words in commands(document)]
    assert words[0] == "actd"
    made = planned(*words[1:])
    assert "no effect" not in warned(*words[1:])
    assert all(address.secure for address in made.node.client_listeners)
    assert made.node.name in {founder.name for founder in made.founding.founders}
    assert set(re.findall(r"path: (/\w+z)", text)) == {"/livez", "/readyz"}
    assert made.node.metrics_listeners


def test_the_unit_starts_a_node_by_variables() -> None:
    """As etcd's package does: name and directory from the unit, the rest from a file of variables."""
    unit = (DEPLOY / "actd.service").read_text()
    variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", unit, re.MULTILINE))
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert shlex.split(command)[0].endswith("/bin/actd")
    made = planned(
        *shlex.split(command)[1:], environment={key: value.replace("%H", "h1") for key, value in variables.items()}
    )
    assert (made.node.name, str(made.data_dir)) == ("h1", "/var/lib/actd/default")
    assert "Type=notify" in unit


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """Asked of systemd itself, where it is installed."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "actd.service"
    text = (DEPLOY / "actd.service").read_text()
    unit.write_text(text.replace("/opt/actd/.venv/bin/actd", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "actd.service" not in done.stderr, done.stderr


def test_the_image_starts_actd() -> None:
    """Its entry point is the command, so that flags follow the image's name."""
    text = (DEPLOY / "Containerfile").read_text()
    assert re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE) == ['["actd"]']
