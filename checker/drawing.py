"""A history as one self-contained HTML page: a lane per client, a bar per operation, the contradiction in red.

Owns the drawing; knows a judgement, no files. Long histories are drawn around the contradiction only, or from their
beginning if there is none; the page says what it leaves out. Instants are drawn by rank, not to scale: every bar can be
seen and every overlap is right, which is all that linearizability is about.
"""

import html
import re
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from checker.history import Operation, Outcome
from checker.items import is_effective
from checker.judge import Judgement
from checker.words import answer_words, request_words

OPERATIONS_MAX: Final = 1200
"""Bars on one page; more of them no browser and no reader enjoys."""
NEIGHBOURS: Final = 120
"""Operations drawn on either side of each operation of the contradiction."""
_LANE_PX: Final = 26
_BAR_PX: Final = 18
_RANK_PX: Final = 14
_LABEL_PX: Final = 110
_TOP_PX: Final = 28
_TICKS_EVERY_PX: Final = 140
_CHARACTER_PX: Final = 6.6

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fbfbf9; --line: #d9d9d2; --soft: #6b7280;
  --read: #b9d3ee; --write: #bfe0c4; --unknown: #efe3b5; --failed: #dcdcdc; --bad: #d33f3f; --near: #e08a2e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e1; --paper: #16181d; --line: #333842; --soft: #9aa1ad;
  --read: #2f4f73; --write: #2f5f3b; --unknown: #655722; --failed: #44474e; --bad: #e05252; --near: #d98b3a; } }
body { margin: 24px; background: var(--paper); color: var(--ink); font: 14px/1.5 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0 0 4px; } p { margin: 4px 0; color: var(--soft); }
pre { font: 12px/1.6 ui-monospace, monospace; white-space: pre-wrap; border-left: 3px solid var(--bad);
  padding: 6px 0 6px 14px; margin: 14px 0; }
pre.good { border-color: var(--write); }
.chart { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
svg { display: block; } text { font: 11px ui-monospace, monospace; fill: var(--ink); pointer-events: none; }
rect.paper { fill: var(--paper); pointer-events: none; }
text.soft { fill: var(--soft); } line { stroke: var(--line); }
rect { stroke: none; } rect:hover { stroke: var(--ink); stroke-width: 1.5; }
.read { fill: var(--read); } .write { fill: var(--write); } .unknown { fill: var(--unknown); }
.failed { fill: var(--failed); } rect.bad { stroke: var(--bad); stroke-width: 3; } rect.near { stroke: var(--near);
  stroke-width: 2; }
.key span { display: inline-block; margin-right: 18px; } .key i { display: inline-block; width: 12px; height: 12px;
  border-radius: 2px; margin-right: 6px; vertical-align: -1px; }
"""


def draw(judgement: Judgement) -> str:
    """Return the page for a judgement."""
    operations = judgement.history.operations
    bad = judgement.contradiction.numbers if judgement.contradiction is not None else []
    shown = _chosen(operations, [*bad, *judgement.related])
    left_out = len(operations) - len(shown)
    title = "linearizable" if judgement.passed else str(judgement.verdict.answer)
    note = f"{len(operations):,} operations" + (f", {left_out:,} of them not drawn" if left_out else "")
    body = [
        f"<h1>This history is {html.escape(title)}</h1>" if title != "gave up" else "<h1>The search gave up</h1>",
        f"<p>{note}. {_HOW_TO_READ}</p>",
        f"<pre{' class=good' if judgement.passed else ''}>{html.escape(judgement.text())}</pre>",
        _KEY,
        f'<div class="chart">{_chart(judgement, shown)}</div>',
        _FOLLOW,
        _SCROLL if bad else "",
    ]
    head = f'<meta charset="utf-8"><title>history: {html.escape(title)}</title><style>{_STYLE}</style>'
    return "\n".join(["<!doctype html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>", ""])


_HOW_TO_READ: Final = (
    "Lanes are clients, bars go from call to return, by rank and not to scale; hover over a bar for all of it."
)
_KEY: Final = (
    '<p class="key"><span><i class="k" style="background:var(--write)"></i>made a revision</span>'
    '<span><i style="background:var(--read)"></i>changed nothing</span>'
    '<span><i style="background:var(--unknown)"></i>outcome unknown</span>'
    '<span><i style="background:var(--failed)"></i>failed</span>'
    '<span><i style="border:3px solid var(--bad);width:8px;height:8px"></i>contradiction</span>'
    '<span><i style="border:2px solid var(--near);width:8px;height:8px"></i>concerned</span></p>'
)
_FOLLOW: Final = (
    "<script>const names=document.querySelector('.names');names.closest('.chart').addEventListener('scroll',"
    "event=>names.setAttribute('transform',`translate(${event.target.scrollLeft} 0)`));</script>"
)
"""The clients' names stay in sight however far one scrolls."""
_SCROLL: Final = (
    "<script>const bad=document.querySelectorAll('rect.bad');const last=bad[bad.length-1];"
    "if(last){const chart=last.closest('.chart');chart.scrollLeft=last.getBBox().x-chart.clientWidth/2;}</script>"
)


def _chosen(operations: list[Operation], about: Iterable[int]) -> list[int]:
    """Numbers of the operations to draw: those around the contradiction, by when they were invoked."""
    order = sorted(range(len(operations)), key=lambda number: operations[number].invoked)
    if len(order) <= OPERATIONS_MAX:
        return order
    places = {number: place for place, number in enumerate(order)}
    wanted = sorted({places[number] for number in about}) or [0]
    reach = NEIGHBOURS if len(wanted) > 1 else OPERATIONS_MAX // 2
    chosen: set[int] = set(wanted)
    for place in reversed(wanted):
        for neighbour in range(max(0, place - reach), min(len(order), place + reach)):
            if len(chosen) < OPERATIONS_MAX:
                chosen.add(neighbour)
    return [order[place] for place in sorted(chosen)]


def _chart(judgement: Judgement, shown: list[int]) -> str:
    operations = judgement.history.operations
    instants = sorted({instant for number in shown for instant in _instants(operations[number])})
    lanes = _lanes(operations, shown)
    clients = list(dict.fromkeys(client for client, _ in sorted(lanes.values(), key=lambda lane: _natural(lane[0]))))
    depth = {client: 1 + max(row for name, row in lanes.values() if name == client) for client in clients}
    tops: dict[str, int] = {}
    height = _TOP_PX
    for client in clients:
        tops[client] = height
        height += depth[client] * _LANE_PX + 4
    width = _LABEL_PX + (len(instants) + 3) * _RANK_PX
    parts = [f'<svg width="{width}" height="{height + 8}" role="img" aria-label="history">']
    for rank in range(0, len(instants), _TICKS_EVERY_PX // _RANK_PX):
        x = _LABEL_PX + rank * _RANK_PX
        parts.append(f'<line x1="{x}" y1="20" x2="{x}" y2="{height}"/>')
        parts.append(f'<text class="soft" x="{x}" y="14">{instants[rank]} {judgement.history.unit}</text>')
    for client in clients:
        y = tops[client]
        parts.append(f'<line x1="0" y1="{y - 2}" x2="{width}" y2="{y - 2}"/>')
    bad = set(judgement.contradiction.numbers) if judgement.contradiction is not None else set()
    for number in shown:
        client, row = lanes[number]
        emphasis = " bad" if number in bad else " near" if number in judgement.related else ""
        parts.append(_bar(number, operations[number], instants, tops[client] + row * _LANE_PX + 2, emphasis, width))
    parts.append(f'<g class="names"><rect class="paper" width="{_LABEL_PX - 4}" height="{height + 8}"/>')
    parts += [f'<text x="8" y="{tops[client] + 15}">{html.escape(client[:15])}</text>' for client in clients]
    return "\n".join([*parts, "</g></svg>"])


def _bar(number: int, operation: Operation, instants: list[int], y: int, emphasis: str, width: int) -> str:
    left = _LABEL_PX + bisect_left(instants, operation.invoked) * _RANK_PX
    right = width - _RANK_PX
    if operation.returned is not None:
        right = _LABEL_PX + bisect_left(instants, operation.returned) * _RANK_PX
    span = max(right - left, _RANK_PX - 3)
    request, answer = request_words(operation.call, operation.request), answer_words(operation)
    title = html.escape(f"#{number} {operation.client} {operation.invoked}–{operation.returned}\n{request}\n→ {answer}")
    fade = ' opacity="0.75" stroke-dasharray="3 2"' if operation.outcome == Outcome.UNKNOWN else ""
    label = f"#{number} {request} → {answer}"
    fits = int(span / _CHARACTER_PX) - 1
    text = label if len(label) <= fits else label[: fits - 1] + "…" if fits > 3 else ""
    place = f'x="{left}" y="{y}" width="{span}" height="{_BAR_PX}" rx="3"'
    return (
        f'<g><rect class="{_kind(operation)}{emphasis}" {place}{fade}>'
        f'<title>{title}</title></rect><text x="{left + 4}" y="{y + 13}">{html.escape(text)}</text></g>'
    )


def _kind(operation: Operation) -> str:
    if operation.outcome != Outcome.OK:
        return str(operation.outcome)
    return "write" if is_effective(operation.call, operation.answer) else "read"


def _instants(operation: Operation) -> Iterable[int]:
    return (operation.invoked,) if operation.returned is None else (operation.invoked, operation.returned)


def _lanes(operations: list[Operation], shown: list[int]) -> dict[int, tuple[str, int]]:
    """Client and row of each operation; a client with several calls open at once gets several rows."""
    rows: dict[str, list[int]] = {}
    lanes: dict[int, tuple[str, int]] = {}
    for number in shown:
        operation = operations[number]
        ends = rows.setdefault(operation.client, [])
        free = next((row for row, end in enumerate(ends) if end <= operation.invoked), len(ends))
        end = 1 << 62 if operation.returned is None else operation.returned
        ends[free : free + 1] = [end]
        lanes[number] = (operation.client, free)
    return lanes


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts c2/grpc before c10/grpc."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name) if part]
