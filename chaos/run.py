"""One run: a cluster, clients, faults by plan, healing, and the verdict.

Owns the order of things and their deadlines. Safety is judged from the history alone; deadlines, which only liveness
has, are measured on a clock that stands still when the host does.
Invariant: whatever happens, nothing that a run started outlives it.
"""

import contextlib
import heapq
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chaos.clients import ChaosClient, repeat
from chaos.doors import Door, GrpcDoor, ZmqDoor, ask
from chaos.faults import FAULTS, Fault, revive
from chaos.feed import FeedWatcher
from chaos.history import History
from chaos.host import StandstillWatch, turn
from chaos.judge import checker_history, cross_check, linearizability
from chaos.revisions import RevisionChecker
from chaos.scenarios import Scenario, Strike, plan
from chaos.targets import Target, await_leader, make_target
from chaos.workloads import WORKLOADS
from chaos.workloads.base import Workload
from checker.feed import Feed
from checker.judge import Judgement
from protocol.wire import rpc_pb2 as rpc

START_S: Final = 60.0
HEAL_S: Final = 60.0
"""Time in which a healed cluster must serve on every node and have equal stores."""
COMPACTION_INTERVAL_S: Final = 0.7
REVISIONS_KEPT: Final = 300
ATTEMPTS_MAX: Final = 30
"""Tries of a call after the healing; each lasts seconds at most."""
OK_CALLS_MIN: Final = 50
"""With fewer good answers a run has shown nothing."""
_BROKEN: Final = re.compile(r"InvariantViolation|AssertionError|Corruption")
"""What no fault of ours may lead to: our own code is wrong, or the disk gave back other bytes."""


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Args:
        seconds: how long the faults last.
        door: most clients use this one; "" for as many of each. One client at least uses the other.
        calls_per_s: about how many calls all clients together make at most; 0 for as many as they can.
    """

    scenario: Scenario
    seed: int
    seconds: float
    target: str = "actd"
    clients: int = 4
    door: str = ""
    calls_per_s: float = 0.0


@dataclass(frozen=True)
class Event:
    """Something that happened, on the history's clock."""

    at_us: int
    text: str
    kind: str
    """"begin" and "end" of a fault, else "note"."""
    fault: str = ""


@dataclass
class Verdict:
    """What a run has shown."""

    settings: Settings
    history: History
    events: list[Event] = field(default_factory=list)
    safety: list[str] = field(default_factory=list)
    liveness: list[str] = field(default_factory=list)
    standstills: list[tuple[float, float]] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    judgement: Judgement | None = None
    """What the search for a linearization found."""
    judged_in_s: float = 0.0
    feed: Feed | None = None
    """What every revision changed, as a watcher of all keys was told; None with a gap: then it settles nothing."""
    feed_told: str = "there was none"
    """What came of that watcher, for people."""

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.safety and not self.liveness

    def outcomes(self) -> Counter[str]:
        """Calls by door and outcome, `grpc ok`."""
        return Counter(f"{record.door} {record.outcome}" for record in self.history.records)


def run(settings: Settings, directory: Path, tell: Callable[[str], None] = lambda _line: None) -> Verdict:
    """Run once, in `directory`, and return the verdict.

    Args:
        tell: is handed a line for people whenever something happens.

    Raises:
        TargetFailed: the cluster did not even start.
    """
    with turn(), StandstillWatch() as watch:
        scenario = settings.scenario
        target = make_target(settings.target, directory, scenario.nodes, settings.seed, scenario.settings)
        try:
            if scenario.small_disks:
                target.mount_small_disks()
            target.start()
            await_leader(target, START_S)
            verdict = _Run(settings, target, watch, tell).run()
            verdict.logs = target.logs()
        finally:
            target.close()
    verdict.safety += _broken_invariants(verdict.logs)
    verdict.standstills = list(watch.standstills)
    return verdict


def _broken_invariants(logs: dict[str, str]) -> list[str]:
    faults = []
    for name, text in logs.items():
        lines = [line for line in text.splitlines() if _BROKEN.search(line)]
        if lines:
            faults.append(f"{name}: a process found its own invariant broken: {lines[0][:500]}")
    return faults


class _Run:
    """The parts of a run that share its cluster."""

    def __init__(self, settings: Settings, target: Target, watch: StandstillWatch, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._target = target
        self._watch = watch
        self._tell = tell
        self._history = History()
        self._verdict = Verdict(settings, self._history)
        self._stopping = threading.Event()
        self._workloads: list[Workload] = [WORKLOADS[name]() for name in settings.scenario.workloads]
        self._crashes: list[str] = []
        endpoints = [target.grpc(name) for name in target.names]
        self._feed = FeedWatcher(endpoints, lambda: self._history.newest_revision)

    def run(self) -> Verdict:
        """Load, strike, heal, read everything, judge."""
        with self._clients() as clients:
            self._feed.start()
            try:
                self._load(clients)
                self._compare_stores()
                self._hear_all()
            finally:
                self._verdict.feed = self._feed.stop()
        self._judge()
        return self._verdict

    def _load(self, clients: list[ChaosClient]) -> None:
        """Let clients work while the faults strike, and until all is healed; then read everything."""
        for workload in self._workloads:
            workload.prepare(clients[0])
        threads = [threading.Thread(target=self._work, args=(client,)) for client in clients]
        if self._settings.scenario.compacts:
            threads.append(threading.Thread(target=self._compact))
        for thread in threads:
            thread.start()
        try:
            self._strike()
            self._heal()
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
        for workload in self._workloads:
            workload.conclude(clients[0])

    def _hear_all(self) -> None:
        """Wait until the watcher of all keys has heard of everything that anybody was answered."""
        until = self._watch.awake_s() + HEAL_S
        while not self._feed.caught_up():
            if self._watch.awake_s() > until:
                self._verdict.liveness.append(f"a watcher of all keys had not heard everything after {HEAL_S:.0f} s")
                return
            time.sleep(0.05)

    def _judge(self) -> None:
        """Hold everything that was recorded against what was promised."""
        self._note("judging")
        verdict = self._verdict
        verdict.feed_told = self._feed.text()
        verdict.safety += self._feed.log.faults
        for workload in self._workloads:
            verdict.safety += workload.check(list(self._history.of(workload.name)))
        verdict.safety += RevisionChecker(self._history.records).check()
        began = time.monotonic()
        verdict.judgement = linearizability(self._history, verdict.feed)
        verdict.judged_in_s = time.monotonic() - began
        if not verdict.judgement.passed:
            verdict.safety.append(f"linearizability: {verdict.judgement.text()}")
        if verdict.feed is not None:
            differs = cross_check(checker_history(self._history), verdict.feed)
            verdict.safety += [f"feed: {differs}"] if differs else []
        verdict.safety += self._crashes
        good = sum(record.ok for record in self._history.records)
        if good < OK_CALLS_MIN:
            verdict.liveness.append(f"only {good} calls were answered well: nothing was shown")

    # --- clients -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _clients(self) -> Iterator[list[ChaosClient]]:
        """Clients through both doors, each at home at another node."""
        settings = self._settings
        doors = self._target.doors
        main = settings.door or doors[0]
        pause_s = settings.clients / settings.calls_per_s if settings.calls_per_s else 0.0
        with contextlib.ExitStack() as stack:
            clients = []
            for index in range(settings.clients):
                if settings.door:
                    other = next((door for door in doors if door != main), main)
                    name = other if index == settings.clients - 1 else main
                else:
                    name = doors[index % len(doors)]
                door = self._door(name, index)
                client = ChaosClient(index, settings.seed, door, self._history, self._stopping, pause_s)
                stack.callback(client.close)
                clients.append(client)
            yield clients

    def _door(self, name: str, index: int) -> Door:
        names = self._target.names
        order = [names[(index + step) % len(names)] for step in range(len(names))]
        if name == "zmq":
            return ZmqDoor([self._target.zmq(node) for node in order])
        return GrpcDoor([self._target.grpc(node) for node in order])

    def _work(self, client: ChaosClient) -> None:
        try:
            while not self._stopping.is_set():
                client.rng.choice(self._workloads).step(client)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run has not shown what it should
            self._crashes.append(f"client {client.name} crashed: {type(error).__name__}: {error}")

    def _compact(self) -> None:
        """Compact to a little behind the newest revision, again and again."""
        door = GrpcDoor([self._target.grpc(name) for name in self._target.names])
        client = ChaosClient(-1, self._settings.seed, door, self._history, self._stopping)
        while not self._stopping.wait(COMPACTION_INTERVAL_S):
            revision = self._feed.compactable(self._history.newest_revision - REVISIONS_KEPT)
            if revision > 0:
                client.record("compaction", rpc.CompactionRequest(revision=revision))
        client.close()

    # --- faults ------------------------------------------------------------------------------------

    def _strike(self) -> None:
        """Carry out the plan on this thread: processes started here live as long as it does."""
        settings = self._settings
        strikes = plan(settings.scenario, self._target.kind, settings.seed, settings.seconds)
        due: list[tuple[float, int, Strike, Fault | None]] = []
        for number, strike in enumerate(strikes):
            heapq.heappush(due, (strike.begins_s, number, strike, None))
        began = time.monotonic()
        while due:
            at, number, strike, fault = heapq.heappop(due)
            self._stopping.wait(max(0.0, began + at - time.monotonic()))
            if fault is None:
                if self._verdict.faults and time.monotonic() > began + settings.seconds:
                    continue  # others took longer than was planned: the run is as long as was asked for all the same
                fault = FAULTS[strike.fault]()
                text = fault.begin(self._target, random.Random(strike.seed))
                self._event(text, "begin", strike.fault)
                self._verdict.faults[strike.fault] += 1
                heapq.heappush(due, (strike.ends_s, number, strike, fault))
            else:
                fault.end(self._target)
                self._event(strike.fault, "end", strike.fault)
        self._stopping.wait(max(0.0, began + settings.seconds - time.monotonic()))

    def _event(self, text: str, kind: str, fault: str = "") -> None:
        at_us = time.monotonic_ns() // 1000 - self._history.began_us
        self._verdict.events.append(Event(at_us, text, kind, fault))
        mark = {"begin": "+", "end": "-"}.get(kind, " ")
        self._tell(f"{at_us / 1e6:8.1f} s {mark} {text}")

    def _note(self, text: str) -> None:
        self._event(text, "note")

    # --- afterwards --------------------------------------------------------------------------------

    def _heal(self) -> None:
        """End every fault; wait until each node serves a linearizable read and each client is answered again."""
        self._note("healing")
        target = self._target
        target.heal_network()
        for name in target.names:
            board = target.board(name)
            if board is not None:
                board.clear()
        until = self._watch.awake_s() + HEAL_S
        first = len(self._history.records)
        waiting = set(target.names)
        while waiting and self._watch.awake_s() < until:
            revive(target, target.names)
            waiting = {name for name in waiting if ask(target.grpc(name), rpc.RangeRequest(key=b"ready")) is None}
        if waiting:
            self._verdict.liveness.append(f"{sorted(waiting)} did not serve {HEAL_S:.0f} s after everything was healed")
            return
        silent = {f"c{index}" for index in range(self._settings.clients)}
        while silent and self._watch.awake_s() < until:
            silent -= {record.client for record in self._history.records[first:] if record.ok}
            self._stopping.wait(0.1)
        if silent:
            self._verdict.liveness.append(f"{sorted(silent)} got no answer {HEAL_S:.0f} s after everything was healed")
            return
        self._note("every node and every client is served")

    def _compare_stores(self) -> None:
        """All members hold the same at one revision, history included."""
        target = self._target
        client = ChaosClient(-2, 0, GrpcDoor([target.grpc(target.names[0])]), self._history, threading.Event())
        with contextlib.closing(client):
            mark = repeat(lambda: client.record("end", rpc.PutRequest(key=b"end", value=b"end")), ATTEMPTS_MAX)
        if not mark.ok:
            self._verdict.liveness.append(f"the last write was not answered: {mark.error}")
            return
        until = self._watch.awake_s() + HEAL_S
        hashes: dict[str, tuple[int, int] | None] = {}
        while self._watch.awake_s() < until:
            hashes = {name: self._hash(name, mark.revision) for name in target.names}
            compacted = {found[1] for found in hashes.values() if found is not None}
            if None not in hashes.values() and len(compacted) == 1:
                break
            time.sleep(0.2)
        else:
            self._verdict.liveness.append(f"stores did not come to one compaction in {HEAL_S:.0f} s: {hashes}")
            return
        if len(set(hashes.values())) > 1:
            self._verdict.safety.append(f"stores differ at revision {mark.revision}: {hashes}")

    def _hash(self, name: str, revision: int) -> tuple[int, int] | None:
        answer = ask(self._target.grpc(name), rpc.HashKVRequest(revision=revision), 5.0)
        assert answer is None or isinstance(answer, rpc.HashKVResponse), "a hash is asked for"
        return (answer.hash, answer.compact_revision) if answer is not None else None
