"""Listings in pages: a prefix under change is listed page by page at one revision, and at once; both must agree."""

from collections.abc import Sequence
from typing import Final

from chaos.clients import ChaosClient
from chaos.history import Record
from chaos.requests import delete, put, scan
from chaos.workloads.base import told
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "pages/"
KEYS: Final = 40
PAGE_PAIRS: Final = 7


class PagesWorkload:
    """Keys that come and go below one prefix."""

    name = "pages"

    def prepare(self, client: ChaosClient) -> None:
        """The prefix begins empty."""

    def step(self, client: ChaosClient) -> None:
        """Put or delete a key, or list everything in pages and then at once."""
        key = f"{PREFIX}{client.rng.randrange(KEYS):03d}"
        choice = client.rng.random()
        if choice < 0.5:
            client.record(self.name, put(key, client.unique()))
        elif choice < 0.7:
            client.record(self.name, delete(key))
        else:
            self._list(client, client.unique())

    def _list(self, client: ChaosClient, listing: str) -> None:
        page = client.call(self.name, scan(PREFIX, limit=PAGE_PAIRS), rpc.RangeResponse, listing=listing)
        if page is None:
            return
        revision = page.header.revision
        while page.more:
            following = scan(PREFIX, revision=revision, limit=PAGE_PAIRS, after=page.kvs[-1].key)
            next_page = client.call(self.name, following, rpc.RangeResponse, listing=listing)
            if next_page is None:
                return
            page = next_page
        client.record(self.name, scan(PREFIX, revision=revision), listing=listing, whole=True)

    def conclude(self, client: ChaosClient) -> None:
        """List once more."""
        self._list(client, client.unique())

    def check(self, records: Sequence[Record]) -> list[str]:
        """The pages of a listing, put together, are what the whole of that revision is, in order and in number."""
        faults: list[str] = []
        pages: dict[str, list[Record]] = {}
        for record in records:
            if "listing" in record.note:
                pages.setdefault(str(record.note["listing"]), []).append(record)
        for parts in pages.values():
            whole = parts[-1]
            if not whole.note.get("whole") or not isinstance(whole.response, rpc.RangeResponse):
                continue
            together = []
            for part in parts[:-1]:
                assert isinstance(part.response, rpc.RangeResponse), "a listing ends with its first page that fails"
                together += list(part.response.kvs)
            if together != list(whole.response.kvs):
                faults.append(f"pages give {[pair.key for pair in together]}, but at once: {whole}")
            if whole.response.count != len(together):
                faults.append(f"{len(together)} pairs, but the count is {whole.response.count}: {whole}")
            keys = [pair.key for pair in together]
            if keys != sorted(set(keys)):
                faults.append(f"pages out of order: {keys}")
        return told(self.name, faults)
