"""Values as Go's flag package writes them: booleans, integers, durations.

Pure. Raises `ValueError` for what Go would not parse; what it accepts, this accepts.
"""

import re
from typing import Final

from daemon.flag import Kind

TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
INT64_MAX: Final = 2**63 - 1
UINT64_MAX: Final = 2**64 - 1
_NANOSECONDS: Final = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9,
}  # fmt: skip
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def truth(text: str) -> bool:
    """Return what a boolean says."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError("parse error")


def number(text: str) -> int:
    """Return a signed integer; 0x, 0o, 0b and _ between digits are understood, as Go does."""
    if re.fullmatch(r"[+-]?0[0-7]+", text):
        text = re.sub(r"^([+-]?)0", r"\g<1>0o", text)
    try:
        value = int(text, 0)
    except ValueError:
        raise ValueError("parse error") from None
    if text != text.strip():
        raise ValueError("parse error")
    if not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise ValueError("value out of range")
    return value


def count(text: str) -> int:
    """Return an integer that is not negative."""
    if text.startswith(("-", "+")):
        raise ValueError("parse error")
    return number(text)


def nanoseconds(text: str) -> int:
    """Return a duration, such as 1h30m or 1.5s, in nanoseconds."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    parts = _PART.findall(rest)
    if not parts or "".join(amount + unit for amount, unit in parts) != rest:
        raise ValueError("parse error")
    exact = sum(float(amount) * _NANOSECONDS[unit] for amount, unit in parts)
    if exact > INT64_MAX:
        raise ValueError("value out of range")
    total = sum(round(float(amount) * _NANOSECONDS[unit]) for amount, unit in parts)
    return sign * total


def split(text: str) -> list[str]:
    """Return the parts of a list with commas; of nothing, none."""
    return [part.strip() for part in text.split(",")] if text else []


def check(kind: Kind, text: str) -> None:
    """Raise `ValueError` where `text` is no value of `kind`."""
    if kind is Kind.TRUTH:
        truth(text)
    elif kind is Kind.NUMBER:
        number(text)
    elif kind is Kind.COUNT:
        count(text)
    elif kind is Kind.TIME and text:
        nanoseconds(text)
