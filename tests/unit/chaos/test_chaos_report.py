"""What a run leaves behind can be read again, by people and by the checker."""

import json
from pathlib import Path

from histories import MadeUp, listing, pair, put_answer

from chaos.report import FAULTS, FEED, HISTORY, LOGS, PLOT, VERDICT, write
from chaos.requests import get, put
from chaos.run import Event, Settings, Verdict
from chaos.scenarios import SCENARIOS
from checker.feed import read_feed
from checker.history import Outcome, read_history


def verdict() -> Verdict:
    """A run with a call of each outcome, and one fault."""
    made = MadeUp("register")
    made.call(put("a", "1"), put_answer(2))
    made.call(get("a"), listing(2, pair("a", "1", 2)))
    made.call(put("a", "2"), None, "unknown").error = "DEADLINE_EXCEEDED: Stream removed"
    made.call(get("a"), None, "failed").error = "OUT_OF_RANGE: etcdserver: mvcc: required revision has been compacted"
    events = [Event(10, "kill -9 n1", "begin", "kill-node"), Event(50, "kill-node", "end", "kill-node")]
    return Verdict(Settings(SCENARIOS["kill-nodes"], 7, 12.0), made.history, events, logs={"log-n1-1.txt": "hello"})


def test_the_checker_reads_the_history(tmp_path: Path) -> None:
    """Every call is there with its door, times and outcome; an error of etcd's goes by its name."""
    write(verdict(), tmp_path)
    with (tmp_path / HISTORY).open() as file:
        operations = read_history(file).operations
    assert [operation.outcome for operation in operations] == [
        *(Outcome.OK, Outcome.OK, Outcome.UNKNOWN, Outcome.FAILED)
    ]
    assert operations[0].client == "c0/grpc"
    assert operations[1].answer["kvs"][0]["value"] == "1"
    assert (operations[2].returned, operations[3].error) == (None, "COMPACTED")


def test_people_find_the_rest(tmp_path: Path) -> None:
    """Faults, logs, verdict and a picture."""
    write(verdict(), tmp_path / "deep")
    faults = [json.loads(line) for line in (tmp_path / "deep" / FAULTS).read_text().splitlines()]
    assert [(fault["kind"], fault["fault"]) for fault in faults] == [("begin", "kill-node"), ("end", "kill-node")]
    told = json.loads((tmp_path / "deep" / VERDICT).read_text())
    assert (told["verdict"], told["calls"], told["seed"]) == ("passed", 4, 7)
    assert (tmp_path / "deep" / LOGS / "log-n1-1.txt").read_text() == "hello"
    assert (tmp_path / "deep" / PLOT).read_bytes().startswith(b"\x89PNG")


def test_the_feed_is_kept_only_if_it_is_whole(tmp_path: Path) -> None:
    """It can be read again; without one, the verdict says why and there is no file."""
    whole = verdict()
    whole.feed, whole.feed_told = {2: {"a": "1"}, 3: {"a": None}}, "2 revisions, all there"
    write(whole, tmp_path / "whole")
    assert read_feed((tmp_path / "whole" / FEED).read_text().splitlines()) == whole.feed
    broken = verdict()
    broken.feed_told = "settles nothing: a compaction to 9 overtook the watcher at 3; judged without it"
    write(broken, tmp_path / "broken")
    assert not (tmp_path / "broken" / FEED).exists()
    assert json.loads((tmp_path / "broken" / VERDICT).read_text())["feed"] == broken.feed_told


def test_a_broken_promise_is_a_failed_verdict(tmp_path: Path) -> None:
    """One fault found is enough."""
    broken = verdict()
    broken.safety.append("two writes at revision 2")
    write(broken, tmp_path)
    told = json.loads((tmp_path / VERDICT).read_text())
    assert (told["verdict"], told["safety"]) == ("FAILED", ["two writes at revision 2"])
