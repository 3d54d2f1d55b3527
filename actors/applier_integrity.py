"""The applier's part in comparing stores: it hashes what an entry asks for, a slice at a time between requests.

Owns the check under way. Knows no rule of who is to blame; that is the housekeeper's of the leader.
Invariants: one check is under way at a time, the newest; no compaction writes while it runs.
"""

from collections.abc import Generator

from actors.effects import Effect, Send
from protocol.exports import HashFound, HashTaken
from storage.integrity import Check, check_slices
from storage.mvcc import MvccStore


class IntegrityDesk:
    """What an applier does for comparisons besides applying."""

    def __init__(self) -> None:
        self._check: Check | None = None
        self._slices: Generator[None, None, int] | None = None

    @property
    def busy(self) -> bool:
        """Whether `advance` has something to do."""
        return self._slices is not None

    def attach(self) -> None:
        """Another store is open: what was asked of the one before is void."""
        if self._slices is not None:
            self._slices.close()
        self._check = self._slices = None

    def on_applied(self, store: MvccStore, *, leads: bool) -> list[Effect]:
        """Entries have said something; begin what they ask for, and tell what others found if this member leads."""
        check, findings = store.take_integrity_news()
        if check is not None:
            self.attach()
            self._check, self._slices = check, check_slices(store.engine, check)
        if not leads:
            return []
        return [Send("gateway", HashFound(number=each.number, member=each.member, crc=each.crc)) for each in findings]

    def advance(self) -> list[Effect]:
        """Hash one more slice."""
        assert self._slices is not None, "nothing is asked for"
        assert self._check is not None, "what runs was asked for"
        try:
            next(self._slices)
        except StopIteration as stop:
            taken = HashTaken(number=self._check.number, crc=stop.value)
            self._slices = None
            return [Send("gateway", taken)]
        return []
