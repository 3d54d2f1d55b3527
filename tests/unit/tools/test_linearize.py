"""The command: exit status, text and page for each kind of file."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from checker.history import History, Operation, Outcome, write_history
from tools.linearize import app


def _put(revision: int, invoked: int) -> Operation:
    answer = {"header": {"revision": revision}}
    return Operation("c", "put", {"key": "k", "value": "v"}, invoked, invoked + 1, Outcome.OK, answer)


def _run(path: Path, operations: list[Operation] | None, *options: str) -> tuple[int, str]:
    file = path / "history.jsonl"
    if operations is not None:
        with file.open("w") as lines:
            write_history(lines, History(operations))
    result = CliRunner().invoke(app, [str(file), *options])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("operations", "options", "status", "words"),
    [
        ([_put(2, 1), _put(3, 3)], [], 0, "linearizable: 2 operations"),
        ([_put(3, 1), _put(2, 3)], [], 1, "not linearizable: 1 of 2 operations"),
        ([_put(2, 1), _put(3, 3), _put(4, 5)], ["--steps", "1"], 3, "gave up"),
        (None, [], 2, "No such file"),
    ],
)
def test_the_exit_status_is_the_verdict(
    tmp_path: Path, operations: list[Operation] | None, options: list[str], status: int, words: str
) -> None:
    """0 linearizable, 1 not, 2 no history, 3 gave up; the text says it too."""
    assert _run(tmp_path, operations, *options)[0] == status
    assert words in _run(tmp_path, operations, *options)[1]


def test_the_page_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    """Whatever the verdict."""
    page = tmp_path / "page.html"
    status, _ = _run(tmp_path, [_put(3, 1), _put(2, 3)], "--html", str(page))
    assert status == 1
    assert page.read_text().startswith("<!doctype html>")


def test_a_feed_settles_what_nobody_was_answered_for(tmp_path: Path) -> None:
    """One that fits passes, one that tells of something else is a contradiction, and one with a gap is refused."""
    feed = tmp_path / "feed.jsonl"
    lost = Operation("d", "put", {"key": "other", "value": "x"}, 1, None, Outcome.UNKNOWN)
    history = [_put(2, 1), lost, _put(4, 5)]
    for lines, status, words in (
        ([{"k": "v"}, {"other": "x"}, {"k": "v"}], 0, "linearizable: 3 operations"),
        ([{"k": "v"}, {"third": "x"}, {"k": "v"}], 1, "not linearizable"),
        ([{"k": "v"}, {}, {"k": "v"}], 2, "line 2: not what revision 3 changed"),
    ):
        rows = [json.dumps({"revision": at, "changes": changes}) for at, changes in enumerate(lines, 2)]
        feed.write_text("\n".join(rows) + "\n")
        found, text = _run(tmp_path, history, "--feed", str(feed))
        assert (found, words in text) == (status, True), text
    feed.write_text(rows[0] + "\n" + rows[2] + "\n")
    assert _run(tmp_path, history, "--feed", str(feed))[0] == 2
