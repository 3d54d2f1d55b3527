"""Snapshots that both clients save: through a real door, over a door that dies, and from one that lies."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import wait_until
from zmq_node import TIMEOUT_S, SoloNode

from actd import ActdError, AsyncClient, CallTimedOut, Client, SavedSnapshot, Unavailable, wire
from actd.snapshots import BEGINNINGS_MAX, DIGEST_BYTES, SnapshotFeed, SnapshotFile
from gateway.snapshots import PIECE_BYTES

STORE = b"".join(number.to_bytes(8, "big") for number in range(400_000))
"""More than a stream may have under way."""
DIGEST = hashlib.sha256(STORE).digest()


@pytest.fixture
def node() -> Iterator[SoloNode]:
    """A node whose store is `STORE`."""
    made = SoloNode().start()
    made.core.snapshot = STORE
    yield made
    made.close()


@pytest.fixture
def client(node: SoloNode) -> Iterator[Client]:
    """A client of the node."""
    with Client(node.endpoint, timeout_s=TIMEOUT_S) as made:
        yield made


def save(node: SoloNode, path: Path, *, aio: bool) -> SavedSnapshot:
    """Have one of the clients save."""

    async def saved() -> SavedSnapshot:
        async with AsyncClient(node.endpoint, timeout_s=TIMEOUT_S) as client:
            return await client.snapshot(path, timeout_s=TIMEOUT_S)

    if aio:
        return asyncio.run(saved())
    with Client(node.endpoint, timeout_s=TIMEOUT_S) as client:
        return client.snapshot(path, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("aio", [False, True])
def test_store_is_saved_with_its_digest(node: SoloNode, tmp_path: Path, aio: bool) -> None:
    """The file is the store and its SHA-256, for its owner's eyes only; an older one is replaced, nothing is left."""
    path = tmp_path / "backup.db"
    path.write_text("of yesterday")

    saved = save(node, path, aio=aio)

    assert path.read_bytes() == STORE + DIGEST
    assert saved == SavedSnapshot(
        path=path, size_bytes=len(STORE) + DIGEST_BYTES, sha256=DIGEST, storage_version="3.7.0"
    )
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("aio", [False, True])
def test_door_that_fails_to_write_is_asked_a_few_times(node: SoloNode, tmp_path: Path, aio: bool) -> None:
    """Nothing had come, so it begins again; but not for ever, since each attempt costs the member a file."""
    node.core.snapshot = b""

    with pytest.raises(Unavailable, match="broke off after 0 bytes"):
        save(node, tmp_path / "backup.db", aio=aio)

    assert node.core.exports == BEGINNINGS_MAX
    assert list(tmp_path.iterdir()) == []


def test_door_that_dies_half_way_leaves_no_file(node: SoloNode, client: Client, tmp_path: Path) -> None:
    """Its next life, or another member, has another file: what has come is worth nothing, and the caller is told."""
    path = tmp_path / "backup.db"
    path.write_text("of yesterday")
    saving = []
    write = SnapshotFile.write

    def write_and_die(file: SnapshotFile, blobs: list[bytes]) -> None:
        write(file, blobs)
        if not saving:
            saving.append(len(list(tmp_path.iterdir())))
            node.kill()
            node.start().core.snapshot = STORE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SnapshotFile, "write", write_and_die)
        with pytest.raises(Unavailable, match=r"broke off after \d+ bytes: the door was lost") as told:
            client.snapshot(path, timeout_s=TIMEOUT_S)

    assert told.value.retryable
    assert saving == [2], "it was written beside the old one"
    assert [each.read_text() for each in tmp_path.iterdir()] == ["of yesterday"]
    wait_until(lambda: node.core.exports == 0, TIMEOUT_S, "nobody asks again")
    assert client.snapshot(path, timeout_s=TIMEOUT_S).sha256 == DIGEST


def test_silent_door_is_not_waited_for_longer_than_said(node: SoloNode, client: Client, tmp_path: Path) -> None:
    """A member that never finishes its file costs the caller `timeout_s`."""
    node.core.snapshot = STORE[:PIECE_BYTES]
    client.status()

    def never(*_anything: object) -> None:
        """Make no file."""

    node.on_loop(lambda: setattr(node.core, "_export", never))
    with pytest.raises(CallTimedOut, match="no more of the snapshot"):
        client.snapshot(tmp_path / "backup.db", timeout_s=0.1)
    assert list(tmp_path.iterdir()) == []


def test_nobody_waits_minutes_for_a_cluster_that_is_away(node: SoloNode, tmp_path: Path) -> None:
    """The client's own time-out holds until a door has answered, whatever a file may take."""
    node.kill()
    with Client(node.endpoint, timeout_s=0.2) as client, pytest.raises(CallTimedOut):
        client.snapshot(tmp_path / "backup.db")


@pytest.mark.parametrize("data", [b"", DIGEST, STORE[:1000], STORE + DIGEST[:-1] + b"x", STORE + DIGEST + b"\0"])
@pytest.mark.parametrize("step", [7, 100_000])
def test_bytes_that_do_not_fit_their_digest_are_no_snapshot(tmp_path: Path, data: bytes, step: int) -> None:
    """Too short, cut, changed or longer: the file is not put in its place."""
    data = data[-50_000:]
    with SnapshotFile(tmp_path / "backup.db") as file:
        for at in range(0, len(data), step):
            file.write([data[at : at + step]])
        with pytest.raises(ActdError, match="not what its digest says"):
            file.finish("3.7.0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [1, 31, 32, 33, 512])
def test_digest_is_found_however_the_bytes_are_cut(tmp_path: Path, step: int) -> None:
    """The digest may come in any number of pieces, or with what stands before it."""
    whole = STORE[:777] + hashlib.sha256(STORE[:777]).digest()
    with SnapshotFile(tmp_path / "backup.db") as file:
        for at in range(0, len(whole), step):
            file.write([whole[at : at + step], b""])
        assert file.finish("3.7.0").size_bytes == len(whole)
    assert (tmp_path / "backup.db").read_bytes() == whole


def test_unreadable_messages_end_a_snapshot() -> None:
    """What is no protobuf is told; it does not go on."""
    feed = SnapshotFeed()
    feed.opening()
    feed.on_messages([wire.blob(3, b"some"), b"\xff", wire.blob(3, b"more")])

    assert feed.size_bytes == 4
    assert str(feed.error) == "unreadable message on stream 160: unfinished or overlong varint"
    assert not feed.on_end(Unavailable("gone", retryable=True))
