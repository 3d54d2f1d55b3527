"""One line of fixed columns per event, so that a long failure can be read by eye, column by column.

Columns: virtual milliseconds, node, actor, then for the node: alive actors (letters), term, last log index, applied
index; then what happened. Knows how to print, decides nothing.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.message import Message

if TYPE_CHECKING:
    from sim.process import Process
    from sim.world import World


class StatusLine:
    """Prints events as they happen."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def event(self, world: "World", node: str, actor: str, what: str) -> None:
        """Show an event."""
        columns = self._columns(world, node)
        self._show(f"{world.now_us / 1000:>11.3f} {node:<3} {actor:<17} {columns} {what}")

    def message(self, world: "World", process: "Process", message: Message) -> None:
        """Show a message that is being handled; bulk data is shown by its size."""
        fields = []
        for name, value in message.__dict__.items():
            if isinstance(value, bytes):
                fields.append(f"{name}={len(value)}B")
            elif name == "entries":
                ends = f"{value[0].index}..{value[-1].index}" if value else "none"
                fields.append(f"entries={ends}")
            elif not isinstance(value, tuple) or len(repr(value)) < 60:
                fields.append(f"{name}={value!r}")
        self.event(world, process.node.name, process.name, f"{message.kind} {' '.join(fields)}")

    def _columns(self, world: "World", name: str) -> str:
        node = next((node for node in world.nodes if node.name == name), None)
        if node is None:
            return f"{'':<4} {'':>5} {'':>6} {'':>6}"
        alive = "".join(letter if actor in node.processes else "-" for actor, letter in _LETTERS)
        log = world.logs.logs[name].memory
        applier = node.processes.get("applier")
        store = world.parts.store_of(applier.actor) if applier is not None else None
        return f"{alive} t{log.hard_state.term:>4} l{log.last:>5} a{store[0] if store else 0:>5}"


_LETTERS = (("raft", "R"), ("wal", "W"), ("applier", "A"), ("gateway", "G"))
