"""Members that are removed and come back anew: a cluster that shrinks and grows under load, its leaders included.

Owns what an operator would do: say that a member is reached elsewhere, remove members through whoever answers, clear
their disks, add them under a new id, start them so that they join. Invariant: after the end every node is a member
again and is where it was, or the run hears why not.
"""

import random
import time
from collections.abc import Callable
from typing import Final

from chaos.doors import ask
from chaos.targets import ActdTarget, Target, TargetFailed
from protocol.wire import rpc_pb2 as rpc

STEP_S: Final = 60.0
"""How long one step may take on a busy machine, retries included."""


class ShrinkAndGrow:
    """Members are removed until one or three are left, the leader first; then all come back, one after another.

    Before that one of them, be it the leader, is told to be reached elsewhere, and so is each that has come back,
    half of the time; in the end all are where they were.
    """

    def __init__(self) -> None:
        self._removed: list[str] = []
        self._learners: set[str] = set()
        """Those that come back as learners, and are promoted once they have caught up."""
        self._moved: list[str] = []
        """Those that are reached elsewhere."""
        self._rng = random.Random()

    def begin(self, target: Target, rng: random.Random) -> str:
        """Remove them."""
        self._rng = rng
        self._move(target, rng.choice(target.names))
        left = rng.choice([size for size in (1, 3) if size < len(target.names)])
        for _ in range(len(target.names) - left):
            inside = [name for name in target.names if name not in self._removed]
            leader = target.leader()
            victim = leader if leader in inside else rng.choice(inside)
            self._removed.append(victim)
            if rng.random() < 0.5:
                self._learners.add(victim)
            self._remove(target, victim)
        return f"moved {' '.join(self._moved)}, removed {' '.join(self._removed)}"

    def _remove(self, target: Target, victim: str) -> None:
        others = [name for name in target.names if name not in self._removed]
        _until(lambda: _remove(target, others, victim), f"{victim} is removed")

    def end(self, target: Target) -> None:
        """Add and start them again, with empty disks and under new ids."""
        assert isinstance(target, ActdTarget), "plans for other targets leave this out"
        while self._removed:
            others = [name for name in target.names if name not in self._removed]
            self._bring_back(target, others, self._removed[0])
            back = self._removed.pop(0)
            if self._rng.random() < 0.5:
                self._move(target, back)
        while self._moved:
            self._move_back(target, self._moved[0])
            self._moved.pop(0)

    def _move_back(self, target: ActdTarget, name: str) -> None:
        _until(lambda: _update(target, name, target.peer_url(name)), f"{name} is where it was")

    def _move(self, target: Target, name: str) -> None:
        assert isinstance(target, ActdTarget), "plans for other targets leave this out"
        self._moved.append(name)
        _until(lambda: _update(target, name, target.other_peer_url(name)), f"{name} is known elsewhere")

    def _bring_back(self, target: ActdTarget, others: list[str], name: str) -> None:
        learner = name in self._learners
        _until(lambda: not target.running(name), f"{name} stops by itself")
        _until(lambda: _add(target, others, name, learner=learner), f"{name} is added")
        target.rejoin(name)
        if learner:
            _until(lambda: _promote(target, others, name), f"{name} is promoted")
        _until(lambda: _started(target, others, name), f"{name} has joined")


def _until(done: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + STEP_S
    while not done():
        if time.monotonic() > give_up_at:
            raise TargetFailed(f"not within {STEP_S:.0f} s: {what}")
        time.sleep(0.1)


def _members(target: Target, asked: str) -> list[rpc.Member] | None:
    answer = ask(target.grpc(asked), rpc.MemberListRequest(linearizable=True), 5.0)
    if answer is None:
        return None
    assert isinstance(answer, rpc.MemberListResponse), "members are asked for"
    return list(answer.members)


def _remove(target: Target, others: list[str], name: str) -> bool:
    """Ask each of the others in turn; whether the member is gone."""
    for other in others:
        members = _members(target, other)
        if members is not None:
            known = [member.ID for member in members if member.name == name]
            if not known or ask(target.grpc(other), rpc.MemberRemoveRequest(ID=known[0]), 10.0) is not None:
                return True
    return False


def _add(target: ActdTarget, others: list[str], name: str, *, learner: bool) -> bool:
    url = target.peer_url(name)
    request = rpc.MemberAddRequest(peerURLs=[url], isLearner=learner)
    for other in others:
        members = _members(target, other)
        if members is not None:
            known = any(url in member.peerURLs for member in members)
            if known or ask(target.grpc(other), request, 10.0) is not None:
                return True
    return False


def _promote(target: ActdTarget, others: list[str], name: str) -> bool:
    """Ask for the vote of a learner; it is refused until the learner has caught up."""
    url = target.peer_url(name)
    for other in others:
        for member in _members(target, other) or ():
            if url in member.peerURLs:
                if not member.isLearner:
                    return True
                ask(target.grpc(other), rpc.MemberPromoteRequest(ID=member.ID), 10.0)
    return False


def _update(target: ActdTarget, name: str, url: str) -> bool:
    """Say where a member is reached; whether everybody who answers, and the member itself, says so."""
    shown = []
    for asked in target.names:
        members = _members(target, asked)
        if members is None:
            continue
        known = next((member for member in members if member.name == name), None)
        if known is None:
            continue
        if list(known.peerURLs) != [url]:
            ask(target.grpc(asked), rpc.MemberUpdateRequest(ID=known.ID, peerURLs=[url]), 10.0)
        else:
            shown.append(asked)
    return name in shown and len(shown) > 1


def _started(target: Target, others: list[str], name: str) -> bool:
    """Whether the member has told its name and serves."""
    shown = (member.name == name for other in others for member in _members(target, other) or ())
    return any(shown) and ask(target.grpc(name), rpc.RangeRequest(key=b"ready"), 5.0) is not None
