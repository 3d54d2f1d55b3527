"""What an applier's store has to say to the metrics page. Owns the names; knows no message."""

from actors.lessor import Lessor
from actors.metrics import ActorMetrics
from storage.mvcc import MvccStore


def measure_store(store: MvccStore, lessor: Lessor, metrics: ActorMetrics) -> None:
    """Refresh the gauges, and the counters that the store keeps."""
    counters, gauges = metrics.counters, metrics.gauges
    for name in ("put", "delete", "txn"):
        counters[f"etcd_mvcc_{name}_total"] = store.counters[name]
    counters["etcd_debugging_mvcc_db_compaction_keys_total"] = store.counters["compacted_revisions"]
    leases = store.leases
    for name, what in (
        ("lease_granted", "granted"),
        ("lease_revoked", "revoked"),
        ("server_lease_expired", "expired"),
    ):
        counters[f"etcd_debugging_{name}_total"] = leases.counters[what]
    counters["etcd_debugging_lease_renewed_total"] = lessor.renewed
    for ttl_s in leases.take_ttls():
        metrics.observe("etcd_debugging_lease_ttl_total", ttl_s)
    gauges["etcd_debugging_mvcc_current_revision"] = store.revision
    gauges["etcd_debugging_mvcc_compact_revision"] = store.compacted
    gauges["etcd_debugging_mvcc_keys_total"] = store.keys.total
    gauges["etcd_debugging_auth_revision"] = store.auth.revision
    gauges["etcd_mvcc_db_total_size_in_bytes"] = store.size
    gauges["etcd_mvcc_db_total_size_in_use_in_bytes"] = store.size_in_use
