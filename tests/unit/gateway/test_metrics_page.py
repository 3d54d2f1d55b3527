"""The metrics page: sums over incarnations, what is shown from the start, text form."""

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.metrics import ActorMetrics
from gateway.metrics_page import DESCRIPTIONS, MetricsPage, Sample, parse_key
from gateway.process_figures import node_pids, read_processes
from protocol.local import MetricsReported
from protocol.metrics import HISTOGRAM_BOUNDS
from protocol.types import Incarnation

FSYNC = "etcd_disk_wal_fsync_duration_seconds"


def report(page: MetricsPage, actor: str, incarnation: int, metrics: ActorMetrics) -> None:
    """Report what `metrics` holds, as a shell does."""
    page.report(
        MetricsReported(
            actor=actor,
            incarnation=Incarnation(incarnation),
            counters=dict(metrics.counters),
            gauges=dict(metrics.gauges),
            histograms={key: (metrics.sums[key], tuple(counts)) for key, counts in metrics.buckets.items()},
        )
    )


def samples(page: MetricsPage) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of the page, as a Prometheus server reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.render().decode())
        for sample in family.samples
    }


def counted(**counters: float) -> ActorMetrics:
    """Return metrics with these counters."""
    metrics = ActorMetrics()
    metrics.counters.update(counters)
    return metrics


def test_restart_never_makes_a_counter_fall() -> None:
    """What an incarnation had counted stays when the next one begins at zero."""
    page = MetricsPage(ActorMetrics())
    seen = []
    for incarnation, values in ((1, (5, 9)), (2, (0, 3)), (4, (1,))):
        for value in values:
            report(page, "applier", incarnation, counted(etcd_mvcc_put_total=value))
            seen.append(samples(page)["etcd_mvcc_put_total", ()])

    assert seen == [5, 9, 9, 12, 13]


def test_late_report_of_an_old_incarnation_is_ignored() -> None:
    """A report that was on its way when its actor died changes nothing."""
    page = MetricsPage(ActorMetrics())
    report(page, "wal", 2, counted(etcd_mvcc_put_total=4))

    report(page, "wal", 1, counted(etcd_mvcc_put_total=100))

    assert samples(page)["etcd_mvcc_put_total", ()] == 4
    assert page.reports_refused == 1


def test_counters_of_actors_and_gateway_are_added() -> None:
    """A counter several actors keep is one counter of the node."""
    own = counted(actd_peer_faults_total=1)
    page = MetricsPage(own)
    report(page, "raft", 1, counted(actd_peer_faults_total=2))
    report(page, "wal", 1, counted(actd_peer_faults_total=4))

    assert samples(page)["actd_peer_faults_total", ()] == 7


def test_labels_are_read_from_keys() -> None:
    """A key in text form becomes a name with labels."""
    page = MetricsPage(ActorMetrics())
    metrics = ActorMetrics()
    metrics.count('etcd_network_peer_sent_bytes_total{To="1f"}', 10)
    metrics.count('etcd_network_peer_sent_bytes_total{To="2a"}', 20)
    report(page, "raft", 1, metrics)

    shown = samples(page)

    assert shown["etcd_network_peer_sent_bytes_total", (("To", "1f"),)] == 10
    assert shown["etcd_network_peer_sent_bytes_total", (("To", "2a"),)] == 20


@pytest.mark.parametrize(
    ("key", "parsed"),
    [
        ("name", ("name", {})),
        ('name{a="1",b="x y"}', ("name", {"a": "1", "b": "x y"})),
        (r'name{a="say \"hi\""}', ("name", {"a": 'say "hi"'})),
        ("not a name", ("not_a_name", {})),
        ("", ("_", {})),
    ],
)
def test_keys_are_parsed(key: str, parsed: tuple[str, dict[str, str]]) -> None:
    """Labels and escapes are understood; what is no key does not break the page."""
    assert parse_key(key) == parsed


def test_histograms_add_up_over_incarnations() -> None:
    """Buckets are cumulative on the page, and survive a restart as counters do."""
    page = MetricsPage(ActorMetrics())
    for incarnation in (1, 2):
        metrics = ActorMetrics()
        for seconds in (0.0005, 0.003, 100.0):
            metrics.observe(FSYNC, seconds)
        report(page, "wal", incarnation, metrics)

    shown = samples(page)

    assert shown[f"{FSYNC}_bucket", (("le", "0.001"),)] == 2
    assert shown[f"{FSYNC}_bucket", (("le", "0.004"),)] == 4
    assert shown[f"{FSYNC}_bucket", (("le", "+Inf"),)] == 6
    assert shown[f"{FSYNC}_count", ()] == 6
    assert shown[f"{FSYNC}_sum", ()] == pytest.approx(200.007)


def test_histogram_of_other_bounds_is_left_out() -> None:
    """Counts that do not fit the bounds of this build are not shown as if they did."""
    page = MetricsPage(ActorMetrics())
    page.report(
        MetricsReported(
            actor="wal",
            incarnation=Incarnation(1),
            counters={},
            gauges={},
            histograms={FSYNC: (1.0, (1, 2)), "unheard_of": (1.0, (1,))},
        )
    )

    assert samples(page)[f"{FSYNC}_count", ()] == 0


def test_gauge_shows_the_latest_value() -> None:
    """A gauge is what was said last, and may fall."""
    page = MetricsPage(ActorMetrics())
    for value in (7.0, 2.0):
        metrics = ActorMetrics()
        metrics.gauge("etcd_server_proposals_committed_total", value)
        report(page, "raft", 1, metrics)

    assert samples(page)["etcd_server_proposals_committed_total", ()] == 2


def test_everything_without_labels_is_there_from_the_start() -> None:
    """Alerts on a metric work before it was first counted; the text form is one Prometheus reads."""
    names = {name for name, _ in samples(MetricsPage(ActorMetrics()))}

    for name, described in DESCRIPTIONS.items():
        if described.from_start:
            assert (f"{name}_count" if described.kind == "histogram" else name) in names


def test_described_histograms_have_bounds() -> None:
    """The table of descriptions and the table of bounds agree."""
    described = {name for name, description in DESCRIPTIONS.items() if description.kind == "histogram"}

    assert described <= set(HISTOGRAM_BOUNDS)


def test_samples_of_the_doors_are_shown() -> None:
    """What the gateway's own doors count is asked for when the page is."""

    def collect() -> Iterator[Sample]:
        yield "grpc_server_started_total", {"grpc_method": "Put"}, 3

    assert samples(MetricsPage(ActorMetrics(), collect))["grpc_server_started_total", (("grpc_method", "Put"),)] == 3


def test_process_figures_are_read() -> None:
    """This process has used time and memory and has descriptors open."""
    figures = {name: value for name, _, value in read_processes(node_pids())}

    assert figures["process_resident_memory_bytes"] > 1_000_000
    assert figures["process_cpu_seconds_total"] > 0
    assert 3 <= figures["process_open_fds"] <= figures["process_max_fds"]
    assert figures["process_start_time_seconds"] > 1_600_000_000


def test_process_that_is_gone_counts_as_nothing() -> None:
    """An actor that ends while the page is made does not spoil it."""
    figures = {name: value for name, _, value in read_processes([2**22 + 1])}

    assert figures["process_resident_memory_bytes"] == 0
