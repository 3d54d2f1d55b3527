"""CURVE between nodes, and between nodes and ZeroMQ clients: keys, who is let in, and what became of handshakes.

Owns the list of known keys, the answer to libzmq's question whom to let in (ZAP), and a
thread per process that gives it and hears of handshakes that failed. Knows no message. ipc has no need of any of this.

Invariants: a door that wants CURVE lets in nobody while nobody answers for it; keys are looked at again when their
files change, and a file that cannot be read lets in nobody.
"""

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog
import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from actors.metrics import ActorMetrics
from protocol.curve_keys import KeyFile, read_key_file
from protocol.errors import ConfigError
from protocol.security import CurveConfig

KEY_FILES_MAX: Final = 10_000
HANDSHAKE_MS_MAX: Final = 5000
"""How long a stranger may take to say who he is."""
LOG_INTERVAL_S: Final = 1.0
IO_THREADS: Final = 2
"""Encryption is done by libzmq's own threads; one alone would keep big and small messages in one queue."""
PEERS: Final = "peers"
CLIENTS: Final = "clients"
_ZAP_ADDRESS: Final = "inproc://zeromq.zap.01"
_FAILED: Final = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "gone",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "protocol",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "refused",
}
_FAILURES: Final = sum(_FAILED)
_UNKNOWN_THERE: Final = "put this node's public key into that member's peer_keys_dir"

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]


def make_keys(address: str = "") -> KeyFile:
    """Return a new key pair; of a member with the `host:port` its peers dial, or without."""
    public, secret = zmq.curve_keypair()
    return KeyFile(public, secret, address)


class KnownKeys:
    """Public keys that are let in: those of a directory's `*.key` files, or one alone. For one thread.

    Args:
        directory: where the files are; None: `own` is the only key.
        own: the public key of this node.
    """

    def __init__(self, directory: Path | None, own: bytes) -> None:
        self._directory = directory
        self._seen: list[tuple[str, int, int, int]] | None = None
        self._log = structlog.get_logger().bind(keys=str(directory))
        self._names: dict[bytes, str] = {own: "own"} if directory is None else {}
        self._by_name: dict[str, bytes] = {}
        self._by_address: dict[str, bytes] = {}
        self._own = own

    def name_of(self, public: bytes) -> str | None:
        """Return whose key this is; None if it is nobody's we know."""
        self._refresh()
        return self._names.get(public)

    def of_member(self, name: str, address: str) -> bytes | None:
        """Return the key of the member called `name`, or else of who listens at `address`; None if there is none."""
        if self._directory is None:
            return self._own
        self._refresh()
        return self._by_name.get(name) or self._by_address.get(address)

    def _refresh(self) -> None:
        if self._directory is None:
            return
        seen = []
        with suppress(OSError), os.scandir(self._directory) as entries:
            for entry in itertools.islice(entries, KEY_FILES_MAX):
                if entry.name.endswith(".key"):
                    with suppress(OSError):
                        status = entry.stat()
                        seen.append((entry.name, status.st_ino, status.st_mtime_ns, status.st_size))
        seen.sort()
        if seen == self._seen:
            return
        self._seen = seen
        self._names, self._by_name, self._by_address = {}, {}, {}
        for name, *_ in seen:
            try:
                file = read_key_file(self._directory / name)
            except ConfigError as error:
                self._log.warning("curve_key_unusable", reason=str(error))
                continue
            stem = name.removesuffix(".key")
            self._names[file.public] = stem
            self._by_name[stem] = file.public
            if file.address:
                self._by_address[file.address] = file.public
        self._log.info("curve_keys_read", count=len(self._names))


def check_curve(config: CurveConfig) -> None:
    """Find out before anything is started whether the configured keys can be used.

    Raises:
        ConfigError: they cannot; the text names the file.
    """
    if not config.enabled:
        return
    if not zmq.has("curve"):
        raise ConfigError("curve: this libzmq was built without CURVE; install pyzmq from PyPI")
    load_own_keys(config)
    for key in ("peer_keys_dir", "client_keys_dir"):
        directory = getattr(config, key)
        if directory and not Path(directory).is_dir():
            raise ConfigError(f"{key} {directory}: there is no such directory")


def load_own_keys(config: CurveConfig) -> KeyFile:
    """Return this node's keys.

    Raises:
        ConfigError: the file cannot be used; the text names it.
    """
    keys = read_key_file(Path(config.secret_key_file))
    if not keys.secret:
        raise ConfigError(f"secret_key_file {config.secret_key_file}: there is no secret key in it")
    if zmq.curve_public(keys.secret) != keys.public:
        raise ConfigError(f"secret_key_file {config.secret_key_file}: public and secret key do not belong together")
    return keys


class Curve:
    """The CURVE of one process.

    Args:
        config: what the cluster file says; it is enabled.
        context: the process's ZeroMQ context.
        metrics: where refusals are counted.
        actor: whose process this is, for the log.
        names: the names of members that were there from the start, by the address they are dialled at.

    Raises:
        ConfigError: our own keys cannot be used.
    """

    def __init__(
        self, config: CurveConfig, context: Context, metrics: ActorMetrics, actor: str, names: Mapping[str, str]
    ) -> None:
        self._config = config
        self._keys = load_own_keys(config)
        self._peers = KnownKeys(_directory(config.peer_keys_dir), self._keys.public)
        self._names = names
        self._metrics = metrics
        self._log = structlog.get_logger().bind(actor=actor)
        self._told_at: dict[str, float] = {}
        self._guard = _Guard(context, self._zap_refused, self._failed)

    def secure_door(self, socket: Socket, domain: str) -> None:
        """Have a socket that will listen let in only those who are known; to be said before it listens.

        Args:
            socket: the door.
            domain: `PEERS` or `CLIENTS`.
        """
        directory = self._config.peer_keys_dir if domain == PEERS else self._config.client_keys_dir
        self._guard.admit(domain, KnownKeys(_directory(directory), self._keys.public))
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public)
        socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        # Without an answer to its question libzmq would let in everybody.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS_MAX)
        self._guard.watch(socket, f"door {domain}", None)

    def secure_link(self, socket: Socket, address: str, on_failed: Callable[[], None]) -> bool:
        """Have a socket that will dial `address` believe only who holds the key of that member.

        Args:
            socket: the link.
            address: a member's, `tcp://host:port`.
            on_failed: called, on another thread, when a handshake has failed.

        Returns:
            False if nobody has told us the member's key.
        """
        key = self._peers.of_member(self._names.get(address, ""), address.removeprefix("tcp://"))
        if key is None:
            self._tell("curve_key_missing", address, peer=address, directory=self._config.peer_keys_dir)
            self._metrics.count("actd_curve_keys_missing_total")
            return False
        socket.setsockopt(zmq.CURVE_SERVERKEY, key)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._keys.secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._keys.public)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS_MAX)
        self._guard.watch(socket, f"link {address}", on_failed)
        return True

    def close(self) -> None:
        """End the thread; the sockets are closed before."""
        self._guard.close()

    # --- on the guard's thread ----------------------------------------------------------------------

    def _zap_refused(self, domain: str, address: str, key: bytes) -> None:
        self._metrics.count(f'actd_curve_refused_total{{door="{domain}",reason="key"}}')
        self._tell("curve_key_refused", domain, door=domain, address=address, key=key.decode("ascii", "replace"))

    def _failed(self, what: str, reason: str) -> None:
        kind, _, name = what.partition(" ")
        if kind == "door":
            if reason != "refused":  # those have been counted when they were refused
                self._metrics.count(f'actd_curve_refused_total{{door="{name}",reason="{reason}"}}')
                self._tell("curve_handshake_failed", what, door=name, reason=reason)
        else:
            self._metrics.count(f'actd_curve_link_failures_total{{reason="{reason}"}}')
            remedy = {"key": self._keys.public.decode(), "help": _UNKNOWN_THERE} if reason == "refused" else {}
            self._tell("curve_link_refused", what, peer=name, reason=reason, **remedy)

    def _tell(self, event: str, topic: str, **fields: str) -> None:
        """Log, but not more than once a second about one thing."""
        now = time.monotonic()
        if now - self._told_at.get(event + topic, -LOG_INTERVAL_S) >= LOG_INTERVAL_S:
            self._told_at[event + topic] = now
            self._log.warning(event, **fields)


def open_curve(
    config: CurveConfig, context: Context, metrics: ActorMetrics, actor: str, names: Mapping[str, str]
) -> Curve | None:
    """Return what secures a process's TCP sockets, or None where they speak plain text; before any socket is made.

    Raises:
        ConfigError: our own keys cannot be used.
    """
    if not config.enabled:
        return None
    context.set(zmq.IO_THREADS, IO_THREADS)
    return Curve(config, context, metrics, actor, names)


def _directory(path: str) -> Path | None:
    return Path(path) if path else None


class _Guard:
    """The thread that lets in and keeps out."""

    def __init__(
        self,
        context: Context,
        on_refused: Callable[[str, str, bytes], None],
        on_failed: Callable[[str, str], None],
    ) -> None:
        self._context = context
        self._on_refused = on_refused
        self._on_failed = on_failed
        self._admitted: dict[str, KnownKeys] = {}
        self._news: deque[tuple[str, str, Callable[[], None] | None] | None] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._numbers = itertools.count(1)
        # Bound before any door listens: a question that finds nobody to ask is answered with no.
        self._zap = context.socket(zmq.REP)
        self._zap.bind(_ZAP_ADDRESS)
        self._thread = threading.Thread(target=self._run, name="curve guard", daemon=True)
        self._thread.start()

    def admit(self, domain: str, keys: KnownKeys) -> None:
        """Let in at the doors of `domain` who has one of `keys`, which this thread now owns."""
        self._admitted[domain] = keys

    def watch(self, socket: Socket, what: str, on_failed: Callable[[], None] | None) -> None:
        """Hear of the handshakes of `socket` that fail, until it is closed."""
        address = f"inproc://curve-monitor-{next(self._numbers)}"
        socket.monitor(address, _FAILURES | int(zmq.EVENT_MONITOR_STOPPED))
        self._tell_thread((address, what, on_failed))

    def close(self) -> None:
        """End the thread."""
        self._tell_thread(None)
        self._thread.join()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _tell_thread(self, news: tuple[str, str, Callable[[], None] | None] | None) -> None:
        self._news.append(news)
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        """Serve until closed; a process whose guard fails ends, for libzmq would wait for it for ever."""
        try:
            self._serve()
        except BaseException:  # noqa: BLE001 - whatever it is, nobody else would notice
            structlog.get_logger().exception("curve_guard_failed")
            os._exit(1)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        monitors: dict[Socket, tuple[str, Callable[[], None] | None]] = {}
        while True:
            ready = dict(poller.poll())
            if self._wake_read in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                while self._news:
                    news = self._news.popleft()
                    if news is None:
                        for socket in (self._zap, *monitors):
                            socket.close(linger=0)
                        return
                    address, what, on_failed = news
                    monitor = self._context.socket(zmq.PAIR)
                    monitor.connect(address)
                    monitors[monitor] = (what, on_failed)
                    poller.register(monitor, zmq.POLLIN)
            if self._zap in ready:
                self._answer(self._zap.recv_multipart())
            for monitor in [one for one in monitors if one in ready]:
                if not self._hear(monitor, *monitors[monitor]):
                    poller.unregister(monitor)
                    del monitors[monitor]
                    monitor.close(linger=0)

    def _answer(self, question: list[bytes]) -> None:
        """Say whether a client may come in (RFC 27)."""
        version, request, domain, address, _, mechanism, *credentials = [*question, *[b""] * 6]
        keys = self._admitted.get(domain.decode())
        key = z85.encode(credentials[0]) if mechanism == b"CURVE" and len(credentials[0]) == 32 else b""
        name = keys.name_of(key) if keys is not None and key else None
        if name is None:
            self._on_refused(domain.decode(), address.decode(), key)
            self._zap.send_multipart([version, request, b"400", b"key not known", b"", b""])
        else:
            self._zap.send_multipart([version, request, b"200", b"OK", name.encode(), b""])

    def _hear(self, monitor: Socket, what: str, on_failed: Callable[[], None] | None) -> bool:
        """Take one event; False after the last."""
        event = int(parse_monitor_message(monitor.recv_multipart())["event"])
        if event == int(zmq.EVENT_MONITOR_STOPPED):
            return False
        self._on_failed(what, _FAILED[event])
        if on_failed is not None:
            on_failed()
        return True
