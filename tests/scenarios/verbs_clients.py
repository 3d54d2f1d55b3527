"""Verbs of clients and operators: propose, read, transfer, members, stall."""

from scenario_world import World
from verbs import verb

from protocol import local
from protocol.errors import ErrorCode
from protocol.types import MemberId, StoreId, Term
from raft import membership
from raft.configuration import MemberRecord


@verb("propose")
def propose(world: World, words: list[str]) -> None:
    """`propose NODE TEXT`: the node's gateway proposes a batch."""
    world.sequence += 1
    world.node(words[0]).hand(local.ProposeBatch(sequence=world.sequence, payload=words[1].encode()), "gateway")


@verb("read")
def read(world: World, words: list[str]) -> None:
    """`read NODE NAME`: the node's gateway asks for a linearizable read."""
    world.sequence += 1
    world.node(words[0]).hand(local.RequestReads(sequence=world.sequence, payload=words[1].encode()), "gateway")


@verb("lease")
def lease(world: World, words: list[str]) -> None:
    """`lease NODE NAME`: the node's gateway asks the leader's lessor."""
    world.sequence += 1
    world.node(words[0]).hand(local.AskLessor(sequence=world.sequence, payload=words[1].encode()), "gateway")


@verb("expire")
def expire(world: World, words: list[str]) -> None:
    """`expire NODE TERM TEXT`: the node's lessor, appointed in that term, wants an upkeep in the log."""
    upkeep = local.ProposeUpkeep(term=Term(int(words[1])), payload=words[2].encode())
    world.node(words[0]).hand(upkeep, "applier")


@verb("transfer")
def transfer(world: World, words: list[str]) -> None:
    """`transfer NODE TARGET`: an operator moves leadership."""
    world.sequence += 1
    target = world.node(words[1]).member
    world.node(words[0]).hand(local.TransferLeadership(sequence=world.sequence, target=target), "gateway")


@verb("stall")
def stall(world: World, words: list[str]) -> None:
    """`stall NODE ACTOR`: a sibling of raft misses its beats."""
    world.node(words[0]).hand(local.ActorStalled(actor=words[1], stalled=True), "supervisor")


@verb("members")
def members(world: World, words: list[str]) -> None:
    """`members NODE VOTERS [learners LEARNERS]`: change who belongs to the cluster, numbers separated by commas."""
    node = world.node(words[0])
    voters = tuple(MemberId(int(each)) for each in words[1].split(","))
    learners = tuple(MemberId(int(each)) for each in words[3].split(",")) if len(words) > 3 else ()
    table = {
        member: MemberRecord(f"n{member}", (f"http://n{member}:2380",), (f"http://n{member}:2379",), StoreId(0))
        for member in (*voters, *learners)
    }
    code = membership.change_members(node.core, voters, learners, table)
    if code is not ErrorCode.OK:
        world.say(f"{node.name} refuses: {code.name}")
    node._end_turn()
