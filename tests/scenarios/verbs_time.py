"""Verbs for time, disks and appliers: settle, wait, timeout, sync, apply."""

from scenario_world import World
from verbs import verb

from protocol.types import Millis


@verb("settle")
def settle(world: World, _words: list[str]) -> None:
    """`settle`: let everything happen that can happen now."""
    world.settle()


@verb("wait")
def wait(world: World, words: list[str]) -> None:
    """`wait MS`: let time pass, settling at every deadline."""
    world.pass_time(int(words[0]))


@verb("timeout")
def timeout(world: World, words: list[str]) -> None:
    """`timeout NODE`: time passes to this node's deadline, and only this node notices."""
    node = world.node(words[0])
    deadline = node.actor.deadline
    assert deadline is not None, f"{node.name} waits for nothing"
    world.now = Millis(max(world.now, deadline))
    assert node.wake(), f"{node.name} has nothing to do at its deadline"


@verb("clock")
def clock(world: World, words: list[str]) -> None:
    """`clock MS`: time passes and nobody notices yet."""
    world.now = Millis(world.now + int(words[0]))


@verb("wake")
def wake(world: World, words: list[str]) -> None:
    """`wake NODE`: this node notices what time it is."""
    world.node(words[0]).wake()


@verb("sync")
def sync(world: World, words: list[str]) -> None:
    """`sync NODE [COUNT]`: the disk finishes its oldest write, or COUNT of them."""
    for _ in range(int(words[1]) if len(words) > 1 else 1):
        assert world.node(words[0]).sync(), f"{words[0]} has nothing to write"


@verb("apply")
def apply(world: World, words: list[str]) -> None:
    """`apply NODE`: the applier does all it was given."""
    while world.node(words[0]).work():
        pass
