"""Who is to blame when members do not find the same in their stores.

Owns the findings of one check. Knows no store. etcd's rule 54: a minority that differs is to blame; where no majority
agrees nobody knows who is. A member whose own tables contradict each other is to blame always.
"""

from collections import Counter
from collections.abc import Sequence

from protocol.integrity import UNSOUND
from protocol.types import NOBODY, Index, MemberId


class Comparison:
    """The findings of the newest check."""

    def __init__(self) -> None:
        self._number = Index(0)
        self._found: dict[MemberId, int] = {}
        self._blamed: dict[MemberId, None] = {}

    def add(self, number: Index, member: MemberId, crc: int, voters: Sequence[MemberId]) -> list[MemberId]:
        """Note a finding; return who is to blame by now and was not before (NOBODY: nobody knows who)."""
        if number < self._number:
            return []
        if number > self._number:
            self._number = number
            self._found, self._blamed = {}, {}
        self._found[member] = crc
        guilty = [each for each in self._guilty(voters) if each not in self._blamed]
        self._blamed.update(dict.fromkeys(guilty))
        return guilty

    def _guilty(self, voters: Sequence[MemberId]) -> list[MemberId]:
        found = self._found
        unsound = [member for member in sorted(found) if found[member] == UNSOUND]
        sound = Counter(found[member] for member in voters if member in found and found[member] != UNSOUND)
        agreed, supporters = sound.most_common(1)[0] if sound else (0, 0)
        if supporters > len(voters) // 2:
            return [member for member in sorted(found) if found[member] != agreed]
        if len(sound) > 1 and sum(sound.values()) + sum(member in unsound for member in voters) == len(voters):
            return [*unsound, NOBODY]
        return unsound
