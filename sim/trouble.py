"""How a simulated run ends early: one exception for what a checker found, one for the current that went away.

Knows nothing else.
"""


class SimulationFailed(Exception):
    """A promise was broken. `rule` names it, the text says how; the run stops at once and tells its story."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(rule, text)
        self.rule = rule
        self.text = text

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class PowerCut(BaseException):
    """The node lost its current in the middle of a disk operation. No handler of an actor may catch this."""
