"""Verbs that make, stop and start nodes: cluster, join, crash, start."""

from scenario_node import Node
from scenario_world import World
from verbs import verb

from protocol.config import RaftConfig
from protocol.types import MemberId


@verb("cluster")
def cluster(world: World, words: list[str]) -> None:
    """`cluster SIZE [OPTION=NUMBER ...]`: found a cluster; options are those of [raft] in cluster.toml."""
    options = dict(word.split("=") for word in words[1:])
    told = {"commit_news_delay_ms": 0, "unattended_delay_ms": 0, **{key: int(value) for key, value in options.items()}}
    world.config = RaftConfig.model_validate(told)
    world.found(int(words[0]))


@verb("join")
def join(world: World, words: list[str]) -> None:
    """`join NODE`: start an empty node that is in no configuration yet."""
    member = MemberId(int(words[0].removeprefix("n")))
    world.nodes[member] = Node(world, member)
    world.nodes[member].start()


@verb("crash")
def crash(world: World, words: list[str]) -> None:
    """`crash NODE ...`: only what was synced stays; what was under way to it is lost."""
    for name in words:
        node = world.node(name)
        node.crash()
        world.wire = [parcel for parcel in world.wire if parcel.to != node.member]
        world.later = [(each, message) for each, message in world.later if each is not node]


@verb("start")
def start(world: World, words: list[str]) -> None:
    """`start NODE ...`: switch crashed nodes on again."""
    for name in words:
        world.node(name).start()
