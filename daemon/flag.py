"""What one flag is: its kind of value, its default, and what becomes of it here.

Pure. Invariant: every flag of the table has exactly one fate, and a fate that is not `MAPPED` has a reason.
"""

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """How a value is written; the words are those of the reference page."""

    TEXT = "text"
    TRUTH = "true or false"
    NUMBER = "number"
    COUNT = "number from 0 on"
    TIME = "time, as 100ms or 1h30m"
    URLS = "URLs, with commas"
    LIST = "list, with commas"
    SWITCH = "nothing, or anything behind ="


class Fate(Enum):
    """What becomes of a value that is not the default."""

    MAPPED = "does what it says"
    NOTED = "accepted with a warning"
    REFUSED = "refused"


class Flag(NamedTuple):
    """One row of the table."""

    name: str
    kind: Kind
    default: str
    fate: Fate
    note: str
    """What it does here, or why it does nothing, or why it is refused."""
    choices: tuple[str, ...] = ()
    """The only values there are; empty: any."""
    harmless: tuple[str, ...] = ()
    """Values besides the default that ask for nothing we do not do anyway."""
    stands_for: str = ""
    """The name this flag has today."""
    unless: str = ""
    """A refusal is only a warning when this flag is given."""
    ours: bool = False
    """Whether etcd has no such flag."""

    @property
    def environment(self) -> str:
        """The name of its environment variable."""
        return ("ACTD_" if self.ours else "ETCD_") + self.name.upper().replace("-", "_").replace(".", "_")


class FlagGroup(NamedTuple):
    """Flags under one heading of `--help`."""

    title: str
    flags: tuple[Flag, ...]
