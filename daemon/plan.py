"""From settings to a node: its configuration, its founders, its directory, its log.

Pure but for what is handed in. Invariant: every flag whose fate is `MAPPED` is read here or below; a value that the
configuration refuses is told by the flag's name.
"""

import os.path
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from daemon import go_values
from daemon.flag import Kind
from daemon.flag_table import FLAGS
from daemon.founding import Resolve, advertised_peer_urls, founding_of
from daemon.gates import judge_gates
from daemon.settings import Settings
from protocol.addresses import Address, parse_listen_url, parse_url
from protocol.config import ClusterConfig, NodeConfig
from protocol.errors import ConfigError
from protocol.identity import Founding

LOG_LEVELS: Final = {
    "debug": "debug", "info": "info", "warn": "warning", "error": "error", "dpanic": "critical", "panic": "critical",
    "fatal": "critical",
}  # fmt: skip
"""Our level for each of etcd's."""
NOWHERE: Final = "none"
STREAMS_MAX: Final = 4_294_967_295
"""etcd's default, which means no limit; ours stands then."""
ELECTION_TIMEOUT_MS_MAX: Final = 50_000
RAFT_FLAGS: Final = {
    "heartbeat_interval_ms": "heartbeat-interval",
    "election_timeout_ms": "election-timeout",
    "learners_max": "max-learners",
    "snapshot_count": "snapshot-count",
    "catchup_entries": "snapshot-catchup-entries",
}

TLS_FLAGS: Final = {
    "cert_file": "cert-file",
    "key_file": "key-file",
    "trusted_ca_file": "trusted-ca-file",
    "client_cert_auth": "client-cert-auth",
    "crl_file": "client-crl-file",
    "allowed_hostnames": "client-cert-allowed-hostname",
    "auto_tls": "auto-tls",
    "self_signed_cert_validity_years": "self-signed-cert-validity",
    "tls_min_version": "tls-min-version",
    "tls_max_version": "tls-max-version",
    "cipher_suites": "cipher-suites",
}
CURVE_FLAGS: Final = {
    "secret_key_file": "curve-secret-key-file",
    "peer_keys_dir": "curve-peer-keys-dir",
    "client_keys_dir": "curve-client-keys-dir",
}
FLAG_WORDS: Final = {
    "set up curve (CURVE)": "give --curve-secret-key-file",
    "client_transport_security has no certificate": "there is no --cert-file and no --auto-tls",
    "set up client_transport_security (TLS)": "give --cert-file and --key-file",
    "say allow_insecure_listen = true": "give --allow-insecure-listen",
}
"""What the configuration says of its keys, as it reads for flags."""

FLAG_OF_KEY: Final = {
    **{f"raft.{key}": flag for key, flag in RAFT_FLAGS.items()},
    "limits.txn_operations_max": "max-txn-ops",
    "limits.request_bytes_max": "max-request-bytes",
    "limits.concurrent_streams_max": "max-concurrent-streams",
    "limits.keepalive_idle_ms": "grpc-keepalive-interval",
    "limits.keepalive_timeout_ms": "grpc-keepalive-timeout",
    "compaction.auto_retention_ms": "auto-compaction-retention",
    "compaction.auto_retention_revisions": "auto-compaction-retention",
    "storage.quota_bytes": "quota-backend-bytes",
    "storage.integrity_check_interval_ms": "corrupt-check-time",
    "watch.progress_notify_interval_ms": "watch-progress-notify-interval",
    "auth.token": "auth-token",
    "auth.token_ttl_s": "auth-token-ttl",
    "auth.bcrypt_cost": "bcrypt-cost",
    "http.allowed_origins": "cors",
    "http.allowed_hosts": "host-whitelist",
    **{f"nodes.0.client_transport_security.{key}": flag for key, flag in TLS_FLAGS.items()},
    **{f"nodes.0.curve.{key}": flag for key, flag in CURVE_FLAGS.items()},
    "nodes.0.name": "name",
    "nodes.0.zmq": "listen-zmq-urls",
    "nodes.0.listen_client_urls": "listen-client-urls",
    "nodes.0.listen_peer_urls": "listen-peer-urls",
    "nodes.0.listen_metrics_urls": "listen-metrics-urls",
    "nodes.0.advertise_client_urls": "advertise-client-urls",
    "nodes.0.advertise_peer_urls": "initial-advertise-peer-urls",
    "token": "initial-cluster-token",
}
"""Which flag sets each key of the configuration."""


class LogPlan(NamedTuple):
    """How the node logs."""

    style: str
    level: str
    outputs: tuple[str, ...]
    """`stderr`, `stdout`, or the path of a file."""


class NodePlan(NamedTuple):
    """Everything a start needs."""

    config: ClusterConfig
    node: NodeConfig
    founding: Founding
    data_dir: Path
    log: LogPlan


def data_dir_of(settings: Settings) -> Path:
    """Return this node's directory, as an absolute path."""
    given = settings.given.get("data-dir") or f"{settings.text('name')}.etcd"
    return Path(os.path.abspath(given))  # noqa: PTH100 - as it was written, links and all


def plan(settings: Settings, resolve: Resolve, *, begun: bool) -> NodePlan:
    """Return the node that the settings ask for.

    Args:
        settings: what was given.
        resolve: finds the addresses of a name.
        begun: whether the data directory is a member's already; then the initial flags say nothing any more.

    Raises:
        ConfigError: it cannot be; the text names the flag.
    """
    _check_relations(settings)
    judge_gates(settings)
    name, urls = settings.text("name"), advertised_peer_urls(settings)
    if begun and "initial-cluster" in settings.given:
        # Whatever it says, the directory knows better; what is needed here is a founding that has this node.
        settings.warn("the data directory has a member's data, so the initial flags are not looked at")
        settings.given["initial-cluster"] = ",".join(f"{name}={url}" for url in urls)
    raft = {**_given(settings, RAFT_FLAGS), "strict_reconfig_check": settings.truth("strict-reconfig-check")}
    table: dict[str, Any] = {
        "token": settings.text("initial-cluster-token"),
        "initial_cluster_state": settings.text("initial-cluster-state"),
        "nodes": [_node_table(settings)],
        "raft": raft,
        "compaction": _compaction_table(settings),
        "limits": _limits_table(settings),
        "auth": _auth_table(settings),
        "http": {
            "allowed_origins": _allowed(settings, "cors"),
            "allowed_hosts": _allowed(settings, "host-whitelist"),
            "json_gateway": settings.truth("enable-grpc-gateway"),
        },
    }
    table["storage"] = _storage_table(settings)
    if "watch-progress-notify-interval" in settings.given:
        table["watch"] = {"progress_notify_interval_ms": settings.milliseconds("watch-progress-notify-interval")}
    election = settings.number("election-timeout")
    if 4 * election > 60_000:
        # What is left of leases is replicated no oftener than a few elections may take.
        table["leases"] = {"checkpoint_interval_ms": 4 * election}
    try:
        config = ClusterConfig.model_validate(table)
    except ValidationError as error:
        raise ConfigError("; ".join(_told(settings, problem) for problem in error.errors())) from error
    founding = founding_of(settings, resolve)
    if config.initial_cluster_state == "existing" and not begun and len(founding.founders) < 2:
        raise ConfigError(f"{settings.told('initial-cluster')} names no member of the existing cluster to ask")
    return NodePlan(config, config.nodes[0], founding, data_dir_of(settings), _log_plan(settings))


def _check_relations(settings: Settings) -> None:
    """Refuse what etcd refuses, in its words."""
    heartbeat, election = settings.number("heartbeat-interval"), settings.number("election-timeout")
    if heartbeat < 1:
        raise ConfigError(f"--heartbeat-interval must be >0 (set to {heartbeat}ms)")
    if election < 5 * heartbeat:
        raise ConfigError(
            f"--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        )
    if election > ELECTION_TIMEOUT_MS_MAX:
        raise ConfigError(
            f"--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MS_MAX}ms"
        )
    if "listen-client-urls" in settings.given and "advertise-client-urls" not in settings.given:
        raise ConfigError("--advertise-client-urls is required when --listen-client-urls is set explicitly")


def _given(settings: Settings, keys: dict[str, str]) -> dict[str, int]:
    return {key: settings.number(flag) for key, flag in keys.items() if flag in settings.given}


def _limits_table(settings: Settings) -> dict[str, int]:
    table = _given(settings, {"txn_operations_max": "max-txn-ops", "request_bytes_max": "max-request-bytes"})
    if settings.number("max-concurrent-streams") != STREAMS_MAX:
        table["concurrent_streams_max"] = settings.number("max-concurrent-streams")
    table["keepalive_idle_ms"] = settings.milliseconds("grpc-keepalive-interval")
    table["keepalive_timeout_ms"] = settings.milliseconds("grpc-keepalive-timeout")
    return table


def _auth_table(settings: Settings) -> dict[str, Any]:
    table: dict[str, Any] = _given(settings, {"bcrypt_cost": "bcrypt-cost"})
    table["token"] = settings.text("auth-token")
    if settings.number("auth-token-ttl"):  # nothing means the default, as etcd has it
        table["token_ttl_s"] = settings.number("auth-token-ttl")
    return table


def _storage_table(settings: Settings) -> dict[str, int]:
    """Return the quota and how often stores are compared, where something is said about them; nothing is not never."""
    table = {}
    if settings.says("quota-backend-bytes"):
        table["quota_bytes"] = max(0, settings.number("quota-backend-bytes"))
    if settings.says("corrupt-check-time") and (interval_ms := settings.milliseconds("corrupt-check-time")) > 0:
        table["integrity_check_interval_ms"] = interval_ms
    return table


def _compaction_table(settings: Settings) -> dict[str, Any]:
    """Return how history is compacted by itself; a time without a unit is in hours, as etcd has it."""
    mode, retention = settings.text("auto-compaction-mode"), settings.text("auto-compaction-retention")
    told = f"{settings.told('auto-compaction-retention')}={retention}"
    plain = retention.isascii() and retention.isdigit()
    if retention in ("", "0"):
        return {}
    if mode == "revision":
        if not plain:
            raise ConfigError(f"{told}: is a number of revisions, where --auto-compaction-mode is revision")
        return {"auto_mode": mode, "auto_retention_revisions": int(retention)} if int(retention) else {}
    try:
        kept_ms = int(retention) * 3_600_000 if plain else go_values.nanoseconds(retention) // 1_000_000
    except ValueError:
        raise ConfigError(f"{told}: is a time, such as 30m, or a number of hours") from None
    if kept_ms < 0:
        raise ConfigError(f"{told}: is before now")
    return {"auto_mode": mode, "auto_retention_ms": kept_ms} if kept_ms else {}


def _allowed(settings: Settings, name: str) -> tuple[str, ...]:
    parts = settings.parts(name)
    return ("*",) if "*" in parts else parts or ("*",)


def _urls(settings: Settings, name: str, *, listening: bool) -> list[Address]:
    addresses = []
    for url in settings.parts(name):
        try:
            addresses.append(parse_listen_url(url) if listening else parse_url(url))
        except ValueError as error:
            raise ConfigError(f"{settings.told(name)}: {error}") from None
    return addresses


def _node_table(settings: Settings) -> dict[str, Any]:
    client, peer = (_urls(settings, f"listen-{side}-urls", listening=True) for side in ("client", "peer"))
    client_on_tcp = [address for address in client if not address.is_unix]
    if not client_on_tcp:
        raise ConfigError(f"{settings.told('listen-client-urls')}: at least one http:// URL is needed besides unix://")
    if not peer:
        raise ConfigError(f"{settings.told('listen-peer-urls')}: no valid URLs given")
    for name in ("listen-peer-urls", "initial-advertise-peer-urls"):
        for address in _urls(settings, name, listening=False):
            if address.secure and not settings.says("curve-secret-key-file"):
                raise ConfigError(
                    f"{settings.told(name)}: {address.text} is refused: members speak CURVE and not TLS to each other; "
                    "give --curve-secret-key-file, or write http://"
                )
    if not advertised_peer_urls(settings):
        raise ConfigError(f"{settings.told('initial-advertise-peer-urls')}: no valid URLs given")
    return {
        "name": settings.text("name"),
        "client": client_on_tcp[0].host_port,
        "peer": peer[0].host_port,
        "zmq": _zmq_address(settings),
        "listen_client_urls": [_absolute(address) for address in client],
        "listen_peer_urls": [address.text for address in peer],
        "listen_metrics_urls": [_absolute(each) for each in _urls(settings, "listen-metrics-urls", listening=True)],
        "advertise_client_urls": settings.parts("advertise-client-urls"),
        "advertise_peer_urls": advertised_peer_urls(settings),
        "allow_insecure_listen": settings.truth("allow-insecure-listen"),
        "client_transport_security": _tls_table(settings),
        "curve": {key: settings.text(flag) for key, flag in CURVE_FLAGS.items()},
    }


def _tls_table(settings: Settings) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, name in TLS_FLAGS.items():
        kind = FLAGS[name].kind
        if kind is Kind.TRUTH:
            table[key] = settings.truth(name)
        elif kind is Kind.COUNT:
            table[key] = settings.number(name)
        else:
            table[key] = settings.parts(name) if kind is Kind.LIST else settings.text(name)
    return table


def _absolute(address: Address) -> str:
    """Return a URL that means the same wherever an actor works."""
    if address.is_unix:
        return f"{address.scheme}://{os.path.abspath(address.host)}"  # noqa: PTH100 - a URL, not a path to follow
    return address.text


def _zmq_address(settings: Settings) -> str:
    told = settings.told("listen-zmq-urls")
    if "listen-zmq-urls" not in settings.given:
        # Whoever chose ports for clients did not choose one for this door.
        return "" if "listen-client-urls" in settings.given else "127.0.0.1:2381"
    if settings.text("listen-zmq-urls") in ("", NOWHERE):
        return ""
    addresses = _urls(settings, "listen-zmq-urls", listening=True)
    if len(addresses) != 1 or addresses[0].scheme != "http":
        raise ConfigError(f"{told}: is one http:// URL, or {NOWHERE!r}")
    return addresses[0].zmq_bind().removeprefix("tcp://")


def _log_plan(settings: Settings) -> LogPlan:
    level = settings.text("log-level")
    if settings.truth("debug"):
        level = "debug"
    outputs = tuple(
        "stderr" if output in ("default", "systemd/journal") else output for output in settings.parts("log-outputs")
    )
    if len(outputs) > 1 and "default" in settings.parts("log-outputs"):
        raise ConfigError(f'{settings.told("log-outputs")}: multi logoutput for "default" is not supported yet')
    if "systemd/journal" in settings.parts("log-outputs"):
        settings.warn("the journal gets what is on stderr", flag=settings.told("log-outputs"))
    files = tuple(
        output if output in ("stderr", "stdout") else os.path.abspath(output)  # noqa: PTH100 - as it was written
        for output in dict.fromkeys(outputs)
    )
    style = "zap" if settings.text("log-format") == "json" else "console"
    return LogPlan(style, LOG_LEVELS[level], files or ("stderr",))


def _told(settings: Settings, problem: ErrorDetails) -> str:
    """Say which flag is wrong and why."""
    place = ".".join(str(part) for part in problem["loc"])
    text = str(problem["msg"]).removeprefix("Value error, ")
    for words, flag_words in FLAG_WORDS.items():
        text = text.replace(words, flag_words)
    flag = next((flag for key, flag in FLAG_OF_KEY.items() if place == key or place.startswith(f"{key}.")), "")
    if not flag:
        return text
    return f"{settings.told(flag)}={settings.text(flag)}: {text}"
