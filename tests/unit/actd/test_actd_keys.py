"""CURVE keys of the client library."""

from pathlib import Path

import pytest

from actd import AsyncClient, Client, CurveKeys
from actors.curve import make_keys
from protocol.curve_keys import is_key, key_file_text

DOOR = "tcp://127.0.0.1:1"


@pytest.fixture(name="files")
def key_files(tmp_path: Path) -> Path:
    """A directory with the keys of alice and of a node."""
    for name in ("alice", "n1"):
        keys = make_keys()
        (tmp_path / f"{name}.key_secret").write_bytes(key_file_text(keys, secret=True))
        (tmp_path / f"{name}.key").write_bytes(key_file_text(keys, secret=False))
    return tmp_path


def test_one_key_is_good_for_all_doors(files: Path) -> None:
    """A single server key is used whatever door a client is told of."""
    keys = CurveKeys.load(files / "alice.key_secret", files / "n1.key")
    assert keys.server_key(DOOR) == keys.server_key("tcp://10.0.0.1:2381")
    assert keys.secret.decode() not in repr(keys)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_door_without_a_key_is_refused_at_once(files: Path, client: type[Client] | type[AsyncClient]) -> None:
    """With a key for each door, a client that names another is told before it tries."""
    keys = CurveKeys.load(files / "alice.key_secret", {DOOR: files / "n1.key"})
    with pytest.raises(ValueError, match=r"there is no CURVE key for tcp://127\.0\.0\.1:2"):
        client([DOOR, "tcp://127.0.0.1:2"], curve=keys)


def test_files_without_the_key_are_named(files: Path) -> None:
    """A public file is no client's own, and a file that is not there has a name."""
    with pytest.raises(ValueError, match=r"alice\.key: there is no secret key in it"):
        CurveKeys.load(files / "alice.key", files / "n1.key")
    with pytest.raises(ValueError, match=r"absent\.key: No such file"):
        CurveKeys.load(files / "alice.key_secret", files / "absent.key")
    with pytest.raises(ValueError, match="40 characters"):
        CurveKeys(b"a", b"b", b"c")


@pytest.mark.parametrize("text", [b"", b"a" * 39, b"a" * 41, b'"' * 40, b"#" * 40, "é".encode() * 20])
def test_what_is_not_32_bytes_in_z85_is_no_key(text: bytes) -> None:
    """Length, alphabet and size of each group are checked before libzmq sees a key."""
    assert not is_key(text)
    assert is_key(make_keys().public)
