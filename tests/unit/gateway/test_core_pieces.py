"""Answers that come in pieces: put together, counted, and forgotten with those who waited for them."""

import pytest
from core_parts import LIFE, ask, get, lead, make_core, only_turn, put, served, tell

from actors.effects import Send
from gateway.calls import whole
from gateway.core import TAKEN_REPORT_BYTES, GatewayCore
from protocol import local
from protocol.errors import ErrorCode
from protocol.types import Incarnation, Index, Millis, Revision


@pytest.fixture
def gateway() -> GatewayCore:
    """A gateway that knows who leads."""
    core = make_core()
    lead(core, 1)
    return core


def piece(sequence: int, position: int, data: bytes, life: int = LIFE) -> local.AnswerPiece:
    """A part of an answer."""
    return local.AnswerPiece(incarnation=Incarnation(life), sequence=sequence, position=position, piece=data)


def test_pieces_of_two_answers_are_kept_apart(gateway: GatewayCore) -> None:
    """Each read gets its own, in order, with what the last message says behind it."""
    for call_id in (1, 2, 3):
        ask(gateway, call_id, "Range", get())
    sequence = only_turn(gateway).sequence
    for position, data in ((0, b"a"), (1, b"A"), (0, b"b"), (1, b"B")):
        tell(gateway, "applier", piece(sequence, position, data))
    tell(gateway, "applier", served(sequence, (2, 0, b"small"), (1, 0, b"C")))
    tell(gateway, "applier", served(sequence, (0, 0, b"")))
    assert [(call_id, code, whole(body)) for call_id, code, body in gateway.answers] == [
        (3, 0, b"small"), (2, 0, b"ABC"), (1, 0, b"ab")
    ]  # fmt: skip
    gateway.check_invariants()


def test_commands_are_answered_in_pieces_and_later_ones_later(gateway: GatewayCore) -> None:
    """A batch with a large answer may hold one that is not ready as well."""
    for call_id in (1, 2, 3):
        ask(gateway, call_id, "Put", put())
    sequence = only_turn(gateway).sequence
    tell(gateway, "applier", piece(sequence, 1, b"large "))
    results = ((0, b"x"), (0, b"one"), (int(ErrorCode.PENDING), b""))
    message = local.CommandsApplied(
        incarnation=LIFE, sequence=sequence, results=results, applied=Index(3), revision=Revision(3)
    )
    tell(gateway, "applier", message)
    late = local.CommandAnswered(incarnation=LIFE, sequence=sequence, position=2, code=0, body=b"late")
    tell(gateway, "applier", late)
    assert [(call_id, whole(body)) for call_id, _, body in gateway.answers] == [
        (1, b"x"),
        (2, b"large one"),
        (3, b"late"),
    ]


def test_pieces_for_nobody_are_dropped_but_taken(gateway: GatewayCore) -> None:
    """Of a cancelled call, of a batch that is gone, of an earlier gateway: all of them count as taken."""
    ask(gateway, 1, "Range", get())
    sequence = only_turn(gateway).sequence
    gateway.cancel(1)
    data = b"x" * (TAKEN_REPORT_BYTES // 4)
    for message in (piece(sequence, 0, data), piece(99, 0, data), piece(sequence, 0, data, life=LIFE - 1)):
        tell(gateway, "applier", message)
    assert gateway.end_turn(Millis(0)) == []
    tell(gateway, "applier", piece(99, 0, data))
    (effect,) = gateway.end_turn(Millis(0))
    assert effect == Send("applier", local.PiecesTaken(size_bytes=4 * len(data)))
    assert gateway.end_turn(Millis(0)) == []
    tell(gateway, "applier", served(sequence, (0, 0, b"last")))
    assert gateway.answers == []


def test_pieces_do_not_outlive_a_requeued_read(gateway: GatewayCore) -> None:
    """Asked again after the store was started anew, a read is answered by the new pieces alone."""
    ask(gateway, 1, "Range", get())
    first = only_turn(gateway).sequence
    tell(gateway, "applier", piece(first, 0, b"old"))
    tell(gateway, "supervisor", local.ActorStarted(actor="raft", incarnation=Incarnation(9)))
    lead(gateway, 2)
    second = only_turn(gateway).sequence
    tell(gateway, "applier", piece(first, 0, b"stale"))
    tell(gateway, "applier", piece(second, 0, b"new "))
    tell(gateway, "applier", served(second, (0, 0, b"answer")))
    assert [(call_id, whole(body)) for call_id, _, body in gateway.answers] == [(1, b"new answer")]


def test_a_failure_after_pieces_is_a_failure(gateway: GatewayCore) -> None:
    """When the store stops midway, the code counts and not what came before."""
    ask(gateway, 1, "Range", get())
    sequence = only_turn(gateway).sequence
    tell(gateway, "applier", piece(sequence, 0, b"half"))
    tell(gateway, "applier", served(sequence, (0, int(ErrorCode.STOPPED), b"")))
    assert [(call_id, code) for call_id, code, _ in gateway.answers] == [(1, ErrorCode.STOPPED)]
