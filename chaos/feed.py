"""The feed of a run: a watcher of all keys that hears every revision, whatever becomes of the node it listens to.

Owns the log of what was told, and the thread that listens, resumes by revision and changes nodes. Knows no workload.
Invariant: a log that is not broken holds every revision from the first to the newest it was told of. A store that
leaves one out, or tells one twice, has broken a promise; a compaction that overtook the watcher only makes it useless.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from chaos.watching import GrpcWatch, WatchStream
from checker.feed import Feed
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

EMPTY_REVISION: Final = 1
"""Where a store begins: nothing has been written yet."""
TAKE_S: Final = 0.1
SILENCE_S: Final = 1.0
"""A node that tells nothing for so long, although somebody was answered at a newer revision, is left for the next."""
PAUSE_S: Final = 0.1
"""Between two streams: a node that is down refuses at once."""
ALL_KEYS: Final = b"\0"


class FeedLog:
    """What every revision changed, as whole responses of one watcher after the other told it."""

    def __init__(self) -> None:
        self.changes: dict[int, dict[str, str | None]] = {}
        self.through = EMPTY_REVISION
        """Every revision up to this one is in the log."""
        self.broken = ""
        """Why the log settles nothing; "" while it may."""
        self.faults: list[str] = []
        """Promises of the store that what was told has broken."""

    def take(self, response: rpc.WatchResponse) -> None:
        """Take a response in; once the log is broken, nothing is."""
        if response.compact_revision and not self.broken:
            self.broken = f"a compaction to {response.compact_revision} overtook the watcher at {self.through}"
        before = self.through
        for event in response.events:
            if self.broken:
                return
            self._take_event(event, before)

    def _take_event(self, event: mvcc.Event, before: int) -> None:
        """Take one event of a response; `before` is the newest revision of the responses before it."""
        revision, key = int(event.kv.mod_revision), event.kv.key.decode("latin-1")
        if revision <= before or revision < self.through:
            self._break(f"was told of revision {revision} after {self.through}")
        elif revision > self.through + 1:
            self._break(f"was told of revision {revision} next after {self.through}")
        elif key in self.changes.get(revision, ()):
            self._break(f"was told twice of {key!r} at revision {revision}")
        else:
            self.through = revision
            value = None if event.type == mvcc.Event.DELETE else event.kv.value.decode("latin-1")
            self.changes.setdefault(revision, {})[key] = value

    def _break(self, what: str) -> None:
        self.broken = f"a watcher of all keys {what}"
        self.faults.append(f"watch: {self.broken}")


class FeedWatcher:
    """Listens to one node after the other, from the revision on that it has not heard of yet.

    Args:
        endpoints: of the nodes.
        newest: returns the newest revision that anybody was answered at.
        open_stream: begins to watch at an endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        newest: Callable[[], int],
        open_stream: Callable[[str, rpc.WatchCreateRequest], WatchStream] = GrpcWatch,
    ) -> None:
        self.log = FeedLog()
        self.streams = 0
        self._endpoints = itertools.cycle(endpoints)
        self._newest = newest
        self._open = open_stream
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-feed", daemon=True)

    def start(self) -> None:
        """Begin to listen on a thread of its own."""
        self._thread.start()

    def caught_up(self) -> bool:
        """Whether there is nothing to wait for: all was heard that anybody was answered, or the log is broken."""
        return bool(self.log.broken) or self.log.through >= self._newest()

    def stop(self) -> Feed | None:
        """Listen no more and return the log; None if it is broken or ends before what anybody was answered."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if not self.caught_up():
            self.log.broken = f"heard nothing between revision {self.log.through} and {self._newest()}"
        return None if self.log.broken else self.log.changes

    def compactable(self, revision: int) -> int:
        """Return up to where may be compacted at most: what was not heard yet stays, while the log can be whole."""
        return revision if self.log.broken else min(revision, self.log.through)

    def text(self) -> str:
        """What came of it, for people."""
        count = len(self.log.changes)
        if self.log.broken:
            return f"settles nothing: {self.log.broken}; judged without it"
        return f"{count:,} revisions, all there, heard on {self.streams} streams"

    def _run(self) -> None:
        try:
            while not self._done():
                self._listen(next(self._endpoints))
                self._stopping.wait(PAUSE_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, the log is not whole and the run must say so
            self.log.broken = f"the watcher crashed: {type(error).__name__}: {error}"
            self.log.faults.append(f"feed: {self.log.broken}")

    def _done(self) -> bool:
        return self._stopping.is_set() or bool(self.log.broken)

    def _listen(self, endpoint: str) -> None:
        """Take what one stream tells, until it ends or falls silent."""
        request = rpc.WatchCreateRequest(key=ALL_KEYS, range_end=ALL_KEYS, start_revision=self.log.through + 1)
        stream = self._open(endpoint, request)
        self.streams += 1
        heard_at = time.monotonic()
        try:
            while not stream.ended and not self._done():
                before = self.log.through
                responses = stream.take(TAKE_S)
                for response in responses:
                    self.log.take(response)
                now = time.monotonic()
                if self.log.through > before or self.log.through >= self._newest():
                    heard_at = now
                elif now - heard_at > SILENCE_S or any(response.canceled for response in responses):
                    return
        finally:
            stream.close()
