"""Lists: read a key, append one element, write it back if nobody else did. What was appended stays where it is."""

from collections.abc import Sequence
from typing import Final

from chaos.clients import ChaosClient
from chaos.history import Record
from chaos.requests import get, if_revision, put, ranges_of, txn, writes_of
from chaos.workloads.base import told
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "append/"
LISTS: Final = 3
ELEMENTS_MAX: Final = 60
"""A list that is so long is left alone; the next one begins."""


class AppendWorkload:
    """A few lists that grow."""

    name = "append"

    def __init__(self) -> None:
        self._filled = 0

    def prepare(self, client: ChaosClient) -> None:
        """Lists begin absent."""

    def step(self, client: ChaosClient) -> None:
        """Append to a list, or only read it."""
        key = f"{PREFIX}{self._filled + client.rng.randrange(LISTS)}"
        held = client.call(self.name, get(key), rpc.RangeResponse)
        if held is None or client.rng.random() < 0.2:
            return
        before = held.kvs[0].value.decode().split() if held.kvs else []
        revision = held.kvs[0].mod_revision if held.kvs else 0
        if len(before) >= ELEMENTS_MAX:
            self._filled = max(self._filled, int(key.removeprefix(PREFIX)) + 1)
            return
        element = client.unique()
        after = put(key, " ".join([*before, element]))
        client.record(self.name, txn([if_revision(key, revision)], [after], [get(key)]), element=element, key=key)

    def conclude(self, client: ChaosClient) -> None:
        """Read every list."""
        for number in range(self._filled + LISTS):
            client.record(self.name, get(f"{PREFIX}{number}"), final=True)

    def check(self, records: Sequence[Record]) -> list[str]:
        """Every state of a list is a beginning of every later one, and holds each element once, no refused one."""
        faults: list[str] = []
        states: dict[str, dict[int, list[str]]] = {}
        refused = {
            str(record.note["element"])
            for record in records
            if "element" in record.note and (record.outcome == "failed" or _lost_the_race(record))
        }
        for record in records:
            if record.response is None:
                continue
            for write in writes_of(record.request, record.response):
                assert write.value is not None, "lists are never deleted"
                states.setdefault(write.key.decode(), {})[write.revision] = write.value.decode().split()
            for seen in ranges_of(record.request, record.response):
                for pair in seen.response.kvs:
                    elements = pair.value.decode().split()
                    known = states.setdefault(pair.key.decode(), {}).setdefault(pair.mod_revision, elements)
                    if known != elements:
                        faults.append(f"two states of one revision: {known} and {record}")
        for key, by_revision in states.items():
            faults += _broken_order(key, by_revision, refused)
        faults += _missing_at_the_end(records, states)
        return told(self.name, faults)


def _lost_the_race(record: Record) -> bool:
    return isinstance(record.response, rpc.TxnResponse) and not record.response.succeeded


def _broken_order(key: str, by_revision: dict[int, list[str]], refused: set[str]) -> list[str]:
    faults = []
    before: list[str] = []
    for revision, elements in sorted(by_revision.items()):
        if elements[: len(before)] != before:
            faults.append(f"{key} at revision {revision} is {elements}, and was {before} before")
        if len(set(elements)) != len(elements):
            faults.append(f"{key} at revision {revision} has an element twice: {elements}")
        before = elements
    if wrong := refused & set(before):
        faults.append(f"{key} has elements whose writers were told that nothing happened: {sorted(wrong)}")
    return faults


def _missing_at_the_end(records: Sequence[Record], states: dict[str, dict[int, list[str]]]) -> list[str]:
    faults = []
    last_revision = {key: max(by_revision) for key, by_revision in states.items()}
    for record in records:
        if not record.note.get("final") or not isinstance(record.response, rpc.RangeResponse):
            continue
        assert isinstance(record.request, rpc.RangeRequest), "a range answers a range"
        key = record.request.key.decode()
        found = record.response.kvs[0].mod_revision if record.response.kvs else 0
        if found < last_revision.get(key, 0):
            faults.append(f"{key} ends at revision {found}, but was already at {last_revision[key]}")
    return faults
