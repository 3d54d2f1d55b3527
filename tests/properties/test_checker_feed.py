"""Unknown outcomes settled by a feed of all changes: quick where many are lost, and never kinder than without it."""

import random
import time
from dataclasses import replace

import pytest
from made_histories import BusyClients, HistoryMaker, falsified

from checker.feed import Feed
from checker.history import History, Outcome
from checker.items import problem_of
from checker.judge import judge
from checker.search import Answer, decide


def recorded(seed: int, total: int, lost: float, *, values: int = 0, keys: int = 20) -> tuple[History, Feed]:
    """A history of ten clients, and what a watcher of everything would have told of it."""
    rng = random.Random(seed)
    busy = BusyClients(rng, total, keys=keys, values=values)
    busy.maker = HistoryMaker(rng, busy.next, 10)
    history = busy.maker.run(lost)
    past = busy.maker.model.past
    feed: dict[int, dict[str, str | None]] = {}
    for revision in sorted(past)[1:]:
        before, after = past[revision - 1], past[revision]
        put = {key.decode(): pair.value.decode() for key, pair in after.items() if pair.mod_revision == revision}
        feed[revision] = {**put, **{key.decode(): None for key in before.keys() - after.keys()}}
    return history, feed


def unknowns(history: History) -> int:
    """How many calls were never answered."""
    return sum(operation.outcome == Outcome.UNKNOWN for operation in history.operations)


def judged_in_s(history: History, feed: Feed) -> float:
    """Processor time until it is found linearizable."""
    began = time.process_time()
    assert decide(problem_of(history, feed)).answer == Answer.LINEARIZABLE
    return time.process_time() - began


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0.1, 0.3])
def test_ten_thousand_calls_with_many_lost_are_judged_in_time(lost: float) -> None:
    """Within 30 s of one core, although up to a third of all calls were never answered."""
    history, feed = recorded(3, 10_000, lost)
    assert unknowns(history) > 10_000 * lost / 2
    assert judged_in_s(history, feed) < 30


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lost", [0.01, 0.3])
def test_fifty_thousand_calls_are_judged_in_time(lost: float) -> None:
    """Within five minutes of one core, with few and with very many unknown outcomes."""
    history, feed = recorded(4, 50_000, lost)
    assert judged_in_s(history, feed) < 300


@pytest.mark.parametrize("seed", range(20))
def test_honest_histories_pass_with_and_without_the_feed(seed: int) -> None:
    """Up to a thousand calls, with values that repeat, too."""
    history, feed = recorded(seed, 50 + 50 * seed, 0.05, values=seed % 3 * 3, keys=3 + seed)
    assert decide(problem_of(history)).answer == Answer.LINEARIZABLE
    assert decide(problem_of(history, feed)).answer == Answer.LINEARIZABLE


@pytest.mark.parametrize("seed", range(60))
def test_the_feed_hides_no_lie(seed: int) -> None:
    """What is contradictory without the feed is so with it."""
    history, feed = recorded(seed, 120, 0.1, keys=4)
    lied = falsified(random.Random(seed), history)
    without = decide(problem_of(lied)).answer
    assert without != Answer.GAVE_UP
    if without == Answer.CONTRADICTION:
        assert decide(problem_of(lied, feed)).answer == Answer.CONTRADICTION


def test_a_feed_that_does_not_fit_is_a_contradiction() -> None:
    """An acknowledged write that the feed does not have did not happen."""
    history, feed = recorded(5, 200, 0.0)
    unknown = [at for at, each in enumerate(history.operations) if each.call == "put" and each.outcome == Outcome.OK]
    place = unknown[len(unknown) // 2]
    revision = history.operations[place].answer["header"]["revision"]
    history.operations[place] = replace(history.operations[place], outcome=Outcome.UNKNOWN, answer={}, returned=None)
    assert judge(history, feed=feed).passed
    assert not judge(history, feed={**feed, revision: {"k/none": "never"}}).passed
