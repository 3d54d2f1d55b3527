"""Histories of the size a chaos run records are judged in the time a chaos run has."""

import random
import time

import pytest
from made_histories import busy_history, falsified

from checker.history import History, Outcome
from checker.items import problem_of
from checker.judge import judge
from checker.search import Answer, decide


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"storms": 0.005}, {"lost": 0.05}, {"storms": 0.003, "values": 3, "keys": 3}],
    ids=["quiet", "storms", "lossy", "alike"],
)
def test_ten_thousand_calls_of_ten_clients_are_judged_in_time(options: dict[str, float]) -> None:
    """Within 30 s of one core, whether outcomes are lost singly, all at once, or values repeat."""
    history = busy_history(1, 10_000, **options)  # type: ignore[arg-type]
    assert sum(operation.outcome == Outcome.UNKNOWN for operation in history.operations) > 100
    began = time.process_time()
    assert decide(problem_of(history)).answer == Answer.LINEARIZABLE
    assert time.process_time() - began < 30


@pytest.mark.slow
def test_a_lie_in_a_long_history_is_found_and_shrunk() -> None:
    """One changed answer of 3,000 is blamed together with a few others at most."""
    history = busy_history(2, 3_000, storms=0.001)
    rng = random.Random(5)
    lied: History = history
    while decide(problem_of(lied)).answer != Answer.CONTRADICTION:
        lied = falsified(rng, history)
    judgement = judge(lied)
    assert judgement.contradiction is not None
    assert len(judgement.contradiction.numbers) <= 4, judgement.text()
