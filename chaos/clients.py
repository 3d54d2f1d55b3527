"""One client of a workload: calls through its door, recorded before and after.

Owns pacing and the pause after a failure. Knows no workload.
Invariant: no call leaves without a record, and a record's outcome is written once.
"""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message

from chaos.doors import CALL_TIMEOUT_S, CallFailed, Door
from chaos.history import History, Record
from chaos.watching import WatchStream
from protocol.wire import rpc_pb2 as rpc

PAUSE_AFTER_FAILURE_S: Final = 0.2
"""Without it a partition would fill the history with calls that say nothing."""
M = TypeVar("M", bound=Message)


class ChaosClient:
    """A door, a generator of its own, and the history.

    Args:
        index: number of the client in the run; the generator's seed together with `seed`.
        stopping: set when the run is over; pauses end early then.
    """

    def __init__(
        self, index: int, seed: int, door: Door, history: History, stopping: threading.Event, pause_s: float = 0.0
    ) -> None:
        self.index = index
        self.name = f"c{index}"
        self.rng = random.Random(f"{seed} client {index}")
        self._door = door
        self._history = history
        self._stopping = stopping
        self._pause_s = pause_s
        self._made = 0

    def unique(self) -> str:
        """Return a short text that no other call of any client of this run is given."""
        self._made += 1
        return f"{self.name}.{self._made}"

    def record(self, workload: str, request: Message, timeout_s: float = CALL_TIMEOUT_S, **note: object) -> Record:
        """Make a call and return its record, whatever came of it."""
        record = self._history.invoke(self.name, self._door.name, workload, request, note)
        try:
            self._history.answered(record, self._door.call(request, timeout_s))
        except CallFailed as failure:
            self._history.refused(record, failure.outcome, str(failure))
            self._stopping.wait(PAUSE_AFTER_FAILURE_S)
        if self._pause_s:
            self._stopping.wait(self._pause_s)
        return record

    def call(self, workload: str, request: Message, answer: type[M], **note: object) -> M | None:
        """Make a call and return the answer, or None when there is none."""
        record = self.record(workload, request, CALL_TIMEOUT_S, **note)
        assert record.response is None or isinstance(record.response, answer), f"{record} is no {answer.__name__}"
        return record.response

    def may_happen(self, workload: str, request: Message) -> Record:
        """Record that from now on something may happen once that nobody has asked for."""
        return self._history.invoke(self.name, self._door.name, workload, request, {})

    def has_happened(self, record: Record, response: Message) -> None:
        """Record that it has, and that this is what it would have been answered."""
        self._history.answered(record, response)

    def watch(self, request: rpc.WatchCreateRequest) -> WatchStream:
        """Begin to watch through this client's door.

        Raises:
            CallFailed: nobody began to in time; a pause has followed.
        """
        try:
            return self._door.watch(request)
        except CallFailed:
            self._stopping.wait(PAUSE_AFTER_FAILURE_S)
            raise

    def heard(
        self, workload: str, request: rpc.WatchCreateRequest, responses: Sequence[rpc.WatchResponse], **note: object
    ) -> None:
        """Record what a watcher was told just now."""
        record = self._history.invoke(
            self.name, self._door.name, workload, request, {**note, "responses": list(responses)}
        )
        newest = max(response.header.revision for response in responses)
        self._history.answered(record, rpc.WatchResponse(header=rpc.ResponseHeader(revision=newest)))

    def close(self) -> None:
        """Let go of the door."""
        self._door.close()


def repeat(call: Callable[[], Record], times: int) -> Record:
    """Make a call until it is answered well, at most so often; return the last record."""
    assert times > 0, "once at least"
    for _ in range(times):
        record = call()
        if record.ok:
            break
    return record
