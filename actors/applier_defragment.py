"""The applier's part in Defragment: the engine is rewritten in the background, table by table, while requests go on.

Owns how far that is. Knows no request; who asked is answered by the read queue.
Invariants: one table is rewritten at a time, so that whatever must wait for the background waits for one table only.
"""

from actors.effects import RunInBackground
from protocol.exports import StoreDefragmented
from protocol.message import Message
from storage.engine import Engine
from storage.layout import TABLES


class DefragmentDesk:
    """A defragmentation, while one runs."""

    def __init__(self) -> None:
        self._left: list[tuple[bytes, bytes]] = []

    @property
    def runs(self) -> bool:
        """Whether a table is being rewritten."""
        return bool(self._left)

    def begin(self, engine: Engine) -> RunInBackground:
        """Rewrite the first table."""
        self._left = list(TABLES)
        return self._rewrite(engine)

    def go_on(self, engine: Engine, *, hurry: bool) -> RunInBackground | None:
        """A table is done: rewrite the next, or end; in a `hurry` what is left stays as it is."""
        del self._left[0]
        if hurry:
            self._left.clear()
        return self._rewrite(engine) if self._left else None

    def _rewrite(self, engine: Engine) -> RunInBackground:
        start, end = self._left[0]

        def job() -> Message:
            engine.compact_range(start, end)
            return StoreDefragmented()

        return RunInBackground(job, "defragment")
