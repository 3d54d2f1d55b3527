"""Starts one node by etcd's flags, `ETCD_*` variables or YAML configuration file: `actd --name s1 --data-dir ...`.

Where `etcd` stood in a unit file or a manifest, `actd` may stand. The process is the node to the outside: SIGTERM
stops it in good order, SIGKILL takes every actor with it, SIGSTOP stops them all. What each flag means here:
[flags.md](flags.md).
"""

from tools import native

if __name__ == "__main__":
    native.use()

import os
import socket
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, TextIO

import structlog

from actors.logs import configure_logs
from actors.node_directory import IDENTITY_FILE
from actors.supervisor import Supervisor
from daemon.command_line import CommandLineError, HelpAsked, read_command_line
from daemon.flag_table import FLAGS
from daemon.freezer import start_freezer
from daemon.notify import READY, STOPPING, Notifier, notifier
from daemon.plan import LogPlan, NodePlan, data_dir_of, plan
from daemon.predecessor import await_end_of_predecessor
from daemon.settings import Settings, gather
from daemon.words import help_text, version_text
from gateway.tls_files import check_tls
from protocol import local
from protocol.errors import ConfigError
from protocol.message import Message
from protocol.types import NOBODY
from tools.launch import PRODUCTION_ROLES, check_keys, check_ports, preload

EXIT_REFUSED: Final = 1
EXIT_BAD_LINE: Final = 2
READY_EVENT: Final = "ready to serve client requests"
ETCD_DIRECTORY: Final = "member"
"""What etcd keeps its data in, below its data directory."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    words = sys.argv[1:] if words is None else words
    if not __debug__:
        return refuse("will not run under python -O: the assertions that -O removes guard your data", EXIT_BAD_LINE)
    try:
        if words[:1] in (["gateway"], ["grpc-proxy"]):
            return refuse(f"{words[0]} is refused: actd has no proxy; clients may use any member", EXIT_REFUSED)
        if read_command_line(words, FLAGS).get("version", "false") in ("true", "1", "t", "T", "True", "TRUE"):
            sys.stdout.write(version_text())
            return 0
        settings = gather(words, os.environ, lambda path: Path(path).read_text())
        directory = data_dir_of(settings)
        node = plan(settings, resolve, begun=(directory / IDENTITY_FILE).exists())
        check_directory(directory)
        check_tls(node.node)
        check_keys(node.node)
        await_end_of_predecessor(directory, lambda: check_ports([node.node]))
        outputs = open_outputs(node.log)
    except HelpAsked:
        sys.stdout.write(help_text())
        return 0
    except CommandLineError as error:
        return refuse(f"{error}. See 'actd --help'.", EXIT_BAD_LINE)
    except ConfigError as error:
        return refuse(f"{error}. See 'actd --help'.", EXIT_REFUSED)
    configure_logs(node.log.style, node.log.level, outputs)
    return run(node, settings)


def refuse(reason: str, status: int) -> int:
    """Print why nothing was started."""
    print(f"actd: {reason}", file=sys.stderr)
    return status


@cache
def resolve(name: str) -> frozenset[str]:
    """Return the IP addresses of a name; none where it has none."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(str(address[0]) for *_, address in found)


def check_directory(directory: Path) -> None:
    """Refuse a directory that etcd has written in.

    Raises:
        ConfigError: it is one.
    """
    if (directory / ETCD_DIRECTORY / "wal").is_dir():
        raise ConfigError(
            f"{directory}: holds etcd's own data, which actd does not read; give another --data-dir, and bring the "
            "pairs over with etcdctl make-mirror"
        )


def open_outputs(log: LogPlan) -> list[TextIO]:
    """Open where the log goes.

    Raises:
        ConfigError: a file cannot be written.
    """
    outputs: list[TextIO] = []
    for output in log.outputs:
        if output in ("stderr", "stdout"):
            outputs.append(sys.stderr if output == "stderr" else sys.stdout)
            continue
        try:
            outputs.append(Path(output).open("a"))  # noqa: SIM115 - it is written to until the process ends
        except OSError as error:
            raise ConfigError(f"--log-outputs: {output}: cannot be written: {error.strerror}") from error
    return outputs


def run(node: NodePlan, settings: Settings) -> int:
    """Be the node until it is stopped or fails."""
    log = structlog.get_logger()
    for event, fields in settings.warnings:
        log.warning(event, **fields)
    preload()
    start_freezer(node.node.name)
    told = Announcer(node, notifier())
    roles = dict(PRODUCTION_ROLES)
    status = Supervisor(node.config, node.node, node.data_dir, roles, None, node.founding, told.hear).run()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


class Announcer:
    """Says once that the node serves, to the log and to systemd."""

    def __init__(self, node: NodePlan, systemd: Notifier) -> None:
        self._node = node
        self._systemd = systemd
        self._announced = False

    def _is_known(self, changed: local.LeadershipChanged) -> bool:
        """Whether there is a leader, and its table says where our clients go: a write of ours has come through."""
        us = (self._node.node.name, self._node.node.client_urls)
        return changed.leader != NOBODY and any((view.name, view.client_urls) == us for view in changed.members)

    def hear(self, message: Message) -> None:
        """Take a word that the supervisor has for the outside."""
        if isinstance(message, local.NodeStopped):
            self._systemd.tell(STOPPING)
        elif isinstance(message, local.LeadershipChanged) and not self._announced and self._is_known(message):
            self._announced = True
            node = self._node.node
            structlog.get_logger().info(
                READY_EVENT,
                name=node.name,
                leader=f"{message.leader:x}",
                client_urls=[address.text for address in node.client_listeners],
                zmq=f"tcp://{node.zmq}" if node.zmq else "",
            )
            self._systemd.tell(READY, f"STATUS=serving as {node.name}")


if __name__ == "__main__":
    sys.exit(main())
