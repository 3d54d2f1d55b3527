"""The record of a run: every call with its invocation, its return, and what came of it.

Owns ids and order. Safe for several threads. Times are CLOCK_MONOTONIC, which all processes of one machine share.
Invariant: a record that is in the list has been invoked; one that never returned has outcome "unknown".
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from google.protobuf.message import Message

from chaos.requests import kind_of, revision_of

Outcome = Literal["ok", "failed", "unknown"]
FOREVER_US: Final = 1 << 62
"""When a call of unknown outcome takes effect at the latest."""


@dataclass(slots=True)
class Record:
    """One call."""

    number: int
    client: str
    door: str
    workload: str
    request: Message
    note: dict[str, object]
    """What the workload wants to find again when it checks."""
    invoked_us: int
    returned_us: int = FOREVER_US
    outcome: Outcome = "unknown"
    response: Message | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was answered well."""
        return self.outcome == "ok"

    @property
    def kind(self) -> str:
        """The kind of call."""
        return kind_of(self.request)

    @property
    def revision(self) -> int:
        """The revision of the answer's header; 0 without an answer."""
        return revision_of(self.response) if self.response is not None else 0

    def __str__(self) -> str:
        """A line for people."""
        until = f"{self.returned_us / 1e6:.3f}" if self.returned_us != FOREVER_US else "never"
        asked = " ".join(str(self.request).split())
        said = " ".join(str(self.response).split()) if self.response is not None else self.error
        return (
            f"#{self.number} {self.client} ({self.door}) {self.invoked_us / 1e6:.3f}..{until} {self.outcome} "
            f"{self.kind} {asked[:300]} -> {said[:300]}"
        )


@dataclass
class History:
    """All calls of one run, in the order of their invocation."""

    records: list[Record] = field(default_factory=list)
    began_us: int = field(default_factory=lambda: now_us())
    newest_revision: int = 0
    """The newest revision of any answer."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def invoke(self, client: str, door: str, workload: str, request: Message, note: dict[str, object]) -> Record:
        """Note that a call begins now."""
        with self._lock:
            record = Record(len(self.records), client, door, workload, request, note, now_us() - self.began_us)
            self.records.append(record)
        return record

    def answered(self, record: Record, response: Message) -> None:
        """Note that a call was answered now."""
        record.returned_us = now_us() - self.began_us
        record.response = response
        record.outcome = "ok"
        with self._lock:
            self.newest_revision = max(self.newest_revision, record.revision)

    def refused(self, record: Record, outcome: Outcome, error: str) -> None:
        """Note that a call came to an end without an answer. What may still take effect never returns."""
        if outcome == "failed":
            record.returned_us = now_us() - self.began_us
        record.outcome = outcome
        record.error = error

    def of(self, workload: str) -> Iterator[Record]:
        """The records of one workload."""
        return (record for record in self.records if record.workload == workload)

    def __len__(self) -> int:
        return len(self.records)


def now_us() -> int:
    """Return the machine's monotonic clock in microseconds."""
    return time.monotonic_ns() // 1000
