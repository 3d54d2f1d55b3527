"""One node's supervisor: forks its actors, watches them, and restarts what may be restarted.

The pid that is the node to the outside. Owns the data directory's lock and the incarnations. Holds no ZeroMQ
context, thread, event loop or open store, so that forking is safe.
Invariants: raft, wal and applier live and die together: all three are reaped before the next incarnation starts;
a gateway is restarted alone; an actor that fails too often, or fatally, ends the node with its reason.
"""

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from setproctitle import setproctitle

from actors.curve import Context, Curve, open_curve
from actors.joining import Joined, ask_in_a_process, ask_members
from actors.lifeline import Lifeline, LifelineCut
from actors.metrics import ActorMetrics
from actors.node_directory import NodeDirectory
from actors.process import GROUP, ProcessContext, Role
from actors.shell import HELPER_ASKERS, HELPERS, REASON_CHARS_MAX
from protocol import local
from protocol.addresses import parse_url
from protocol.config import ClusterConfig, NodeConfig
from protocol.errors import PeerFault, StartRefused
from protocol.identity import Founding, NodeIdentity
from protocol.membership import dialled_url
from protocol.message import Message
from protocol.types import Incarnation

EXIT_FAILED: Final = 1
WATCH_INTERVAL_S: Final = 2.0
PAUSE_S: Final = WATCH_INTERVAL_S + 1.0
"""A supervisor that was not run for so long cannot know whether its actors were silent or merely not run either."""
_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int, number: int) -> None:
    """Have the kernel send `number` to this process when its parent dies; end at once if that has happened."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(EXIT_FAILED)


@dataclass(slots=True)
class Child:
    """One running actor."""

    role: str
    pid: int
    incarnation: Incarnation
    lifeline: Lifeline
    beat_at: float
    halted: local.ActorHalted | None = None
    stalled: bool = False


class Supervisor:
    """Keeps one node alive. `run` returns the exit status."""

    def __init__(
        self,
        config: ClusterConfig,
        node: NodeConfig,
        data_dir: Path,
        roles: dict[str, Role],
        launcher: Lifeline | None,
        founding: Founding | None = None,
        heard: Callable[[Message], None] | None = None,
    ) -> None:
        """Without `founding` the cluster is as `config` says; with it, a data directory that has one keeps its own.

        Args:
            config: the cluster file, or what the flags made of it.
            node: this node.
            data_dir: its data directory.
            roles: what the actors run.
            launcher: who wants to hear of leadership and of the end, if that is another process.
            founding: the founding members by flags.
            heard: the same words for this process.
        """
        self._config = config
        self._node = node
        self._roles = roles
        self._launcher = launcher
        self._heard = heard
        members = (founding or config.founding()).founders
        self._contacts = [founder.peer_urls for founder in members if founder.name != node.name]
        join = self._join if config.initial_cluster_state == "existing" else None
        self._directory = NodeDirectory(data_dir, config, node.name, founding, join)
        self._log = structlog.get_logger().bind(node=node.name, actor="supervisor")
        self._children: dict[int, Child] = {}
        self._group_incarnation = Incarnation(0)
        self._restarts: list[float] = []
        self._restart_group_at: float | None = None
        self._restart_gateway_at: float | None = None
        self._watched_at = time.monotonic()
        self._gateway_missed = False
        """Whether raft was told that there is no gateway to speak of."""
        self._stopping = False
        self._failure = ""
        self._signal_read, self._signal_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Run the node until it is stopped or gives up."""
        setproctitle(f"actd: {self._node.name} supervisor")
        try:
            self._catch_signals()
            self._directory.open()
            self._start_group()
            self._start_gateway()
            while not self._stopping:
                self._watch()
        except StartRefused as error:
            self._failure = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the actors are to be stopped in order
            self._log.exception("supervisor_failed")
            self._failure = f"{type(error).__name__}: {error}"
        self._stop_all()
        self._directory.close()
        if self._failure:
            self._log.error("node_failed", reason=self._failure, data_dir=str(self._directory.path))
        self._tell_launcher(local.NodeStopped(node=self._node.name, failure=self._failure))
        return EXIT_FAILED if self._failure else 0

    # --- starting ----------------------------------------------------------------------------------

    def _join(self) -> Joined:
        """Ask the members who this node is."""
        node = self._node
        contacts = [url for urls in self._contacts if (url := dialled_url(urls)) is not None]
        self._log.info("joining", peer_urls=node.peer_urls, contacts=contacts)

        def dial(url: str) -> str:
            return parse_url(url).zmq_connect()

        names = {dial(url): other.name for other in self._config.nodes for url in other.peer_urls}

        def secure(context: Context) -> Curve | None:
            return open_curve(node.curve, context, ActorMetrics(), "joiner", names)

        return ask_in_a_process(
            lambda: ask_members(node.peer_urls, node.peer_listeners, contacts, dial, secure=secure),
            lambda: self._stopping,
        )

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._signal_write, warn_on_full_buffer=False)

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _start_group(self) -> None:
        self._restart_group_at = None
        self._group_incarnation = self._directory.next_incarnation()
        siblings: dict[str, Incarnation] = dict.fromkeys(GROUP, self._group_incarnation)
        gateway = self._child("gateway")
        if gateway is not None:
            siblings["gateway"] = gateway.incarnation
            # Told before they run, here and below: their first word must find a reader that knows them.
            for role in GROUP:
                gateway.lifeline.send(local.ActorStarted(actor=role, incarnation=self._group_incarnation))
            gateway.stalled = False
        for role in GROUP:
            self._fork(role, self._group_incarnation, siblings, {})
        if self._gateway_missed:
            self._tell_raft(local.ActorStalled(actor="gateway", stalled=True))

    def _start_gateway(self) -> None:
        self._restart_gateway_at = None
        incarnation = self._directory.next_incarnation()
        siblings = dict.fromkeys(GROUP, self._group_incarnation)
        for child in self._children.values():
            if child.role in GROUP:
                child.lifeline.send(local.ActorStarted(actor="gateway", incarnation=incarnation))
        if self._gateway_missed:
            self._gateway_missed = False
            self._tell_raft(local.ActorStalled(actor="gateway", stalled=False))
        self._fork("gateway", incarnation, siblings, {})

    def _start_helper(self, role: str, arguments: dict[str, object]) -> None:
        old = self._child(role)
        if old is not None:
            self._kill(old)
        asker = HELPER_ASKERS.get(role, "raft")
        siblings = {asker: self._group_incarnation}
        incarnation = self._directory.next_incarnation()
        self._tell(asker, local.ActorStarted(actor=role, incarnation=incarnation))
        self._fork(role, incarnation, siblings, arguments)

    def _fork(
        self, role: str, incarnation: Incarnation, siblings: dict[str, Incarnation], arguments: dict[str, object]
    ) -> None:
        ours, theirs = Lifeline.pair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = EXIT_FAILED
            try:
                die_with_parent(parent, signal.SIGKILL)
                ours.close()
                self._enter_child(role)
                others = {name: number for name, number in siblings.items() if name != role}
                context = self._context(incarnation, theirs, others, arguments)
                status = self._roles[role](context)
            except BaseException as error:  # noqa: BLE001 - a forked child never returns into the supervisor's frames
                self._log.exception("actor_failed", actor=role)
                reason = f"{type(error).__name__}: {error}"[:REASON_CHARS_MAX]
                theirs.send(local.ActorHalted(actor=role, reason=reason, failed=True, fatal=False, story=()))
            finally:
                os._exit(status)
        theirs.close()
        self._children[pid] = Child(role, pid, incarnation, ours, time.monotonic())

    def _enter_child(self, role: str) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A terminal's Ctrl-C reaches the whole group: only the supervisor acts on it, in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for child in self._children.values():
            child.lifeline.close()
        if self._launcher is not None:
            self._launcher.close()
        os.chdir(self._directory.path)
        setproctitle(f"actd: {self._node.name} {role}")
        structlog.contextvars.bind_contextvars(node=self._node.name)

    def _context(
        self,
        incarnation: Incarnation,
        lifeline: Lifeline,
        siblings: dict[str, Incarnation],
        arguments: dict[str, object],
    ) -> ProcessContext:
        identity = NodeIdentity(
            self._directory.founding.cluster,
            self._directory.member,
            self._node.name,
            self._directory.store,
            incarnation,
            self._directory.founding.founders,
            self._node.client_urls,
        )
        return ProcessContext(identity, self._config, self._node, self._directory.path, lifeline, siblings, arguments)

    # --- watching ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        poller = select.poll()
        poller.register(self._signal_read, select.POLLIN)
        by_descriptor = {child.lifeline.fileno(): child for child in self._children.values()}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.POLLIN)
        if self._launcher is not None:
            poller.register(self._launcher.fileno(), select.POLLIN)
        for descriptor, _ in poller.poll(self._timeout_ms()):
            if descriptor in by_descriptor:
                self._read(by_descriptor[descriptor])
            elif descriptor == self._signal_read:
                os.read(self._signal_read, 4096)
            else:
                self._read_launcher()
        self._reap()
        self._check_beats()
        now = time.monotonic()
        if self._restart_group_at is not None and now >= self._restart_group_at and not self._stopping:
            self._start_group()
        if self._restart_gateway_at is not None and now >= self._restart_gateway_at and not self._stopping:
            self._start_gateway()

    def _timeout_ms(self) -> int:
        due = [at for at in (self._restart_group_at, self._restart_gateway_at) if at is not None]
        wait = min(due, default=time.monotonic() + WATCH_INTERVAL_S) - time.monotonic()
        return max(0, int(min(wait, WATCH_INTERVAL_S) * 1000) + 1)

    def _read(self, child: Child) -> None:
        if child.pid not in self._children:
            return  # killed while others of the same round were read
        try:
            messages = child.lifeline.receive()
        except LifelineCut:
            # It closes its end only by ending; let the kernel say how.
            self._reap_one(child.pid, wait=True)
            return
        except PeerFault as error:
            self._log.error("actor_unintelligible", role=child.role, pid=child.pid, reason=str(error))
            self._kill(child)
            self._after_death(child, f"unintelligible: {error}")
            return
        child.beat_at = time.monotonic()
        if child.stalled:
            child.stalled = False
            self._tell_raft(local.ActorStalled(actor=child.role, stalled=False))
        for message in messages:
            if isinstance(message, local.ActorHalted):
                child.halted = message
            elif isinstance(message, local.SpawnRequested) and message.helper in HELPERS:
                self._start_helper(message.helper, message.arguments)
            elif isinstance(message, local.LeadershipChanged):
                self._tell_launcher(message)

    def _read_launcher(self) -> None:
        assert self._launcher is not None, "only a launcher's lifeline is read"
        try:
            self._launcher.receive()
        except LifelineCut:
            self._launcher.close()
            self._launcher = None
            self._stopping = True

    def _tell_launcher(self, message: Message) -> None:
        if self._heard is not None:
            self._heard(message)
        if self._launcher is not None:
            self._launcher.send(message)

    def _tell_raft(self, message: Message) -> None:
        self._tell("raft", message)

    def _tell(self, role: str, message: Message) -> None:
        child = self._child(role)
        if child is not None:
            child.lifeline.send(message)

    def _check_beats(self) -> None:
        now = time.monotonic()
        paused, self._watched_at = now - self._watched_at, now
        if paused > PAUSE_S:
            self._log.warning("supervisor_paused", paused_ms=int(paused * 1000))
            for child in self._children.values():
                child.beat_at = now
            return
        stalled_after = self._stalled_after_s
        killed_after = self._config.supervision.beat_timeout_ms / 1000
        for child in list(self._children.values()):
            if child.pid not in self._children:
                continue  # killed with the one before it
            silent = now - child.beat_at
            if silent > killed_after:
                self._log.error("actor_silent", role=child.role, pid=child.pid, silent_ms=int(silent * 1000))
                self._kill(child)
                self._after_death(child, "missed its beats")
            elif silent > stalled_after and not child.stalled and child.role != "raft":
                child.stalled = True
                self._tell_raft(local.ActorStalled(actor=child.role, stalled=True))

    @property
    def _stalled_after_s(self) -> float:
        return max(2.5, self._config.raft.election_timeout_ms / 1000)

    def _child(self, role: str) -> Child | None:
        return next((child for child in self._children.values() if child.role == role), None)

    # --- dying -------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for pid in list(self._children):
            self._reap_one(pid, wait=False)

    def _reap_one(self, pid: int, *, wait: bool) -> None:
        if pid not in self._children:
            return
        done, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
        if done == 0:
            return
        child = self._children.pop(pid)
        self._last_words(child)
        code = os.waitstatus_to_exitcode(status)
        if child.halted is not None:
            reason = child.halted.reason
        else:
            reason = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        self._after_death(child, reason)

    def _last_words(self, child: Child) -> None:
        """Hear a dead child out, and clear up behind it."""
        try:
            for message in child.lifeline.receive():
                if isinstance(message, local.ActorHalted):
                    child.halted = message
        except (LifelineCut, PeerFault):
            pass
        child.lifeline.close()
        self._directory.clear_socket(child.role, child.incarnation)

    def _after_death(self, child: Child, reason: str) -> None:
        if child.role in HELPERS:
            ended_well = child.halted is not None and not child.halted.failed
            ended = local.HelperEnded(helper=child.role, failure="" if ended_well else reason)
            self._tell(HELPER_ASKERS.get(child.role, "raft"), ended)
            return
        if self._stopping:
            return
        self._log.error("actor_died", role=child.role, pid=child.pid, reason=reason)
        if child.halted is not None and child.halted.fatal:
            self._give_up(f"{child.role}: {reason}")
            return
        self._count_restart(child.role, reason)
        if self._stopping:
            return
        wait = self._backoff_s()
        if child.role == "gateway":
            self._restart_gateway_at = time.monotonic() + wait
            self._gateway_missed = child.stalled or wait > self._stalled_after_s
            if self._gateway_missed and not child.stalled:
                self._tell_raft(local.ActorStalled(actor="gateway", stalled=True))
            return
        for other in [other for other in self._children.values() if other.role != "gateway"]:
            self._kill(other)
            if other.halted is not None and other.halted.fatal:
                self._give_up(f"{other.role}: {other.halted.reason}")
        self._restart_group_at = time.monotonic() + wait

    def _kill(self, child: Child) -> None:
        """Kill and reap: nothing of it may act once another incarnation starts."""
        if self._children.pop(child.pid, None) is None:
            return
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        self._last_words(child)

    def _count_restart(self, role: str, reason: str) -> None:
        supervision = self._config.supervision
        now = time.monotonic()
        window = supervision.restart_window_ms / 1000
        self._restarts = [at for at in self._restarts if now - at < window]
        self._restarts.append(now)
        if len(self._restarts) > supervision.restarts_max:
            self._give_up(f"{role} died {len(self._restarts)} times within {window:.0f} s, last: {reason}")

    def _backoff_s(self) -> float:
        supervision = self._config.supervision
        doublings = min(len(self._restarts) - 1, 30)
        return min(supervision.backoff_first_ms << doublings, supervision.backoff_max_ms) / 1000

    def _give_up(self, reason: str) -> None:
        if not self._failure:
            self._failure = reason
        self._stopping = True

    # --- stopping ----------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Stop doors first, then consensus, then what it writes to; kill what takes too long."""
        self._stopping = True
        for roles in (("gateway", *HELPERS), ("raft",), ("wal", "applier")):
            for role in roles:
                child = self._child(role)
                if child is not None:
                    child.lifeline.send(local.StopActor())
            self._await_end(roles)
        for child in list(self._children.values()):
            self._kill(child)

    def _await_end(self, roles: tuple[str, ...]) -> None:
        give_up_at = time.monotonic() + self._config.supervision.stop_timeout_ms / 1000
        while any(child.role in roles for child in self._children.values()):
            poller = select.poll()
            for child in self._children.values():
                poller.register(child.lifeline.fileno(), select.POLLIN)
            poller.register(self._signal_read, select.POLLIN)
            wait = give_up_at - time.monotonic()
            if wait <= 0:
                for child in [child for child in self._children.values() if child.role in roles]:
                    self._log.error("actor_killed", role=child.role, reason="did not stop in time")
                    self._kill(child)
                return
            for descriptor, _ in poller.poll(int(wait * 1000) + 1):
                if descriptor == self._signal_read:
                    os.read(self._signal_read, 4096)
                for child in list(self._children.values()):
                    if child.lifeline.fileno() == descriptor:
                        self._read(child)
            self._reap()
