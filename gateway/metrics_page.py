"""The `/metrics` page: what every actor of the node counts, added up so that no counter ever falls.

Owns the last report of each actor and what its earlier incarnations had counted, and the text form. Names are etcd's
where the meaning is the same. Knows no socket.

Invariants: a counter is the sum over incarnations, so the restart of an actor never makes it fall; a report of an
older incarnation than the last is ignored; a metric of the table below is on the page from the first scrape.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from actors.metrics import ActorMetrics
from protocol.local import MetricsReported
from protocol.metrics import HISTOGRAM_BOUNDS

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LABELLED_SERIES_MAX: Final = 10_000
"""Series one actor may report; more is a mistake that must not fill the page."""

Sample = tuple[str, dict[str, str], float]
"""Name, labels, value."""


class Description(NamedTuple):
    """What a metric is."""

    kind: str
    """`counter`, `gauge` or `histogram`."""
    help: str
    from_start: bool = True
    """Whether it has no labels, so that it can be shown as zero before anybody has counted."""


_C: Final = "counter"
_G: Final = "gauge"
_H: Final = "histogram"
DESCRIPTIONS: Final[dict[str, Description]] = {
    "etcd_server_has_leader": Description(_G, "Whether a leader is known: 1 is yes."),
    "etcd_server_is_leader": Description(_G, "Whether this member leads: 1 is yes."),
    "etcd_server_is_learner": Description(_G, "Whether this member is a learner: 1 is yes."),
    "etcd_server_id": Description(_G, "The member's id, in hex, as a label.", from_start=False),
    "etcd_server_version": Description(_G, "The version of etcd whose API is served.", from_start=False),
    "etcd_cluster_version": Description(_G, "The version the cluster as a whole serves.", from_start=False),
    "etcd_server_leader_changes_seen_total": Description(_C, "Leader changes this member has seen."),
    "etcd_server_proposals_committed_total": Description(_G, "The last committed raft index."),
    "etcd_server_proposals_applied_total": Description(_G, "The last applied raft index."),
    "etcd_server_proposals_pending": Description(_G, "Proposals waiting to be committed."),
    "etcd_server_proposals_failed_total": Description(_C, "Proposals that failed."),
    "etcd_server_read_indexes_failed_total": Description(_C, "Read index rounds that failed."),
    "etcd_server_health_success": Description(_C, "Health checks that succeeded."),
    "etcd_server_health_failures": Description(_C, "Health checks that failed."),
    "etcd_server_healthcheck": Description(_G, "Result of the last check of each kind.", from_start=False),
    "etcd_server_healthchecks_total": Description(_C, "Health checks by kind and result.", from_start=False),
    "etcd_server_quota_backend_bytes": Description(_G, "Logical size over which writes are refused."),
    "actd_curve_refused_total": Description(_C, "ZeroMQ handshakes refused, by door and reason.", from_start=False),
    "actd_curve_link_failures_total": Description(_C, "Our own that failed, by reason.", from_start=False),
    "actd_curve_keys_missing_total": Description(_C, "Times that a member could not be dialled for want of its key."),
    "actd_tls_handshakes_total": Description(_C, "TLS handshakes of clients that succeeded."),
    "actd_tls_handshakes_failed_total": Description(_C, "Those that failed, by reason.", from_start=False),
    "actd_tls_reloads_total": Description(_C, "Changed certificates that were taken into use."),
    "actd_tls_reloads_failed_total": Description(_C, "Changed certificates that could not be used."),
    "actd_half_open_dropped_total": Description(_C, "Silent connections closed because others needed the room."),
    "etcd_mvcc_db_total_size_in_bytes": Description(_G, "Logical size of the store."),
    "etcd_mvcc_db_total_size_in_use_in_bytes": Description(_G, "Logical size of what is not garbage."),
    "etcd_mvcc_range_total": Description(_C, "Ranges served."),
    "etcd_mvcc_put_total": Description(_C, "Puts applied."),
    "etcd_mvcc_delete_total": Description(_C, "Deletes applied."),
    "etcd_mvcc_txn_total": Description(_C, "Transactions applied."),
    "etcd_debugging_lease_granted_total": Description(_C, "Leases granted."),
    "etcd_debugging_lease_revoked_total": Description(_C, "Leases that ended, expired ones included."),
    "etcd_debugging_lease_renewed_total": Description(_C, "Keep-alives answered by this member as leader."),
    "etcd_debugging_lease_ttl_total": Description(_H, "Time to live of granted leases, in seconds."),
    "etcd_debugging_server_lease_expired_total": Description(_C, "Leases that have run out."),
    "etcd_disk_wal_fsync_duration_seconds": Description(_H, "How long the log's syncs take."),
    "etcd_disk_wal_write_bytes_total": Description(_C, "Bytes written to the log."),
    "etcd_disk_backend_commit_duration_seconds": Description(_H, "How long the store's commits take."),
    "etcd_network_client_grpc_received_bytes_total": Description(_C, "Bytes of gRPC messages from clients."),
    "etcd_network_client_grpc_sent_bytes_total": Description(_C, "Bytes of gRPC messages to clients."),
    "etcd_network_peer_sent_bytes_total": Description(_C, "Bytes sent to each peer.", from_start=False),
    "etcd_network_peer_received_bytes_total": Description(_C, "Bytes received from each peer.", from_start=False),
    "etcd_network_peer_sent_failures_total": Description(_C, "Messages dropped per peer.", from_start=False),
    "etcd_network_peer_round_trip_time_seconds": Description(_H, "Heartbeat round trips.", from_start=False),
    "grpc_server_started_total": Description(_C, "RPCs started on the server.", from_start=False),
    "grpc_server_handled_total": Description(_C, "RPCs completed on the server, by code.", from_start=False),
    "grpc_server_msg_received_total": Description(_C, "Messages received from clients.", from_start=False),
    "grpc_server_msg_sent_total": Description(_C, "Messages sent to clients.", from_start=False),
    "process_cpu_seconds_total": Description(_C, "CPU time of the node's processes together."),
    "process_resident_memory_bytes": Description(_G, "Memory of the node's processes, shared pages counted once."),
    "process_virtual_memory_bytes": Description(_G, "Address space of the node's processes together."),
    "process_start_time_seconds": Description(_G, "When the node started, since the epoch."),
    "process_open_fds": Description(_G, "Open descriptors of the node's processes together."),
    "process_max_fds": Description(_G, "Descriptors one process may open."),
    "os_fd_used": Description(_G, "Open descriptors of the node's processes together."),
    "os_fd_limit": Description(_G, "Descriptors one process may open."),
}

_KEY: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?", re.DOTALL)
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')


def parse_key(key: str) -> tuple[str, dict[str, str]]:
    """Return name and labels of a key in Prometheus text form; what does not parse is no label."""
    match = _KEY.fullmatch(key)
    if match is None:
        return re.sub(r"[^a-zA-Z0-9_:]", "_", key) or "_", {}
    labels = {}
    for name, value in _LABEL.findall(match[2] or ""):
        labels[name] = value.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
    return match[1], labels


class _Series:
    """What one actor has counted: by the incarnation that reports, and by those before it."""

    __slots__ = ("base", "base_buckets", "base_sums", "buckets", "counters", "gauges", "incarnation", "sums")

    def __init__(self) -> None:
        self.incarnation = -1
        self.counters: Mapping[str, float] = {}
        self.gauges: Mapping[str, float] = {}
        self.sums: Mapping[str, float] = {}
        self.buckets: Mapping[str, tuple[int, ...]] = {}
        self.base: dict[str, float] = {}
        self.base_sums: dict[str, float] = {}
        self.base_buckets: dict[str, list[int]] = {}

    def begin(self, incarnation: int) -> None:
        """Keep what the last incarnation had, and start counting another."""
        self.incarnation = incarnation
        for key, value in self.counters.items():
            self.base[key] = self.base.get(key, 0) + value
        for key, value in self.sums.items():
            self.base_sums[key] = self.base_sums.get(key, 0) + value
        for key, counts in self.buckets.items():
            self.base_buckets[key] = _added(self.base_buckets.get(key), counts)
        self.counters, self.gauges, self.sums, self.buckets = {}, {}, {}, {}


def _added(before: Iterable[int] | None, counts: Iterable[int]) -> list[int]:
    return list(counts) if before is None else [old + new for old, new in zip(before, counts, strict=True)]


class MetricsPage:
    """Collects the actors' reports and shows their sums."""

    def __init__(self, own: ActorMetrics, collect_own: Callable[[], Iterable[Sample]] | None = None) -> None:
        """`own` is what the gateway's core counts; `collect_own` yields what the doors count, when asked."""
        self._own = own
        self._collect_own = collect_own
        self._actors: dict[str, _Series] = {}
        self.reports_refused = 0
        """Reports that were too large, or of an incarnation that is over."""

    def report(self, message: MetricsReported) -> None:
        """Take what an actor says it has counted."""
        series = self._actors.setdefault(message.actor, _Series())
        size = len(message.counters) + len(message.gauges) + len(message.histograms)
        if message.incarnation < series.incarnation or size > LABELLED_SERIES_MAX:
            self.reports_refused += 1
            return
        if message.incarnation > series.incarnation:
            series.begin(message.incarnation)
        series.counters = message.counters
        series.gauges = message.gauges
        series.sums = {key: total for key, (total, _) in message.histograms.items()}
        series.buckets = {key: counts for key, (_, counts) in message.histograms.items() if _known(key, counts)}

    # --- adding up --------------------------------------------------------------------------------

    def _counters(self) -> dict[str, float]:
        total = dict(self._own.counters)
        for _, series in sorted(self._actors.items()):
            for part in (series.base, series.counters):
                for key, value in part.items():
                    total[key] = total.get(key, 0) + value
        return total

    def _gauges(self) -> dict[str, float]:
        latest = dict(self._own.gauges)
        for _, series in sorted(self._actors.items()):
            latest.update(series.gauges)
        return latest

    def _histograms(self) -> dict[str, tuple[float, list[int]]]:
        buckets: dict[str, list[int]] = {}
        sums: dict[str, float] = {}
        parts: list[tuple[Mapping[str, Iterable[int]], Mapping[str, float]]] = [(self._own.buckets, self._own.sums)]
        for _, series in sorted(self._actors.items()):
            parts += [(series.base_buckets, series.base_sums), (series.buckets, series.sums)]
        for counts_by_key, sums_by_key in parts:
            for key, counts in counts_by_key.items():
                buckets[key] = _added(buckets.get(key), counts)
                sums[key] = sums.get(key, 0) + sums_by_key.get(key, 0)
        return {key: (sums[key], counts) for key, counts in buckets.items()}

    # --- the page ---------------------------------------------------------------------------------

    def collect(self, extra: Iterable[Sample] = ()) -> Iterator["Metric"]:
        """Yield every metric family, `extra` samples among them."""
        families: dict[str, tuple[str, list[Sample]]] = {
            name: (described.kind, []) for name, described in DESCRIPTIONS.items() if described.from_start
        }
        for key, value in self._counters().items():
            _add(families, _C, (*parse_key(key), value))
        for key, value in self._gauges().items():
            _add(families, _G, (*parse_key(key), value))
        for sample in (*(self._collect_own() if self._collect_own is not None else ()), *extra):
            _add(families, _G, sample)
        histograms: dict[str, list[tuple[dict[str, str], float, list[int]]]] = {}
        for key, (total, counts) in self._histograms().items():
            name, labels = parse_key(key)
            histograms.setdefault(name, []).append((labels, total, counts))
        for name, (kind, samples) in families.items():
            if kind == _H:
                histograms.setdefault(name, [({}, 0.0, [0] * (len(HISTOGRAM_BOUNDS[name]) + 1))])
            else:
                yield _family(name, kind, samples or [(name, {}, 0.0)])
        for name, parts in histograms.items():
            yield _histogram(name, parts)

    def render(self, processes: Iterable[Sample] = ()) -> bytes:
        """Return the page in Prometheus' text format; `processes` are the figures of the node's processes."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Scrape(self, list(processes)))
        return generate_latest(registry)


class _Scrape:
    """One reading of the page, as prometheus-client wants a collector."""

    def __init__(self, page: MetricsPage, extra: Iterable[Sample]) -> None:
        self._page = page
        self._extra = extra

    def collect(self) -> Iterator["Metric"]:
        """Yield every metric family."""
        return self._page.collect(self._extra)


def _known(key: str, counts: tuple[int, ...]) -> bool:
    """Whether the counts fit the bounds both sides know."""
    bounds = HISTOGRAM_BOUNDS.get(key.partition("{")[0])
    return bounds is not None and len(counts) == len(bounds) + 1


def _add(families: dict[str, tuple[str, list[Sample]]], kind: str, sample: Sample) -> None:
    """Put a sample into its family; the table knows its kind better than where it came from."""
    name = sample[0]
    family = families.get(name)
    if family is None:
        described = DESCRIPTIONS.get(name)
        family = families[name] = (described.kind if described is not None else kind, [])
    family[1].append(sample)


def _help(name: str) -> str:
    described = DESCRIPTIONS.get(name)
    return described.help if described is not None else name.replace("_", " ")


def _family(name: str, kind: str, samples: list[Sample]) -> "Metric":
    from prometheus_client.core import Metric

    if kind == _C and not name.endswith("_total"):
        kind = "unknown"  # the library would append _total, and then it is not etcd's name any more
    metric = Metric(name.removesuffix("_total") if kind == _C else name, _help(name), kind)
    for sample_name, labels, value in samples:
        metric.add_sample(sample_name, labels, value)
    return metric


def _histogram(name: str, parts: list[tuple[dict[str, str], float, list[int]]]) -> "Metric":
    from prometheus_client.core import Metric
    from prometheus_client.utils import floatToGoString

    metric = Metric(name, _help(name), _H)
    for labels, total, counts in parts:
        running = 0
        for bound, count in zip((*HISTOGRAM_BOUNDS[name], float("inf")), counts, strict=True):
            running += count
            le = str(floatToGoString(bound))  # type: ignore[no-untyped-call]
            metric.add_sample(f"{name}_bucket", labels | {"le": le}, running)
        metric.add_sample(f"{name}_count", labels, running)
        metric.add_sample(f"{name}_sum", labels, total)
    return metric
