"""The registry of verbs: a verb is a function of the world and its words."""

from collections.abc import Callable

from scenario_world import World

Verb = Callable[[World, list[str]], None]
VERBS: dict[str, Verb] = {}


def verb(name: str) -> Callable[[Verb], Verb]:
    """Register a function as the verb `name`."""

    def register(function: Verb) -> Verb:
        assert name not in VERBS, f"two verbs are called {name}"
        VERBS[name] = function
        return function

    return register


def run(world: World, command: str) -> None:
    """Run one command; `quietly VERB ...` hides what it causes."""
    words = command.split()
    if words[0] == "quietly":
        before = list(world.lines)
        run(world, " ".join(words[1:]))
        world.lines[:] = before
        return
    VERBS[words[0]](world, words[1:])
