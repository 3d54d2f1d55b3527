"""What is said of a contradictory history: few operations, the reason in words, and a page that needs nothing else."""

import random
import re
from dataclasses import replace

import pytest
from stories import Story, pair

from checker.drawing import OPERATIONS_MAX, draw
from checker.history import History, Operation, Outcome
from checker.judge import Judgement, judge
from checker.search import Answer
from protocol.errors import ErrorCode
from protocol.wire.rpc_pb2 import CompactionRequest


def busy_story() -> Story:
    """Forty puts and reads on four keys, all of them honest, before anything interesting happens."""
    story = Story()
    for number in range(40):
        revision = number + 2
        story.put(f"k{number % 4}", str(number), f"w{number % 3}").ok(revision)
        create, version = number % 4 + 2, number // 4 + 1
        seen = pair(f"k{number % 4}", str(number), revision, create=create, version=version)
        story.get(f"k{number % 4}", "r").shows(revision, seen)
    return story


def contradiction(story: Story) -> list[Operation]:
    """The operations that are blamed."""
    judgement = judge(story.history)
    assert judgement.contradiction is not None, judgement.text()
    assert judgement.contradiction.shortest
    return [story.history.operations[number] for number in judgement.contradiction.numbers]


def test_a_stale_read_is_blamed_with_the_write_it_missed() -> None:
    """Two of more than eighty operations are the contradiction."""
    story = busy_story()
    write = story.put("k0", "new").ok(42)
    stale = story.get("k0").shows(41, pair("k0", "36", 38, create=2, version=10))
    story.put("k1", "more").ok(43)
    assert contradiction(story) == [write, stale]
    assert "began only after" in judge(story.history).text()


def test_a_wrong_value_is_blamed_alone_with_its_maker_beside_it() -> None:
    """The reader's answer contradicts the write itself; the write is named as what made the revision."""
    story = busy_story()
    wrong = story.get("k3").shows(41, pair("k3", "lie", 41, create=5, version=10))
    assert contradiction(story) == [wrong]
    judgement = judge(story.history)
    assert judgement.related == [78]
    assert "'lie'" in judgement.text()


def test_a_wrong_version_says_what_the_model_says() -> None:
    """The difference is spelt out by its path."""
    story = busy_story()
    wrong = story.get("k3").shows(41, pair("k3", "39", 41, create=5, version=11))
    assert contradiction(story) == [wrong]
    assert "version" in judge(story.history).text()


def test_a_contradiction_behind_an_unknown_outcome_is_found() -> None:
    """Two readers disagree about a write that nobody answered for."""
    story = busy_story()
    unknown = story.put("k0", "new")
    seen = story.get("k0", "r").shows(42, pair("k0", "new", 42, create=2, version=11))
    back = story.get("k0", "r").shows(41, pair("k0", "36", 38, create=2, version=10))
    unknown.lost()
    assert contradiction(story) == [seen, back]


def test_a_refusal_without_reason_is_blamed() -> None:
    """Nothing was compacted."""
    story = busy_story()
    refused = story.get("k0", revision=5).refused(ErrorCode.COMPACTED)
    assert contradiction(story) == [refused]


def test_nothing_after_the_first_contradiction_is_blamed() -> None:
    """The shortest beginning that is contradictory decides; later lies are not looked at."""
    story = busy_story()
    first = story.get("k3").shows(41, pair("k3", "lie", 41, create=5, version=10))
    for _ in range(5):
        story.get("k2").shows(41)
    assert contradiction(story) == [first]


def test_the_same_history_in_any_order_of_lines_has_the_same_contradiction() -> None:
    """Recorders append operations as they end, or as they please."""
    story = busy_story()
    write = story.put("k0", "new").ok(42)
    stale = story.get("k0").shows(41, pair("k0", "36", 38, create=2, version=10))
    random.Random(3).shuffle(story.history.operations)
    assert contradiction(story) == [write, stale]


def test_giving_up_is_said_and_is_no_success() -> None:
    """With too few steps nothing is proven, and the text does not call it linearizable."""
    judgement = judge(busy_story().history, steps_max=3)
    assert judgement.verdict.answer == Answer.GAVE_UP
    assert not judgement.passed
    assert "gave up" in judgement.text()
    assert "linearizable:" not in judgement.text()


def page_of(judgement: Judgement) -> str:
    """The page, which must load nothing from anywhere."""
    page = draw(judgement)
    assert not re.search(r"""(?:src|href)\s*=|https?://|@import|url\(""", page)
    return page


def test_the_page_draws_every_operation_and_marks_the_contradiction() -> None:
    """One bar an operation, two of them red, one lane a client; what clients wrote is escaped."""
    story = busy_story()
    story.put("k0", "<script>", "w1").ok(42)
    story.get("k0").shows(41, pair("k0", "36", 38, create=2, version=10))
    story.call(CompactionRequest(revision=3)).lost()
    page = page_of(judge(story.history))
    assert page.count("<g><rect ") == len(story.history.operations)
    assert len(re.findall(r'<rect class="\w+ bad"', page)) == 2
    assert "<script>'" not in page
    assert "&lt;script&gt;" in page
    for client in ("w0", "w1", "w2", "r", "c"):
        assert f">{client}</text>" in page


@pytest.mark.parametrize("honest", [True, False])
def test_a_long_history_is_drawn_around_what_matters(honest: bool) -> None:
    """A page is never longer than a browser can show, and the contradiction is on it."""
    story = Story()
    for number in range(OPERATIONS_MAX):
        story.put("k", str(number)).ok(number + 2)
        story.get("k", "r").shows(
            number + 2,
            pair("k", str(number), number + 2, create=2, version=number + 1 + (not honest and number == 900)),
        )
    judgement = judge(story.history)
    assert judgement.passed == honest
    page = page_of(judgement)
    assert page.count("<g><rect ") <= OPERATIONS_MAX
    assert ("bad" in "".join(re.findall(r'<rect class="([^"]*)"', page))) != honest


def test_an_operation_that_never_returned_has_an_open_end() -> None:
    """A history may end with calls that nobody waited for."""
    operation = Operation("c", "put", {"key": "k", "value": "v"}, 1, None, Outcome.UNKNOWN)
    assert "outcome unknown" in page_of(judge(History([operation])))


def test_a_server_that_goes_back_is_blamed() -> None:
    """Both reads may be stale, but not one after the other by the same server; another life of it may."""
    for lives, honest in ((("n1/1", "n1/1"), False), (("n1/1", "n1/2"), True), (("", ""), True)):
        story = Story()
        story.put("k", "1").ok(2)
        new = story.get("k", serializable=True).shows(2, pair("k", "1", 2))
        old = story.get("k", serializable=True).shows(1)
        for operation, server in zip((new, old), lives, strict=True):
            story.history.operations.remove(operation)
            story.add(replace(operation, server=server))
        judgement = judge(story.history)
        assert judgement.passed == honest
        assert honest or "by n1/1, which had answered" in judgement.text()


def test_clients_are_in_the_order_people_count_in() -> None:
    """The tenth comes after the second, whatever follows the number, and names lie over the bars."""
    story = Story()
    for revision, client in enumerate(("c10/grpc", "c2/zmq", "c1/zmq"), 2):
        story.put("k", client, client).ok(revision)
    page = page_of(judge(story.history))
    places = [page.index(f">{client}</text>") for client in ("c1/zmq", "c2/zmq", "c10/grpc")]
    assert places == sorted(places)
    assert places[0] > max(found.start() for found in re.finditer("<title>#", page))
