"""What the actors of one node say to each other about maintenance: snapshots that clients save, comparison of stores.

The gateway asks the applier for a file and its pieces; a helper writes the file. A gateway numbers its files by itself.
"""

from protocol.local import LocalMessage
from protocol.types import Incarnation, Index, MemberId


class ExportSnapshot(LocalMessage):
    """Gateway to applier: write the store as one file; answered by `SnapshotExported`, sooner or later."""

    incarnation: Incarnation
    sequence: int


class ExportWritten(LocalMessage):
    """Helper to applier: the checkpoint `name` is one file of so many bytes; or why not."""

    name: str
    size: int
    failure: str


class SnapshotExported(LocalMessage):
    """Applier to gateway: the file `sequence` may be read, or (`failure`) never will."""

    sequence: int
    size: int
    failure: str


class ReadExport(LocalMessage):
    """Gateway to applier: a piece of the file; answered by `ExportPiece`."""

    sequence: int
    offset: int
    size: int


class ExportPiece(LocalMessage):
    """A piece of the file, shorter than asked for only at its end."""

    sequence: int
    offset: int
    data: bytes


class DropExport(LocalMessage):
    """Gateway to applier: nobody will read the file `sequence` any more."""

    sequence: int


# --- comparison of stores --------------------------------------------------------------------------


class HashTaken(LocalMessage):
    """Applier to gateway: what this member found in the check that entry `number` asked for (`protocol.integrity`)."""

    number: Index
    crc: int


class HashFound(LocalMessage):
    """Applier to the leader's gateway: what a member has found, as the log says."""

    number: Index
    member: MemberId
    crc: int


# --- defragmentation -------------------------------------------------------------------------------


class StoreDefragmented(LocalMessage):
    """The applier's background to itself: one table has been rewritten."""
