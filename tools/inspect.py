"""What is on a node's disk, for people: `python -m tools.inspect wal|db DIRECTORY`. Refuses to write."""

import typer

from tools.inspect_db import db
from tools.inspect_wal import wal

app = typer.Typer(add_completion=False, help=__doc__)
app.command("wal")(wal)
app.command("db")(db)

if __name__ == "__main__":
    app()
