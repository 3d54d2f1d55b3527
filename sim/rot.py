"""Bits that rot on a disk that nobody reads just then, where the formats promise that a reader notices.

Owns the choice of the bit; knows the WAL's format and where the simulated engine keeps its image. What is promised:
a damaged frame with another one behind it is told from a torn tail, and a store's image has a checksum. The last frame
is left alone: nothing can tell its rot from a write that the power cut tore.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sim.disk import SimDisk
from sim.engine import IMAGE
from storage.staging import STORE_DIR
from storage.wal_format import FRAME_HEAD_BYTES, frame_head
from storage.wal_recovery import WAL_DIR, scan_segment

TAIL_FRAMES: Final = 1


@dataclass(frozen=True)
class Rot:
    """One flipped bit: which actor reads it first, where it is, and how it is flipped back."""

    actor: str
    where: str
    undo: Callable[[], None]


def rot_log(disk: SimDisk, rng: random.Random) -> Rot | None:
    """Flip a bit in some frame of the log that has another one behind it; None if there is no such frame."""
    places: list[tuple[str, int, int]] = []
    for name in disk.list(WAL_DIR) if disk.exists(WAL_DIR) else []:
        path = f"{WAL_DIR}/{name}"
        file = disk.open(path)
        data = file.read_at(0, file.size())
        scan = scan_segment(name, data)
        for offset, _ in scan.frames[:-TAIL_FRAMES]:
            head = frame_head(data, offset, scan.head_crc)
            assert head is not None, f"{path}: a frame was read at {offset}"
            places.append((path, offset, FRAME_HEAD_BYTES + head[0]))
    return _flip(disk, rng, "wal", places)


def rot_store(disk: SimDisk, rng: random.Random) -> Rot | None:
    """Flip a bit in the store's image; None if there is none yet."""
    path = f"{STORE_DIR}/{IMAGE}"
    places = [(path, 0, disk.open(path).size())] if disk.exists(path) else []
    return _flip(disk, rng, "applier", places)


def _flip(disk: SimDisk, rng: random.Random, actor: str, places: list[tuple[str, int, int]]) -> Rot | None:
    if not places:
        return None
    path, start, size = rng.choice(places)
    offset = start + rng.randrange(size)
    return Rot(actor, f"{path}:{offset}", disk.rot(path, offset, 1 << rng.randrange(8)))
