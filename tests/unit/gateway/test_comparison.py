"""Stores that are compared: when, by whom, and who is to blame where they differ."""

from core_parts import ME, MEMBERS, OTHER, lead, make_core, only_turn, progress, tell, turn
from hypothesis import given
from hypothesis import strategies as st

from gateway.comparison import Comparison
from protocol.command import CommandKind, decode_batch
from protocol.exports import HashFound, HashTaken
from protocol.integrity import UNSOUND, Finding, decode_check, decode_finding, encode_check, encode_finding
from protocol.local import ProposeBatch
from protocol.types import NOBODY, Index, MemberId
from protocol.wire import rpc_pb2 as rpc

A, B, C = (MemberId(number) for number in (1, 2, 3))
MINUTE_MS = 60_000


def blamed(findings: list[tuple[MemberId, int]], voters: list[MemberId], number: int = 5) -> list[MemberId]:
    """Who is blamed, in the order in which that is known."""
    comparison = Comparison()
    return [guilty for each in findings for guilty in comparison.add(Index(number), *each, voters)]


def test_rule_54_a_minority_that_differs_is_to_blame() -> None:
    """As soon as a majority agrees, and whoever speaks late as well; once each."""
    assert blamed([(A, 7), (B, 7), (C, 7)], [A, B, C]) == []
    assert blamed([(A, 7), (B, 8)], [A, B, C]) == []
    assert blamed([(A, 7), (B, 8), (C, 7)], [A, B, C]) == [B]
    assert blamed([(A, 7), (C, 7), (B, 8), (B, 8)], [A, B, C]) == [B]


def test_rule_54_without_a_majority_nobody_knows_who_it_is() -> None:
    """Only when everybody has spoken."""
    assert blamed([(A, 1), (B, 2)], [A, B]) == [NOBODY]
    assert blamed([(A, 1), (B, 2), (C, 3)], [A, B, C]) == [NOBODY]


def test_a_member_that_contradicts_itself_is_to_blame_at_once() -> None:
    """A lone member too, and its word counts for nobody's majority."""
    assert blamed([(A, UNSOUND)], [A]) == [A]
    assert blamed([(A, UNSOUND), (B, UNSOUND), (C, 4)], [A, B, C]) == [A, B]
    assert blamed([(A, UNSOUND), (B, 3), (C, 4)], [A, B, C]) == [A, NOBODY]


def test_a_learner_is_compared_and_has_no_voice() -> None:
    """What the voters agree on is what it must have."""
    assert blamed([(A, 7), (B, 8)], [A]) == [B]


def test_findings_of_an_older_check_are_void() -> None:
    """They are of another part of the history."""
    comparison = Comparison()
    assert comparison.add(Index(9), A, 1, [A, B, C]) == []
    assert comparison.add(Index(8), B, 2, [A, B, C]) == []
    assert comparison.add(Index(10), B, 2, [A, B, C]) == []
    assert comparison.add(Index(10), A, 2, [A, B, C]) == []


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(-1, 2)), max_size=12))
def test_who_agrees_with_a_majority_is_never_blamed(findings: list[tuple[int, int]]) -> None:
    """Whatever the order, doublets included: each member says one thing."""
    voters = [MemberId(number) for number in range(1, 6)]
    said = dict(findings)
    guilty = blamed([(MemberId(member), said[member]) for member, _ in findings], voters)
    assert len(set(guilty)) == len(guilty)
    agreeing = [value for value in set(said.values()) if value != UNSOUND and list(said.values()).count(value) >= 3]
    for member in guilty:
        assert member == NOBODY or said[member] not in agreeing


def proposed(message: object) -> list[tuple[int, bytes]]:
    """What the node itself has put into a batch."""
    assert isinstance(message, ProposeBatch)
    return [(body[0], body[1:]) for kind, body in decode_batch(message.payload).commands if kind == CommandKind.AS_NODE]


def test_the_leader_asks_once_a_minute_and_everybody_says_what_it_found() -> None:
    """A follower asks for nothing, and its finding travels like a command."""
    gateway = make_core()
    gateway.start(0)  # type: ignore[arg-type]
    lead(gateway, 1, OTHER)
    assert turn(gateway, MINUTE_MS) == []
    lead(gateway, 2)
    ((kind, body),) = proposed(only_turn(gateway, 2 * MINUTE_MS))
    assert (kind, decode_check(body) > 1000) == (CommandKind.HASH_CHECK, True)
    tell(gateway, "applier", HashTaken(number=Index(4), crc=77), 2 * MINUTE_MS)
    ((kind, body),) = proposed(only_turn(gateway, 2 * MINUTE_MS + 100))
    assert (kind, decode_finding(body)) == (CommandKind.HASH_FOUND, Finding(Index(4), ME, 77))


def test_the_leader_raises_the_alarm_of_who_differs() -> None:
    """Once, and not again while it stands."""
    gateway = make_core()
    lead(gateway, 1)
    progress(gateway, 5)
    assert len(MEMBERS) == 2
    for member, crc in ((ME, 1), (OTHER, UNSOUND)):
        tell(gateway, "applier", HashFound(number=Index(4), member=member, crc=crc))
    ((kind, body),) = proposed(only_turn(gateway))
    alarm = rpc.AlarmRequest.FromString(body)
    assert (kind, alarm.memberID, alarm.alarm) == (CommandKind.ALARM, OTHER, rpc.CORRUPT)
    tell(gateway, "applier", HashFound(number=Index(4), member=OTHER, crc=UNSOUND))
    assert turn(gateway) == []


def test_the_bodies_are_what_logs_will_hold() -> None:
    """The documented examples, byte for byte."""
    assert encode_check(7) == bytes.fromhex("92 01 07")
    assert encode_finding(Finding(Index(9), MemberId(3), -1)) == bytes.fromhex("94 01 09 03 ff")
