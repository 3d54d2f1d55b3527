"""Where snapshots live on disk and when a stage is complete.

A snapshot to be sent is `snapshots/<name>`. One being received is `stage/<name>.partial`; once every file is
there, checked and synced, it is renamed to `stage/<name>` and the parent synced: that name is the completeness.
"""

from typing import Final

from protocol.errors import PeerFault

STORE_DIR: Final = "store"
SNAPSHOT_DIR: Final = "snapshots"
STAGE_DIR: Final = "stage"
PARTIAL_SUFFIX: Final = ".partial"
NAME_CHARACTERS_MAX: Final = 200


def safe_name(name: str) -> str:
    """Return `name` if it can only mean an entry of one directory.

    Raises:
        PeerFault: it could lead elsewhere.
    """
    if not name or len(name) > NAME_CHARACTERS_MAX or name.startswith(".") or not name.isascii():
        raise PeerFault(f"unusable file name {name[:NAME_CHARACTERS_MAX]!r}")
    if not name.isprintable() or "/" in name or "\\" in name or name.endswith(PARTIAL_SUFFIX):
        raise PeerFault(f"unusable file name {name!r}")
    return name


def snapshot_path(name: str) -> str:
    """Return the directory of a snapshot that is being sent."""
    return f"{SNAPSHOT_DIR}/{safe_name(name)}"


def export_dir(name: str) -> str:
    """Return the directory of a snapshot made for clients to save: beside the checkpoints, cleared away like them."""
    return f"{snapshot_path(name)}.saved"


def export_path(name: str) -> str:
    """Return the file in it."""
    return f"{export_dir(name)}/snapshot.db"


def stage_path(name: str) -> str:
    """Return the directory of a complete stage."""
    return f"{STAGE_DIR}/{safe_name(name)}"


def partial_path(name: str) -> str:
    """Return the directory of a stage that is not complete yet."""
    return f"{STAGE_DIR}/{safe_name(name)}{PARTIAL_SUFFIX}"
