"""A figure is the median of what was really answered, and a load that was not answered in full is none."""

import json
from pathlib import Path

import pytest
import typer

from tools.bench import shortened, wanted_cases
from tools.bench_grpc import BenchFailed
from tools.bench_loads import CASES, INFLIGHT, Case, Figure, h2load_figure
from tools.bench_report import COLUMNS, Report, Usage, markdown, million_table, row_of, table_of, write

PUT, RANGE = Case("put", 16, 4), Case("range", 16, 4)
H2LOAD = """
finished in 2.00s, 2000.50 req/s, 1.23MB/s
requests: 4 total, 4 started, 4 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.04KB (1069) total, 96B (96) headers (space savings 95.00%), {data}B ({data}) data
"""
LOG = "".join(f"100\t200\t{latency}\n" for latency in (4000, 1000, 3000, 2000))


def report(**figures: list[float]) -> Report:
    """A report with these rates of `PUT`, one a round."""
    made = Report(rounds=3, etcd="etcd Version: 1", cores=2, fdatasync_us=[100.0, 300.0, 200.0])
    for target, rates in figures.items():
        for rate in rates:
            made.add(target.replace("_", " "), PUT, Figure(rate, 1000 / rate, 2000 / rate, 5.0))
    return made


def test_a_full_answer_is_a_figure() -> None:
    """Rate and percentiles come from what h2load measured of every request."""
    figure = h2load_figure(RANGE, H2LOAD.format(succeeded=4, failed=0, data=40), LOG, 10)
    assert figure == Figure(2000.5, 3.0, 4.0)


@pytest.mark.parametrize(
    ("text", "log", "told"),
    [
        (H2LOAD.format(succeeded=3, failed=1, data=40), LOG, "3 succeeded"),
        (H2LOAD.format(succeeded=4, failed=0, data=30), LOG, "30 bytes came for 4 answers of 10"),
        (H2LOAD.format(succeeded=4, failed=0, data=40), LOG.replace("200\t4", "503\t4"), "some that failed"),
        (H2LOAD.format(succeeded=4, failed=0, data=40), LOG[:12], "logged 1 answers"),
        ("h2load: connection refused", "", "connection refused"),
    ],
)
def test_what_was_not_answered_is_no_figure(text: str, log: str, told: str) -> None:
    """A failed request, a gRPC error inside an HTTP 200, or a missing line ends the measurement."""
    with pytest.raises(BenchFailed, match=told):
        h2load_figure(RANGE, text, log, 10)


def test_ratios_are_of_medians() -> None:
    """One slow round of either side does not move the ratio."""
    cells = dict(zip(COLUMNS, row_of(PUT, report(etcd=[100, 1, 110], actd=[300, 200, 9])), strict=True))
    assert (cells["etcd/s"], cells["actd/s"], cells["ratio"]) == ("100", "200", "2.00")
    assert cells["actd p50/p99 ms"] == "5.00 / 10.00"


def test_what_was_not_measured_is_a_dash() -> None:
    """Without etcd there is no ratio, and nothing is made up."""
    cells = dict(zip(COLUMNS, row_of(PUT, report(actd=[300], actd_zmq=[400])), strict=True))
    assert [cells[name] for name in ("etcd/s", "ratio", "zmq ratio", "actd/s", "actd zmq/s")] == [
        *("-", "-", "-", "300", "400")
    ]


def test_circumstances_are_told() -> None:
    """Rounds, etcd's version, cores and the disk's sync time stand above the table."""
    alone = Report(rounds=0, etcd="etcd Version: 1", cores=2)
    assert alone.title == "etcd Version: 1, 2 cores"
    assert report().title == "median of 3 interleaved rounds, etcd Version: 1, 2 cores, fdatasync p50 200 µs"


def test_results_are_written_side_by_side(tmp_path: Path) -> None:
    """JSON keeps every round, Markdown is the table, and the plot is a picture."""
    made = report(etcd=[100, 120, 110], actd=[300, 200, 250])
    made.usage["actd"] = [Usage(2.0, 3 << 20), Usage(4.0, 5 << 20)]
    made.million = {"etcd": {"load, puts/s": 1.0}, "actd": {"load, puts/s": 2.5}}
    written = write([PUT], 1000, made, tmp_path / "deep" / "bench.json")
    assert [path.name for path in written] == ["bench.json", "bench.md", "bench.png"]
    found = json.loads(written[0].read_text())
    assert [one["per_s"] for one in found["figures"]["actd"]["put 16"]] == [300, 200, 250]
    assert "| put 16 | 110 | 250 | 2.27 |" in written[1].read_text()
    assert "| 1,000 keys of 256 bytes | etcd | actd | ratio |" in written[1].read_text()
    assert "| load, puts/s | 1.00 | 2.50 | 2.50 |" in written[1].read_text()
    assert million_table(1000, made).row_count == 1
    assert "actd: 3.0 CPU s a round, 4 MiB PSS at most" in written[1].read_text()
    assert written[2].read_bytes().startswith(b"\x89PNG")
    assert table_of([PUT], made).row_count == 1
    assert markdown([], 1000, report()).count("|") == 0


def test_cases_are_chosen_by_name_or_load() -> None:
    """`--only` takes one row or all rows of a load, and refuses what does not exist."""
    assert [case.name for case in wanted_cases("put 64, range", quick=False)] == [
        *("put 64", "range 1", "range 16", "range 64", "range 1000")
    ]
    assert wanted_cases("", quick=False) == list(CASES)
    with pytest.raises(typer.BadParameter, match="no case is called 'put 65'"):
        wanted_cases("put 65", quick=False)


@pytest.mark.parametrize("case", [*CASES, *map(shortened, CASES)], ids=lambda case: f"{case.name} of {case.requests}")
def test_every_request_of_a_case_is_sent(case: Case) -> None:
    """Requests divide evenly among connections and workers, so that the counts can be held against each other."""
    connections, streams = INFLIGHT[case.inflight]
    assert connections * streams == case.inflight
    assert case.requests > 0
    assert case.requests % case.inflight == 0
