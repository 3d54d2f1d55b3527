"""Transcripts of several nodes: commands and everything they cause, read as text.

A line that begins with `> ` is a command (the verbs are in `verbs_*.py`); the lines under it are what it caused;
`#` begins a comment. To write what really happens into the files, and then read the diff:

    ACTD_REWRITE=1 pytest tests/scenarios
"""

import os
from pathlib import Path

import pytest
import verbs
import verbs_clients
import verbs_cluster
import verbs_network
import verbs_show
import verbs_time
from scenario_world import World

HERE = Path(__file__).parent
MODULES = (verbs_clients, verbs_cluster, verbs_network, verbs_show, verbs_time)
"""Imported for the verbs they register."""


def play(text: str) -> str:
    """Run the commands of a transcript; return it with what they really caused."""
    world = World()
    output: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            output.append(line)
            world.lines = []
            verbs.run(world, line.removeprefix("> "))
            output.extend(f"  {said}" for said in world.lines)
        elif line.startswith("#") or not line.strip():
            output.append(line.rstrip())
    return "\n".join(output) + "\n"


@pytest.mark.parametrize("path", sorted(HERE.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    """What the commands cause is what the transcript says."""
    written = path.read_text()
    played = play(written)
    if os.environ.get("ACTD_REWRITE"):
        path.write_text(played)
    else:
        assert played == written, f"{path.name} tells another story; ACTD_REWRITE=1 writes this one down"


def test_transcripts_notice_a_difference() -> None:
    """A transcript in which another line is expected does not play as written."""
    written = (HERE / "first_election.txt").read_text()
    assert "leader_elected" in written
    assert play(written.replace("leader_elected", "leader_elect")) != written.replace("leader_elected", "leader_elect")


def test_every_verb_is_used() -> None:
    """No verb is there for nothing."""
    commands = [
        line.removeprefix("> ").removeprefix("quietly ").split()[0]
        for path in HERE.glob("*.txt")
        for line in path.read_text().splitlines()
        if line.startswith("> ")
    ]
    assert MODULES
    assert set(verbs.VERBS) == set(commands)
