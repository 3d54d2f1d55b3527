"""Operations and contradictions in words, for terminals and pages.

Owns wording only. Knows histories, items and what a search or a shrinking found.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from checker.history import Operation, Outcome
from checker.items import Item, Role
from checker.plain import Plain
from checker.trouble import Trouble

VALUE_CHARACTERS_MAX: Final = 40
_PAIRS_SHOWN_MAX: Final = 6
_DIFFERENCES_SHOWN_MAX: Final = 8
_RELATED_SHOWN_MAX: Final = 8
_RELATIONS: Final = ("=", ">", "<", "!=")
_TARGETS: Final = ("version", "create", "mod", "value", "lease")
_OPERANDS: Final = ("version", "create_revision", "mod_revision", "value", "lease")


def request_words(call: str, request: Plain) -> str:
    """A request in a line: ``put a = '1'``."""
    key = span_words(request)
    if call == "put":
        return f"put {key} = {value_words(request.get('value', ''))}{_options(request, ('key', 'value'))}"
    if call == "compact":
        return f"compact {request.get('revision', 0)}"
    if call == "txn":
        return _txn_words(request)
    return f"{call} {key}{_options(request, ('key', 'range_end'))}"


def answer_words(operation: Operation) -> str:
    """How an operation ended in a line."""
    if operation.outcome == Outcome.UNKNOWN:
        return "outcome unknown" + (f" ({operation.error})" if operation.error else "")
    if operation.outcome == Outcome.FAILED:
        return f"failed: {operation.error}" if operation.error else "failed"
    revision = operation.answer["header"]["revision"]
    words = _result_words(operation.call, operation.answer)
    return f"revision {revision}" + (f": {words}" if words else "")


def pair_words(pair: Plain) -> str:
    """A pair with its revisions: ``a = '1' (created 2, modified 5, version 2)``."""
    lease = f", lease {pair['lease']}" if "lease" in pair else ""
    return (
        f"{value_words(pair.get('key', ''))[1:-1]} = {value_words(pair.get('value', ''))} "
        f"(created {pair.get('create_revision', 0)}, modified {pair.get('mod_revision', 0)}, "
        f"version {pair.get('version', 0)}{lease})"
    )


def value_words(value: str) -> str:
    """A key or value in quotes, cut if it is long."""
    shown = value[:VALUE_CHARACTERS_MAX].encode("latin-1", "replace")
    more = f"… {len(value)} bytes" if len(value) > VALUE_CHARACTERS_MAX else ""
    return repr(shown)[1:] + more


def span_words(request: Plain) -> str:
    """A key or the range it begins."""
    key, end = value_words(request.get("key", ""))[1:-1], request.get("range_end", "")
    if not end:
        return key
    return f"[{key}, …)" if end == "\0" else f"[{key}, {value_words(end)[1:-1]})"


def trouble_words(trouble: Trouble) -> list[str]:
    """Why it is contradictory: a sentence, and what the model would have said where it differs."""
    first = trouble.items[0] if trouble.items else None
    lines = [trouble.text]
    if first is not None and trouble.expected is not None:
        found = list(differences(first.answer, trouble.expected))
        lines += [
            f"  {path}: told {told}, the model says {said}" for path, told, said in found[:_DIFFERENCES_SHOWN_MAX]
        ]
        if len(found) > _DIFFERENCES_SHOWN_MAX:
            lines.append(f"  and {len(found) - _DIFFERENCES_SHOWN_MAX} differences more")
    return lines


def differences(told: Any, said: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield where two answers differ: path, what was told, what the model says."""
    if isinstance(told, dict) and isinstance(said, dict):
        for name in sorted(told.keys() | said.keys()):
            yield from differences(told.get(name), said.get(name), f"{path}.{name}" if path else name)
    elif isinstance(told, list) and isinstance(said, list):
        for index in range(max(len(told), len(said))):
            one = told[index] if index < len(told) else None
            other = said[index] if index < len(said) else None
            yield from differences(one, other, f"{path}[{index}]")
    elif told != said:
        yield path, _leaf(told), _leaf(said)


def related(trouble: Trouble, items: Sequence[Item], operations: Sequence[Operation]) -> list[int]:
    """Numbers of operations that made, or were to make, the pairs the reason speaks of, and whom it names."""
    pairs = [pair for item in trouble.items for pair in _pairs(item.answer)]
    model_pairs = list(_pairs(trouble.expected or {}))
    disputed = [pair for pair in pairs if pair not in model_pairs] + [pair for pair in model_pairs if pair not in pairs]
    if trouble.expected is None:
        disputed = []
    revisions = {pair.get("mod_revision") for pair in disputed}
    found = [item.number for item in items if item.role == Role.WRITER and item.pin in revisions]
    wanted = {(pair.get("key", ""), pair.get("value", "")) for pair in disputed if pair in pairs}
    for number, operation in enumerate(operations):
        puts = {(put.get("key", ""), put.get("value", "")) for put in _puts(operation.request)}
        if puts & wanted:
            found.append(number)
    return list(dict.fromkeys([item.number for item in trouble.items] + found))[:_RELATED_SHOWN_MAX]


def _pairs(answer: Any) -> Iterator[Plain]:
    if isinstance(answer, dict):
        if "mod_revision" in answer:
            yield answer
        else:
            for value in answer.values():
                yield from _pairs(value)
    elif isinstance(answer, list):
        for value in answer:
            yield from _pairs(value)


def _puts(request: Plain) -> Iterator[Plain]:
    if "success" not in request and "failure" not in request:
        yield request
    for operation in (*request.get("success", ()), *request.get("failure", ())):
        if "request_put" in operation:
            yield operation["request_put"]
        elif "request_txn" in operation:
            yield from _puts(operation["request_txn"])


def _leaf(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict) and "mod_revision" in value:
        return pair_words(value)
    return value_words(value) if isinstance(value, str) else str(value)


def _options(request: Plain, without: tuple[str, ...]) -> str:
    shown = [name if value is True else f"{name} {value}" for name, value in request.items() if name not in without]
    return "".join(f", {option}" for option in shown)


def _txn_words(request: Plain) -> str:
    compares = " and ".join(_compare_words(compare) for compare in request.get("compare", ()))
    branches = [_branch_words(request.get(name, ())) for name in ("success", "failure")]
    return f"txn if {compares or 'true'} then {branches[0]} else {branches[1]}"


def _compare_words(compare: Plain) -> str:
    target = compare.get("target", 0)
    operand = compare.get(_OPERANDS[target], "" if _TARGETS[target] == "value" else 0)
    shown = value_words(operand) if isinstance(operand, str) else operand
    return f"{_TARGETS[target]} of {span_words(compare)} {_RELATIONS[compare.get('result', 0)]} {shown}"


def _branch_words(operations: Sequence[Plain]) -> str:
    words = []
    for operation in operations:
        for name, inner in operation.items():
            call = name.removeprefix("request_").removesuffix("_range")
            words.append(f"({_txn_words(inner)})" if call == "txn" else request_words(call, inner))
    return "; ".join(words) or "nothing"


def _result_words(call: str, answer: Plain) -> str:
    if call == "txn":
        inner = [
            _result_words(name.removeprefix("response_").removesuffix("_range"), response)
            for wrapped in answer.get("responses", ())
            for name, response in wrapped.items()
        ]
        told = "; ".join(words for words in inner if words)
        return ("succeeded" if answer.get("succeeded") else "not succeeded") + (f": {told}" if told else "")
    if call == "delete":
        return f"{answer.get('deleted', 0)} deleted"
    if "prev_kv" in answer:
        return f"before: {pair_words(answer['prev_kv'])}"
    if call != "range":
        return ""
    pairs = [pair_words(pair) for pair in answer.get("kvs", ())]
    more = f", {len(pairs) - _PAIRS_SHOWN_MAX} more" if len(pairs) > _PAIRS_SHOWN_MAX else ""
    count = answer.get("count", 0)
    return (
        (", ".join(pairs[:_PAIRS_SHOWN_MAX]) or ("nothing" if not count else "no pairs"))
        + more
        + (f" of {count}" if count != len(pairs) else "")
    )
