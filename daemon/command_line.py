"""The command line as Go's flag package reads it.

`-x` and `--x` are one, `--x=v` and `--x v` too, but a boolean never takes a word of its own; the last of several wins.
Pure. Invariant: what is returned is in the table and parses.
"""

from collections.abc import Mapping, Sequence

from daemon import go_values
from daemon.flag import Flag, Kind


class CommandLineError(Exception):
    """The words are no flags; the text is Go's."""


class HelpAsked(Exception):
    """`-h` or `--help` stands there."""


def read_command_line(words: Sequence[str], table: Mapping[str, Flag]) -> dict[str, str]:
    """Return the flags that were given, by name, in the order of their first appearance.

    Raises:
        HelpAsked: help is asked for.
        CommandLineError: a flag is not known, lacks its value or has a bad one, or a word is no flag.
    """
    given: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-", "--") or not word.startswith("-"):
            stray = word if word != "--" else next(iter(rest), "")
            if word == "--" and not rest:
                break
            raise CommandLineError(f'"{stray}" is not a valid flag')
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise CommandLineError(f"bad flag syntax: {word}")
        flag = table.get(name)
        if flag is None:
            if name in ("h", "help"):
                raise HelpAsked
            raise CommandLineError(f"flag provided but not defined: -{name}")
        if not equals:
            if flag.kind in (Kind.TRUTH, Kind.SWITCH):
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise CommandLineError(f"flag needs an argument: -{name}")
        try:
            check_value(flag, value)
        except ValueError as error:
            kind = "boolean value" if flag.kind is Kind.TRUTH else "value"
            raise CommandLineError(f'invalid {kind} "{value}" for flag -{name}: {error}') from None
        given[name] = value
    return given


def check_value(flag: Flag, value: str) -> None:
    """Raise `ValueError` where `flag` cannot have `value`."""
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        # Bytes of the command line or of a variable that are no text; ids and files are made of text.
        raise ValueError("it is not valid UTF-8")
    go_values.check(flag.kind, value)
    if flag.choices and value not in flag.choices:
        raise ValueError(f"it is one of {', '.join(repr(choice) for choice in flag.choices)}")
