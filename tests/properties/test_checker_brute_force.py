"""The search against brute force over every order, on histories small enough for both; and honest ones of any size."""

import random
from dataclasses import dataclass

from google.protobuf.message import Message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kv_requests import requests
from made_histories import LEASES, HistoryMaker, ask, falsified

from checker.history import History, Operation, Outcome
from checker.items import STATE_ERRORS, is_serializable, problem_of
from checker.plain import REQUESTS, message_of, plain_of
from checker.search import Answer, decide
from gateway import validate
from protocol.errors import ErrorCode
from protocol.wire.rpc_pb2 import TxnRequest
from sim.kv_model import KvModel

INFINITY = 1 << 60


@dataclass
class _Event:
    """An operation as brute force sees it."""

    operation: Operation
    begin: int
    end: int
    request: Message

    def agrees(self, told: "Message | ErrorCode") -> bool:
        """Whether what the model says is what the client was told."""
        if self.operation.outcome == Outcome.UNKNOWN:
            return True
        if isinstance(told, ErrorCode):
            return self.operation.error == told.name
        return self.operation.outcome == Outcome.OK and plain_of(told) == self.operation.answer


def _events(history: History) -> list[_Event]:
    events = []
    for operation in history.operations:
        stale = is_serializable(operation)
        failed = operation.outcome == Outcome.FAILED
        if failed and (operation.error not in STATE_ERRORS or (stale and operation.call == "txn")):
            continue
        unknown = operation.outcome == Outcome.UNKNOWN
        end = INFINITY if unknown or operation.returned is None else operation.returned
        begin = -INFINITY if stale else operation.invoked
        events.append(_Event(operation, begin, end, message_of(REQUESTS[operation.call], operation.request)))
    return events


def _possible(model: KvModel, left: list[_Event]) -> bool:
    """Whether any order of what is left explains every answer: each is tried, nothing is remembered."""
    if all(event.end == INFINITY for event in left):
        return True
    soonest = min(event.end for event in left)
    for event in left:
        if event.begin > soonest:
            continue
        after = KvModel(model.revision, model.compacted, model.live, dict(model.past), model.leases)
        if event.agrees(ask(after, event.request)) and _possible(after, [one for one in left if one is not event]):
            return True
    return False


def brute_force(history: History) -> bool:
    """Whether a history is linearizable, by trying all orders."""
    return _possible(KvModel(leases=dict(LEASES)), _events(history))


def admitted(request: Message) -> bool:
    """Whether a door lets the request through."""
    return not isinstance(request, TxnRequest) or not validate.check_txn(request, 128).code


small = st.lists(requests.filter(admitted), min_size=1, max_size=7)


def made(asked: list[Message], rng: random.Random, clients: int, lost_share: float) -> History:
    """A linearizable history in which clients ask for `asked`, in this order."""
    left = asked[::-1]
    return HistoryMaker(rng, lambda _: left.pop() if left else None, clients).run(lost_share)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(small, st.integers(0, 1 << 32), st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.4]), st.integers(0, 3))
def test_the_verdict_is_that_of_brute_force(
    asked: list[Message], seed: int, clients: int, lost_share: float, lies: int
) -> None:
    """Honest or falsified, with unknown outcomes or without: trying every order says the same."""
    rng = random.Random(seed)
    history = made(asked, rng, clients, lost_share)
    for _ in range(lies):
        history = falsified(rng, history)
    verdict = decide(problem_of(history))
    assert verdict.answer != Answer.GAVE_UP
    expected = brute_force(history)
    assert (verdict.answer == Answer.LINEARIZABLE) == expected, (expected, verdict, history.operations)
    if not lies:
        assert expected


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests.filter(admitted), min_size=10, max_size=40), st.integers(0, 1 << 32))
@example([], 0)
def test_an_honest_history_is_accepted(asked: list[Message], seed: int) -> None:
    """Whatever the overlaps and however many outcomes are unknown, what one store did is linearizable."""
    rng = random.Random(seed)
    history = made(asked, rng, rng.randint(1, 8), rng.choice((0.0, 0.02, 0.1, 0.3)))
    verdict = decide(problem_of(history))
    assert verdict.answer == Answer.LINEARIZABLE, verdict.trouble


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests.filter(admitted), min_size=5, max_size=40), st.integers(0, 1 << 32))
def test_the_order_that_is_found_explains_every_answer(asked: list[Message], seed: int) -> None:
    """An accepted history comes with its proof: replayed in that order, the plain model says what clients were told."""
    rng = random.Random(seed)
    history = made(asked, rng, 4, 0.1)
    for _ in range(rng.randrange(2)):
        history = falsified(rng, history)
    verdict = decide(problem_of(history))
    if verdict.answer != Answer.LINEARIZABLE:
        return
    events = {id(event.operation): event for event in _events(history)}
    model = KvModel(leases=dict(LEASES))
    order = [events.pop(id(history.operations[number])) for number in verdict.order]
    for place, event in enumerate(order):
        assert event.agrees(ask(model, event.request)), event
        assert all(later.end >= event.begin for later in order[place + 1 :])
    assert all(event.operation.outcome == Outcome.UNKNOWN for event in events.values())
