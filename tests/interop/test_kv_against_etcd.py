"""The same random KV requests to real etcd and to actd over gRPC: every answer and every error must be the same.

Both stores begin empty, so even revisions and hashes agree. `--etcd-rounds` says for how long: the quick suite plays a
few rounds, `python -m tools.check --full` hundreds. A failure names its round; `--etcd-first-round` begins with it.
"""

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
from clusters import Cluster, running
from etcd_server import need_etcd, running_etcd
from google.protobuf.message import Message
from grpc_doors import Door, answer_of
from kv_answers import Answer, comparable
from random_requests import RequestMaker

from protocol.wire import rpc_pb2 as rpc

pytestmark = [pytest.mark.processes, pytest.mark.slow]
STEPS = 60
"""Writes of a round."""
READS = 8
"""Fewer reads than that follow a write; they are sent all at once."""
OUTCOMES_MIN = 18
"""Kinds of requests with kinds of answers that even a short run meets."""
EVERYTHING = (b"\x00", b"\x00")


class Pair:
    """Etcd and the nodes of a cluster, asked the same."""

    def __init__(self, etcd: Door, nodes: list[Door]) -> None:
        self._etcd = etcd
        self._nodes = nodes
        self._turn = itertools.count()
        self.seen: Counter[tuple[str, str]] = Counter()
        """Kind of request, and OK or the error's text."""

    def step(self, requests: list[Message], context: str) -> list[Answer]:
        """Ask all the same and hold the answers against each other; return etcd's.

        The first is answered before the others are asked. All go to one node: it has what the nodes before it wrote
        once it has served a linearizable read, and it answers a write when its own store has it, so what it then reads
        from its own state is as fresh as etcd's.
        """
        node = self._nodes[next(self._turn) % len(self._nodes)]
        node.answer(rpc.RangeRequest(key=b"anything"))
        answers: list[Answer] = []
        for together in (requests[:1], requests[1:]):
            for request, *futures in [(request, self._etcd.ask(request), node.ask(request)) for request in together]:
                theirs, ours = (comparable(request, answer_of(future)) for future in futures)
                assert ours == theirs, f"{context}: {type(request).__name__} {request}"
                answers.append(theirs)
                self.seen[type(request).__name__, "OK" if theirs[0] == "OK" else theirs[1]] += 1
        return answers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A fresh etcd and a fresh cluster of ours."""
    need_etcd()
    directory = tmp_path_factory.mktemp("against")
    with running_etcd(directory) as address, running(Cluster(directory / "actd")) as cluster:
        cluster.start()
        doors = [Door(address), *(Door(cluster.client_address(name)) for name in cluster.names)]
        yield Pair(doors[0], doors[1:])
        for door in doors:
            door.channel.close()


class Round:
    """A sequence of steps that begins with no key and no history."""

    def __init__(self, pair: Pair, number: int) -> None:
        self._pair = pair
        self._number = number
        self._maker = RequestMaker(number)
        self._at = 0

    def _step(self, requests: list[Message]) -> list[Answer]:
        maker = self._maker
        context = f"round {self._number}, step {self._at}, at {maker.revision} (compacted {maker.compacted})"
        answers = self._pair.step(requests, context)
        for request, (status, response) in zip(requests, answers, strict=True):
            if status == "OK":
                maker.revision = response.header.revision
                if isinstance(request, rpc.CompactionRequest):
                    maker.compacted = request.revision
        return answers

    def play(self) -> None:
        """Play it; at its end the stores' whole histories have the same hash."""
        maker = self._maker
        first, end = EVERYTHING
        self._step([rpc.DeleteRangeRequest(key=first, range_end=end)])
        self._step([rpc.CompactionRequest(revision=maker.revision)])
        maker.compacted = maker.revision
        for self._at in range(1, STEPS + 1):
            self._step([maker.write(), *(maker.read() for _ in range(self._at % READS))])
        [(_, everything)] = self._step([rpc.RangeRequest(key=first, range_end=end, count_only=True)])
        if everything.count:
            # Where no key is left, etcd hashes whatever its compaction has not reached yet.
            self._step([rpc.HashKVRequest()])


@pytest.mark.timeout(3600)
def test_every_answer_is_etcds(pair: Pair, etcd_rounds: range) -> None:
    """Rounds of random requests, one after the other on the same two stores, and they meet all there is to meet."""
    for number in etcd_rounds:
        Round(pair, number).play()
    assert len(pair.seen) >= OUTCOMES_MIN or len(etcd_rounds) < 10, pair.seen
