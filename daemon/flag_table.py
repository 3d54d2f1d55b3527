"""Every flag of etcd 3.4 to 3.7 and ours: the one place that says what each means here.

`--help`, docs/reference/flags.md and the tests walk this table. Owns no behaviour: `daemon.translate` acts on it.
Invariant: no flag of etcd is missing, and none is ignored without a word.
"""

from typing import Final

from daemon.flag import Fate, Flag, FlagGroup, Kind
from daemon.flag_table_old import OLD_FLAGS
from daemon.flag_table_secured import SECURITY_FLAGS

_M, _N, _R = Fate.MAPPED, Fate.NOTED, Fate.REFUSED

MEMBER_FLAGS: Final = (
    Flag("name", Kind.TEXT, "default", _M, "name of this member, as --initial-cluster has it"),
    Flag("data-dir", Kind.TEXT, "${name}.etcd", _M, "where this member keeps everything"),
    Flag("wal-dir", Kind.TEXT, "", _R, "the log is a part of the data directory; mount its device at DATA_DIR/wal"),
    Flag("snapshot-count", Kind.COUNT, "10000", _M, "entries after which the log is cut; one holds many commands here"),
    Flag("snapshot-catchup-entries", Kind.COUNT, "5000", _M, "entries kept behind a cut for followers that lag"),
    Flag("heartbeat-interval", Kind.COUNT, "100", _M, "milliseconds between heartbeats of an idle leader"),
    Flag("election-timeout", Kind.COUNT, "1000", _M, "milliseconds of silence after which a follower stands"),
    Flag(
        "initial-election-tick-advance",
        Kind.TRUTH,
        "true",
        _N,
        "a start waits for one whole election timeout at most, and is not shortened or prolonged",
    ),
    Flag("listen-peer-urls", Kind.URLS, "http://localhost:2380", _M, "where other members are listened to (ZeroMQ)"),
    Flag(
        "listen-client-urls",
        Kind.URLS,
        "http://localhost:2379",
        _M,
        "where gRPC and HTTP clients are listened to; unix://FILE, too",
    ),
    Flag(
        "listen-client-http-urls",
        Kind.URLS,
        "",
        _R,
        "gRPC and HTTP share every client URL here; list the URL in --listen-client-urls",
    ),
    Flag("max-snapshots", Kind.COUNT, "5", _N, "no snapshot files are kept: one is made when a member needs it"),
    Flag("max-wals", Kind.COUNT, "5", _N, "log files go as soon as the log is cut behind them"),
    Flag(
        "quota-backend-bytes",
        Kind.NUMBER,
        "0",
        _M,
        "logical size after which writes are refused; 0: 2 GiB, below: none",
    ),
    Flag("backend-bbolt-freelist-type", Kind.TEXT, "map", _N, "the store is RocksDB, which has no free list"),
    Flag(
        "backend-batch-interval", Kind.TIME, "", _N, "every log entry is one write to the store here", harmless=("0s",)
    ),
    Flag("backend-batch-limit", Kind.NUMBER, "0", _N, "every log entry is one write to the store here"),
    Flag("max-txn-ops", Kind.COUNT, "128", _M, "compares, and operations of each branch, of one txn"),
    Flag("max-request-bytes", Kind.COUNT, "1572864", _M, "size of one request; 32 MiB at most"),
    Flag(
        "max-concurrent-streams",
        Kind.COUNT,
        "4294967295",
        _M,
        "open HTTP/2 streams of one connection; here 10000 by default",
    ),
    Flag(
        "grpc-keepalive-min-time",
        Kind.TIME,
        "5s",
        _N,
        "clients may ping as they like, within a budget of frames that carry no work",
    ),
    Flag(
        "grpc-keepalive-interval",
        Kind.TIME,
        "2h0m0s",
        _M,
        "silence after which the kernel asks a client's machine whether it is still there (TCP keep-alive); 0: never",
    ),
    Flag("grpc-keepalive-timeout", Kind.TIME, "20s", _M, "how long such a machine may take to answer"),
    Flag("socket-reuse-port", Kind.TRUTH, "false", _R, "two nodes on one port would share one client's requests out"),
    Flag("socket-reuse-address", Kind.TRUTH, "false", _N, "is always so"),
    Flag("enable-grpc-gateway", Kind.TRUTH, "true", _M, "serve the JSON gateway below /v3/ on the client port"),
    Flag("raft-read-timeout", Kind.TIME, "5s", _N, "links between members end after 10 s of silence"),
    Flag("raft-write-timeout", Kind.TIME, "5s", _N, "links between members end after 10 s of silence"),
    Flag("memory-mlock", Kind.TRUTH, "false", _N, "no memory is locked; turn swap off"),
    Flag(
        "listen-zmq-urls",
        Kind.URLS,
        "",
        _M,
        "where ZeroMQ clients are listened to: one http:// URL; 'none': nowhere. "
        "By default http://localhost:2381, or nowhere where --listen-client-urls is given",
        ours=True,
    ),
)

CLUSTER_FLAGS: Final = (
    Flag(
        "initial-advertise-peer-urls",
        Kind.URLS,
        "http://localhost:2380",
        _M,
        "what other members dial; ids come from it",
    ),
    Flag(
        "initial-cluster",
        Kind.TEXT,
        "default=http://localhost:2380",
        _M,
        "NAME=PEER-URL of each founding member, with commas",
    ),
    Flag(
        "initial-cluster-state",
        Kind.TEXT,
        "new",
        _M,
        "'new' founds the cluster, 'existing' joins one; read only while the data directory is empty",
        choices=("new", "existing"),
    ),
    Flag("initial-cluster-token", Kind.TEXT, "etcd-cluster", _M, "tells clusters with the same URLs apart"),
    Flag("advertise-client-urls", Kind.URLS, "http://localhost:2379", _M, "the client URLs that MemberList shows"),
    Flag(
        "discovery", Kind.TEXT, "", _R, "the discovery service of etcd 2 is gone; list the members in --initial-cluster"
    ),
    Flag("discovery-endpoints", Kind.LIST, "", _R, "there is no discovery here; list the members in --initial-cluster"),
    Flag("discovery-token", Kind.TEXT, "", _R, "there is no discovery here; list the members in --initial-cluster"),
    Flag("discovery-dial-timeout", Kind.TIME, "2s", _N, "there is no discovery here"),
    Flag("discovery-request-timeout", Kind.TIME, "5s", _N, "there is no discovery here"),
    Flag("discovery-keepalive-time", Kind.TIME, "2s", _N, "there is no discovery here"),
    Flag("discovery-keepalive-timeout", Kind.TIME, "6s", _N, "there is no discovery here"),
    Flag("discovery-insecure-transport", Kind.TRUTH, "true", _N, "there is no discovery here"),
    Flag("discovery-insecure-skip-tls-verify", Kind.TRUTH, "false", _N, "there is no discovery here"),
    Flag("discovery-cert", Kind.TEXT, "", _N, "there is no discovery here"),
    Flag("discovery-key", Kind.TEXT, "", _N, "there is no discovery here"),
    Flag("discovery-cacert", Kind.TEXT, "", _N, "there is no discovery here"),
    Flag("discovery-user", Kind.TEXT, "", _N, "there is no discovery here"),
    Flag("discovery-password", Kind.TEXT, "", _N, "there is no discovery here"),
    Flag(
        "discovery-fallback",
        Kind.TEXT,
        "exit",
        _R,
        "there is no proxy of etcd 2 to fall back to",
        choices=("exit", "proxy"),
    ),
    Flag("discovery-proxy", Kind.TEXT, "", _N, "there is no discovery here"),
    Flag(
        "discovery-srv", Kind.TEXT, "", _R, "names are not looked up in DNS SRV; list the members in --initial-cluster"
    ),
    Flag("discovery-srv-name", Kind.TEXT, "", _N, "there is no discovery here"),
    Flag(
        "strict-reconfig-check", Kind.TRUTH, "true", _M, "refuse changes of the membership that could cost the quorum"
    ),
    Flag("pre-vote", Kind.TRUTH, "true", _N, "elections always begin with a pre-vote"),
    Flag("max-learners", Kind.NUMBER, "1", _M, "members that do not vote at one time"),
    Flag(
        "auto-compaction-retention",
        Kind.TEXT,
        "0",
        _M,
        "history that is kept: a time (a bare number: hours) or, by mode, a number of revisions; 0: all of it",
    ),
    Flag(
        "auto-compaction-mode",
        Kind.TEXT,
        "periodic",
        _M,
        "what --auto-compaction-retention counts",
        choices=("periodic", "revision"),
    ),
    Flag(
        "v2-deprecation",
        Kind.TEXT,
        "write-only",
        _N,
        "there is no store of etcd 2",
        choices=("not-yet", "write-only", "write-only-drop-data", "gone"),
    ),
)

MONITORING_FLAGS: Final = (
    Flag(
        "enable-pprof", Kind.TRUTH, "false", _N, "there is no Go profile; use py-spy dump --pid on the actor's process"
    ),
    Flag("metrics", Kind.TEXT, "basic", _N, "the metrics are the same at either level", choices=("basic", "extensive")),
    Flag("listen-metrics-urls", Kind.URLS, "", _M, "where /metrics and the health pages are served as well"),
    Flag("enable-distributed-tracing", Kind.TRUTH, "false", _N, "no traces are sent"),
    Flag("distributed-tracing-address", Kind.TEXT, "localhost:4317", _N, "no traces are sent"),
    Flag("distributed-tracing-service-name", Kind.TEXT, "etcd", _N, "no traces are sent"),
    Flag("distributed-tracing-instance-id", Kind.TEXT, "", _N, "no traces are sent"),
    Flag("distributed-tracing-sampling-rate", Kind.NUMBER, "0", _N, "no traces are sent"),
)

LOGGING_FLAGS: Final = (
    Flag("logger", Kind.TEXT, "zap", _N, "lines have zap's shape in any case", choices=("zap", "capnslog")),
    Flag("log-outputs", Kind.LIST, "default", _M, "default and stderr, stdout, and files to append to"),
    Flag(
        "log-level",
        Kind.TEXT,
        "info",
        _M,
        "the least level that is logged",
        choices=("debug", "info", "warn", "error", "dpanic", "panic", "fatal"),
    ),
    Flag("log-format", Kind.TEXT, "json", _M, "a JSON object a line, or for people", choices=("json", "console")),
    Flag(
        "enable-log-rotation",
        Kind.TRUTH,
        "false",
        _R,
        "log files are not rotated here; use logrotate with copytruncate",
    ),
    Flag(
        "log-rotation-config-json",
        Kind.TEXT,
        '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}',
        _N,
        "log files are not rotated here",
    ),
    Flag("warning-apply-duration", Kind.TIME, "100ms", _N, "slow requests are counted in metrics, and not logged"),
    Flag(
        "warning-unary-request-duration", Kind.TIME, "300ms", _N, "slow requests are counted in metrics, and not logged"
    ),
)

UPKEEP_FLAGS: Final = (
    Flag(
        "corrupt-check-time",
        Kind.TIME,
        "0s",
        _M,
        "how often members compare the next part of their stores; 0: every minute, for it costs little here",
    ),
    Flag(
        "compact-hash-check-time",
        Kind.TIME,
        "1m0s",
        _N,
        "history is compared whether it was compacted or not, by --corrupt-check-time",
    ),
    Flag("compaction-batch-limit", Kind.NUMBER, "1000", _N, "a compaction works in slices of time between requests"),
    Flag("compaction-sleep-interval", Kind.TIME, "10ms", _N, "a compaction works in slices of time between requests"),
    Flag("watch-progress-notify-interval", Kind.TIME, "10m0s", _M, "silence after which a watcher hears the revision"),
    Flag("downgrade-check-time", Kind.TIME, "5s", _N, "there is no downgrade to wait for"),
    Flag("bootstrap-defrag-threshold-megabytes", Kind.COUNT, "0", _N, "RocksDB needs no defragmentation at a start"),
    Flag(
        "feature-gates",
        Kind.TEXT,
        "",
        _M,
        "NAME=true|false with commas; what a gate asks for is on or off for good here, "
        "and the other is told in a warning",
    ),
    Flag(
        "force-new-cluster",
        Kind.TRUTH,
        "false",
        _R,
        "a cluster without a quorum is not forced; restore a copy into a new one",
    ),
    Flag("unsafe-no-fsync", Kind.TRUTH, "false", _R, "an acknowledged write is on disk, always"),
)

FILE_FLAGS: Final = (
    Flag("config-file", Kind.TEXT, "", _M, "a YAML or JSON file instead of all other flags and variables"),
    Flag("version", Kind.TRUTH, "false", _M, "print the version and exit"),
)

GROUPS: Final = (
    FlagGroup("Member", MEMBER_FLAGS),
    FlagGroup("Clustering", CLUSTER_FLAGS),
    FlagGroup("Security and auth", SECURITY_FLAGS),
    FlagGroup("Monitoring", MONITORING_FLAGS),
    FlagGroup("Logging", LOGGING_FLAGS),
    FlagGroup("Upkeep, features and what is unsafe", UPKEEP_FLAGS),
    FlagGroup("Configuration file and version", FILE_FLAGS),
    FlagGroup("Older names, and what etcd itself no longer has", OLD_FLAGS),
)
FLAGS: Final = {flag.name: flag for group in GROUPS for flag in group.flags}
