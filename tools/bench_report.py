"""What the benchmark says: medians, ratios, a table for people, Markdown for the README, JSON and a plot.

Knows figures only; starts nothing and measures nothing.
"""

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from tools.bench_loads import Case, Figure

TARGETS = ("etcd", "actd", "actd zmq")
COLUMNS = ("case, in flight", "etcd/s", "actd/s", "ratio", "etcd p50/p99 ms", "actd p50/p99 ms", "etcd CPU µs",
           "actd CPU µs", "actd zmq/s", "zmq ratio")  # fmt: skip


@dataclass(slots=True)
class Usage:
    """CPU of all server processes over the gRPC cases of one round, and the most memory they took."""

    cpu_s: float = 0.0
    pss_bytes_peak: int = 0

    def add(self, cpu_s: float, pss_bytes: int) -> None:
        """Count one case; memory is looked at when a case ends."""
        self.cpu_s += cpu_s
        self.pss_bytes_peak = max(self.pss_bytes_peak, pss_bytes)

    def __str__(self) -> str:
        return f"{self.cpu_s:.1f} CPU s, {self.pss_bytes_peak / 2**20:.0f} MiB PSS at most"


@dataclass(slots=True)
class Report:
    """Everything measured."""

    rounds: int
    etcd: str
    cores: int
    fdatasync_us: list[float] = field(default_factory=list)
    figures: dict[str, dict[str, list[Figure]]] = field(default_factory=dict)
    """By target, then by case; one figure a round."""
    usage: dict[str, list[Usage]] = field(default_factory=dict)
    million: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, target: str, case: Case, figure: Figure) -> None:
        """Add one round's figure."""
        self.figures.setdefault(target, {}).setdefault(case.name, []).append(figure)

    def median(self, target: str, case: Case) -> Figure | None:
        """Return the median of each part over the rounds, or None where nothing was measured."""
        found = self.figures.get(target, {}).get(case.name)
        if not found:
            return None
        return Figure(*(statistics.median(part) for part in zip(*found, strict=True)))

    @property
    def title(self) -> str:
        """Under which circumstances."""
        parts = [f"median of {self.rounds} interleaved rounds"] if self.rounds else []
        parts += [self.etcd, f"{self.cores} cores"]
        if self.fdatasync_us:
            parts.append(f"fdatasync p50 {statistics.median(self.fdatasync_us):.0f} µs")
        return ", ".join(part for part in parts if part)


def row_of(case: Case, report: Report) -> list[str]:
    """Return one row; what was not measured is a dash."""
    etcd, actd, zmq = (report.median(target, case) for target in TARGETS)

    def rate(figure: Figure | None) -> str:
        return f"{figure.per_s:,.0f}" if figure else "-"

    def ratio(ours: Figure | None) -> str:
        return f"{ours.per_s / etcd.per_s:.2f}" if ours and etcd else "-"

    def times(figure: Figure | None) -> str:
        return f"{figure.p50_ms:.2f} / {figure.p99_ms:.2f}" if figure else "-"

    def cpu(figure: Figure | None) -> str:
        return f"{figure.cpu_us:,.0f}" if figure else "-"

    cells = [case.name, rate(etcd), rate(actd), ratio(actd), times(etcd), times(actd), cpu(etcd), cpu(actd)]
    return [*cells, rate(zmq), ratio(zmq)]


def usage_lines(report: Report) -> list[str]:
    """Return a line per target: CPU and memory, medians over the rounds."""
    return [
        f"{target}: {statistics.median(one.cpu_s for one in used):.1f} CPU s a round, "
        f"{statistics.median(one.pss_bytes_peak for one in used) / 2**20:.0f} MiB PSS at most, all server processes"
        for target, used in report.usage.items()
    ]


def table_of(cases: list[Case], report: Report) -> Table:
    """Return the table as people read it."""
    table = Table(title=report.title, title_justify="left", caption="\n".join(usage_lines(report)))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for case in cases:
        table.add_row(*row_of(case, report))
    return table


def million_rows(million: dict[str, dict[str, float]]) -> list[list[str]]:
    """Return a row for each figure: the targets side by side, then actd : etcd where both were measured."""
    rows = []
    for figure in next(iter(million.values())):
        cells = [figure, *(f"{figures[figure]:,.2f}" for figures in million.values())]
        if len(million) > 1:
            cells.append(f"{million['actd'][figure] / million['etcd'][figure]:.2f}")
        rows.append(cells)
    return rows


def million_columns(keys: int, million: dict[str, dict[str, float]]) -> list[str]:
    """Return the heads of the columns of `million_rows`."""
    return [f"{keys:,} keys of 256 bytes", *million, *(["ratio"] if len(million) > 1 else [])]


def million_table(keys: int, report: Report) -> Table:
    """Return the figures of the many keys as people read them."""
    table = Table(title=report.title, title_justify="left")
    for number, column in enumerate(million_columns(keys, report.million)):
        table.add_column(column, justify="right" if number else "left")
    for row in million_rows(report.million):
        table.add_row(*row)
    return table


def markdown(cases: list[Case], keys: int, report: Report) -> str:
    """Return both tables as Markdown."""
    lines = [f"{report.title}.", ""]
    if cases:
        lines += ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
        lines += ["| " + " | ".join(row_of(case, report)) + " |" for case in cases]
        lines += ["", *(f"- {line}" for line in usage_lines(report)), ""]
    if report.million:
        columns = million_columns(keys, report.million)
        lines += ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in million_rows(report.million)]
    return "\n".join(lines).rstrip() + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """Return everything measured, every round of it."""
    return {
        "title": report.title,
        "rounds": report.rounds,
        "etcd": report.etcd,
        "cores": report.cores,
        "fdatasync_p50_us": report.fdatasync_us,
        "figures": {
            target: {name: [one._asdict() for one in found] for name, found in by_case.items()}
            for target, by_case in report.figures.items()
        },
        "usage": {
            target: [{"cpu_s": one.cpu_s, "pss_bytes_peak": one.pss_bytes_peak} for one in used]
            for target, used in report.usage.items()
        },
        "million": report.million,
    }


def write(cases: list[Case], keys: int, report: Report, path: Path) -> list[Path]:
    """Write JSON to `path`, Markdown and, if there are cases, the plot beside it; return what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(report), indent=2) + "\n")
    table = path.with_suffix(".md")
    table.write_text(markdown(cases, keys, report))
    if not cases:
        return [path, table]
    picture = path.with_suffix(".png")
    plot(cases, report, picture)
    return [path, table, picture]


def plot(cases: list[Case], report: Report, path: Path) -> None:
    """Draw requests per second, a panel for each number in flight: they differ by orders of magnitude."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counts = sorted({case.inflight for case in cases})
    figure, panels = plt.subplots(1, len(counts), figsize=(4 * len(counts), 4.5), squeeze=False)
    for panel, inflight in zip(panels[0], counts, strict=True):
        shown = [case for case in cases if case.inflight == inflight]
        for offset, target in enumerate(TARGETS):
            heights = [median.per_s if (median := report.median(target, case)) else 0 for case in shown]
            panel.bar([place + offset * 0.27 for place in range(len(shown))], heights, 0.27, label=target)
        panel.set_xticks([place + 0.27 for place in range(len(shown))], [case.load for case in shown], rotation=40,
                         ha="right")  # fmt: skip
        panel.set_title(f"{inflight} in flight")
    panels[0][0].set_ylabel("requests per second")
    panels[0][-1].legend()
    figure.suptitle(report.title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
