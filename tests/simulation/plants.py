"""Bugs that tests plant into the production code, and how each is looked for.

Owns the list of planted bugs, the settings they are looked for in, and the search: seed after seed until a rule is
broken. Nothing outside `tests/` knows it: a bug is a subclass or a patch that lasts as long as one test.
Invariant: what is found is found by a rule that its plant names; the same seeds without the bug break none.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import pytest

from sim.core_mix import CoreMix
from sim.core_run import run_core_seed
from sim.network import CALM, NetworkWeather
from sim.parts import ProductionParts
from sim.run import Options, Report, run_seed
from sim.watch_run import run_watch_seed
from sim.weather import Weather, draw_config

TICKS = 60
Make = Callable[[pytest.MonkeyPatch], type[ProductionParts] | None]
"""Plants a bug: patches, or returns the parts that have it."""


class Setting(Protocol):
    """Where a bug is looked for."""

    @property
    def name(self) -> str:
        """What its runs are made of, in a word or two."""
        ...

    def run(self, seed: int, parts: type[ProductionParts] | None) -> Report:
        """Run one seed to its verdict."""
        ...


@dataclass(frozen=True)
class Nodes:
    """Whole nodes under a weather of our own; or everything as `options` says."""

    name: str = "nodes"
    rates: dict[str, float] = field(default_factory=dict)
    network: NetworkWeather = CALM
    conditions: dict[str, float] = field(default_factory=dict)
    raft: dict[str, int] = field(default_factory=dict)
    """Configured values that are not the defaults."""
    size: int = 3
    options: Options | None = None

    def run(self, seed: int, parts: type[ProductionParts] | None) -> Report:
        """Run the simulator."""
        options = self.options or self._options()
        config = options.config or draw_config(seed, options.nodes or self.size, options.knobs)
        return run_seed(seed, replace(options, config=config), parts=(parts or ProductionParts)(config))

    def _options(self) -> Options:
        config = draw_config(0, self.size, frozenset())
        config = config.model_copy(update={"raft": config.raft.model_copy(update=self.raft)})
        weather = replace(Weather(self.network, dict(self.rates)), **self.conditions)  # type: ignore[arg-type]
        return Options(config=config, weather=weather, ticks=TICKS)


@dataclass(frozen=True)
class Watchers:
    """Whole nodes and watching clients."""

    name: str = "nodes and watchers"

    def run(self, seed: int, parts: type[ProductionParts] | None) -> Report:
        """Run the simulator with its fleet."""
        assert parts is None, "the fleet brings its own parts"
        return run_watch_seed(seed, Options(nodes=3, ticks=TICKS))


@dataclass(frozen=True)
class Cores:
    """Consensus alone, with changes of membership."""

    name: str = "consensus alone"
    changes: float = 0.0
    """Chance that what happens next is a change of membership; 0: as the seed says."""

    def run(self, seed: int, parts: type[ProductionParts] | None) -> Report:
        """Run one hostile schedule."""
        assert parts is None, "cores have no parts"
        mix = CoreMix(seed, changes=True)
        mix.changes = self.changes or mix.changes
        return run_core_seed(seed, mix=mix)


CALM_WEATHER = Nodes()
BLACKOUTS = Nodes(rates={"power_cut": 0.5, "cluster_cut": 0.3})
PARTITIONS = Nodes(rates={"partition": 0.6})
CUTS = {"snapshot_count": 3, "catchup_entries": 0}
FLUSHES = Nodes("nodes that flush and cut often", rates={"power_cut": 0.5, "kill_group": 0.5}, raft=CUTS)
SLOW_PARTITIONS = Nodes(rates={"partition": 0.6}, network=NetworkWeather(delay_us_mean=20_000))
WATCHERS = Watchers()
CORES = Cores()
RESTLESS_CORES = Cores("consensus alone, with many changes of membership", changes=0.2)


class Plant(NamedTuple):
    """One planted bug."""

    bug: str
    """What is wrong, as the documentation says it."""
    make: Make
    setting: Setting
    rules: frozenset[str]
    """Who may notice it."""
    within: int
    """It is noticed within so many seeds."""
    first: int = 1


PLANTS: list[Plant] = []


def planted(bug: str, setting: Setting, rules: str | set[str], within: int, first: int = 1) -> Callable[[Make], Make]:
    """Register what the decorated function plants."""

    def register(make: Make) -> Make:
        named = frozenset({rules} if isinstance(rules, str) else rules)
        PLANTS.append(Plant(bug, make, setting, named, within, first))
        return make

    return register


class Caught(NamedTuple):
    """The seed that showed a bug, and the rule it broke."""

    seed: int
    rule: str
    text: str


def search(plant: Plant, parts: type[ProductionParts] | None, within: int | None = None) -> Caught | None:
    """Run seed after seed until one fails."""
    for seed in range(plant.first, plant.first + (within or plant.within)):
        failure = plant.setting.run(seed, parts).failure
        if failure is not None:
            return Caught(seed, failure.rule, failure.text)
    return None


_honest: dict[tuple[int, int], str] = {}


def honest_failure(setting: Setting, seed: int) -> str:
    """What a seed shows where nothing is planted; run once per setting and seed."""
    key = (id(setting), seed)
    if key not in _honest:
        failure = setting.run(seed, None).failure
        _honest[key] = "" if failure is None else f"{failure.rule}: {failure.text}"
    return _honest[key]
