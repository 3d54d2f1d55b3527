"""A node whose directory or disk is bad stops, says which file and why, and harms nobody: the others serve on."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import Cluster, running, wait_until
from mounts import SmallDisk

from actd.errors import ActdError

pytestmark = [pytest.mark.processes, pytest.mark.slow]
MakeCluster = Callable[..., Cluster]
WITHOUT_ROOTS_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")
"""Words before a command of root's that make it obey the modes of files like everybody else."""
KEYS = 120


def segments(node: Path) -> list[Path]:
    """A node's log files, oldest first."""
    return sorted((node / "wal").glob("*.wal"))


def flip_a_logged_byte(node: Path) -> str:
    """Damage in the middle of a full log file: the file and the offset are told."""
    segment = segments(node)[1]
    data = bytearray(segment.read_bytes())
    data[len(bytes(data).rstrip(b"\0")) // 2] ^= 0x5A
    segment.write_bytes(data)
    return rf"wal/{segment.name}: offset \d+"


def remove_a_segment(node: Path) -> str:
    """A hole in the log: the file that is missing is told."""
    segment = segments(node)[1]
    segment.unlink()
    return f"segment {segment.name} is missing"


def remove_the_newest_segment(node: Path) -> str:
    """An end that is cut off is no torn tail."""
    segment = segments(node)[-1]
    segment.unlink()
    return f"{segment.name} is missing"


def remove_the_log(node: Path) -> str:
    """A store without the promises of its log may not vote."""
    shutil.rmtree(node / "wal")
    return "wal/ is missing although store/ is there"


def damage_the_store(node: Path) -> str:
    """A table file full of nothing: RocksDB's own word, with the file."""
    tables = sorted((node / "store").glob("*.sst"))
    for table in tables:
        table.write_bytes(bytes(table.stat().st_size))
    return rf"{node}/store: cannot be opened: Corruption: .*\d+\.sst"


def swap_the_store(node: Path) -> str:
    """A store that is older than the log's mark belongs to another time."""
    shutil.rmtree(node / "store")
    return "store and log do not belong together"


def garble_the_identity(node: Path) -> str:
    """Who the directory belongs to is never guessed."""
    (node / "identity.json").write_text("{}")
    return rf"{node}/identity\.json: not readable as an identity"


def take_another_clusters_data(node: Path) -> str:
    """The data of another cluster is left alone."""
    path = node / "identity.json"
    identity = json.loads(path.read_text())
    path.write_text(json.dumps(identity | {"cluster": "c0ffee"}))
    return rf"{node}: holds the data of member \w+ of cluster c0ffee; .* another data_dir"


def put_a_file_in_its_place(node: Path) -> str:
    """What is no directory is told as such, to root too."""
    shutil.rmtree(node)
    node.write_text("not a directory")
    return f"{node}: cannot be used: "


DAMAGES = (
    flip_a_logged_byte,
    remove_a_segment,
    remove_the_newest_segment,
    remove_the_log,
    damage_the_store,
    swap_the_store,
    garble_the_identity,
    take_another_clusters_data,
    put_a_file_in_its_place,
)


def lock_the_directory(node: Path) -> str:
    """Nothing can be made in it."""
    node.chmod(0o500)
    return f"{node}: cannot be written: Permission denied"


def lock_the_log(node: Path) -> str:
    """The log can be read and not be written."""
    for path in segments(node):
        path.chmod(0o400)
    (node / "wal").chmod(0o500)
    return rf"open {node}/wal/\S+\.wal: Permission denied"


def lock_the_store(node: Path) -> str:
    """The store can be read and not be written."""
    (node / "store").chmod(0o500)
    return f"{node}/store: cannot be opened: .*Permission denied"


def lock_the_parent(node: Path) -> str:
    """A new node cannot make its directory."""
    shutil.rmtree(node)
    node.parent.chmod(0o500)
    return f"{node}: cannot be used: Permission denied"


LOCKS = (lock_the_directory, lock_the_log, lock_the_store, lock_the_parent)


@pytest.fixture(scope="module")
def two_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that serves with n1 and n3 while n2 is stopped; n2's log has a mark and several files."""
    raft = {"snapshot_count": 50, "catchup_entries": 40}
    made = Cluster(tmp_path_factory.mktemp("bad"), raft=raft, storage={"wal_segment_bytes": 4096})
    with running(made):
        made.launch("n2")
        made.start("n1", "n3")
        made.await_serving("n2")
        first = segments(made.data / "n2")[0]
        write(made, KEYS)
        # Without a mark the log alone would do: a node whose store is gone would rightly start.
        wait_until(lambda: not first.exists(), 30, "the log of n2 is cut")
        assert not missing(made, KEYS, "n2")
        launcher = made.launcher_of("n2")
        launcher.terminate()
        assert launcher.wait(30) == 0
        assert len(segments(made.data / "n2")) >= 4
        yield made


def value(number: int) -> str:
    """What a key is given."""
    return f"value {number} ".ljust(300, ".")


def write(cluster: Cluster, count: int, prefix: str = "k", names: tuple[str, ...] = ("n1", "n3")) -> None:
    """Put `count` keys one by one: each is an entry and a frame of its own in the logs."""
    with cluster.client(*names) as client:
        for number in range(count):
            client.put(f"{prefix}/{number:04d}", value(number))


def missing(cluster: Cluster, count: int, node: str, prefix: str = "k") -> list[int]:
    """Which of the keys of `write` a node does not have."""
    with cluster.client(node) as client:
        held = {pair.key.decode(): pair.text for pair in client.get_prefix(f"{prefix}/").pairs}
    return [number for number in range(count) if held.get(f"{prefix}/{number:04d}") != value(number)]


def refused(cluster: Cluster, data: Path, prefix: tuple[str, ...] = ()) -> str:
    """Launch n2 on `data`, which it must refuse while the others serve; return the reason that is told at the end."""
    launcher = cluster.launch("n2", data=data, prefix=prefix)
    assert launcher.wait(30) == 1, cluster.log_of(launcher)
    log = cluster.log_of(launcher)
    [told] = [line for line in log.splitlines() if line.startswith("actd: n2 stopped: ")]
    assert "Traceback" not in log, log
    assert not cluster.survivors_of("n2")
    write(cluster, 1, "meanwhile")
    return told


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_directory_stops_its_node_and_is_named(
    two_of_three: Cluster, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    """The last line tells file and reason, the data is left as it is, and the others serve."""
    shutil.copytree(two_of_three.data / "n2", tmp_path / "n2")
    expected = damage(tmp_path / "n2")
    logs = {path: path.read_bytes() for path in segments(tmp_path / "n2")}
    told = refused(two_of_three, tmp_path)
    assert re.search(expected, told), told
    assert str(tmp_path / "n2") in told, "whoever reads it must know which directory"
    assert {path: path.read_bytes() for path in segments(tmp_path / "n2")} == logs, "damage is kept for those who look"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_read_only_directory_stops_its_node_and_is_named(
    two_of_three: Cluster, tmp_path: Path, lock: Callable[[Path], str]
) -> None:
    """A node that may not write says where; root gives up its right to write anywhere."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        assert shutil.which("setpriv"), "util-linux belongs to every Debian"
        prefix = WITHOUT_ROOTS_RIGHTS
    shutil.copytree(two_of_three.data / "n2", tmp_path / "data" / "n2")
    try:
        expected = lock(tmp_path / "data" / "n2")
        told = refused(two_of_three, tmp_path / "data", prefix)
    finally:
        for path in [tmp_path / "data", *(tmp_path / "data").glob("n2/**/")]:
            path.chmod(0o700)
    assert re.search(expected, told), told


def test_a_read_only_file_system_stops_its_node_and_is_named(two_of_three: Cluster, tmp_path: Path) -> None:
    """A file system that was mounted read-only is called that."""
    disk = SmallDisk(tmp_path / "n2", "64m")
    try:
        source = str(two_of_three.data / "n2")
        subprocess.run([*disk.prefix, "cp", "-a", f"{source}/.", str(tmp_path / "n2")], check=True)
        disk.remount("ro")
        told = refused(two_of_three, tmp_path, tuple(disk.prefix))
    finally:
        disk.close()
    assert f"{tmp_path / 'n2'}: cannot be used: Read-only file system" in told


def test_the_undamaged_node_comes_back(two_of_three: Cluster) -> None:
    """With its own directory n2 has everything again, also what was written while it was away."""
    write(two_of_three, 20, "away")
    launcher = two_of_three.launch("n2")
    two_of_three.await_serving("n2")
    assert not missing(two_of_three, KEYS, "n2")
    assert not missing(two_of_three, 20, "n2", "away")
    launcher.terminate()
    assert launcher.wait(30) == 0


@pytest.mark.parametrize(
    ("memtable_bytes", "names"),
    [(1 << 20, r"/n2/store/\d+\.sst"), (64 << 20, r"/n2/wal/\S+\.wal")],
    ids=["store", "log"],
)
def test_a_full_disk_stops_its_node_until_there_is_room(
    make_cluster: MakeCluster, tmp_path: Path, memtable_bytes: int, names: str
) -> None:
    """A node whose disk is full stops and names the path; the others serve; with room it has everything again."""
    storage = {"wal_segment_bytes": 1 << 20, "memtable_bytes": memtable_bytes}
    cluster = make_cluster(storage=storage)
    disk = SmallDisk(tmp_path / "small" / "n2", "14m")
    try:
        launcher = cluster.launch("n2", data=tmp_path / "small", prefix=disk.prefix)
        cluster.start("n1", "n3")
        cluster.await_serving("n2")
        filled = fill_until(cluster, lambda: launcher.poll() is not None)
        assert launcher.returncode == 1
        [told] = [line for line in cluster.log_of(launcher).splitlines() if line.startswith("actd: n2 stopped: ")]
        assert re.search(f"{names}: No space left on device.*the disk is full: make room, then start this node", told)
        again = cluster.launch("n2", data=tmp_path / "small", prefix=disk.prefix)
        assert again.wait(30) == 1, "still full"
        assert re.search(f"{tmp_path}/small/n2/.*No space left on device", cluster.log_of(again))
        write(cluster, 20)
        disk.remount("size=400m")
        cluster.launch("n2", data=tmp_path / "small", prefix=disk.prefix)
        cluster.await_serving("n2")
        assert not missing(cluster, 20, "n2")
        with cluster.client("n2") as client:
            assert client.get_prefix("fill/", count_only=True).count >= filled
        with cluster.client() as client:
            revision = client.put("last", "word").revision
        assert len(set(cluster.hashes(revision).values())) == 1
    finally:
        cluster.close()
        disk.close()


def fill_until(cluster: Cluster, full: Callable[[], bool]) -> int:
    """Put large values until something is full; return how many were acknowledged."""
    acknowledged = 0

    def put_one() -> bool:
        nonlocal acknowledged
        try:
            client.put(f"fill/{acknowledged:05d}", os.urandom(100_000))
        except ActdError:
            return full()  # the full node may have led
        acknowledged += 1
        return full()

    with cluster.client("n1", "n3") as client:
        wait_until(put_one, 60, "the disk fills up")
    return acknowledged
