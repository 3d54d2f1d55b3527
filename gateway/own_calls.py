"""Calls a gateway makes of itself, for streams and for its household: they run like a client's.

Owns their ids, which are below zero, and who is told the answers. Invariant: each is told exactly once.
"""

from collections.abc import Callable

from gateway.credentials import Credentials
from gateway.methods import KEEP_ALIVE, Method
from protocol.types import Millis

OnAnswer = Callable[[int, bytes], None]
"""Told the code and, where it is OK, the whole response."""


Submit = Callable[[int, Method, bytes, Millis, Millis | None, Credentials], None]
"""The core's door: call id, method, body, now, deadline, credentials."""


class OwnCalls:
    """The calls of one gateway that no client made."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self.commands: dict[int, None] = {}
        """Which are commands, so that batches are answered as fast as ever while there are none."""
        self._told: dict[int, OnAnswer] = {}
        self._last_id = 0

    def begin(self, on_answer: OnAnswer, *, command: bool) -> int:
        """Return the id of a new call."""
        self._last_id -= 1
        self._told[self._last_id] = on_answer
        if command:
            self.commands[self._last_id] = None
        return self._last_id

    def submit(self, method: Method, body: bytes, now: Millis, credentials: Credentials, on_answer: OnAnswer) -> None:
        """Make a call for somebody, under that one's credentials."""
        self._submit(self.begin(on_answer, command=method is not KEEP_ALIVE), method, body, now, None, credentials)

    def tell(self, call_id: int, code: int, body: bytes) -> None:
        """Tell the answer to whom it belongs."""
        self.commands.pop(call_id, None)
        self._told.pop(call_id)(code, body)

    def check(self, open_calls: list[int]) -> None:
        """Assert that every open call has somebody to tell, and nobody else."""
        assert sorted(call_id for call_id in open_calls if call_id < 0) == sorted(self._told), "an own call was lost"
