"""A bank: transfers between accounts by txns that compare both; whoever adds everything up finds the same sum."""

from collections.abc import Sequence
from typing import Final

from chaos.clients import ChaosClient, repeat
from chaos.history import Record
from chaos.requests import if_revision, put, scan, txn
from chaos.workloads.base import told
from protocol.wire import rpc_pb2 as rpc

PREFIX: Final = "bank/"
ACCOUNTS: Final = 6
OPENING_BALANCE: Final = 100
PREPARATIONS_MAX: Final = 20


class BankWorkload:
    """Accounts whose sum never changes."""

    name = "bank"

    def prepare(self, client: ChaosClient) -> None:
        """Open the accounts, once."""
        keys = [f"{PREFIX}{number}" for number in range(ACCOUNTS)]
        request = txn([if_revision(key, 0) for key in keys], [put(key, str(OPENING_BALANCE)) for key in keys])
        repeat(lambda: client.record(self.name, request), PREPARATIONS_MAX)

    def step(self, client: ChaosClient) -> None:
        """Add up, and perhaps transfer."""
        seen = client.call(self.name, scan(PREFIX), rpc.RangeResponse)
        if seen is None or len(seen.kvs) != ACCOUNTS or client.rng.random() < 0.3:
            return
        source, target = client.rng.sample(list(seen.kvs), 2)
        amount = client.rng.randint(1, 20)
        if int(source.value) < amount:
            return
        conditions = [if_revision(pair.key.decode(), pair.mod_revision) for pair in (source, target)]
        puts = [
            put(source.key.decode(), str(int(source.value) - amount)),
            put(target.key.decode(), str(int(target.value) + amount)),
        ]
        client.record(self.name, txn(conditions, puts, [scan(PREFIX)]))

    def conclude(self, client: ChaosClient) -> None:
        """Add up once more."""
        client.record(self.name, scan(PREFIX), final=True)

    def check(self, records: Sequence[Record]) -> list[str]:
        """Every sum is the opening one, and no account is below nothing."""
        faults: list[str] = []
        opened = any(isinstance(record.response, rpc.TxnResponse) and record.response.succeeded for record in records)
        for record in records:
            for listing in _listings(record):
                balances = [int(pair.value) for pair in listing.kvs]
                if not balances and not (opened and record.note.get("final")):
                    continue
                if len(balances) != ACCOUNTS or sum(balances) != ACCOUNTS * OPENING_BALANCE or min(balances) < 0:
                    faults.append(f"balances {balances} add up to {sum(balances)}: {record}")
        return told(self.name, faults)


def _listings(record: Record) -> list[rpc.RangeResponse]:
    if isinstance(record.response, rpc.RangeResponse):
        return [record.response]
    if isinstance(record.response, rpc.TxnResponse):
        return [each.response_range for each in record.response.responses if each.HasField("response_range")]
    return []
