"""Verbs that only look: state, log, wire, applied."""

from scenario_words import configuration_word, entry_word, member_word, message_word
from scenario_world import World
from verbs import verb


@verb("state")
def state(world: World, _words: list[str]) -> None:
    """`state`: one line per node."""
    for node in world.nodes.values():
        if not node.up:
            world.say(f"{node.name} down")
            continue
        core = node.core
        world.say(
            f"{node.name} {core.role.value:<13} t{core.term} leader {member_word(core.leader):<6} "
            f"log {core.log.first_index}..{core.log.last.index} durable {core.log.durable} commit {core.commit} "
            f"applied {core.applied} {configuration_word(core.configuration)}"
        )


@verb("log")
def log(world: World, words: list[str]) -> None:
    """`log NODE ...`: the entries each of these nodes holds."""
    for name in words:
        held = world.node(name).core.log
        entries = held.between(held.first_index, held.last.index)
        world.say(f"{name} log: " + (", ".join(entry_word(entry) for entry in entries) or "empty"))


@verb("applied")
def applied(world: World, words: list[str]) -> None:
    """`applied NODE ...`: the commands in each of these nodes' stores."""
    for name in words:
        commands = [entry.data.decode() for entry in world.node(name).applied if entry.kind == 1]
        world.say(f"{name} store: " + (" ".join(commands) or "empty"))


@verb("wire")
def wire(world: World, _words: list[str]) -> None:
    """`wire`: what is under way between nodes."""
    for parcel in world.wire:
        world.say(f"{member_word(parcel.sender)} -> {member_word(parcel.to)}: {message_word(parcel.message)}")
