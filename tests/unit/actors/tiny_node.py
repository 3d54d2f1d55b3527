"""A node of tiny honest actors for the tests of the supervisor; a process of its own.

`python tiny_node.py DIRECTORY CONFIG BEHAVIOUR`: CONFIG is a cluster's JSON, BEHAVIOUR maps roles to what they do
besides obeying ("idle" if nothing is said). Every actor writes what happens to it into DIRECTORY/diary, a JSON line
at a time; what one appends is never torn.
"""

import json
import os
import sys
import time
from pathlib import Path

from actors.actor import Source
from actors.effects import Effect, Halt, Send, SpawnHelper
from actors.logs import configure_logs
from actors.metrics import ActorMetrics
from actors.process import GROUP, ProcessContext, Role, run_shell
from actors.shell import HELPERS
from actors.supervisor import Supervisor
from protocol import local
from protocol.config import ClusterConfig
from protocol.message import Message
from protocol.types import Index, Millis


class Tiny:
    """An actor that notes what it hears and does one thing."""

    def __init__(self, role: str, behaviour: str, context: ProcessContext) -> None:
        self.name = role
        self.metrics = ActorMetrics()
        self.deadline: Millis | None = None
        self._behaviour = behaviour
        self._context = context

    def note(self, event: str, **keys: object) -> None:
        """Write a line of the diary."""
        line = {"role": self.name, "incarnation": self._context.identity.incarnation, "pid": os.getpid()}
        line |= {"event": event, "siblings": self._context.siblings, **keys}
        diary = os.open("diary", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(diary, json.dumps(line).encode() + b"\n")
        os.close(diary)

    def start(self, now: Millis) -> list[Effect]:
        """Note who else of an earlier life still runs, then behave."""
        self.note("started", living=self._living())
        match self._behaviour:
            case "crash":
                raise ValueError("as it was told")
            case "fatal":
                return [Halt("the disk is full: /somewhere", failed=True, fatal=True)]
            case "spawn":
                return [SpawnHelper("snapshot_sender", {"name": "s"})]
            case "greet":
                return [Send("raft", local.LogCut(ticket=1, mark_index=Index(1)))]
            case "done":
                return [Halt("done")]
        return []

    def _living(self) -> list[int]:
        """Processes of earlier lives of the group that are not dead."""
        lines = Path("diary").read_text().splitlines() if Path("diary").exists() else []
        earlier = [json.loads(line) for line in lines]
        pids = {
            line["pid"]
            for line in earlier
            if line["role"] in GROUP and line["incarnation"] < self._context.identity.incarnation
        }
        return [pid for pid in sorted(pids) if Path(f"/proc/{pid}").exists()] if self.name in GROUP else []

    def handle(self, message: Message, source: Source, now: Millis) -> list[Effect]:
        """Note it, and obey."""
        self.note("heard", kind=message.kind, source=source.actor, message=message.model_dump())
        if isinstance(message, local.StopActor) and self._behaviour != "deaf":
            return [Halt("stopped")]
        return []

    def wake(self, now: Millis) -> list[Effect]:
        """Nothing waits for time."""
        return []

    def end_turn(self, now: Millis) -> list[Effect]:
        """Nothing is batched."""
        return []

    def measure(self) -> None:
        """It has no gauges."""

    def check_invariants(self) -> None:
        """There are none."""


def role(name: str, behaviour: str) -> Role:
    """An entry point that runs a tiny actor."""

    def run(context: ProcessContext) -> int:
        if behaviour == "broken":
            raise OSError(98, "Address already in use", "127.0.0.1:1")
        if behaviour == "hung":
            time.sleep(3600)
        return run_shell(context, Tiny(name, behaviour, context), peers=False, door=False)

    return run


def main() -> int:
    """Run a supervisor over tiny actors."""
    configure_logs("json", "info")
    config = ClusterConfig.model_validate_json(sys.argv[2])
    behaviours: dict[str, str] = json.loads(sys.argv[3])
    roles = {name: role(name, behaviours.get(name, "idle")) for name in (*GROUP, "gateway", *HELPERS)}
    return Supervisor(config, config.nodes[0], Path(sys.argv[1]), roles, None).run()


if __name__ == "__main__":
    sys.exit(main())
