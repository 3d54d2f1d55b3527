"""A set as one key per element: what was added is in every later listing, what was refused in none."""

from collections.abc import Sequence
from typing import Final

from chaos.clients import ChaosClient
from chaos.history import Record
from chaos.requests import put, scan
from chaos.workloads.base import told
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "set/"
ELEMENTS_MAX: Final = 80
"""A set that is so large is left alone; the next one begins."""


class SetWorkload:
    """Sets that grow, one after the other."""

    name = "set"

    def __init__(self) -> None:
        self._number = 0

    def _prefix(self, number: int) -> str:
        return f"{PREFIX}{number:04d}/"

    def prepare(self, client: ChaosClient) -> None:
        """Sets begin empty."""

    def step(self, client: ChaosClient) -> None:
        """Add an element, or list the set."""
        number = self._number
        prefix = self._prefix(number)
        if client.rng.random() < 0.7:
            element = client.unique()
            client.record(self.name, put(prefix + element, element), set=prefix, element=element)
            return
        listing = client.call(self.name, scan(prefix), rpc.RangeResponse, set=prefix)
        if listing is not None and listing.count >= ELEMENTS_MAX:
            self._number = max(self._number, number + 1)

    def conclude(self, client: ChaosClient) -> None:
        """List every set."""
        for number in range(self._number + 1):
            client.record(self.name, scan(self._prefix(number)), final=True, set=self._prefix(number))

    def check(self, records: Sequence[Record]) -> list[str]:
        """Each listing has what was added before it began, and nothing that was refused or not yet begun."""
        faults: list[str] = []
        added: dict[str, dict[bytes, Record]] = {}
        for record in records:
            if "element" in record.note:
                added.setdefault(str(record.note["set"]), {})[str(record.note["element"]).encode()] = record
        for record in records:
            if not isinstance(record.response, rpc.RangeResponse):
                continue
            listed = {pair.value for pair in record.response.kvs}
            elements = added.get(str(record.note["set"]), {})
            due = {each for each, adding in elements.items() if adding.ok and adding.returned_us < record.invoked_us}
            begun = {
                each
                for each, adding in elements.items()
                if adding.outcome != "failed" and adding.invoked_us < record.returned_us
            }
            if due - listed:
                faults.append(f"lacks {sorted(due - listed)[:3]}, added before it began: {record}")
            if listed - begun:
                faults.append(f"has {sorted(listed - begun)[:3]}, never added by then: {record}")
        return told(self.name, faults)
