"""Starts the nodes of a cluster file that belong to this machine and keeps them until it is told to stop.

`python -m tools.launch cluster.toml`. Forks one supervisor per node with everything imported already, says when
the cluster has a leader, and ends when all nodes have ended.
"""

from tools import native

if __name__ == "__main__":
    native.use()

import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import structlog
import typer

from actors.curve import check_curve
from actors.lifeline import Lifeline, LifelineCut
from actors.logs import LEVELS, configure_logs
from actors.process import ROLES, Role
from actors.supervisor import Supervisor, die_with_parent
from gateway.process import run_gateway
from gateway.tls_files import check_tls
from protocol import local
from protocol.addresses import Address
from protocol.config import ClusterConfig, NodeConfig, load_config
from protocol.errors import ConfigError

EXIT_REFUSED = 2
PRODUCTION_ROLES: Final[Mapping[str, Role]] = MappingProxyType({**ROLES, "gateway": run_gateway})

app = typer.Typer(add_completion=False, help=__doc__)


def refuse(reason: str) -> typer.Exit:
    """Print why nothing was started."""
    typer.secho(f"actd: {reason}", fg=typer.colors.RED, err=True)
    return typer.Exit(EXIT_REFUSED)


def preload() -> None:
    """Import what the actors need, so that they share it and start at once.

    What is loaded is left out of every later garbage collection: one writes to every object it looks at, and each
    process would end up with a copy of nearly all pages.
    """
    for module in ("actors.applier", "actors.raft", "actors.wal", "storage.posix_disk", "storage.rocks"):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


def check_ports(nodes: list[NodeConfig]) -> None:
    """Refuse to start when somebody else listens on one of our addresses.

    Raises:
        ConfigError: the text names node, key and address.
    """
    for node in nodes:
        for key, addresses in node.listeners().items():
            for address in addresses:
                check_port(node.name, key, address)


def check_port(name: str, key: str, address: Address) -> None:
    """Refuse an address that somebody else listens on; a socket file is left to whoever listens there.

    Raises:
        ConfigError: the text names node, key and address.
    """
    if address.is_unix:
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            raise ConfigError(
                f"{name}: {key} address {address.host_port}: {error.strerror}; stop what listens there or "
                "use another port"
            ) from error


def check_keys(node: NodeConfig) -> None:
    """Refuse to start with CURVE keys that cannot be used.

    Raises:
        ConfigError: the text names node and file.
    """
    try:
        check_curve(node.curve)
    except ConfigError as error:
        raise ConfigError(f"{node.name}: curve: {error}") from error


class Launcher:
    """The supervisors of this machine's nodes.

    Args:
        roles: what the actors run; only tests give others than production's.
    """

    def __init__(
        self,
        config: ClusterConfig,
        nodes: list[NodeConfig],
        data_dir: Path | None,
        roles: Mapping[str, Role] = PRODUCTION_ROLES,
    ) -> None:
        self._config = config
        self._nodes = nodes
        self._data_dir = data_dir
        self._roles = dict(roles)
        self._running: dict[int, tuple[str, Lifeline]] = {}
        self._failed = False
        self._explained: set[str] = set()
        """Nodes that have said themselves how they ended."""
        self._announced = False
        self._stopping = False

    def run(self) -> int:
        """Start the nodes, wait for their end, return the exit status."""
        for node in self._nodes:
            self._fork(node)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_stop_signal)
        while self._running:
            self._watch()
        return 1 if self._failed else 0

    def _fork(self, node: NodeConfig) -> None:
        ours, theirs = Lifeline.pair()
        parent = os.getpid()
        directory = self._directory_of(node)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                die_with_parent(parent, signal.SIGTERM)
                # Its own process group: a Ctrl-C goes to the launcher, which stops the nodes in order.
                os.setpgid(0, 0)
                ours.close()
                for _, lifeline in self._running.values():
                    lifeline.close()
                status = Supervisor(self._config, node, directory, self._roles, theirs).run()
            except BaseException:  # noqa: BLE001 - a forked child never returns into the launcher's frames
                structlog.get_logger().exception("supervisor_failed", node=node.name)
            finally:
                sys.stderr.flush()
                os._exit(status)
        theirs.close()
        self._running[pid] = (node.name, ours)

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._stopping = True
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)

    def _watch(self) -> None:
        poller = select.poll()
        by_descriptor = {lifeline.fileno(): pid for pid, (_, lifeline) in self._running.items()}
        for descriptor in by_descriptor:
            poller.register(descriptor, select.POLLIN)
        for descriptor, _ in poller.poll():
            pid = by_descriptor[descriptor]
            name, lifeline = self._running[pid]
            try:
                for message in lifeline.receive():
                    if isinstance(message, local.LeadershipChanged):
                        self._announce(message)
                    elif isinstance(message, local.NodeStopped):
                        self._explained.add(name)
                        if message.failure:
                            self._tell_failure(name, message.failure)
            except LifelineCut:
                self._on_end(pid)

    def _tell_failure(self, name: str, failure: str) -> None:
        directory = self._directory_of(self._config.node(name))
        where = "" if str(directory) in failure else f" (its data: {directory})"
        typer.secho(f"actd: {name} stopped: {failure}{where}", fg=typer.colors.RED, err=True)

    def _directory_of(self, node: NodeConfig) -> Path:
        own = self._data_dir / node.name if self._data_dir else Path(self._config.data_dir_of(node))
        return own.resolve()

    def _on_end(self, pid: int) -> None:
        name, lifeline = self._running.pop(pid)
        lifeline.close()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return
        self._failed = True
        if name not in self._explained:
            how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            typer.secho(f"actd: {name} ended without a word: {how}", fg=typer.colors.RED, err=True)

    def _announce(self, changed: local.LeadershipChanged) -> None:
        if self._announced or not changed.leader:
            return
        self._announced = True
        from rich.console import Console
        from rich.table import Table

        table = Table(title="actd is up", title_justify="left", box=None, pad_edge=False)
        for column in ("member", "id", "role", "gRPC and HTTP", "ZeroMQ"):
            # An address that is cut short is of no use: rather a second line.
            table.add_column(column, overflow="fold")
        known = {node.name: node for node in self._config.nodes}
        names = list(known)
        for view in sorted(
            changed.members, key=lambda view: names.index(view.name) if view.name in known else len(names)
        ):
            role = "leader" if view.member == changed.leader else "learner" if view.is_learner else "follower"
            node = known.get(view.name)
            zmq = f"tcp://{node.zmq}" if node is not None and node.zmq else ""
            client = node.client if node is not None else " ".join(view.client_urls)
            table.add_row(view.name, f"{view.member:x}", role, client, zmq)
        console = Console()
        console.print(table)
        first = self._nodes[0]
        console.print("\nTry:", highlight=False)
        console.print(
            f"  ETCDCTL_API=3 etcdctl --endpoints {first.client} put greeting hello", highlight=False, soft_wrap=True
        )
        if first.zmq:
            console.print(
                f"""  python -c "from actd import Client; print(Client('tcp://{first.zmq}').get('greeting'))\"""",
                highlight=False,
                soft_wrap=True,
            )
        sys.stdout.flush()


@app.command()
def launch(
    cluster: Annotated[Path, typer.Argument(help="the cluster file, e.g. cluster.toml")],
    node: Annotated[list[str] | None, typer.Option(help="start only this node; repeatable")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="parent of the data directories, instead of the file's")] = None,
    log_format: Annotated[str, typer.Option(help="console or json")] = "console",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
) -> None:
    """Start the nodes of CLUSTER that run on this machine, and keep them running.

    Says when the cluster has a leader, and how to talk to it. Ctrl-C or SIGTERM stops all nodes in good order. Each
    node keeps its data in DATA_DIR/NAME and may be started again from there; on a real cluster every machine starts its
    own node: --node n1.

    Exit status: 0 stopped as asked, 1 a node has failed (the last lines say why), 2 refused, nothing was started.
    """
    if not __debug__:
        raise refuse("will not run under python -O: the assertions that -O removes guard your data")
    if log_format not in ("console", "json"):
        raise refuse(f"--log-format is console or json, not {log_format!r}")
    if log_level not in LEVELS:
        raise refuse(f"--log-level is one of {', '.join(LEVELS)}, not {log_level!r}")
    try:
        config = load_config(cluster)
        wanted = node or [entry.name for entry in config.nodes]
        unknown = sorted(set(wanted) - {entry.name for entry in config.nodes})
        if unknown:
            names = ", ".join(entry.name for entry in config.nodes)
            raise ConfigError(f"{cluster}: no node is called {unknown[0]!r}; there are {names}")
        nodes = [entry for entry in config.nodes if entry.name in wanted]
        check_ports(nodes)
        for entry in nodes:
            check_tls(entry)
            check_keys(entry)
    except ConfigError as error:
        raise refuse(str(error)) from error
    configure_logs(log_format, log_level)
    preload()
    for entry in nodes:
        structlog.get_logger().info("modules_loaded", node=entry.name, actor="launcher", compiled=native.in_use())
    raise typer.Exit(Launcher(config, nodes, data_dir).run())


if __name__ == "__main__":
    app()
