"""Shrinks a failing run: the same broken rule with less time, fewer fault kinds, fewer odd knobs, fewer clients, fewer
nodes.

Owns the order of the attempts and their number; a run is `sim.run`'s. It works because everything is drawn from a
source of its own: what is left out changes nothing that is left in. Invariant: what it returns was run and fails.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from sim.run import Options, Report

RUNS_MAX: Final = 120
"""Attempts at most."""

Run = Callable[[Options], Report]


@dataclass
class Minimized:
    """The smallest failing run that was found."""

    options: Options
    report: Report
    runs: int


class _Search:
    """Keeps the smallest failing options; tries smaller ones while attempts are left."""

    def __init__(self, run: Run, options: Options, report: Report, tell: Callable[[str], None]) -> None:
        assert report.failure is not None, "only a failing run is minimized"
        self.options = options
        self.report = report
        self.runs = 0
        self._rule = report.failure.rule
        self._run = run
        self._tell = tell

    def fails(self, candidate: Options) -> bool:
        """Try a candidate; keep it if the same rule breaks."""
        if self.runs >= RUNS_MAX or candidate == self.options:
            return False
        self.runs += 1
        report = self._run(candidate)
        if report.failure is None or report.failure.rule != self._rule:
            return False
        self.options, self.report = candidate, report
        self._tell(_describe(candidate))
        return True

    def shrink_set(self, name: str) -> bool:
        """Leave out halves, quarters, ... of a set of names, down to single ones."""
        shrunk = False
        size = len(getattr(self.options, name))
        while size >= 1:
            for start in range(0, len(getattr(self.options, name)), size):
                names = sorted(getattr(self.options, name))
                rest = frozenset(names[:start] + names[start + size :])
                shrunk = self._fails_with(name, rest) or shrunk
            size //= 2
        return shrunk

    def shrink_ticks(self) -> bool:
        """End the faults where the rule broke, or earlier."""
        at = -(-self.report.virtual_us // self.report.tick_us)
        shorter = sorted({at, *(self.options.ticks * part // 8 for part in range(1, 8))})
        return any(self._fails_with("ticks", ticks) for ticks in shorter if 0 < ticks < self.options.ticks)

    def shrink_number(self, name: str, candidates: tuple[int, ...]) -> bool:
        """Try the smallest number first."""
        known = getattr(self.options, name)
        return any(self._fails_with(name, number) for number in candidates if number < known)

    def _fails_with(self, name: str, value: object) -> bool:
        changes: dict[str, Any] = {name: value}
        return self.fails(replace(self.options, **changes))


def pinned(options: Options, report: Report) -> Options:
    """Return options that ask for exactly what a run chose by itself."""
    return replace(
        options,
        nodes=report.nodes,
        clients=report.clients,
        faults=frozenset(report.kinds),
        knobs=frozenset(report.knobs),
    )


def minimize(run: Run, options: Options, report: Report, tell: Callable[[str], None] = lambda _text: None) -> Minimized:
    """Return a smaller run that breaks the same rule.

    Args:
        run: runs the failing seed with given options.
        options: those the seed failed with.
        report: what that run was.
        tell: hears of each smaller run.
    """
    search = _Search(run, pinned(options, report), report, tell)
    while True:
        shrunk = search.shrink_ticks()
        shrunk = search.shrink_set("faults") or shrunk
        shrunk = search.shrink_set("knobs") or shrunk
        shrunk = search.shrink_number("clients", (1, 2, 4)) or shrunk
        shrunk = search.shrink_number("nodes", (1, 3, 5)) or shrunk
        if not shrunk or search.runs >= RUNS_MAX:
            return Minimized(search.options, search.report, search.runs)


def _describe(options: Options) -> str:
    faults, knobs = len(options.faults or ()), len(options.knobs or ())
    return f"{options.ticks} ticks, {faults} faults, {knobs} knobs, {options.clients} clients, {options.nodes} nodes"
