"""Histogram bounds by metric name: one table, because the actor counts and the gateway prints.

Names are etcd's where the meaning is the same.
"""

from typing import Final


def _doubling(first: float, count: int) -> tuple[float, ...]:
    return tuple(first * 2**step for step in range(count))


HISTOGRAM_BOUNDS: Final[dict[str, tuple[float, ...]]] = {
    "etcd_disk_wal_fsync_duration_seconds": _doubling(0.001, 14),
    "etcd_disk_wal_write_duration_seconds": _doubling(0.001, 14),
    "etcd_disk_backend_commit_duration_seconds": _doubling(0.001, 14),
    "etcd_disk_backend_snapshot_duration_seconds": _doubling(0.01, 17),
    "etcd_network_peer_round_trip_time_seconds": _doubling(0.0001, 16),
    "etcd_server_apply_duration_seconds": _doubling(0.0001, 20),
    "etcd_debugging_lease_ttl_total": _doubling(1, 24),
}
"""Upper bounds in seconds; a last bucket without bound is understood."""
