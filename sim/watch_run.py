"""One seed with watching clients: the usual run, then every promise of watches held against the log.

Owns the run around `sim.run.run_seed` and the verdict over the records. Knows no actor.
"""

import random
from dataclasses import replace
from typing import Final

from sim.clients import SimClient
from sim.replay import check_history
from sim.run import NODE_COUNTS, Options, Report, run_seed
from sim.trouble import SimulationFailed
from sim.watch_checkers import check_watches
from sim.watchers import Fleet, WatchParts
from sim.weather import draw_config

WATCHERS: Final = 6
FIRST_PROBE: Final = 2000
REST_US: Final = 1_000_000
RESTS_MAX: Final = 100
"""After convergence so many rests of that length are what slow readers may need for what they have not read."""


def run_watch_seed(seed: int, options: Options | None = None, *, watchers: int = WATCHERS) -> Report:
    """Run one seed with watching clients to its verdict; a broken promise is in the report, as `run_seed` has it."""
    options = options or Options()
    nodes = options.nodes or random.Random(f"{seed}/setting").choice(NODE_COUNTS)
    config = options.config or draw_config(seed, nodes, options.knobs)
    parts = WatchParts(config, watchers)
    report = run_seed(seed, replace(options, nodes=nodes, config=config), parts=parts)
    world = parts.fleet.world
    if report.failure is not None or world is None:
        return report
    try:
        for number in range(RESTS_MAX):
            # A few puts each time: they must be heard, too, and an idle cluster is no subject.
            probe = SimClient(world, FIRST_PROBE + number, world.rng(f"rest:{number}"))
            probe.probe(world.nodes[number % len(world.nodes)])
            probe.begin()
            world.run_until(world.now_us + REST_US)
            if _all_settled(parts.fleet):
                break
        world.run_until(world.now_us + REST_US)  # what the last puts made is told by then
        if not world.run_until(world.now_us + REST_US, lambda: _all_settled(parts.fleet)):
            raise SimulationFailed("every watcher is served", "a watcher still waits although everything is at rest")
        records = parts.fleet.finish()
        model = check_history(world.history, world.logs.committed.entries).model
        report.counts["watch_events_checked"] = check_watches(records, model.past, model.compacted)
        report.counts["watches_whole"] = sum(record.whole for record in records)
    except SimulationFailed as failure:
        report.failure = failure
        report.story = world.trace.story()
    report.counts |= {kind: count for kind, count in sorted(world.counts.items()) if kind.startswith("watch")}
    return report


def _all_settled(fleet: Fleet) -> bool:
    return all(watcher.settled for watcher in fleet.watchers)
