"""etcd's feature gates: each is on or off for good here, and whoever asks for the other is told.

Pure; works on settings.
"""

from typing import Final, NamedTuple

from daemon import go_values
from daemon.flag_table_old import GATES
from daemon.settings import Settings
from protocol.errors import ConfigError


class Gate(NamedTuple):
    """One feature of etcd: its default there, and how it stands here."""

    default: bool
    here: bool
    why: str


KNOWN_GATES: Final = {
    "StopGRPCServiceOnDefrag": Gate(default=False, here=False, why="a defragmentation does not stop requests"),
    "InitialCorruptCheck": Gate(
        default=False,
        here=False,
        why="members compare their stores while they serve (--corrupt-check-time); one that differs is quarantined",
    ),
    "CompactHashCheck": Gate(
        default=False, here=True, why="members always compare their stores, a part at a time, by --corrupt-check-time"
    ),
    "LeaseCheckpoint": Gate(default=False, here=True, why="what is left of a lease always survives an election"),
    "LeaseCheckpointPersist": Gate(default=False, here=True, why="what is left of a lease is always in the log"),
    "TxnModeWriteWithSharedBuffer": Gate(default=True, here=True, why="a txn reads the newest pairs without a copy"),
    "SetMemberLocalAddr": Gate(default=False, here=False, why="the kernel chooses where a link begins"),
    "FastLeaseKeepAlive": Gate(default=True, here=True, why="a keep-alive does not wait for the store"),
    "PriorityRequest": Gate(default=False, here=False, why="all requests are served in their turn"),
}


def judge_gates(settings: Settings) -> None:
    """Warn of every gate that asks for what is not so here.

    Raises:
        ConfigError: a gate is not known, or its value is no boolean, or it is set by its old flag as well.
    """
    asked: dict[str, tuple[str, bool]] = {}
    for part in settings.parts("feature-gates"):
        name, _, value = part.partition("=")
        if name not in KNOWN_GATES:
            raise ConfigError(f"{settings.told('feature-gates')}: unrecognized feature gate: {name}")
        try:
            asked[name] = (f"--feature-gates={part}", go_values.truth(value))
        except ValueError:
            raise ConfigError(f"{settings.told('feature-gates')}: {part}: is NAME=true or NAME=false") from None
    for old, name in GATES:
        if old in settings.given:
            if name in asked:
                raise ConfigError(f"{settings.told(old)} and {asked[name][0]} say the same thing; leave the first out")
            settings.warn("flag has a newer name", given=settings.told(old), use=f"--feature-gates={name}=...")
            asked[name] = (settings.told(old), settings.truth(old))
    for name, (told, on) in asked.items():
        gate = KNOWN_GATES[name]
        if on != gate.here:
            settings.warn("flag has no effect", flag=told, value=on, reason=gate.why)
