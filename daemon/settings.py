"""Flags, variables and the configuration file, put together by etcd's rules of precedence.

A configuration file replaces everything else; without one a flag wins over its variable, and a variable over the
default. Reads no environment and opens no file by itself: both are handed in.
Invariant: whatever was given is in the settings, or told in a warning, or refused.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from daemon import go_values
from daemon.command_line import check_value, read_command_line
from daemon.config_file import read_config_file
from daemon.flag import Fate, Flag, Kind
from daemon.flag_table import FLAGS
from protocol.errors import ConfigError

CONFIG_FILE_VARIABLE: Final = "ETCD_CONFIG_FILE"
NO_SETTINGS: Final = frozenset({"ETCD_UNSUPPORTED_ARCH", CONFIG_FILE_VARIABLE})
"""Variables that etcd knows and that are no flags' own."""


class Warned(NamedTuple):
    """Something to be logged before the node starts."""

    event: str
    fields: dict[str, object]


class Settings:
    """What was given, by the flag's newest name, and everything else by its default."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self.warnings: list[Warned] = []
        self.where: dict[str, str] = {}
        """How whoever gave a value knows it: as a flag, a variable or a key of a file."""

    def warn(self, event: str, **fields: object) -> None:
        """Have something logged at the start."""
        self.warnings.append(Warned(event, fields))

    def take(self, flag: Flag, value: str, where: str) -> None:
        """Note a value, under the name the flag has today.

        Raises:
            ConfigError: it is given under its old name as well.
        """
        name = flag.stands_for or flag.name
        if name in self.given:
            raise ConfigError(f"{self.where[name]} and {where} say the same thing; leave the older one out")
        if flag.stands_for:
            self.warn("flag has a newer name", given=where, use=f"--{name}")
        self.given[name] = value
        self.where[name] = where

    def told(self, name: str) -> str:
        """How the flag `name` was given, or how it could be."""
        return self.where.get(name, f"--{name}")

    def text(self, name: str) -> str:
        """The value as it was written."""
        return self.given.get(name, FLAGS[name].default)

    def truth(self, name: str) -> bool:
        """The value of a boolean."""
        return go_values.truth(self.text(name) or "false")

    def number(self, name: str) -> int:
        """The value of a number."""
        return go_values.number(self.text(name))

    def milliseconds(self, name: str) -> int:
        """The value of a duration, rounded to milliseconds."""
        return round(go_values.nanoseconds(self.text(name) or "0") / 1e6)

    def parts(self, name: str) -> tuple[str, ...]:
        """The parts of a list, each once, in the order given."""
        return tuple(dict.fromkeys(part for part in go_values.split(self.text(name)) if part))

    def says(self, name: str) -> bool:
        """Whether a value was given that asks for something else than the default does."""
        if name not in self.given:
            return False
        flag = FLAGS[name]
        value = _plain(flag, self.given[name])
        return value not in {_plain(flag, each) for each in (flag.default, *flag.harmless)}


def _plain(flag: Flag, value: str) -> object:
    """Return a value so that two ways to write it are equal."""
    if flag.kind is Kind.TRUTH:
        return go_values.truth(value or "false")
    if flag.kind in (Kind.NUMBER, Kind.COUNT):
        return go_values.number(value or "0")
    if flag.kind is Kind.TIME:
        return go_values.nanoseconds(value or "0")
    return value


def gather(words: Sequence[str], environment: Mapping[str, str], read_text: Callable[[str], str]) -> Settings:
    """Return the settings of a start.

    Args:
        words: the command line without the program's name.
        environment: the variables.
        read_text: returns what the file at a path says, or raises OSError.

    Raises:
        CommandLineError: the words are no flags.
        HelpAsked: help is asked for.
        ConfigError: a variable or the file is wrong, or something that was given is refused.
    """
    line = read_command_line(words, FLAGS)
    path = line.get("config-file") or environment.get(CONFIG_FILE_VARIABLE, "")
    settings = _from_file(path, read_text) if path else _from_line(line, environment)
    _judge(settings)
    return settings


def _from_line(line: Mapping[str, str], environment: Mapping[str, str]) -> Settings:
    settings = Settings()
    for name, value in line.items():
        settings.take(FLAGS[name], value, f"--{name}")
    variables = {flag.environment: flag for flag in FLAGS.values() if flag.name not in ("config-file", "version")}
    for key, value in sorted(environment.items()):
        flag = variables.get(key)
        if flag is None:
            if key.startswith("ETCD_") and key not in NO_SETTINGS:
                settings.warn("unrecognized environment variable", variable=key)
        elif not value:
            continue
        elif flag.name in line:
            settings.warn("environment variable is shadowed by its flag", variable=key, flag=f"--{flag.name}")
        else:
            _check(flag, value, key)
            settings.take(flag, value, key)
    return settings


def _from_file(path: str, read_text: Callable[[str], str]) -> Settings:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    content = read_config_file(path, text, FLAGS)
    settings = Settings()
    settings.warn("the configuration file is used instead of all other flags and variables", path=path)
    for key in content.unknown:
        settings.warn("unrecognized key of the configuration file", path=path, key=key)
    for name, value in content.values.items():
        where = f"{path}: {name}"
        _check(FLAGS[name], value, where)
        settings.take(FLAGS[name], value, where)
    return settings


def _check(flag: Flag, value: str, where: str) -> None:
    try:
        check_value(flag, value)
    except ValueError as error:
        raise ConfigError(f'invalid value "{value}" for {where}: {error}') from None


def _judge(settings: Settings) -> None:
    """Warn of what has no effect here, and refuse what must not be taken for granted."""
    for name in settings.given:
        flag = FLAGS[name]
        if flag.fate is Fate.MAPPED or not settings.says(name):
            continue
        excused = bool(flag.unless) and settings.says(flag.unless)
        if flag.fate is Fate.REFUSED and not excused:
            raise ConfigError(f"{settings.told(name)}={settings.text(name)} is refused: {flag.note}")
        settings.warn("flag has no effect", flag=settings.told(name), value=settings.text(name), reason=flag.note)
