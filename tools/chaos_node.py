"""A node under chaos: the launcher, with actors whose disk, clock and view of their peers can be disturbed.

Started by `python -m tools.chaos`, for tests only: production starts `tools.launch`, which has no such switches.
"""

from tools import native

if __name__ == "__main__":
    native.use()

from pathlib import Path
from typing import Annotated

import typer

from actors.logs import configure_logs
from chaos.roles import faulty_roles
from protocol.config import load_config
from tools.launch import Launcher, check_ports, preload

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(
    cluster: Annotated[Path, typer.Argument(help="the cluster file")],
    node: Annotated[str, typer.Option(help="the node to start")],
    data_dir: Annotated[Path, typer.Option(help="parent of the data directories")],
    switches: Annotated[Path, typer.Option(help="the node's switchboard, see chaos/switchboard.py")],
    proxy: Annotated[list[str] | None, typer.Option(help="NODE=HOST:PORT: where this node reaches another")] = None,
) -> None:
    """Start one node and keep it running."""
    config = load_config(cluster)
    mine = config.node(node)
    check_ports([mine])
    configure_logs("console", "info")
    preload()
    proxies = dict(each.split("=", 1) for each in proxy or [])
    raise typer.Exit(Launcher(config, [mine], data_dir, faulty_roles(switches, proxies)).run())


if __name__ == "__main__":
    app()
