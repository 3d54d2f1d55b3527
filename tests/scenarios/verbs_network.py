"""Verbs for messages: deliver, drop, keep, release, partition, heal."""

from scenario_world import Parcel, World
from verbs import verb


def _chosen(world: World, words: list[str]) -> list[Parcel]:
    """Messages from one node to another, or all to one; `KIND` narrows it down."""
    nodes = [world.node(word).member for word in words if word.startswith("n") and word[1:].isdigit()]
    kinds = [word for word in words if not (word.startswith("n") and word[1:].isdigit())]
    found = [parcel for parcel in world.wire if parcel.to == nodes[-1] and nodes[0] in (parcel.sender, parcel.to)]
    if len(nodes) == 2:
        found = [parcel for parcel in found if parcel.sender == nodes[0]]
    return [parcel for parcel in found if not kinds or parcel.message.kind in kinds]


@verb("deliver")
def deliver(world: World, words: list[str]) -> None:
    """`deliver [FROM] TO [KIND]`: hand over what is under way right now."""
    for parcel in _chosen(world, words):
        world.wire.remove(parcel)
        world.arrive(parcel)


@verb("drop")
def drop(world: World, words: list[str]) -> None:
    """`drop [FROM] TO [KIND]`: lose what is under way right now."""
    for parcel in _chosen(world, words):
        world.wire.remove(parcel)


@verb("keep")
def keep(world: World, words: list[str]) -> None:
    """`keep [FROM] TO [KIND]`: set messages aside, to arrive late."""
    for parcel in _chosen(world, words):
        world.wire.remove(parcel)
        world.kept.append(parcel)


@verb("copy")
def copy(world: World, words: list[str]) -> None:
    """`copy [FROM] TO [KIND]`: set a copy aside; the original goes its way."""
    world.kept.extend(_chosen(world, words))


@verb("release")
def release(world: World, _words: list[str]) -> None:
    """`release`: what was set aside arrives."""
    kept, world.kept = world.kept, []
    for parcel in kept:
        world.arrive(parcel)


@verb("partition")
def partition(world: World, words: list[str]) -> None:
    """`partition n1 | n2 n3`: cut all links between the groups; what is under way there is lost."""
    groups = [[world.node(name).member for name in group.split()] for group in " ".join(words).split("|")]
    for group in groups:
        for other in groups:
            if group is not other:
                world.links_cut |= {frozenset((one, two)) for one in group for two in other}
    world.wire = [parcel for parcel in world.wire if frozenset((parcel.sender, parcel.to)) not in world.links_cut]


@verb("heal")
def heal(world: World, _words: list[str]) -> None:
    """`heal`: mend all links."""
    world.links_cut.clear()
