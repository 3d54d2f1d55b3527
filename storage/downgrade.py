"""Downgrades as etcd's rule 71 has them: which target may be named, and whether one is under way.

Owns the row that says so. A downgrade changes nothing else: the files of a node are not etcd's, so the way back to an
older etcd is a snapshot. Invariant: the row and `target` are equal between entries.
"""

import re
from typing import Final

from protocol.errors import ClientError, ErrorCode
from protocol.wire.rpc_pb2 import DowngradeInfo, DowngradeRequest, DowngradeResponse
from storage.engine import Engine
from storage.layout import META

DOWNGRADE_KEY: Final = META + b"downgrade"
CLUSTER_VERSION: Final = (3, 7)
TARGET: Final = (3, 6)
"""The only target that may be named: one minor version below."""
_FORM: Final = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(?:\.(0|[1-9]\d{0,8}))?")


class DowngradeDesk:
    """Whether a downgrade is under way."""

    def __init__(self, engine: Engine) -> None:
        stored = engine.get(DOWNGRADE_KEY)
        self.target = "" if stored is None else stored.decode()

    def validate(self, version: str) -> bytes:
        """Return what VALIDATE answers, without its header.

        Raises:
            ClientError: the target is no version, is not one minor version below, or a downgrade is under way.
        """
        if _parsed(version) != (*TARGET, 0):
            raise ClientError(ErrorCode.INVALID_DOWNGRADE_TARGET)
        if self.target:
            raise ClientError(ErrorCode.DOWNGRADE_IN_PROCESS)
        return DowngradeResponse(version=_short(CLUSTER_VERSION)).SerializeToString()

    def apply(self, request: DowngradeRequest, changes: dict[bytes, bytes | None]) -> bytes:
        """Begin or cancel a downgrade; return the answer without its header.

        Raises:
            ClientError: as `validate`; cancelling what is not under way succeeds, as in etcd 3.6.
        """
        if request.action == DowngradeRequest.CANCEL:
            self.target = ""
            changes[DOWNGRADE_KEY] = None
            return DowngradeResponse(version=_short(CLUSTER_VERSION)).SerializeToString()
        answer = self.validate(request.version)
        if request.action == DowngradeRequest.ENABLE:
            self.target = f"{_short(TARGET)}.0"
            changes[DOWNGRADE_KEY] = self.target.encode()
            answer = DowngradeResponse(version=_short(TARGET)).SerializeToString()
        return answer

    def info(self) -> DowngradeInfo | None:
        """Return what Status tells, while one is under way."""
        return DowngradeInfo(enabled=True, targetVersion=self.target) if self.target else None


def _parsed(version: str) -> tuple[int, int, int]:
    found = _FORM.fullmatch(version)
    if found is None:
        raise ClientError(ErrorCode.WRONG_DOWNGRADE_FORMAT)
    major, minor, patch = found.groups(default="0")
    return int(major), int(minor), int(patch)


def _short(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
