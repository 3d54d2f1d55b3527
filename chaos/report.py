"""What is left of a run: a directory with the history, the faults, the logs, the verdict and a picture.

Owns file names and forms. Knows no cluster: everything is in the verdict.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

from chaos.history import FOREVER_US, Record
from chaos.judge import checker_history
from chaos.run import Event, Verdict
from checker.drawing import draw
from checker.feed import write_feed
from checker.history import write_history

HISTORY: Final = "history.jsonl"
FEED: Final = "feed.jsonl"
"""What every revision changed, if a watcher of all keys heard it without a gap."""
FAULTS: Final = "faults.jsonl"
VERDICT: Final = "verdict.json"
PLOT: Final = "plot.png"
DRAWING: Final = "history.html"
"""The history as lanes and bars, around the contradiction if there is one."""
LOGS: Final = "logs"


def write(verdict: Verdict, directory: Path) -> None:
    """Write everything into `directory`, which is made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / HISTORY).open("w") as file:
        write_history(file, checker_history(verdict.history))
    if verdict.feed is not None:
        with (directory / FEED).open("w", encoding="utf-8") as file:
            write_feed(file, verdict.feed)
    with (directory / FAULTS).open("w") as file:
        for event in verdict.events:
            row = {"at_s": event.at_us / 1e6, "kind": event.kind, "fault": event.fault, "text": event.text}
            file.write(json.dumps(row) + "\n")
    (directory / VERDICT).write_text(json.dumps(summary(verdict), indent=2) + "\n")
    (directory / LOGS).mkdir(exist_ok=True)
    for name, text in verdict.logs.items():
        (directory / LOGS / name).write_text(text)
    plot(verdict, directory / PLOT)
    if verdict.judgement is not None:
        (directory / DRAWING).write_text(draw(verdict.judgement), encoding="utf-8")


def summary(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict and its circumstances in plain values."""
    settings = verdict.settings
    return {
        "verdict": "passed" if verdict.ok else "FAILED",
        "safety": verdict.safety,
        "liveness": verdict.liveness,
        "target": settings.target,
        "scenario": settings.scenario.name,
        "seed": settings.seed,
        "seconds": settings.seconds,
        "nodes": settings.scenario.nodes,
        "calls": len(verdict.history),
        "outcomes": dict(sorted(verdict.outcomes().items())),
        "workloads": dict(sorted(Counter(record.workload for record in verdict.history.records).items())),
        "faults": dict(sorted(verdict.faults.items())),
        "linearizability": verdict.judgement.text().splitlines()[0] if verdict.judgement is not None else "not judged",
        "judged_in_s": round(verdict.judged_in_s, 1),
        "feed": verdict.feed_told,
        "host_stood_still_s": [round(length, 2) for _, length in verdict.standstills],
    }


def plot(verdict: Verdict, path: Path) -> None:
    """Draw answers per second and their latency, with a band for every fault."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (rates, latencies) = plt.subplots(2, 1, sharex=True, figsize=(13, 7))
    for outcome in sorted(verdict.outcomes()):
        door, _, how = outcome.partition(" ")
        seconds = Counter(
            _ended_s(record) for record in verdict.history.records if (record.door, record.outcome) == (door, how)
        )
        across = range(max(seconds) + 1)
        rates.plot(across, [seconds[second] for second in across], label=outcome, linewidth=0.9)
    for door in sorted({record.door for record in verdict.history.records}):
        good = [record for record in verdict.history.records if record.ok and record.door == door]
        latencies.scatter(
            [record.returned_us / 1e6 for record in good],
            [(record.returned_us - record.invoked_us) / 1e3 for record in good],
            s=2,
            label=door,
            alpha=0.5,
        )
    _mark_faults(rates, latencies, verdict.events)
    rates.set_ylabel("calls per second")
    latencies.set_ylabel("latency of good answers, ms")
    latencies.set_yscale("log")
    latencies.set_xlabel("seconds")
    for panel in (rates, latencies):
        panel.legend(loc="upper right", fontsize=7)
    settings = verdict.settings
    figure.suptitle(f"{settings.target}, {settings.scenario.name}, seed {settings.seed}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _ended_s(record: Record) -> int:
    return (record.invoked_us if record.returned_us == FOREVER_US else record.returned_us) // 1_000_000


def _mark_faults(rates: Any, latencies: Any, events: list[Event]) -> None:
    """Shade each fault from its beginning to its end, and write its name on the upper panel, on changing heights."""
    open_since: dict[str, list[int]] = {}
    top = rates.get_ylim()[1]
    for number, event in enumerate(event for event in events if event.kind in ("begin", "end")):
        if event.kind == "begin":
            open_since.setdefault(event.fault, []).append(event.at_us)
            continue
        began_us = open_since[event.fault].pop(0)
        for panel in (rates, latencies):
            panel.axvspan(began_us / 1e6, event.at_us / 1e6, color="tab:red", alpha=0.1, linewidth=0)
        height = top * (0.98 - 0.06 * (number % 6))
        rates.text(began_us / 1e6, height, event.fault, fontsize=6, va="top", clip_on=True)
