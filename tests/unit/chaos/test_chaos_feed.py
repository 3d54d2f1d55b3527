"""A watcher of all keys settles what nobody was answered for, or says that it cannot; never anything in between."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from histories import MadeUp, listing, pair, put_answer

from chaos.feed import FeedLog, FeedWatcher
from chaos.judge import CROSS_CHECKED_MAX, beginning, checker_history, cross_check, linearizability
from chaos.requests import delete, get, put
from checker.feed import Feed
from checker.history import Outcome
from protocol.wire import mvcc_pb2 as mvcc
from protocol.wire import rpc_pb2 as rpc

DEADLINE_S = 30.0


def told(*revisions: int, key: bytes = b"k") -> rpc.WatchResponse:
    """A response that says that each revision put its own number."""
    return rpc.WatchResponse(
        events=[
            mvcc.Event(kv=mvcc.KeyValue(key=key, value=str(revision).encode(), mod_revision=revision))
            for revision in revisions
        ]
    )


class Scripted:
    """A stream that tells what it was given, then ends, or falls silent."""

    def __init__(self, responses: list[rpc.WatchResponse], *, silent: bool = False) -> None:
        self.whole_revisions = True
        self.ended = ""
        self._responses = responses
        self._silent = silent

    def take(self, timeout_s: float) -> list[rpc.WatchResponse]:
        """See `WatchStream.take`."""
        taken, self._responses = self._responses, []
        if not taken and self._silent:
            threading.Event().wait(timeout_s)
        elif not taken:
            self.ended = "the node is gone"
        return taken

    def close(self) -> None:
        """See `WatchStream.close`."""
        self.ended = "closed"


def heard(newest: int, streams: list[Callable[[int], Scripted]]) -> tuple[FeedWatcher, list[tuple[str, int]]]:
    """Let a watcher listen to streams one after the other; also return where and from where on each began."""
    opened: list[tuple[str, int]] = []

    def open_stream(endpoint: str, request: rpc.WatchCreateRequest) -> Scripted:
        assert (request.key, request.range_end) == (b"\0", b"\0")
        opened.append((endpoint, request.start_revision))
        following = streams[len(opened) - 1] if len(opened) <= len(streams) else lambda _: Scripted([], silent=True)
        return following(request.start_revision)

    watcher = FeedWatcher(["n1", "n2", "n3"], lambda: newest, open_stream)
    watcher.start()
    until = time.monotonic() + DEADLINE_S
    while not watcher.caught_up() and time.monotonic() < until:
        threading.Event().wait(0.01)
    return watcher, opened


def test_it_resumes_by_revision_at_the_next_node() -> None:
    """A stream that ends and one that falls silent are followed by others, and nothing is missing or there twice."""
    watcher, opened = heard(
        7,
        [
            lambda _: Scripted([told(2, 3)]),
            lambda at: Scripted([told(at)], silent=True),
            lambda at: Scripted([told(at, at + 1), told(at + 2)]),
        ],
    )
    assert watcher.stop() == {revision: {"k": str(revision)} for revision in range(2, 8)}
    assert opened[:3] == [("n1", 2), ("n2", 4), ("n3", 5)]
    assert watcher.text().startswith("6 revisions, all there")


def test_a_compaction_that_overtakes_it_only_makes_it_useless() -> None:
    """The store has kept its promise, but the log settles nothing."""
    watcher, _ = heard(50, [lambda _: Scripted([told(2), rpc.WatchResponse(canceled=True, compact_revision=40)])])
    assert watcher.stop() is None
    assert watcher.log.faults == []
    assert "a compaction to 40 overtook the watcher at 2" in watcher.text()
    assert "judged without it" in watcher.text()


def test_what_was_not_heard_yet_is_not_compacted() -> None:
    """Until the log is of no use any more."""
    watcher = FeedWatcher(["n1"], lambda: 9)
    watcher.log.take(told(2, 3))
    assert (watcher.compactable(2), watcher.compactable(100)) == (2, 3)
    watcher.log.take(rpc.WatchResponse(canceled=True, compact_revision=40))
    assert watcher.compactable(100) == 100


def test_a_log_that_ends_too_early_settles_nothing() -> None:
    """Somebody was answered at a revision that the watcher never heard of."""
    watcher = FeedWatcher(["n1"], lambda: 9)
    watcher.log.take(told(2, 3))
    assert watcher.stop() is None
    assert "between revision 3 and 9" in watcher.text()


@pytest.mark.parametrize(
    "responses",
    [
        [told(2), told(4)],
        [told(2, 4)],
        [told(3)],
        [told(2), told(3), told(2)],
        [told(2), told(2, key=b"other")],
        [told(2, 2)],
    ],
    ids=["gap", "gap within", "gap at first", "back", "revision in two responses", "twice"],
)
def test_a_broken_promise_is_told_and_the_log_is_useless(responses: list[rpc.WatchResponse]) -> None:
    """No revision is left out, told twice or split."""
    log = FeedLog()
    for response in responses:
        log.take(response)
    assert log.broken
    assert len(log.faults) == 1


def test_a_deletion_and_several_keys_of_one_revision() -> None:
    """A revision's changes are together."""
    log = FeedLog()
    response = told(2)
    response.events.append(mvcc.Event(type=mvcc.Event.DELETE, kv=mvcc.KeyValue(key=b"gone", mod_revision=2)))
    log.take(response)
    assert (log.changes, log.broken) == ({2: {"k": "2", "gone": None}}, "")


# --- the judge ---------------------------------------------------------------------------------------


def crowded(calls: int) -> tuple[MadeUp, Feed]:
    """Puts of which every third was never answered, a third of these without effect; each is read soon after."""
    made, feed, revision = MadeUp("x"), dict[int, dict[str, str | None]](), 1
    for number in range(calls // 2):
        key, value = f"k{number % 5}", str(number)
        if number % 9 == 0:
            made.call(put(key, value), None, "unknown")
            made.call(delete("never"), None, "unknown")
            continue
        revision += 1
        feed[revision] = {key: value}
        unknown = number % 3 == 0
        made.call(put(key, value), None if unknown else put_answer(revision), "unknown" if unknown else "ok")
        read = pair(key, value, revision)
        earlier = [at for at, changes in feed.items() if key in changes]
        read.create_revision, read.version = earlier[0], len(earlier)
        made.call(get(key), listing(revision, read))
    return made, feed


def test_with_and_without_the_feed_the_verdict_is_the_same() -> None:
    """A thousand operations of which many were never answered: linearizable both ways, and so is a longer history."""
    made, feed = crowded(CROSS_CHECKED_MAX)
    assert linearizability(made.history).passed
    assert linearizability(made.history, feed).passed
    longer, feed = crowded(3 * CROSS_CHECKED_MAX)
    assert cross_check(checker_history(longer.history), feed) == ""


def test_what_came_after_the_beginning_is_nobodys_of_it() -> None:
    """A delete under way at the cut is not taken for a later one of the same key by somebody else."""
    made, feed = crowded(2 * CROSS_CHECKED_MAX)
    feed = dict(feed)
    history = checker_history(made.history)
    late = len(history.operations) - 1
    assert late > CROSS_CHECKED_MAX
    for place, operation in enumerate(history.operations[:CROSS_CHECKED_MAX]):
        if operation.call == "put" and operation.outcome == Outcome.OK:
            # Answered long after the cut, although it was read at once.
            history.operations[place] = replace(operation, returned=history.operations[late].invoked)
            revision = operation.answer["header"]["revision"]
    feed[max(feed) + 1] = feed[revision]
    assert cross_check(history, feed) == ""


def test_a_feed_of_something_else_is_found_out() -> None:
    """What the feed says must be what the answers say; a difference is no detail."""
    made, feed = crowded(300)
    revision = max(revision for revision, changes in feed.items() if int(next(iter(changes.values())) or 0) % 3 == 0)
    wrong = {**feed, revision: {"elsewhere": "x"}}
    assert "CONTRADICTION with the feed, LINEARIZABLE without it" in cross_check(checker_history(made.history), wrong)


def test_the_beginning_of_a_history_is_one() -> None:
    """What was under way when it was cut has an unknown outcome; nothing later is there."""
    made, _ = crowded(100)
    history = checker_history(made.history)
    history.operations[3] = replace(history.operations[3], returned=history.operations[40].invoked + 1)
    first = beginning(history, 40)
    assert len(first.operations) == 40
    assert first.operations[3].outcome == Outcome.UNKNOWN
    assert first.operations[3].answer == {}
    assert first.operations[4] == history.operations[4]
    assert len(beginning(history, 1000).operations) == len(history.operations)
