"""Bugs planted into the production code, each of which the suite must notice, and their honest twins."""

import re
from pathlib import Path

import plants_gateway  # noqa: F401 - registers its bugs
import plants_lease  # noqa: F401
import plants_log  # noqa: F401
import plants_member  # noqa: F401
import plants_raft  # noqa: F401
import plants_watch  # noqa: F401
import pytest
from plants import PARTITIONS, PLANTS, Plant, honest_failure, search
from plants_store import DIFFERS, ProposesTwice

TABLE = Path(__file__).parents[2] / "docs" / "planted-bugs.md"


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.make.__name__ for plant in PLANTS])
def test_planted_bug_is_noticed(monkeypatch: pytest.MonkeyPatch, plant: Plant) -> None:
    """Within so many seeds, by a checker that is named; without it the same seeds show nothing."""
    with monkeypatch.context() as patches:
        caught = search(plant, plant.make(patches))
    assert caught is not None, f"not noticed within {plant.within} seeds"
    assert caught.rule in plant.rules, f"seed {caught.seed} was noticed by another: {caught}"
    for seed in range(plant.first, caught.seed + 1):
        assert not honest_failure(plant.setting, seed), f"seed {seed} fails without the bug"


def test_no_bug_is_planted_twice() -> None:
    """Names and words are one bug's each."""
    assert len({plant.make.__name__ for plant in PLANTS}) == len(PLANTS)
    assert len({plant.bug for plant in PLANTS}) == len(PLANTS)
    assert len(PLANTS) >= 16


def test_the_documentation_lists_every_planted_bug() -> None:
    """Who notices it, and within how many seeds."""
    listed = re.findall(r"^\| (?!bug|---).*$", TABLE.read_text(), re.MULTILINE)
    assert listed == [row(plant) for plant in PLANTS]


def row(plant: Plant) -> str:
    """A plant's row of the table."""
    rules = "stores and answers" if plant.rules == DIFFERS else ", ".join(sorted(plant.rules))
    return f"| {plant.bug} | {plant.setting.name} | {rules} | {plant.within} |"


def test_a_batch_proposed_twice_takes_effect_once() -> None:
    """Apply recognises the repeat, and the model agrees."""
    report = PARTITIONS.run(1, ProposesTwice)
    assert report.failure is None, str(report.failure)
    assert report.counts["batches_repeated"] > 20
