"""The clients' history before a judge that knows no log: `checker` decides whether any order explains all answers.

Owns the translation of a run's calls; `sim.replay` judges the same history by the order of the committed log. The two
agree, or one of them is wrong. A run in which many outcomes are unknown may be too much for a search without the log:
then the log says which of those writes took effect and what they would have answered, never when. Invariant: a run that
passes was proven linearizable; a search that gives up even then has failed.
"""

from typing import Final

from checker import history as record
from checker.items import problem_of
from checker.search import Answer, Verdict, decide
from protocol.errors import WIRE_ERRORS, ErrorCode
from sim.clients import Call, History
from sim.replay import Replay
from sim.trouble import SimulationFailed
from sim.workload import RESPONSES

STEPS_WITHOUT_LOG_MAX: Final = 2_000
"""Choices the judge may try before it is told what became of the writes that nobody answered."""


def check_linearizable(history: History, replay: Replay) -> bool:
    """Judge every call of a run; return whether the log was needed.

    Args:
        history: what clients asked and were told.
        replay: the committed commands, and what the model says of each.

    Raises:
        SimulationFailed: no order of the calls explains what they were told, or none was found within the step limit.
    """
    operations = [operation_of(call) for call in history.calls]
    verdict = _decide(operations, STEPS_WITHOUT_LOG_MAX)
    resolved = verdict.answer == Answer.GAVE_UP
    if resolved:
        last = 1 + max(call.end or call.begin for call in history.calls)
        known = [_resolved(call, replay, last) for call in history.calls]
        operations = [each for each in known if each is not None]
        verdict = _decide(operations, 0)
    if verdict.answer != Answer.LINEARIZABLE:
        raise SimulationFailed("linearizable", f"{verdict.answer}: {_told(verdict, operations)}")
    return resolved


def _decide(operations: list[record.Operation], steps_max: int) -> Verdict:
    return decide(problem_of(record.History(operations, unit="steps")), steps_max=steps_max)


def _told(verdict: Verdict, operations: list[record.Operation]) -> str:
    """Why no way led on, and which calls it is about."""
    trouble = verdict.trouble
    if trouble is None:
        return f"after {verdict.steps} steps"
    calls = [operations[item.number] for item in trouble.items]
    about = "; ".join(f"call {each.tag} ({each.call} {each.request} was told {each.answer})" for each in calls)
    return f"{trouble.text}: {about}"


def operation_of(call: Call) -> record.Operation:
    """One call as the checker reads it; its instants are the history's own clock, which orders all events."""
    client, request, tag = f"c{call.client}", call.request.message, str(call.id)
    name, incarnation = call.gateway
    server = f"{name}/{incarnation}" if name else ""
    if call.end is None or call.code is None:
        return record.lost(client, request, call.begin, call.end, tag=tag)
    if call.code != ErrorCode.OK:
        return record.refused(client, request, ErrorCode(call.code), call.begin, call.end, server=server, tag=tag)
    response = RESPONSES[call.request.method].FromString(call.body)
    return record.answered(client, request, response, call.begin, call.end, server=server, tag=tag)


def _resolved(call: Call, replay: Replay, last: int) -> record.Operation | None:
    """The same with unknown outcomes resolved; None for a write that never took effect."""
    unknown = call.code is None or (call.code != ErrorCode.OK and WIRE_ERRORS[ErrorCode(call.code)].outcome_unknown)
    if not unknown or not call.request.writes:
        return operation_of(call)
    outcomes = replay.outcomes.get(call.request.body)
    if not outcomes:
        return None
    client, request, outcome = f"c{call.client}", call.request.message, outcomes[0]
    if outcome.response is None:
        return record.refused(client, request, ErrorCode(outcome.code), call.begin, last, tag=str(call.id))
    return record.answered(client, request, outcome.response, call.begin, last, tag=str(call.id))
