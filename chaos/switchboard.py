"""Switches that reach into the processes of one node: a small file that the conductor writes and the actors map.

Owns the file's layout. Reading a switch is a memory access, so that a wrapped call costs next to nothing. Only
`chaos.roles` maps it: an actor started by `tools.launch` has none, and no configuration can give it one.
"""

import mmap
import struct
from pathlib import Path
from typing import Final

FIELDS: Final = ("fsync_delay_ms", "fsync_fails", "disk_full", "clock_ahead_ms")
"""Every switch, in the order of the file; 0 is off."""
_SIZE: Final = 8 * len(FIELDS)


class Switchboard:
    """The switches of one node.

    Args:
        path: the file; made, with all switches off, if it is not there.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def set(self, name: str, value: int) -> None:
        """Set a switch; every process of the node sees it at once."""
        struct.pack_into("q", self._map, 8 * FIELDS.index(name), value)

    def get(self, name: str) -> int:
        """Return a switch."""
        value: int = struct.unpack_from("q", self._map, 8 * FIELDS.index(name))[0]
        return value

    def clear(self) -> None:
        """Switch everything off but the clock, which would have to run backwards for it."""
        for name in FIELDS:
            if name != "clock_ahead_ms":
                self.set(name, 0)

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
