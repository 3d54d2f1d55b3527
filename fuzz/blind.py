"""Fuzzing by chance alone: seeds, then changes of them, without a look at what they reach.

For the quick tests, and for where `atheris` cannot be had. One seed, one sequence of inputs.
"""

import time
from collections.abc import Callable
from random import Random

from fuzz.judge import Judge
from fuzz.mutation import Mutator
from fuzz.target import Target


def run_blind(target: Target, judge: Judge, rng: Random, goes_on: Callable[[], bool]) -> None:
    """Run the seeds, then new inputs as long as `goes_on` says so.

    Raises:
        InputFailed: an input broke something.
    """
    corpus = target.seeds()
    for data in corpus:
        judge.run(data)
    mutator = Mutator(rng, target.words)
    while goes_on():
        judge.run(mutator.mutate(corpus))


def for_seconds(seconds: float) -> Callable[[], bool]:
    """Return what says yes for so long, from now on."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() < until
