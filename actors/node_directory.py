"""A node's data directory: the lock that makes it one node's, and the identity that makes it one store.

Invariants: two supervisors never hold one directory; the lock is free only when the last actor that inherited it
is gone; an incarnation, once given out, is on disk.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from actors.joining import Joined
from actors.links import RUN_DIR
from protocol.config import ClusterConfig
from protocol.errors import StartRefused
from protocol.identity import Founding, FoundingMember
from protocol.types import NOBODY, ClusterId, Incarnation, MemberId, StoreId

IDENTITY_FILE = "identity.json"
LOCK_FILE = "lock"


class NodeDirectory:
    """An open and locked data directory."""

    def __init__(
        self,
        path: Path,
        config: ClusterConfig,
        name: str,
        founding: Founding | None = None,
        join: Callable[[], Joined] | None = None,
    ) -> None:
        """With `founding`, that is what a new directory begins with, and one that has begun keeps its own (as etcd's
        initial flags); without, the cluster file must go on saying what it said at first. With `join` a new directory
        begins with what that tells, and one that has begun keeps its own.
        """
        self.path = path
        self.founding = founding or config.founding()
        """Of the cluster whose data this is, once open."""
        self._keeps = founding is not None or join is not None
        self._join = join
        self._name = name
        self.member: MemberId = NOBODY if join is not None else self.founding.member_id(name)
        self.store = StoreId(0)
        self._incarnation = 0
        self._lock: int | None = None

    def open(self) -> None:
        """Lock the directory and read who it belongs to; make both if it is new.

        Raises:
            StartRefused: it cannot be used; the text says why and what to do.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._unlock()
            raise StartRefused(
                f"{self.path}: in use by another running node; stop that one first, or give this one its own data_dir"
            ) from None
        except OSError as error:
            raise StartRefused(f"{self.path}: cannot be used: {error.strerror}") from error
        identity = self.path / IDENTITY_FILE
        if identity.exists():
            self._read(identity)
        else:
            if self._join is not None:
                joined = self._join()
                self.founding, self.member = joined.founding, joined.member
            self.store = StoreId(secrets.randbits(62) | 1)
            self._write()
        self._clear_sockets()

    def _read(self, identity: Path) -> None:
        try:
            known = json.loads(identity.read_text())
            cluster, member = ClusterId(int(known["cluster"], 16)), MemberId(int(known["member"], 16))
            founders = tuple(_founder(entry) for entry in known.get("founders", ()))
            self.store = StoreId(int(known["store"], 16))
            self._incarnation = int(known["incarnation"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise StartRefused(f"{identity}: not readable as an identity: {error}; restore it from a backup") from error
        if self._keeps and founders:
            self.founding, self.member = Founding(cluster, founders), member
        elif cluster != self.founding.cluster or member != self.member:
            raise StartRefused(
                f"{self.path}: holds the data of member {member:x} of cluster {cluster:x}; the cluster file says "
                f"{self._name} is member {self.member:x} of cluster {self.founding.cluster:x}. Use the file this "
                "directory was made with, or another data_dir"
            )

    def next_incarnation(self) -> Incarnation:
        """Return a number no process of this store had before; it is on disk when this returns."""
        self._incarnation += 1
        self._write()
        return Incarnation(self._incarnation)

    def _write(self) -> None:
        text = json.dumps(
            {
                "cluster": f"{self.founding.cluster:x}",
                "member": f"{self.member:x}",
                "name": self._name,
                "store": f"{self.store:x}",
                "incarnation": self._incarnation,
                "founders": [
                    {
                        "member": f"{founder.member:x}",
                        "name": founder.name,
                        "peer_urls": founder.peer_urls,
                        "client_urls": founder.client_urls,
                        "is_learner": founder.is_learner,
                        "promised": founder.promised,
                    }
                    for founder in self.founding.founders
                ],
            },
            indent=2,
        )
        fresh = self.path / f"{IDENTITY_FILE}.new"
        try:
            with fresh.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self.path / IDENTITY_FILE)
            directory = os.open(self.path, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
        except OSError as error:
            raise StartRefused(f"{self.path}: cannot be written: {error.strerror}") from error

    def clear_socket(self, actor: str, incarnation: Incarnation) -> None:
        """Remove the socket of an actor that died without doing so."""
        (self.path / RUN_DIR / f"{actor}.{incarnation}").unlink(missing_ok=True)

    def _clear_sockets(self) -> None:
        run = self.path / RUN_DIR
        run.mkdir(exist_ok=True, mode=0o700)
        for stale in run.iterdir():
            stale.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what only a running node needs; the lock goes with the last process.

        Touches nothing of a directory that is locked by somebody else.
        """
        if self._lock is None:
            return
        run = self.path / RUN_DIR
        if run.exists():
            for stale in run.iterdir():
                stale.unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _founder(entry: dict[str, Any]) -> FoundingMember:
    """Return a founder as the identity file tells of it."""
    return FoundingMember(
        MemberId(int(entry["member"], 16)),
        entry["name"],
        tuple(entry["peer_urls"]),
        tuple(entry["client_urls"]),
        is_learner=bool(entry.get("is_learner", False)),
        promised=bool(entry.get("promised", False)),
    )
