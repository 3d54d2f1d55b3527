"""The shell around tiny honest actors: what arrives is handled, what is asked for happens, and the end is told."""

import gc
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from clusters import free_ports, wait_until
from structlog.testing import capture_logs
from zmq_sockets import Context

from actors.actor import Source
from actors.effects import Effect, Halt, Log, RunInBackground, Send, SpawnHelper
from actors.lifeline import Lifeline, LifelineCut
from actors.links import LocalLinks, PeerDoor, PeerLinks, pack_packet
from actors.metrics import ActorMetrics
from actors.shell import STORY_EVENTS_MAX, Shell
from protocol import codec, local, peer
from protocol.errors import Corruption, DiskFailed
from protocol.identity import NodeIdentity
from protocol.message import Message
from protocol.types import ClusterId, Incarnation, Index, MemberId, Millis, StoreId, Term

ONE = Incarnation(1)
ME, PEER = MemberId(0x22), MemberId(0x11)
WAIT_MS = 10_000
HANDED = "handed"


class Scripted:
    """Notes everything that happens to it, and does what the test laid down for a kind of message."""

    name = "raft"

    def __init__(self, **reactions: Callable[[Message], list[Effect]]) -> None:
        self.metrics = ActorMetrics()
        self.deadline: Millis | None = None
        self.started: list[Effect] = []
        self.at_end_of_turn: Callable[[], list[Effect]] = list
        self.on_wake: Callable[[Millis], list[Effect]] = lambda _now: []
        self.seen: list[tuple[str, str]] = []
        self._reactions: dict[str, Callable[[Message], list[Effect]]] = {
            "StopActor": lambda _: [Halt("stopped")],
            **reactions,
        }

    def start(self, now: Millis) -> list[Effect]:
        """Do what the test wants first."""
        assert now > 0
        return self.started

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """Note and react."""
        self.seen.append((source.actor, message.kind))
        return self._reactions.get(message.kind, lambda _: [])(message)

    def wake(self, now: Millis) -> list[Effect]:
        """Note and react."""
        self.seen.append(("wake", "on time" if self.deadline is not None and now >= self.deadline else "early"))
        self.deadline = None
        return self.on_wake(now)

    def end_turn(self, now: Millis) -> list[Effect]:
        """Do what the test wants at the end of turns."""
        return self.at_end_of_turn()

    def measure(self) -> None:
        """It has no gauges."""

    def check_invariants(self) -> None:
        """It has none."""


class Stage:
    """A shell with its actor, and all the other ends in the hands of the test."""

    def __init__(self, context: Context, actor: Scripted) -> None:
        self.actor = actor
        self.supervisor, self._theirs = Lifeline.pair()
        self.links = LocalLinks(context, "raft", ONE)
        self.links.connect("wal", ONE)
        self.wal = LocalLinks(context, "wal", ONE)
        self.wal.connect("raft", ONE)
        self.context = context
        self.address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
        identity = NodeIdentity(ClusterId(5), ME, "n2", StoreId(2), ONE, ())
        self.peer_address = f"tcp://127.0.0.1:{free_ports(1)[0]}"
        self.peers = PeerLinks(context, identity, {PEER: self.peer_address}, actor.metrics)
        self.door = PeerDoor(context, identity, self.address, actor.metrics)
        self.shell = Shell(actor, self._theirs, self.links, self.peers, self.door)

    def say(self, *messages: Message, by: LocalLinks | None = None) -> None:
        """Send one packet to the actor, and wait until it is there."""
        links = by or self.wal
        for message in messages:
            links.stage("raft", codec.encode(message))
        links.flush()
        assert self.links.inbox.poll(WAIT_MS), "the message is on its way"

    def stop_when(self, condition: Callable[[], object]) -> None:
        """From a thread, ask the actor to stop once `condition()` holds."""

        def wait() -> None:
            wait_until(condition, 10)
            self.supervisor.send(local.StopActor())

        threading.Thread(target=wait, daemon=True).start()

    def run(self) -> Halt:
        """Turn until the end, in this thread."""
        return self.shell.run()

    def run_through(self) -> Halt:
        """Handle what is there, then stop: a stop is heard last."""
        self.supervisor.send(local.StopActor())
        return self.run()

    def heard(self, links: LocalLinks | None = None) -> list[list[Message]]:
        """What arrived from the actor: a list per packet."""
        links = links or self.wal
        arrived: list[list[Message]] = []
        while links.inbox.poll(WAIT_MS if not arrived else 200):
            arrived += [[codec.decode(body) for body in bodies] for _, bodies in links.receive()]
        return arrived

    def told(self) -> list[Message]:
        """What the supervisor was told, beats left out."""
        try:
            return [message for message in self.supervisor.receive() if not isinstance(message, local.Beat)]
        except LifelineCut:
            return []

    def close(self) -> None:
        """Let go of the lifeline; sockets are the context's to close."""
        self.supervisor.close()
        self._theirs.close()

    def neighbour(self) -> PeerLinks:
        """Another member's links to this one's door."""
        identity = NodeIdentity(ClusterId(5), PEER, "n1", StoreId(1), ONE, ())
        return PeerLinks(self.context, identity, {ME: self.address}, ActorMetrics())


@pytest.fixture
def make_stage(context: Context, node_dir: Path) -> Iterator[Callable[[Scripted], Stage]]:
    """Sets stages; the collector is left as it was found."""
    assert (node_dir / "run").is_dir()
    before = gc.get_threshold()
    made: list[Stage] = []

    def make(actor: Scripted) -> Stage:
        made.append(Stage(context, actor))
        return made[-1]

    yield make
    for stage in made:
        stage.close()
    gc.set_threshold(*before)
    gc.unfreeze()


MakeStage = Callable[[Scripted], Stage]


def persisted(ticket: int) -> Message:
    """Some message with a number."""
    return local.LogCut(ticket=ticket, mark_index=Index(ticket))


def answer(message: Message) -> list[Effect]:
    """Reply to a numbered message."""
    assert isinstance(message, local.LogCut)
    return [Send("wal", persisted(message.ticket + 1))]


def test_a_turn_handles_all_and_answers_in_one_packet(make_stage: MakeStage) -> None:
    """Everything that has arrived is handled in order, then the turn ends once, then one packet leaves."""
    actor = Scripted(LogCut=answer)
    stage = make_stage(actor)
    actor.at_end_of_turn = lambda: [Send("wal", persisted(99)), Halt("done")] if len(actor.seen) == 3 else []
    stage.say(persisted(1), persisted(2), persisted(3))
    assert stage.run() == Halt("done")
    assert stage.heard() == [[persisted(2), persisted(3), persisted(4), persisted(99)]]


def test_an_actor_knows_the_clock_of_its_shell_only(make_stage: MakeStage) -> None:
    """Start, and every turn, are told the time of the clock that the shell was handed."""
    ticks = iter(range(100, 100_000, 100))
    stage = make_stage(Scripted())
    heard: list[Millis] = []
    stage.actor.on_wake = lambda now: [Halt(f"woken after {heard.append(now) or now}")]
    stage.actor.deadline = Millis(1)
    stage.shell = Shell(stage.actor, stage._theirs, stage.links, stage.peers, stage.door, lambda: Millis(next(ticks)))
    assert stage.run().reason == f"woken after {heard[0]}"
    assert heard[0] % 100 == 0
    assert heard[0] < 2000


def test_deadlines_wake(make_stage: MakeStage) -> None:
    """An actor is woken when its deadline has passed, with nothing else happening."""
    actor = Scripted()
    actor.on_wake = lambda _now: [Halt("slept enough")]
    stage = make_stage(actor)
    actor.deadline = Millis(1)
    assert stage.run() == Halt("slept enough")
    assert actor.seen == [("wake", "on time")]


def test_background_work_comes_back_as_a_message(make_stage: MakeStage) -> None:
    """A job runs on another thread, and its result is handed to the actor that asked."""
    threads: list[str] = []

    def job() -> Message:
        threads.append(threading.current_thread().name)
        return local.StoreFlushed(ticket=1, durable=Index(8))

    actor = Scripted(StoreFlushed=lambda _: [Halt("flushed")])
    actor.started = [RunInBackground(job, "flush")]
    assert make_stage(actor).run() == Halt("flushed")
    assert threads == ["flush"]
    assert actor.seen == [("raft", "StoreFlushed")]


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (OSError(28, "No space left on device"), False),
        (DiskFailed("flush failed: No space left on device"), True),
        (Corruption("No space left on device"), True),
    ],
)
def test_background_failures_end_the_actor(make_stage: MakeStage, error: Exception, fatal: bool) -> None:
    """What goes wrong on the other thread goes wrong for all to see; a bad disk is no reason to try again."""

    def job() -> Message:
        raise error

    actor = Scripted()
    actor.started = [RunInBackground(job, "flush")]
    with capture_logs() as logs:
        halt = make_stage(actor).run()
    assert halt.failed
    assert halt.fatal == fatal
    assert "No space left on device" in halt.reason
    assert [line["event"] for line in logs] == ["actor_failed", "actor_halted"]


def test_a_failed_actor_tells_its_story_and_says_nothing_more(make_stage: MakeStage) -> None:
    """An exception ends the actor: what it staged in that turn stays, why and what came before is told."""

    def fail(_message: Message) -> list[Effect]:
        raise AssertionError("entry 7 is in the wrong place" + "x" * 10_000)

    actor = Scripted(LogCut=answer, StoreFlushed=fail)
    actor.started = [Log("info", "opened", {"at": 3})]
    stage = make_stage(actor)
    stage.say(persisted(1), local.StoreFlushed(ticket=1, durable=Index(8)))
    with capture_logs() as logs:
        halt = stage.run()
    assert halt.failed
    assert not halt.fatal
    [halted] = stage.told()
    assert isinstance(halted, local.ActorHalted)
    assert halted.reason.startswith("AssertionError: entry 7 is in the wrong place")
    assert len(halted.reason) < 5000
    assert [line.split(" ")[-1] for line in halted.story[1:]] == ["LogCut", "StoreFlushed"]
    assert halted.story[0] == "log opened {'at': 3}"
    assert logs[-1]["story"] == list(halted.story)
    assert not stage.wal.inbox.poll(200), "a failed actor says nothing more"


def test_the_story_is_bounded(make_stage: MakeStage) -> None:
    """However much happened and however long the lines, the last words fit the lifeline."""

    def fail(_message: Message) -> list[Effect]:
        raise ValueError("x" * 1_000_000)

    actor = Scripted(StopActor=fail)
    actor.started = [Log("info", "long", {"text": "y" * 100_000}) for _ in range(3 * STORY_EVENTS_MAX)]
    stage = make_stage(actor)
    with capture_logs():
        stage.run_through()
    [halted] = stage.told()
    assert isinstance(halted, local.ActorHalted)
    assert len(halted.story) == STORY_EVENTS_MAX


def test_last_words_of_a_clean_end_arrive(make_stage: MakeStage) -> None:
    """What an actor says in the turn that ends it well is delivered."""
    actor = Scripted(StopActor=lambda _: [Send("wal", persisted(5)), Halt("stopped")])
    stage = make_stage(actor)
    assert stage.run_through() == Halt("stopped")
    assert stage.heard() == [[persisted(5)]]
    [halted] = stage.told()
    assert halted == local.ActorHalted(actor="raft", reason="stopped", failed=False, fatal=False, story=())


def test_nothing_is_handled_after_a_halt(make_stage: MakeStage) -> None:
    """The first halt counts, and the rest of the turn's messages do not."""
    actor = Scripted(LogCut=lambda _: [Halt("enough", failed=True, fatal=True), Halt("second")])
    stage = make_stage(actor)
    stage.say(persisted(1), persisted(2))
    with capture_logs():
        halt = stage.run()
    assert halt == Halt("enough", failed=True, fatal=True)
    assert actor.seen == [("wal", "LogCut")]


def test_an_actor_without_supervisor_ends(make_stage: MakeStage) -> None:
    """When the lifeline is cut, the actor serves nobody any more."""
    stage = make_stage(Scripted())
    stage.say(persisted(1))
    stage.supervisor.close()
    assert stage.run() == Halt("the supervisor is gone")
    assert stage.actor.seen == []


def test_a_new_sibling_is_known_before_it_is_heard(make_stage: MakeStage) -> None:
    """A gateway's start is news before its first message, which is answered to it and to no predecessor."""
    actor = Scripted(LogCut=lambda _: [Send("gateway", persisted(2))])
    stage = make_stage(actor)
    gateway = LocalLinks(stage.context, "gateway", Incarnation(7))
    gateway.connect("raft", ONE)
    stage.say(persisted(1), by=gateway)
    stage.supervisor.send(local.ActorStarted(actor="gateway", incarnation=Incarnation(7)))
    stage.run_through()
    assert actor.seen == [("supervisor", "ActorStarted"), ("gateway", "LogCut"), ("supervisor", "StopActor")]
    assert stage.heard(gateway) == [[persisted(2)]]


def test_helpers_are_asked_for_at_the_supervisor(make_stage: MakeStage) -> None:
    """A wish for a helper reaches the supervisor with its arguments; one that cannot leave is answered by an end."""
    actor = Scripted(HelperEnded=lambda _: [Halt("heard")])
    arguments: dict[str, object] = {"to": 3, "name": "s"}
    actor.started = [
        SpawnHelper("snapshot_sender", arguments),
        SpawnHelper("snapshot_receiver", {"files": b"x" * 1_000_000}),
    ]
    stage = make_stage(actor)
    assert stage.run() == Halt("heard")
    request, _ = stage.told()
    assert request == local.SpawnRequested(helper="snapshot_sender", arguments=arguments)


def test_beats_and_figures_once_a_second_and_figures_only_when_new(make_stage: MakeStage) -> None:
    """The supervisor hears beats; the gateway hears figures once, and again when they have changed."""
    actor = Scripted()
    actor.metrics.count("actd_test_total", 2)
    stage = make_stage(actor)
    gateway = LocalLinks(stage.context, "gateway", ONE)
    stage.links.connect("gateway", ONE)
    beats: list[Message] = []

    def third_beat() -> bool:
        beats.extend(stage.supervisor.receive())
        if len(beats) == 2:
            actor.metrics.counters["actd_test_total"] = 3
        return len(beats) >= 4

    stage.stop_when(third_beat)
    stage.run()
    assert {message.kind for message in beats} == {"Beat"}
    reports = [message for messages in stage.heard(gateway) for message in messages]
    figures = [report.counters["actd_test_total"] for report in reports if isinstance(report, local.MetricsReported)]
    assert figures == [2, 3]


# --- peers -------------------------------------------------------------------------------------------


def send(stage: Stage, neighbour: PeerLinks, *bodies: bytes, actor: str = "raft") -> None:
    """Have a peer's frame lie at the door."""

    def arrived() -> int:
        for body in bodies:
            neighbour.stage(ME, body, bulk=False, actor=actor)
        neighbour.flush()
        return stage.door.inbox.poll(50)

    wait_until(arrived, 10, "the frame arrives")


def vote() -> peer.RequestVoteReply:
    """Something a peer may say."""
    return peer.RequestVoteReply(term=Term(3), asked=Term(3), granted=True, pre_vote=False)


def test_peers_are_heard_and_nonsense_of_theirs_is_passed_over(make_stage: MakeStage) -> None:
    """Bytes that are no message, and messages that only this node's own actors may send, are counted and skipped."""
    stage = make_stage(Scripted())
    forged = codec.encode(local.EntriesApplied(applied=Index(10**9)))
    send(stage, stage.neighbour(), b"\xff\x00", forged, codec.encode(local.StopActor()), codec.encode(vote()))
    with capture_logs() as logs:
        stage.run_through()
    assert set(stage.actor.seen) == {("raft", "RequestVoteReply"), ("supervisor", "StopActor")}
    assert stage.actor.metrics.counters["actd_peer_faults_total"] >= 3
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["peer_fault"], "one line, no flood"


def test_frames_for_helpers_are_passed_on_undecoded(make_stage: MakeStage) -> None:
    """The raft process hands a helper's frames over as they came."""
    stage = make_stage(Scripted())
    receiver = LocalLinks(stage.context, "snapshot_receiver", Incarnation(4))
    stage.supervisor.send(local.ActorStarted(actor="snapshot_receiver", incarnation=Incarnation(4)))
    send(stage, stage.neighbour(), b"\xffopaque", actor="snapshot_receiver")
    stage.run_through()
    assert receiver.inbox.poll(WAIT_MS)
    assert receiver.receive()[0] == ("raft", [b"\xffopaque"])
    assert stage.actor.seen == [("supervisor", "ActorStarted"), ("supervisor", "StopActor")]


@pytest.mark.parametrize("target", ["wal", "applier", "gateway", "", "../run/wal"])
def test_peers_do_not_speak_to_other_actors(make_stage: MakeStage, target: str) -> None:
    """Only raft and its helpers have business with other nodes: a frame for the log writer goes nowhere."""
    stage = make_stage(Scripted())
    write = local.CutLog.model_construct(ticket=1, mark=None, keep_after=Index(0))
    send(stage, stage.neighbour(), codec.encode(write), actor=target)
    with capture_logs() as logs:
        stage.run_through()
    assert not stage.wal.inbox.poll(200)
    assert stage.actor.metrics.counters["actd_peer_faults_total"] >= 1
    assert "which peers do not speak to" in json.dumps(logs)


def test_a_stranger_is_answered_once(make_stage: MakeStage) -> None:
    """A refused member is told why, and a flood of its frames makes one answer and one line."""
    stage = make_stage(Scripted())
    identity = NodeIdentity(ClusterId(5), PEER, "n1", StoreId(1), ONE, ())
    door = PeerDoor(stage.context, identity, stage.peer_address, ActorMetrics())
    stranger = PeerLinks(stage.context, identity._replace(cluster=ClusterId(6)), {ME: stage.address}, ActorMetrics())

    def way_back_is_open() -> int:
        stage.peers.stage(PEER, codec.encode(vote()), bulk=False, actor="raft")
        stage.peers.flush()
        return door.inbox.poll(50)

    wait_until(way_back_is_open, 10)
    door.receive()
    for _ in range(3):
        send(stage, stranger, codec.encode(vote()))
    refused = stage.actor.metrics.counters
    stage.stop_when(lambda: refused.get("actd_peer_refused_total", 0) >= 3)
    with capture_logs() as logs:
        stage.run()
    assert door.inbox.poll(WAIT_MS)
    bodies = [codec.decode(body) for _, frame in door.receive() for body in frame]
    refusals = [body for body in bodies if isinstance(body, peer.PeerRefused)]
    assert len(refusals) == 1
    assert "you belong to cluster 6" in refusals[0].reason
    assert [line["event"] for line in logs].count("peer_refused") == 1


def test_a_stranger_may_ask_who_it_is_and_nothing_else(make_stage: MakeStage) -> None:
    """What comes under a head without cluster and sender is no word of this node's own actors."""
    stage = make_stage(Scripted())
    nowhere = peer.PeerHeader(
        peer.PEER_WIRE_VERSION, ClusterId(0), MemberId(0), MemberId(0), StoreId(0), Incarnation(0), "raft"
    )
    newcomer = stage.context.socket(zmq.PUSH)
    newcomer.connect(stage.address)
    write = local.CutLog.model_construct(ticket=1, mark=None, keep_after=Index(0))
    bodies = [codec.encode(vote()), codec.encode(write), codec.encode(peer.JoinAsked(peer_urls=("http://me:1",)))]
    newcomer.send(pack_packet(nowhere.pack(), bodies))
    assert stage.door.inbox.poll(WAIT_MS)
    stage.run_through()
    assert stage.actor.seen == [("raft", "JoinAsked"), ("supervisor", "StopActor")]
    assert stage.actor.metrics.counters["actd_peer_faults_total"] == 2
