"""The rows of `daemon.flag_table` for names that newer versions of etcd have changed or dropped."""

from typing import Final

from daemon.flag import Fate, Flag, Kind

_M, _N, _R = Fate.MAPPED, Fate.NOTED, Fate.REFUSED
_PROXY: Final = "there is no proxy of etcd 2"
_TRACES: Final = "no traces are sent"
_NOTHING: Final = "etcd has ignored it since its version 2"
IGNORED_BY_ETCD: Final = (
    "cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force", "max-result-buffer",
    "max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout", "retry-interval", "snapshot", "v", "vv",
    "test.coverprofile", "test.outputdir",
)  # fmt: skip
RENAMED: Final = (
    ("experimental-snapshot-catchup-entries", Kind.COUNT, "snapshot-catchup-entries"),
    ("experimental-corrupt-check-time", Kind.TIME, "corrupt-check-time"),
    ("experimental-compact-hash-check-time", Kind.TIME, "compact-hash-check-time"),
    ("experimental-compaction-batch-limit", Kind.NUMBER, "compaction-batch-limit"),
    ("experimental-compaction-sleep-interval", Kind.TIME, "compaction-sleep-interval"),
    ("experimental-watch-progress-notify-interval", Kind.TIME, "watch-progress-notify-interval"),
    ("experimental-warning-apply-duration", Kind.TIME, "warning-apply-duration"),
    ("experimental-warning-unary-request-duration", Kind.TIME, "warning-unary-request-duration"),
    ("experimental-bootstrap-defrag-threshold-megabytes", Kind.COUNT, "bootstrap-defrag-threshold-megabytes"),
    ("experimental-backend-bbolt-freelist-type", Kind.TEXT, "backend-bbolt-freelist-type"),
    ("experimental-memory-mlock", Kind.TRUTH, "memory-mlock"),
    ("experimental-downgrade-check-time", Kind.TIME, "downgrade-check-time"),
    ("experimental-max-learners", Kind.NUMBER, "max-learners"),
    ("experimental-peer-skip-client-san-verification", Kind.TRUTH, "peer-skip-client-san-verification"),
    ("experimental-enable-distributed-tracing", Kind.TRUTH, "enable-distributed-tracing"),
    ("experimental-distributed-tracing-address", Kind.TEXT, "distributed-tracing-address"),
    ("experimental-distributed-tracing-service-name", Kind.TEXT, "distributed-tracing-service-name"),
    ("experimental-distributed-tracing-instance-id", Kind.TEXT, "distributed-tracing-instance-id"),
    ("experimental-distributed-tracing-sampling-rate", Kind.NUMBER, "distributed-tracing-sampling-rate"),
    ("log-output", Kind.LIST, "log-outputs"),
)
"""Old name, kind, and the name it has today."""
GATES: Final = (
    ("experimental-initial-corrupt-check", "InitialCorruptCheck"),
    ("experimental-compact-hash-check-enabled", "CompactHashCheck"),
    ("experimental-enable-lease-checkpoint", "LeaseCheckpoint"),
    ("experimental-enable-lease-checkpoint-persist", "LeaseCheckpointPersist"),
    ("experimental-txn-mode-write-with-shared-buffer", "TxnModeWriteWithSharedBuffer"),
    ("experimental-stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"),
)
"""Old flag, and the feature gate it has become."""

OLD_FLAGS: Final = (
    *(Flag(old, kind, "", _M, f"the older name of --{new}", stands_for=new) for old, kind, new in RENAMED),
    *(Flag(old, Kind.TRUTH, "", _M, f"as --feature-gates={gate}=...") for old, gate in GATES),
    Flag("debug", Kind.TRUTH, "false", _M, "as --log-level=debug"),
    Flag("log-package-levels", Kind.TEXT, "", _N, "levels are not set by package; use --log-level"),
    Flag("enable-v2", Kind.TRUTH, "false", _R, "this version does not serve the API of etcd 2"),
    Flag("experimental-enable-v2v3", Kind.TEXT, "", _R, "this version does not serve the API of etcd 2"),
    Flag("next-cluster-version-compatible", Kind.TRUTH, "false", _N, "data is read by version in any case"),
    Flag("proxy", Kind.TEXT, "off", _R, _PROXY, choices=("off", "readonly", "on")),
    Flag("proxy-failure-wait", Kind.COUNT, "5000", _N, _PROXY),
    Flag("proxy-refresh-interval", Kind.COUNT, "30000", _N, _PROXY),
    Flag("proxy-dial-timeout", Kind.COUNT, "1000", _N, _PROXY),
    Flag("proxy-write-timeout", Kind.COUNT, "5000", _N, _PROXY),
    Flag("proxy-read-timeout", Kind.COUNT, "0", _N, _PROXY),
    *(Flag(name, Kind.SWITCH, "", _N, _NOTHING) for name in IGNORED_BY_ETCD),
)
