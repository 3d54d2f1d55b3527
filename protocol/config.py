"""What `cluster.toml` says, as frozen models: every knob with unit and reason.

Owns parsing and cross-field checks. Knows no file system beyond reading the one file it is given.
Invariant: a `ClusterConfig` that exists is usable; relations between values hold.
"""

import difflib
import hashlib
import tomllib
from ipaddress import ip_address
from pathlib import Path, PurePath
from typing import Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from protocol.addresses import Address, parse_listen_url, parse_url
from protocol.auth_options import TokenOptions, parse_token_options
from protocol.errors import ConfigError
from protocol.identity import Founding, FoundingMember
from protocol.security import CurveConfig, TlsConfig
from protocol.types import ClusterId, MemberId

_STRICT = ConfigDict(frozen=True, extra="forbid")


class RaftConfig(BaseModel):
    """Times and sizes of consensus."""

    model_config = _STRICT

    heartbeat_interval_ms: int = Field(100, ge=1, description="how often an idle leader says that it lives")
    election_timeout_ms: int = Field(1000, ge=5, description="silence after which a follower stands; jitter 1x to 2x")
    commit_news_delay_ms: int = Field(
        5, ge=0, description="how long news of a commit that nobody at a follower waits for may wait for an append"
    )
    unattended_delay_ms: int = Field(
        20, ge=0, description="how late a follower without clients may hear of what the quorum does without it"
    )
    snapshot_count: int = Field(10_000, ge=1, description="raft entries after which the log is cut")
    catchup_entries: int = Field(5_000, ge=0, description="entries kept behind a cut for followers that lag a little")
    log_bytes_max: int = Field(64 << 20, ge=1 << 20, description="log kept in memory; over it the log is cut early")
    append_bytes_max: int = Field(1 << 20, ge=1, description="entries in one append message, unless one is larger")
    append_entries_max: int = Field(128, ge=1, description="entries in one append message")
    inflight_appends_max: int = Field(64, ge=1, description="appends on their way to one follower")
    inflight_bytes_max: int = Field(16 << 20, ge=1, description="bytes of entries on their way to one follower")
    unapplied_entries_max: int = Field(
        5_000, ge=1, description="committed but unapplied entries; over it: too many requests"
    )
    unapplied_bytes_max: int = Field(64 << 20, ge=1, description="the same in bytes")
    uncommitted_bytes_max: int = Field(64 << 20, ge=1, description="proposed but uncommitted bytes at the leader")
    strict_reconfig_check: bool = Field(
        True, description="refuse changes of the membership that could cost the quorum, as etcd's flag of this name"
    )
    learners_max: int = Field(1, ge=1, description="members that do not vote at one time; etcd's max-learners")

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.election_timeout_ms < 5 * self.heartbeat_interval_ms:
            raise ValueError(
                f"election_timeout_ms ({self.election_timeout_ms}) must be at least 5 x heartbeat_interval_ms "
                f"({self.heartbeat_interval_ms}); raise the first or lower the second"
            )
        return self


class LimitsConfig(BaseModel):
    """What one client, request or node may take."""

    model_config = _STRICT

    request_bytes_max: int = Field(1_572_864, ge=1024, le=32 << 20, description="one request; etcd's max-request-bytes")
    response_bytes_max: int = Field(
        64 << 20, ge=1 << 20, le=64 << 20, description="one unary answer; over it: page with limit"
    )
    txn_operations_max: int = Field(128, ge=1, description="compares, and operations of each branch, of one txn")
    pending_requests_max: int = Field(20_000, ge=1, description="requests a gateway holds; over it: too many requests")
    pending_bytes_max: int = Field(256 << 20, ge=1 << 20, description="bytes of requests and answers a gateway holds")
    connections_max: int = Field(10_000, ge=1, description="open client connections of one node")
    concurrent_streams_max: int = Field(10_000, ge=1, description="open HTTP/2 streams of one connection")
    open_streams_max: int = Field(100_000, ge=1, description="open streaming calls of one node, such as watch streams")
    keepalive_idle_ms: int = Field(
        7_200_000, ge=0, description="silence after which the kernel asks a gRPC or HTTP client for a sign; 0: never"
    )
    keepalive_timeout_ms: int = Field(20_000, ge=1000, description="how long that sign may take")


class HttpConfig(BaseModel):
    """Who may use the HTTP side of the client port from a browser."""

    model_config = _STRICT

    allowed_origins: tuple[str, ...] = Field(("*",), description="origins whose pages may; etcd's cors; *: all")
    allowed_hosts: tuple[str, ...] = Field(
        ("*",), description="names plain requests may call this host, against DNS rebinding; etcd's host-whitelist"
    )
    json_gateway: bool = Field(True, description="serve etcd's JSON gateway below /v3/; etcd's enable-grpc-gateway")


class WatchConfig(BaseModel):
    """What watches may take, and how often they are told that nothing happened."""

    model_config = _STRICT

    progress_notify_interval_ms: int = Field(
        600_000, ge=100, description="silence after which a watcher with progress_notify hears the revision; up to 1.1x"
    )
    watchers_max: int = Field(1_000_000, ge=1, description="watchers of one node; over it: too many requests")


class StorageConfig(BaseModel):
    """Sizes on disk and in memory."""

    model_config = _STRICT

    quota_bytes: int = Field(2 << 30, ge=0, description="logical size after which writes are refused; 0: no quota")
    integrity_check_interval_ms: int = Field(
        60_000, ge=0, description="how often members compare a part of their stores; 0: never"
    )
    wal_segment_bytes: int = Field(64 << 20, ge=4096, description="size of one preallocated WAL file")
    block_cache_bytes: int = Field(64 << 20, ge=1 << 20, description="RocksDB block cache")
    memtable_bytes: int = Field(64 << 20, ge=1 << 16, description="RocksDB write buffer")


class LeasesConfig(BaseModel):
    """How a leader looks after leases."""

    model_config = _STRICT

    checkpoint_interval_ms: int = Field(
        60_000, ge=1000, description="what is left of a longer lease is replicated this often, for the next leader"
    )
    expiries_per_second_max: int = Field(
        3000, ge=100, description="leases and their keys given up per second; the rest of a mass expiry waits its turn"
    )


class CompactionConfig(BaseModel):
    """Compaction that the leader does by itself."""

    model_config = _STRICT

    auto_mode: Literal["off", "periodic", "revision"] = Field(
        "off", description="what history is kept by: time, a number of revisions, or all of it"
    )
    auto_retention_ms: int = Field(0, ge=0, description="history that `periodic` keeps")
    auto_retention_revisions: int = Field(
        0, ge=0, description="history that `revision` keeps; looked after every 5 min"
    )

    @model_validator(mode="after")
    def _relations(self) -> Self:
        for mode, key, value in (
            ("periodic", "auto_retention_ms", self.auto_retention_ms),
            ("revision", "auto_retention_revisions", self.auto_retention_revisions),
        ):
            if (self.auto_mode == mode) != (value > 0):
                raise ValueError(f"auto_mode is {self.auto_mode!r} and {key} is {value}: {mode!r} needs it, no other")
        return self


class AuthConfig(BaseModel):
    """Tokens and passwords; whether authentication is on is in the store."""

    model_config = _STRICT

    token: str = Field(
        "simple", description="etcd's auth-token: `simple`, or `jwt,sign-method=…,pub-key=…,priv-key=…,ttl=…`"
    )
    token_ttl_s: int = Field(300, ge=1, description="a simple token that was not used for so long is none any more")
    bcrypt_cost: int = Field(10, ge=4, le=31, description="each more doubles what hashing a password takes")

    @field_validator("token")
    @classmethod
    def _known(cls, value: str) -> str:
        parse_token_options(value)
        return value

    @property
    def token_options(self) -> TokenOptions:
        """What `token` says."""
        return parse_token_options(self.token)


class SupervisionConfig(BaseModel):
    """How actors are kept alive."""

    model_config = _STRICT

    restarts_max: int = Field(5, ge=0, description="restarts within the window after which the node gives up")
    restart_window_ms: int = Field(60_000, ge=1, description="the window for restarts_max")
    backoff_first_ms: int = Field(100, ge=1, description="wait before the first restart; doubled each time")
    backoff_max_ms: int = Field(10_000, ge=1, description="longest wait before a restart")
    beat_timeout_ms: int = Field(10_000, ge=3000, description="silence after which an actor is killed")
    stop_timeout_ms: int = Field(10_000, ge=100, description="time an actor has to stop cleanly")

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.backoff_max_ms < self.backoff_first_ms:
            raise ValueError(
                f"backoff_max_ms ({self.backoff_max_ms}) is below backoff_first_ms ({self.backoff_first_ms}); "
                "raise the first or lower the second"
            )
        return self


def _is_address(host: str) -> bool:
    try:
        return host == "localhost" or bool(ip_address(host.strip("[]")))
    except ValueError:
        return False


class NodeConfig(BaseModel):
    """One member. Addresses are `host:port`."""

    model_config = _STRICT

    name: str = Field(
        min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="name of the node"
    )
    client: str = Field(description="gRPC and HTTP clients connect here")
    peer: str = Field(description="other members connect here (ZeroMQ)")
    zmq: str = Field(description="ZeroMQ clients connect here; empty: they are not served")
    data_dir: str = Field("", description="where the node keeps its data; default: <data_dir of the cluster>/<name>")
    listen_client_urls: tuple[str, ...] = Field(
        (), description="where gRPC and HTTP clients are listened to, when that is not `client` alone; unix:// too"
    )
    listen_peer_urls: tuple[str, ...] = Field(
        (), description="where other members are listened to, when that is not `peer`, e.g. behind a proxy"
    )
    listen_metrics_urls: tuple[str, ...] = Field((), description="/metrics and health pages on ports of their own")
    advertise_client_urls: tuple[str, ...] = Field(
        (), description="the client URLs that MemberList shows; default: `client`"
    )
    advertise_peer_urls: tuple[str, ...] = Field(
        (), description="what other members dial, and what the member id is made of; default: `peer`"
    )
    allow_insecure_listen: bool = Field(
        False, description="listen beyond loopback without TLS or CURVE; anybody there may read and write everything"
    )
    client_transport_security: TlsConfig = TlsConfig()
    curve: CurveConfig = CurveConfig()

    @field_validator("listen_client_urls", "listen_peer_urls", "listen_metrics_urls")
    @classmethod
    def _listened_on(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            parse_listen_url(url)
        return value

    @field_validator("listen_peer_urls", "advertise_peer_urls")
    @classmethod
    def _tcp(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in map(parse_url, value):
            if address.is_unix:
                raise ValueError(f"{address.text!r}: members speak to each other over TCP only")
        return value

    @field_validator("advertise_client_urls")
    @classmethod
    def _advertised(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            parse_url(url)
        return value

    @field_validator("client", "peer", "zmq")
    @classmethod
    def _address(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.field_name == "zmq":
            return value
        host, separator, port = value.rpartition(":")
        plain = port.isascii() and port.isdigit() and not port.startswith("0")
        if not separator or not host or not plain or int(port) > 65535:
            raise ValueError(f"{value!r} is not host:port with a port of 1 to 65535")
        if not _is_address(host):
            raise ValueError(f"{host!r} is neither an IP address nor localhost")
        return value

    @model_validator(mode="after")
    def _plain_on_loopback_only(self) -> Self:
        tls = self.client_transport_security.enabled
        for key, addresses in self.listeners().items():
            for address in addresses:
                for_curve = key in ("peer", "zmq")
                secure = self.curve.enabled if for_curve else address.secure
                if secure and not for_curve and not tls:
                    raise ValueError(f"{address.text} wants TLS: client_transport_security has no certificate")
                if not secure and not address.is_local and not self.allow_insecure_listen:
                    what = (
                        "set up curve (CURVE)" if for_curve else "use https and set up client_transport_security (TLS)"
                    )
                    raise ValueError(
                        f"{key} {address.host_port} is not a loopback address, and what is said there would be plain "
                        f"text: {what}, listen on 127.0.0.1, ::1 or localhost, or say allow_insecure_listen = true"
                    )
        return self

    @property
    def peer_urls(self) -> tuple[str, ...]:
        """What other members dial, as etcd writes it."""
        return self.advertise_peer_urls or (f"http://{self.peer}",)

    @property
    def client_urls(self) -> tuple[str, ...]:
        """What clients dial, as etcd writes it."""
        return self.advertise_client_urls or (self._client_url,)

    @property
    def _client_url(self) -> str:
        return f"{'https' if self.client_transport_security.enabled else 'http'}://{self.client}"

    @property
    def client_listeners(self) -> tuple[Address, ...]:
        """Where gRPC and HTTP clients are listened to."""
        return tuple(map(parse_listen_url, self.listen_client_urls or (self._client_url,)))

    @property
    def peer_listeners(self) -> tuple[Address, ...]:
        """Where other members are listened to."""
        return tuple(map(parse_listen_url, self.listen_peer_urls or (f"http://{self.peer}",)))

    @property
    def metrics_listeners(self) -> tuple[Address, ...]:
        """Where only pages are served."""
        return tuple(map(parse_listen_url, self.listen_metrics_urls))

    def listeners(self) -> dict[str, tuple[Address, ...]]:
        """Everything this node listens on, by the key that says so."""
        return {
            "client": self.client_listeners,
            "peer": self.peer_listeners,
            "zmq": (parse_listen_url(f"http://{self.zmq}"),) if self.zmq else (),
            "listen_metrics_urls": self.metrics_listeners,
        }


def member_id_of(peer_urls: list[str], token: str) -> MemberId:
    """The id etcd gives a founding member: SHA-1 over sorted peer URLs and the cluster token, first 8 bytes."""
    digest = hashlib.sha1("".join(sorted(peer_urls)).encode() + token.encode(), usedforsecurity=False).digest()
    return MemberId(int.from_bytes(digest[:8], "big"))


def cluster_id_of(members: list[MemberId]) -> ClusterId:
    """The id etcd gives a cluster: SHA-1 over the sorted founding member ids, first 8 bytes."""
    joined = b"".join(member.to_bytes(8, "big") for member in sorted(members))
    return ClusterId(int.from_bytes(hashlib.sha1(joined, usedforsecurity=False).digest()[:8], "big"))


class ClusterConfig(BaseModel):
    """The whole file."""

    model_config = _STRICT

    token: str = Field("actd-cluster", description="tells clusters with the same addresses apart")
    data_dir: str = Field(
        "data", description="parent of the nodes' data directories, relative to the working directory"
    )
    initial_cluster_state: Literal["new", "existing"] = Field(
        "new", description='"existing": a node without data joins a cluster that runs, as a member that was added'
    )
    nodes: tuple[NodeConfig, ...] = Field(
        min_length=1, description='the founding members, an odd number; of an "existing" cluster any to ask, and this'
    )
    raft: RaftConfig = RaftConfig()
    limits: LimitsConfig = LimitsConfig()
    http: HttpConfig = HttpConfig()
    watch: WatchConfig = WatchConfig()
    storage: StorageConfig = StorageConfig()
    leases: LeasesConfig = LeasesConfig()
    compaction: CompactionConfig = CompactionConfig()
    auth: AuthConfig = AuthConfig()
    supervision: SupervisionConfig = SupervisionConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [node.name for node in self.nodes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"nodes: the name {name!r} is used twice; give each node its own")
        self._check_addresses()
        directories: dict[PurePath, str] = {}
        for node in self.nodes:
            directory = self.data_dir_of(node)
            if directory in directories:
                raise ValueError(
                    f"nodes: {node.name} and {directories[directory]} share the data_dir {directory}; give each its own"
                )
            directories[directory] = node.name
        if len(self.nodes) % 2 == 0 and self.initial_cluster_state == "new":
            raise ValueError(
                f"nodes: {len(self.nodes)} members survive no more failures than {len(self.nodes) - 1}; "
                "use an odd number"
            )
        self._check_room()
        interval, timeout = self.leases.checkpoint_interval_ms, self.raft.election_timeout_ms
        if interval < 4 * timeout:
            raise ValueError(
                f"leases.checkpoint_interval_ms ({interval}) must be at least 4 x raft.election_timeout_ms "
                f"({timeout}); raise the first or lower the second"
            )
        return self

    def _check_addresses(self) -> None:
        taken: dict[str, str] = {}
        for node in self.nodes:
            for key, addresses in node.listeners().items():
                for address in addresses:
                    listens = address.host if address.is_unix else address.zmq_bind()
                    here = f"{node.name}.{key}"
                    if listens in taken:
                        told = address.text if address.is_unix else address.host_port
                        raise ValueError(f"nodes: {here} and {taken[listens]} are both {told}; use another port")
                    taken[listens] = here

    def _check_room(self) -> None:
        """A request of the largest size must fit wherever it passes through."""
        request = self.limits.request_bytes_max
        for key, room in (
            ("limits.pending_bytes_max", self.limits.pending_bytes_max),
            ("raft.uncommitted_bytes_max", self.raft.uncommitted_bytes_max),
            ("raft.unapplied_bytes_max", self.raft.unapplied_bytes_max),
        ):
            if room < request:
                raise ValueError(
                    f"{key} ({room}) is smaller than limits.request_bytes_max ({request}): the largest request would "
                    "never fit; raise the first or lower the second"
                )

    def data_dir_of(self, node: NodeConfig) -> PurePath:
        """Where `node` keeps its data if the command line does not say otherwise."""
        return PurePath(node.data_dir) if node.data_dir else PurePath(self.data_dir, node.name)

    def node(self, name: str) -> NodeConfig:
        """Return the node called `name`."""
        return next(node for node in self.nodes if node.name == name)

    def member_id(self, name: str) -> MemberId:
        """The member id of the node called `name`."""
        return member_id_of(list(self.node(name).peer_urls), self.token)

    @property
    def cluster_id(self) -> ClusterId:
        """The cluster's id."""
        return cluster_id_of([self.member_id(node.name) for node in self.nodes])

    def founding(self) -> Founding:
        """The cluster as this file begins it."""
        founders = tuple(
            FoundingMember(self.member_id(node.name), node.name, node.peer_urls, node.client_urls)
            for node in self.nodes
        )
        return Founding(self.cluster_id, founders)


def load_config(path: Path) -> ClusterConfig:
    """Return the configuration in `path`.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or says something unusable; the text names file and key.
    """
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # Besides its own error tomllib lets through what Python says of a number too long or of tables too deep.
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return ClusterConfig.model_validate(table)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_told(problem)}" for problem in error.errors())) from error


_SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "nodes": NodeConfig,
    "raft": RaftConfig,
    "limits": LimitsConfig,
    "http": HttpConfig,
    "watch": WatchConfig,
    "storage": StorageConfig,
    "leases": LeasesConfig,
    "compaction": CompactionConfig,
    "auth": AuthConfig,
    "supervision": SupervisionConfig,
    "client_transport_security": TlsConfig,
    "curve": CurveConfig,
}


def _told(problem: ErrorDetails) -> str:
    """Say which key is wrong, why, and what to do."""
    place = problem["loc"]
    where = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        sections = [_SECTIONS[str(part)] for part in place[:-1] if str(part) in _SECTIONS]
        section = sections[-1] if sections else ClusterConfig
        known = sorted(section.model_fields)
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here are {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{where}: missing; it has no default"
    text = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    if problem["type"] != "value_error" and isinstance(given, str | int | float | bool):
        text += f", not {given!r}"
    return f"{where}: {text}" if where else text
