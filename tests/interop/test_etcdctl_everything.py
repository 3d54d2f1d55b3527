"""Every subcommand of etcdctl in every output format says the same of actd as of etcd, but for what is explained."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Cluster, running, wait_until
from ctl_script import AUTH, ELSEWHERE, ETCDCTL, EXPLAINED, FORMATS, PLAIN, SNAPSHOTS, Line, Player
from etcd_server import need_etcd, running_etcd

from gateway.methods import METHODS

pytestmark = [pytest.mark.processes, pytest.mark.slow]
SCRIPTS = {"plain": PLAIN, "snapshots": SNAPSHOTS, "auth": AUTH}
COMPATIBILITY = Path(__file__).parents[2] / "docs" / "compatibility.md"


@pytest.fixture(scope="module")
def players(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Player, Player]]:
    """A fresh etcd, and a fresh node of ours: etcd's first, for the scripts in their order."""
    need_etcd("etcdctl")
    directory = tmp_path_factory.mktemp("etcdctl")
    with running_etcd(directory) as etcd, running(Cluster(directory / "actd", nodes=1)) as cluster:
        cluster.start()
        both = Player(etcd, directory / "theirs"), Player(cluster.client_address("n1"), directory / "ours")
        yield both
        for player in both:
            player.close()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_says_the_same(players: tuple[Player, Player], name: str) -> None:
    """Output, exit status and errors of each line in each format; every difference is one that is explained."""
    theirs, ours = players
    if name == "auth" and b"/etcdserverpb.Auth/AuthEnable" not in METHODS:
        pytest.skip("this node serves no Auth")
    asked = [(line, form) for line in SCRIPTS[name] for form in (FORMATS[:1] if line.once else FORMATS)]
    differing: dict[tuple[str, str], str] = {}
    for line, form in asked:
        expected, said = theirs.say(line, form), ours.say(line, form)
        if said != expected:
            differing[line.words, form] = f"{line.words} ({form})\n  etcd: {expected}\n  actd: {said}"
    unexplained = [text for at, text in differing.items() if at not in EXPLAINED]
    assert not unexplained, "\n".join(unexplained)
    words = {line.words for line in SCRIPTS[name]}
    settled = [at for at in EXPLAINED if at[0] in words and at not in differing]
    assert not settled, f"explained, but they do not differ: {settled}"


def test_every_explanation_is_documented() -> None:
    """Each difference has its row."""
    page = COMPATIBILITY.read_text()
    assert not [row for row in EXPLAINED.values() if f"| {row} |" not in page]


def test_every_subcommand_is_somewhere() -> None:
    """What `etcdctl help` lists is a line of a script, or said to be tested elsewhere."""
    need_etcd("etcdctl")
    assert ETCDCTL is not None
    shown = subprocess.run(
        [ETCDCTL, "help"], capture_output=True, text=True, check=True, env={"ETCDCTL_API": "3"}, timeout=20
    ).stdout
    listed = shown.partition("COMMANDS:")[2].partition("OPTIONS:")[0]
    commands = re.findall(r"^\t([a-z-]+(?: [a-z-]+)?)\t", listed, re.MULTILINE)
    assert len(commands) > 40
    lines: list[Line] = [line for script in SCRIPTS.values() for line in script]
    missing = [
        command
        for command in commands
        if not any(f"{line.words} ".startswith(f"{command} ") for line in lines)
        and not any(f"{command} ".startswith(f"{name} ") for name in ELSEWHERE)
    ]
    assert not missing


def test_make_mirror_works_in_both_directions(players: tuple[Player, Player]) -> None:
    """What etcd has arrives at actd, what actd has arrives at etcd, what is there already and what comes later."""
    for number, (source, target) in enumerate((players, players[::-1])):
        _mirror(source, target, f"mirrored/{number}/")


def _mirror(source: Player, target: Player, prefix: str) -> None:
    assert ETCDCTL is not None
    source.run(f"put {prefix}a before")
    command = ["setpriv", "--pdeathsig=KILL", ETCDCTL, f"--endpoints={source.address}", "make-mirror"]
    command += [f"--prefix={prefix}", target.address]
    with subprocess.Popen(command, env={"ETCDCTL_API": "3"}, stdout=subprocess.DEVNULL) as mirror:
        try:
            wait_until(lambda: _values(target, prefix) == [b"before"], 30, "what was there is mirrored")
            source.run(f"put {prefix}b after")
            source.run(f"del {prefix}a")
            wait_until(lambda: _values(target, prefix) == [b"after"], 30, "what comes is mirrored")
        finally:
            mirror.kill()


def _values(player: Player, prefix: str) -> list[bytes]:
    return player.run(f"get {prefix} --prefix --print-value-only").stdout.split()
