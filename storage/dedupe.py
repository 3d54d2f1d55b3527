"""Which batches were applied already, per member that proposed them: a bounded, replicated window.

Owns the windows' bytes; knows no engine. A proposal may be forwarded, retried by the network or applied twice by a
replay after a crash; its (member, incarnation, sequence) makes every repeat a no-op.
Invariants: a window only moves forward; what lies below it counts as a repeat, because it might be one.
"""

from struct import Struct
from typing import Final

from protocol.command import Origin
from protocol.errors import Corruption
from protocol.types import MemberId
from storage.layout import WINDOW_PREFIX

WINDOW_BITS: Final = 1024
"""How far behind the highest sequence of an incarnation a batch may arrive and still be told from a repeat."""

_HEADER: Final = Struct(">QQ")
_BITMAP_BYTES: Final = WINDOW_BITS // 8
_MASK: Final = (1 << WINDOW_BITS) - 1


class Window:
    """What one member's gateway has had applied. Bit n of `bitmap` is sequence `highest - n`."""

    __slots__ = ("bitmap", "highest", "incarnation")

    def __init__(self, incarnation: int = 0, highest: int = 0, bitmap: int = 0) -> None:
        self.incarnation = incarnation
        self.highest = highest
        self.bitmap = bitmap

    def admit(self, incarnation: int, sequence: int) -> bool:
        """Note the batch and return True, or return False if it is a repeat, too old, or of a past incarnation."""
        if incarnation < self.incarnation:
            return False
        if incarnation > self.incarnation:
            self.incarnation = incarnation
            self.highest = sequence
            self.bitmap = 1
            return True
        ahead = sequence - self.highest
        if ahead > 0:
            self.bitmap = (self.bitmap << ahead | 1) & _MASK if ahead < WINDOW_BITS else 1
            self.highest = sequence
            return True
        bit = 1 << -ahead
        if -ahead >= WINDOW_BITS or self.bitmap & bit:
            return False
        self.bitmap |= bit
        return True

    def pack(self) -> bytes:
        """Return the stored form; leading zero bytes of the bitmap are left out."""
        return _HEADER.pack(self.incarnation, self.highest) + self.bitmap.to_bytes(
            (self.bitmap.bit_length() + 7) // 8, "big"
        )

    @classmethod
    def unpack(cls, data: bytes) -> "Window":
        """Return the window stored as `data`."""
        if not _HEADER.size <= len(data) <= _HEADER.size + _BITMAP_BYTES:
            raise Corruption(f"dedupe window of {len(data)} bytes")
        incarnation, highest = _HEADER.unpack_from(data)
        return cls(incarnation, highest, int.from_bytes(data[_HEADER.size :], "big"))


class Windows:
    """All members' windows."""

    def __init__(self) -> None:
        self._windows: dict[MemberId, Window] = {}

    def load(self, key: bytes, data: bytes) -> None:
        """Take over one stored window."""
        self._windows[MemberId(int.from_bytes(key[len(WINDOW_PREFIX) :], "big"))] = Window.unpack(data)

    def admit(self, origin: Origin, changes: dict[bytes, bytes | None]) -> bool:
        """Note the batch among `changes` and return True, or return False if it must not be applied (again)."""
        window = self._windows.get(origin.member)
        if window is None:
            window = self._windows[origin.member] = Window()
        if not window.admit(origin.incarnation, origin.sequence):
            return False
        changes[window_key(origin.member)] = window.pack()
        return True


def window_key(member: MemberId) -> bytes:
    """Return the key under which a member's window is stored."""
    return WINDOW_PREFIX + member.to_bytes(8, "big")
