"""What goes wrong: each fault begins, is told in one line, and ends. After its end the cluster can recover by itself.

Owns the choice of the victim (by a generator it is handed) and the way back. Knows no timing and no workload.
Invariant: `end` may be called whatever became of the victim meanwhile, and leaves every node running or startable.
"""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import psutil

from chaos.members import ShrinkAndGrow
from chaos.targets import Target

FILLER: Final = "filler"
TRANSFER_WAIT_S: Final = 4.0
"""How long a snapshot transfer is waited for before its victim is left in peace."""


class Fault(Protocol):
    """One occurrence of something going wrong."""

    def begin(self, target: Target, rng: random.Random) -> str:
        """Hurt the target; return what was done to whom."""
        ...

    def end(self, target: Target) -> None:
        """Stop hurting, and start what has to be started."""
        ...


def revive(target: Target, names: Iterable[str]) -> None:
    """Start those nodes again that do not run."""
    for name in names:
        if not target.running(name):
            target.launch(name)


def some_node(target: Target, rng: random.Random) -> str:
    """Return a node: the leader half of the time, if there is one."""
    leader = target.leader() if rng.random() < 0.5 else None
    return leader or rng.choice(target.names)


class KillActor:
    """SIGKILL to one actor; the supervisor brings it, and whatever must die with it, back."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._node = ""

    def begin(self, target: Target, rng: random.Random) -> str:
        """Kill it."""
        self._node = some_node(target, rng)
        hit = target.signal(self._node, self._role, signal.SIGKILL)
        return f"kill -9 {self._node} {self._role}" + ("" if hit else ", which does not run")

    def end(self, target: Target) -> None:
        """Start the node again if it ended with the actor."""
        revive(target, [self._node])


class PauseActor:
    """SIGSTOP to one actor, SIGCONT later; a supervisor that loses patience kills it before."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._node = ""
        self._process: psutil.Process | None = None

    def begin(self, target: Target, rng: random.Random) -> str:
        """Stop it."""
        self._node = some_node(target, rng)
        self._process = target.tree(self._node).get(self._role)
        _send([self._process], signal.SIGSTOP)
        return f"SIGSTOP {self._node} {self._role}"

    def end(self, target: Target) -> None:
        """Let it go on."""
        _send([self._process], signal.SIGCONT)
        revive(target, [self._node])


class KillNodes:
    """SIGKILL to whole nodes, one or all."""

    def __init__(self, *, everyone: bool = False) -> None:
        self._everyone = everyone
        self._nodes: list[str] = []

    def begin(self, target: Target, rng: random.Random) -> str:
        """Kill them."""
        self._nodes = list(target.names) if self._everyone else [some_node(target, rng)]
        for name in self._nodes:
            target.kill(name)
        return f"kill -9 {' '.join(self._nodes)}"

    def end(self, target: Target) -> None:
        """Start them again."""
        revive(target, self._nodes)


class PauseNodes:
    """SIGSTOP to every process of nodes, one or all, SIGCONT later."""

    def __init__(self, *, everyone: bool = False) -> None:
        self._everyone = everyone
        self._nodes: list[str] = []
        self._processes: list[psutil.Process] = []

    def begin(self, target: Target, rng: random.Random) -> str:
        """Stop them."""
        self._nodes = list(target.names) if self._everyone else [some_node(target, rng)]
        self._processes = [process for name in self._nodes for process in target.tree(name).values()]
        _send(self._processes, signal.SIGSTOP)
        return f"SIGSTOP {' '.join(self._nodes)}"

    def end(self, target: Target) -> None:
        """Let them go on, children first: a supervisor should find its actors awake."""
        _send(reversed(self._processes), signal.SIGCONT)
        revive(target, self._nodes)


def _send(processes: Iterable[psutil.Process | None], number: int) -> None:
    for process in processes:
        try:
            if process is not None:
                process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


Cuts = list[tuple[str, str]]
"""Directed links that carry nothing: source, target."""


class Partition:
    """Some directed links are cut or stalled, as `shape` says."""

    def __init__(self, name: str, shape: Callable[[Target, random.Random], Cuts]) -> None:
        self._name = name
        self._shape = shape
        self._cuts: Cuts = []

    def begin(self, target: Target, rng: random.Random) -> str:
        """Cut or stall the links; connections that stall deliver what they hold when they are opened again."""
        self._cuts = self._shape(target, rng)
        mode = rng.choice(("cut", "stall"))
        target.shape((a, b, {"mode": mode}) for a, b in self._cuts)
        return f"{self._name}: {mode} {' '.join(f'{a}>{b}' for a, b in self._cuts)}"

    def end(self, target: Target) -> None:
        """Open the links."""
        target.shape((a, b, {"mode": "open"}) for a, b in self._cuts)


def _between(left: Iterable[str], right: Iterable[str]) -> Cuts:
    return [cut for a in left for b in right for cut in ((a, b), (b, a))]


def halves(target: Target, rng: random.Random) -> Cuts:
    """Two groups that do not hear each other; a random majority stays whole."""
    names = rng.sample(target.names, len(target.names))
    size = len(names) // 2
    return _between(names[:size], names[size:])


def alone(target: Target, rng: random.Random) -> Cuts:
    """The leader hears nobody, and nobody hears it."""
    victim = target.leader() or rng.choice(target.names)
    return _between([victim], [name for name in target.names if name != victim])


def one_way(target: Target, rng: random.Random) -> Cuts:
    """One node, most likely the leader, is deaf or dumb."""
    victim = target.leader() or rng.choice(target.names)
    others = [name for name in target.names if name != victim]
    return [(name, victim) for name in others] if rng.random() < 0.5 else [(victim, name) for name in others]


def ring(target: Target, rng: random.Random) -> Cuts:
    """Everybody hears its neighbours in a ring only; of three nodes everybody hears just the one before it."""
    names = rng.sample(target.names, len(target.names))
    count = len(names)
    heard = {(names[at], names[(at + 1) % count]) for at in range(count)}
    if count > 3:
        heard |= {(b, a) for a, b in heard}
    return [(a, b) for a in names for b in names if a != b and (a, b) not in heard]


def bridge(target: Target, rng: random.Random) -> Cuts:
    """Two groups that do not hear each other, and one node that both hear."""
    names = rng.sample(target.names, len(target.names))
    size = len(names) // 2
    return _between(names[:size], names[size + 1 :])


class Weather:
    """All links behave alike, and badly."""

    def __init__(self, changes: Mapping[str, float]) -> None:
        self._changes = changes

    def begin(self, target: Target, rng: random.Random) -> str:
        """Let it rain, more or less hard."""
        factor = rng.choice((0.5, 1.0, 2.0))
        changes = {
            name: min(0.9, value * factor) if name == "loss" else value * factor
            for name, value in self._changes.items()
        }
        target.shape((a, b, changes) for a in target.names for b in target.names if a != b)
        return "network " + " ".join(f"{name}={value:g}" for name, value in changes.items())

    def end(self, target: Target) -> None:
        """Let the sun shine."""
        plain = dict.fromkeys(self._changes, 0.0)
        target.shape((a, b, plain) for a in target.names for b in target.names if a != b)


class Disk:
    """One node's disk misbehaves; a node that gave up over it is started again at the end."""

    def __init__(self, switch: str, values: tuple[int, ...]) -> None:
        self._switch = switch
        self._values = values
        self._node = ""

    def begin(self, target: Target, rng: random.Random) -> str:
        """Throw the switch."""
        self._node = some_node(target, rng)
        value = rng.choice(self._values)
        board = target.board(self._node)
        assert board is not None, "scenarios for targets without switches have none of these"
        board.set(self._switch, value)
        return f"{self._switch}={value} on {self._node}"

    def end(self, target: Target) -> None:
        """Throw it back."""
        board = target.board(self._node)
        assert board is not None, "it was there at the beginning"
        board.set(self._switch, 0)
        revive(target, [self._node])


class FullFileSystem:
    """One node's file system is filled to the last byte, for all its processes and RocksDB too, and emptied again."""

    def __init__(self) -> None:
        self._node = ""

    def begin(self, target: Target, rng: random.Random) -> str:
        """Fill it."""
        self._node = some_node(target, rng)
        filler = target.data_of(self._node) / FILLER
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
            written = file.tell()
        return f"file system of {self._node} filled with {written >> 20} MiB"

    def end(self, target: Target) -> None:
        """Make room; start the node if it gave up over it."""
        (target.data_of(self._node) / FILLER).unlink(missing_ok=True)
        revive(target, [self._node])


class ClockJump:
    """One node's clock jumps ahead, or back so that it stands still for a while; the jump stays."""

    def begin(self, target: Target, rng: random.Random) -> str:
        """Jump."""
        node = some_node(target, rng)
        board = target.board(node)
        assert board is not None, "scenarios for targets without switches have none of these"
        by_ms = rng.choice((-4000, -1000, 500, 2000, 10_000, 60_000))
        board.set("clock_ahead_ms", board.get("clock_ahead_ms") + by_ms)
        return f"clock of {node} jumps by {by_ms} ms"

    def end(self, target: Target) -> None:
        """Clocks do not jump back."""


class BrokenTransfer:
    """A node sleeps until its part of the log is cut, and is hurt again while a snapshot is on its way to it."""

    def __init__(self) -> None:
        self._node = ""
        self._hurt_receiver = False

    def begin(self, target: Target, rng: random.Random) -> str:
        """Kill it."""
        leader = target.leader()
        self._node = rng.choice([name for name in target.names if name != leader])
        self._hurt_receiver = rng.random() < 0.5
        target.kill(self._node)
        return f"kill -9 {self._node}, and again when it is sent a snapshot"

    def end(self, target: Target) -> None:
        """Start it, wait for the transfer, kill the receiver or the whole node, start it again."""
        revive(target, [self._node])
        until = time.monotonic() + TRANSFER_WAIT_S
        while time.monotonic() < until:
            if "snapshot_receiver" in target.tree(self._node):
                if self._hurt_receiver:
                    target.signal(self._node, "snapshot_receiver", signal.SIGKILL)
                else:
                    target.kill(self._node)
                break
            time.sleep(0.02)
        revive(target, [self._node])


FAULTS: Final[dict[str, Callable[[], Fault]]] = {
    **{f"kill-{role}": lambda role=role: KillActor(role) for role in ("raft", "wal", "applier", "gateway")},  # type: ignore[misc]
    **{f"pause-{role}": lambda role=role: PauseActor(role) for role in ("raft", "wal", "applier", "gateway")},  # type: ignore[misc]
    "kill-node": KillNodes,
    "kill-all": lambda: KillNodes(everyone=True),
    "pause-node": PauseNodes,
    "pause-all": lambda: PauseNodes(everyone=True),
    "halves": lambda: Partition("halves", halves),
    "leader-alone": lambda: Partition("leader alone", alone),
    "one-way": lambda: Partition("one way", one_way),
    "ring": lambda: Partition("ring", ring),
    "bridge": lambda: Partition("bridge", bridge),
    "delay": lambda: Weather({"delay_ms": 100.0, "jitter_ms": 200.0}),
    "loss": lambda: Weather({"loss": 0.2, "jitter_ms": 20.0}),
    "fsync-delay": lambda: Disk("fsync_delay_ms", (20, 200, 1000)),
    "fsync-error": lambda: Disk("fsync_fails", (1,)),
    "disk-full": lambda: Disk("disk_full", (1,)),
    "file-system-full": FullFileSystem,
    "clock-jump": ClockJump,
    "broken-transfer": BrokenTransfer,
    "shrink-and-grow": ShrinkAndGrow,
}
"""Every fault by its name."""
ACTD_ONLY: Final = frozenset(
    {name for name in FAULTS if name.startswith(("kill-", "pause-")) and not name.endswith(("-node", "-all"))}
    | {"loss", "fsync-delay", "fsync-error", "disk-full", "clock-jump", "broken-transfer", "shrink-and-grow"}
)
"""Faults that need our actors, our peers' wire, or our switches."""
