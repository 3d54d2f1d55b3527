"""Fixtures every suite may use."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tools import native

COMPILED = "ACTD_TESTS_COMPILED" in os.environ
"""Set, what runs within the tests' own processes is compiled too; what starts nodes runs compiled nodes anyway."""
if COMPILED:
    assert native.use(), "python -m tools.compile first"

from clusters import Cluster, running

# How long an example takes depends on what else the machine does; what takes for ever meets the time limit of a test.
hypothesis.settings.register_profile("actd", deadline=None)
hypothesis.settings.load_profile("actd")

INHERITS_NOT = "interpreted classes cannot inherit from compiled"
MakeCluster = Callable[..., Cluster]
RANDOM_SEEDS_FROM = os.environ.setdefault("ACTD_RANDOM_SEEDS_FROM", str(random.randrange(10**6, 10**9)))
"""The simulator's random seeds of this run; set before the workers start, which inherit it."""


def pytest_report_header() -> str:
    """Say which seeds are tried that were not tried before."""
    return f"simulator: 100 random seeds from {RANDOM_SEEDS_FROM} (set ACTD_RANDOM_SEEDS_FROM to repeat them)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out, of compiled modules, what puts something else into the sources."""
    for item in items if COMPILED else ():
        if item.get_closest_marker("sources"):
            item.add_marker(pytest.mark.skip(reason="it changes a constant that was compiled"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say how long what has no natural end goes on."""
    parser.addoption("--etcd-rounds", type=int, default=10, help="rounds of random requests to etcd and actd")
    parser.addoption("--etcd-first-round", type=int, default=0, help="the round to begin with, to see a failure again")


@pytest.fixture(scope="session")
def etcd_rounds(request: pytest.FixtureRequest) -> range:
    """The rounds of random requests to play against etcd."""
    first = int(request.config.getoption("--etcd-first-round"))
    return range(first, first + int(request.config.getoption("--etcd-rounds")))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Put the log of the clusters a failed test used next to its failure."""
    outcome: Any = yield
    report = outcome.get_result()
    if COMPILED and report.failed and INHERITS_NOT in str(report.longrepr):
        report.outcome = "skipped"
        report.longrepr = (
            str(item.path),
            item.location[1] or 0,
            "Skipped: a class of its own on top of a compiled one",
        )
    if report.when == "call" and report.failed:
        for cluster in getattr(item, "funcargs", {}).get("make_cluster", _Maker(Path())).made:
            report.sections.append((f"log of {cluster.directory}", cluster.log[-20_000:]))


class _Maker:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.made: list[Cluster] = []

    def __call__(self, nodes: int = 3, **sections: dict[str, object]) -> Cluster:
        """Make a cluster's file; nothing runs yet."""
        cluster = Cluster(self._directory / f"{self._directory.name}-{len(self.made)}", nodes, **sections)
        self.made.append(cluster)
        return cluster


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[MakeCluster]:
    """Makes clusters of this test; none of their processes outlives it."""
    maker = _Maker(tmp_path)
    yield maker
    for cluster in maker.made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """Three nodes under one launcher, with a leader."""
    made = make_cluster()
    made.start()
    return made


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes for all tests of a module that only use them."""
    with running(Cluster(tmp_path_factory.mktemp("shared"))) as made:
        made.start()
        yield made
