"""A data directory: one node's at a time, one cluster's for ever, with numbers that are never given out twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.node_directory import NodeDirectory
from protocol.config import ClusterConfig
from protocol.errors import StartRefused

INHERITED = """
import os, sys
from pathlib import Path
from actors.node_directory import NodeDirectory
from protocol.config import ClusterConfig

directory = NodeDirectory(Path(sys.argv[1]), ClusterConfig.model_validate_json(sys.argv[2]), "n1")
directory.open()
if os.fork():
    os._exit(0)
print("child runs", flush=True)
sys.stdin.read()
"""
"""A supervisor that is gone, and an actor of it that is not."""


def config(cluster: str = "t") -> ClusterConfig:
    """A cluster of one."""
    node = {"name": "n1", "client": "127.0.0.1:1", "peer": "127.0.0.1:2", "zmq": "127.0.0.1:3"}
    return ClusterConfig.model_validate({"token": cluster, "nodes": [node]})


def directory(path: Path, cluster: str = "t") -> NodeDirectory:
    """The directory as a supervisor of that cluster sees it."""
    return NodeDirectory(path, config(cluster), "n1")


def test_a_new_directory_gets_an_identity_that_stays(tmp_path: Path) -> None:
    """The store id is made once; a wiped directory gets another."""
    first, again, other = directory(tmp_path / "a"), directory(tmp_path / "a"), directory(tmp_path / "b")
    first.open()
    first.close()
    again.open()
    other.open()
    assert first.store == again.store
    assert first.store not in (0, other.store)
    assert 0 < first.store < 1 << 63
    again.close()
    other.close()


def test_incarnations_only_grow_and_are_on_disk_first(tmp_path: Path) -> None:
    """A number given out is on disk, so that no later start can give it out again."""
    given = []
    for _ in range(3):
        one = directory(tmp_path)
        one.open()
        for _ in range(2):
            given.append(one.next_incarnation())
            assert json.loads((tmp_path / "identity.json").read_text())["incarnation"] == given[-1]
        one.close()
    assert given == [1, 2, 3, 4, 5, 6]


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A second node is told whose it is; the first one's sockets stay where they are."""
    running, second = directory(tmp_path), directory(tmp_path)
    running.open()
    (tmp_path / "run" / "raft.1").touch()
    with pytest.raises(StartRefused, match=f"{tmp_path}: in use by another running node"):
        second.open()
    second.close()
    assert (tmp_path / "run" / "raft.1").exists()
    running.close()
    assert not (tmp_path / "run" / "raft.1").exists()
    second.open()
    second.close()


def test_the_lock_is_free_only_when_the_last_actor_is_gone(tmp_path: Path) -> None:
    """An actor that outlives its supervisor keeps the directory locked."""
    arguments = [sys.executable, "-c", INHERITED, str(tmp_path), config().model_dump_json()]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdin is not None
        assert supervisor.stdout.readline() == "child runs\n"
        assert supervisor.wait(10) == 0
        with pytest.raises(StartRefused, match="in use"):
            directory(tmp_path).open()
        supervisor.stdin.close()
        assert supervisor.stdout.read() == "", "the actor ends"
    one = directory(tmp_path)
    one.open()
    one.close()


def test_stale_sockets_of_a_crash_are_cleared(tmp_path: Path) -> None:
    """What a killed node left in run/ is gone after the next start."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wal.3").touch()
    one = directory(tmp_path)
    one.open()
    assert list((tmp_path / "run").iterdir()) == []
    one.close()


def test_data_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """A cluster file with another token makes another member: its node keeps its hands off."""
    mine = directory(tmp_path)
    mine.open()
    mine.close()
    before = (tmp_path / "identity.json").read_text()
    with pytest.raises(StartRefused, match=f"holds the data of member {mine.member:x}.*or another data_dir"):
        directory(tmp_path, "another").open()
    assert (tmp_path / "identity.json").read_text() == before


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cluster": 1}', '{"cluster": "zz", "member": "1"}', "\x00\x01"])
def test_an_unreadable_identity_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """A damaged identity is never replaced by a fresh one, which would vote a second time."""
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(StartRefused, match=r"identity\.json: not readable as an identity"):
        directory(tmp_path).open()
    assert (tmp_path / "identity.json").read_text() == text


def test_what_is_not_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    """A file in the directory's place is named."""
    (tmp_path / "n1").write_text("x")
    with pytest.raises(StartRefused, match=f"{tmp_path / 'n1'}: cannot be used"):
        directory(tmp_path / "n1").open()


def test_a_directory_that_has_begun_keeps_its_founders(tmp_path: Path) -> None:
    """As etcd ignores its initial flags once there is data: other flags at a later start change no id and no member."""
    first, later = config("first").founding(), config("later").founding()
    assert first.cluster != later.cluster
    begun = NodeDirectory(tmp_path, config(), "n1", first)
    begun.open()
    begun.close()
    again = NodeDirectory(tmp_path, config(), "n1", later)
    again.open()
    assert again.founding == first
    assert again.member == first.founders[0].member
    again.close()
