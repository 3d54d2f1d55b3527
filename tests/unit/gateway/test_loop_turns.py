"""The gateway's loop: turns, answers, timers, links, lifeline and the way to the end."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
import zmq
from echo_door import HOLD, EchoCore

from actors.actor import Source
from actors.effects import Effect, Halt, RunInBackground, Send
from actors.lifeline import Lifeline
from actors.links import LocalLinks
from gateway.loop import ANSWERS_PER_SLICE, GatewayLoop
from gateway.methods import PUT
from protocol import codec, local
from protocol.errors import ErrorCode
from protocol.message import Message
from protocol.types import Incarnation, Index, Millis, Revision
from protocol.wire import rpc_pb2 as rpc

BODY = rpc.PutRequest(key=b"k").SerializeToString()
HELD = rpc.PutRequest(key=HOLD).SerializeToString()
TIMEOUT_S = 20


class ListeningCore(EchoCore):
    """An echo that also keeps what other actors say, and can be told what to do about it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, Message]] = []
        self.on_message: Callable[[Message], list[Effect]] = lambda _message: []

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """Keep it."""
        self.heard.append((source.actor, message))
        return [*super().handle(message, source, now), *self.on_message(message)]


class Node:
    """A loop without doors."""

    def __init__(self, links: LocalLinks | None = None, lifeline: Lifeline | None = None) -> None:
        self.core = ListeningCore()
        self.asyncio_loop = uvloop.new_event_loop()
        self.reports: list[local.MetricsReported] = []
        self.loop = GatewayLoop(self.core, self.asyncio_loop, links, lifeline, self.reports.append)

    def run(self, *steps: Callable[[], object]) -> Halt:
        """Do the steps at the beginning of the first turn, and run until something stops the loop."""
        for step in steps:
            self.asyncio_loop.call_soon(step)
        watchdog = threading.Timer(TIMEOUT_S, lambda: self.asyncio_loop.call_soon_threadsafe(self.asyncio_loop.stop))
        watchdog.start()
        try:
            return self.loop.run()
        finally:
            watchdog.cancel()
            self.asyncio_loop.close()


@pytest.fixture(name="node")
def lonely_node() -> Node:
    """A loop without links and lifeline."""
    return Node()


def test_answer_comes_after_submit_in_the_same_turn(node: Node) -> None:
    """A callback never runs within `submit`, and runs once."""
    story: list[object] = []

    def on_last_answer(code: int, _body: bytes) -> None:
        story.append(code)
        node.loop.stop()

    def ask() -> None:
        node.loop.submit(PUT, BODY, None, lambda code, _body: story.append(code))
        story.append("submitted")
        node.loop.submit(PUT, BODY, None, on_last_answer)

    node.run(ask)

    assert story == ["submitted", 0, 0]


def test_cancelled_call_is_not_answered(node: Node) -> None:
    """Whoever cancels hears nothing more, also when the answer is already made."""
    story: list[object] = []

    def ask() -> None:
        call_id = node.loop.submit(PUT, BODY, None, lambda code, _body: story.append(code))
        node.loop.cancel(call_id)
        node.loop.cancel(call_id)
        node.loop.submit(PUT, BODY, None, lambda _code, _body: node.loop.stop())

    node.run(ask)

    assert story == []
    assert node.core.cancelled == [1]


def test_deadline_wakes_the_core(node: Node) -> None:
    """A deadline of the core is kept without any other event; an earlier one that comes later is kept too."""
    story: list[tuple[str, int]] = []

    def on_answer(name: str) -> Callable[[int, bytes], None]:
        def answer(code: int, _body: bytes) -> None:
            story.append((name, code))
            if len(story) == 2:
                node.loop.stop()

        return answer

    def ask() -> None:
        now = node.loop.now_ms()
        node.loop.submit(PUT, HELD, Millis(now + 60), on_answer("late"))
        node.asyncio_loop.call_later(0.005, lambda: node.loop.submit(PUT, HELD, Millis(now + 20), on_answer("early")))

    node.run(ask)

    assert story == [("early", ErrorCode.DEADLINE_EXCEEDED), ("late", ErrorCode.DEADLINE_EXCEEDED)]


def test_connections_are_flushed_once_a_turn_behind_their_answers(node: Node) -> None:
    """What is marked during a turn writes at its end, when every answer of the turn is there."""
    answered: list[int] = []
    written: list[int] = []

    class Connection:
        def flush(self) -> None:
            written.append(len(answered))
            if len(answered) == 10:
                node.loop.stop()

    def ask() -> None:
        node.loop.mark_dirty(Connection())
        for _ in range(10):
            node.loop.submit(PUT, BODY, None, lambda code, _body: answered.append(code))

    node.run(ask)

    assert written == [10]


def test_many_slow_answers_leave_room_for_others(node: Node) -> None:
    """A flood of answers is handed out in slices; other sockets get their turn in between."""
    total = 12 * ANSWERS_PER_SLICE
    answered = 0
    seen_between: list[int] = []
    busy = threading.Event()

    def on_answer(_code: int, _body: bytes) -> None:
        nonlocal answered
        answered += 1
        if answered % ANSWERS_PER_SLICE == 0:
            busy.wait(0.012)  # longer than a slice
        if answered == total:
            node.loop.stop()

    def look() -> None:
        seen_between.append(answered)
        if answered < total:
            node.asyncio_loop.call_later(0.001, look)

    def ask() -> None:
        for _ in range(total):
            node.loop.submit(PUT, BODY, None, on_answer)
        look()

    node.run(ask)

    assert answered == total
    assert len({count for count in seen_between if 0 < count < total}) >= 5


def test_failing_core_ends_the_loop_with_its_story(node: Node) -> None:
    """An exception of ours ends the process as failed; it does not go on half broken."""

    def ask() -> None:
        node.loop.submit(PUT, b"\xff not a message", None, lambda _code, _body: None)

    halt = node.run(ask)

    assert halt.failed
    assert "DecodeError" in halt.reason


def test_failing_background_job_ends_the_loop(node: Node) -> None:
    """So does an exception in a job the core asked for."""

    def job() -> Message:
        raise ValueError("no such thing")

    node.core.on_message = lambda _message: [RunInBackground(job, "test")]

    halt = node.run(lambda: node.loop._perform([RunInBackground(job, "test")]))

    assert halt == Halt("ValueError: no such thing", failed=True)


def test_background_job_is_told_to_the_core(node: Node) -> None:
    """What a job returns is handed to the core as a message of its own."""
    message = local.StoreProgressed(applied=Index(1), revision=Revision(2), compacted=Revision(0), logical_bytes=3)
    node.core.on_message = lambda heard: [Halt("enough")] if heard == message else []

    halt = node.run(lambda: node.loop._perform([RunInBackground(lambda: message, "test")]))

    assert halt.reason == "enough"
    assert node.core.heard == [("gateway", message)]


# --- with the rest of the node ------------------------------------------------------------------------


@pytest.fixture(name="context")
def zmq_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    """ZeroMQ, in a data directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


def links_of(context: "zmq.Context[zmq.Socket[bytes]]", actor: str, incarnation: int, to: str) -> LocalLinks:
    """Return an actor's links, connected to one other of incarnation 1."""
    links = LocalLinks(context, actor, Incarnation(incarnation))
    links.connect(to, Incarnation(1))
    return links


def progressed(number: int) -> local.EntriesApplied:
    """Return a message that can be told from others."""
    return local.EntriesApplied(applied=Index(number))


def test_every_message_of_a_burst_arrives_in_order(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """The edge-triggered descriptor is read until empty: nothing waits for the next message to be noticed."""
    raft = links_of(context, "raft", 1, "gateway")
    node = Node(links_of(context, "gateway", 1, "raft"))
    total = 3000
    node.core.on_message = lambda heard: [Halt("all here")] if heard == progressed(total - 1) else []

    def burst() -> None:
        for number in range(total):
            raft.stage("gateway", codec.encode(progressed(number)))
            if number % 3 == 0:
                raft.flush()
        raft.flush()

    halt = node.run(burst)

    assert halt.reason == "all here"
    assert [message for _, message in node.core.heard] == [progressed(number) for number in range(total)]
    assert {actor for actor, _ in node.core.heard} == {"raft"}
    raft.close(drain=False)


def test_message_behind_a_send_is_noticed(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """Ping-pong: each answer comes while the loop sends, which may swallow the edge that announces it."""
    raft = links_of(context, "raft", 1, "gateway")
    node = Node(links_of(context, "gateway", 1, "raft"))
    rounds = 500

    def on_message(heard: Message) -> list[Effect]:
        assert isinstance(heard, local.EntriesApplied)
        if heard.applied == rounds:
            return [Halt("played")]
        return [Send("raft", heard)]

    def play() -> None:
        for number in range(rounds + 1):
            raft.stage("gateway", codec.encode(progressed(number)))
            raft.flush()
            if number < rounds:
                assert raft.inbox.poll(TIMEOUT_S * 1000), f"no answer to {number}"
                [(_, [body])] = raft.receive()
                assert codec.decode(body) == progressed(number)

    node.core.on_message = on_message
    partner = threading.Thread(target=play)
    partner.start()

    halt = node.run()

    partner.join(TIMEOUT_S)
    assert halt.reason == "played"
    raft.close(drain=False)


def test_metrics_go_to_the_page_and_not_to_the_core(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """Reports of other actors are not the core's business."""
    wal = links_of(context, "wal", 1, "gateway")
    node = Node(links_of(context, "gateway", 1, "raft"))
    report = local.MetricsReported(
        actor="wal", incarnation=Incarnation(1), counters={"a_total": 1.0}, gauges={}, histograms={}
    )
    node.core.on_message = lambda _heard: [Halt("done")]

    def tell() -> None:
        wal.stage("gateway", codec.encode(report))
        wal.stage("gateway", codec.encode(progressed(1)))
        wal.flush()

    node.run(tell)

    assert node.reports == [report]
    assert node.core.heard == [("wal", progressed(1))]
    wal.close(drain=False)


def test_gap_in_a_link_ends_the_gateway(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """A lost packet means that nothing on this link can be believed: the incarnation ends."""
    raft = links_of(context, "raft", 1, "gateway")
    node = Node(links_of(context, "gateway", 1, "raft"))

    def tell() -> None:
        raft.stage("gateway", codec.encode(progressed(1)))
        raft.flush()
        raft._sent["gateway"] += 1
        raft.stage("gateway", codec.encode(progressed(2)))
        raft.flush()

    halt = node.run(tell)

    assert halt.failed
    assert "packet 3 after 1" in halt.reason
    raft.close(drain=False)


def test_stop_from_the_supervisor_ends_cleanly() -> None:
    """`StopActor` on the lifeline ends the loop; the supervisor hears that it was asked for."""
    supervisor, own = Lifeline.pair()
    node = Node(lifeline=own)

    halt = node.run(lambda: supervisor.send(local.StopActor()))

    assert not halt.failed
    halted = [message for message in supervisor.receive() if isinstance(message, local.ActorHalted)]
    assert [(message.actor, message.failed) for message in halted] == [("gateway", False)]
    supervisor.close()
    own.close()


def test_loop_beats() -> None:
    """A living loop says so on its lifeline from the start."""
    supervisor, own = Lifeline.pair()
    node = Node(lifeline=own)

    node.run(lambda: node.asyncio_loop.call_soon(node.loop.stop))

    assert any(isinstance(message, local.Beat) for message in supervisor.receive())
    supervisor.close()
    own.close()


def test_end_of_the_supervisor_ends_the_gateway() -> None:
    """A gateway whose supervisor is gone serves nobody any more."""
    supervisor, own = Lifeline.pair()
    node = Node(lifeline=own)

    halt = node.run(supervisor.close)

    assert halt.reason == "the supervisor is gone"
    own.close()


def test_new_incarnation_is_connected_and_told(context: "zmq.Context[zmq.Socket[bytes]]") -> None:
    """When raft starts anew, the gateway talks to the new one and its core knows."""
    supervisor, own = Lifeline.pair()
    node = Node(links_of(context, "gateway", 1, "raft"), own)
    raft = links_of(context, "raft", 2, "gateway")
    started = local.ActorStarted(actor="raft", incarnation=Incarnation(2))
    node.core.on_message = lambda heard: (
        [Send("raft", progressed(9))] if heard == started else [Halt("told")] if heard == progressed(1) else []
    )

    def listen() -> None:
        assert raft.inbox.poll(TIMEOUT_S * 1000), "nothing was said"
        [(_, [body])] = raft.receive()
        assert codec.decode(body) == progressed(9)
        raft.stage("gateway", codec.encode(progressed(1)))
        raft.flush()

    partner = threading.Thread(target=listen)
    partner.start()

    halt = node.run(lambda: supervisor.send(started))

    partner.join(TIMEOUT_S)
    assert halt.reason == "told"
    assert node.core.heard[0] == ("supervisor", started)
    raft.close(drain=False)
    supervisor.close()
    own.close()


def test_address_in_use_is_a_reason_not_a_traceback(node: Node) -> None:
    """A door that cannot listen ends the gateway with words the supervisor can pass on."""

    class ShutDoor:
        idle = True

        def start(self) -> None:
            raise OSError(98, "Address already in use")

        def drain(self) -> None:
            """Nothing to do."""

        def stop(self) -> None:
            """Nothing to do."""

    node.loop.doors.append(ShutDoor())

    halt = node.run()

    assert halt.failed
    assert "Address already in use" in halt.reason
