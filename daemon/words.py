"""What `actd` prints about itself: its version, as etcd prints its own, and its help, made from the flag table.

Pure.
"""

import platform
from importlib.metadata import version
from typing import Final

from daemon.flag import Fate, Flag
from daemon.flag_table import GROUPS
from storage.reads import ETCD_VERSION

USAGE: Final = """Usage:

  actd [flags]
    Start a node. Flags, ETCD_* variables and the configuration file are etcd's.

  actd --version
    Print the version of etcd whose API is served, and actd's own.

  actd -h | --help
    Print this.

  actd --config-file FILE
    Start a node as the YAML or JSON file says; all other flags and variables are ignored.

A flag wins over its variable (--data-dir over ETCD_DATA_DIR), a variable over the default. Flags of actd alone have
variables that begin with ACTD_. SIGTERM and SIGINT stop the node in good order.

Exit status: 0 stopped as asked, 1 refused to start or failed (the last lines say why), 2 a bad command line.
"""
_FATES: Final = {Fate.MAPPED: "", Fate.NOTED: "[no effect] ", Fate.REFUSED: "[refused] "}


def version_text() -> str:
    """Return what `--version` prints."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return (
        f"etcd Version: {ETCD_VERSION}\n"
        "Git SHA: Not provided (actd)\n"
        f"Go Version: none (Python {platform.python_version()})\n"
        f"Go OS/Arch: {platform.system().lower()}/{machine}\n"
        f"actd Version: {version('actd')}\n"
    )


def _lines_of(flag: Flag) -> list[str]:
    return [f"  --{flag.name} '{flag.default}'", f"    {_FATES[flag.fate]}{flag.note}"]


def help_text() -> str:
    """Return what `--help` prints."""
    lines = [USAGE]
    for group in GROUPS:
        lines += [f"{group.title}:", *(line for flag in group.flags for line in _lines_of(flag)), ""]
    return "\n".join(lines)
