"""`python -m tools.linearize HISTORY`: judge a recorded history of any etcd-compatible store.

Owns the command line and the files; the judge is `checker.judge`.
"""

import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from checker.drawing import draw
from checker.feed import UnfitFeed, read_feed
from checker.history import UnfitHistory, read_history
from checker.judge import Judgement, judge
from checker.search import Answer

UNFIT_STATUS: Final = 2
GAVE_UP_STATUS: Final = 3

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    history: Annotated[Path, typer.Argument(help="JSON lines in the form checker/history.py describes.")],
    html: Annotated[Path | None, typer.Option(help="Draw the history into this page.")] = None,
    feed: Annotated[Path | None, typer.Option(help="JSON lines of what every revision changed.")] = None,
    steps: Annotated[int, typer.Option(help="Choices to try before giving up; 0: by the size of the history.")] = 0,
) -> None:
    """Decide whether a history is linearizable, and print its shortest contradiction if it is not.

    Exit status: 0 linearizable, 1 not, 2 not a history, 3 the search gave up (nothing is proven).
    """
    try:
        with history.open(encoding="utf-8") as lines:
            recorded = read_history(lines)
        changes = read_feed(feed.read_text(encoding="utf-8").splitlines()) if feed is not None else None
    except (UnfitHistory, UnfitFeed, OSError) as error:
        print(f"{feed if isinstance(error, UnfitFeed) else history}: {error}", file=sys.stderr)
        raise typer.Exit(UNFIT_STATUS) from error
    began = time.perf_counter()
    judgement = judge(recorded, feed=changes, steps_max=steps)
    print(judgement.text())
    print(f"judged in {time.perf_counter() - began:.1f} s")
    if html is not None:
        html.write_text(draw(judgement), encoding="utf-8")
        print(f"drawn in {html}")
    raise typer.Exit(_status(judgement))


def _status(judgement: Judgement) -> int:
    if judgement.passed:
        return 0
    return GAVE_UP_STATUS if judgement.verdict.answer == Answer.GAVE_UP else 1


if __name__ == "__main__":
    app()
