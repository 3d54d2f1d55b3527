"""etcd's YAML (or JSON) configuration file, as the flags it stands for.

Keys are flag names, except that TLS, socket and discovery settings stand in sections of their own; durations are
numbers of nanoseconds, as Go reads them, or written as for flags. Opens no file.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import yaml

from daemon.flag import Flag, Kind
from daemon.go_values import UINT64_MAX
from protocol.errors import ConfigError

_TLS: Final = (
    "cert-file", "key-file", "client-cert-file", "client-key-file", "client-cert-auth", "trusted-ca-file", "auto-tls",
)  # fmt: skip
SECTIONS: Final[dict[str, dict[str, str]]] = {
    "client-transport-security": {
        **{key: key for key in _TLS},
        "allowed-hostname": "client-cert-allowed-hostname",
        "crl-file": "client-crl-file",
    },
    "peer-transport-security": {
        **{key: f"peer-{key}" for key in _TLS},
        "allowed-cn": "peer-cert-allowed-cn",
        "allowed-hostname": "peer-cert-allowed-hostname",
        "crl-file": "peer-crl-file",
        "skip-client-san-verification": "peer-skip-client-san-verification",
    },
    "socket-options": {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"},
    "discovery-config": {
        key: f"discovery-{key}"
        for key in (
            "endpoints", "token", "dial-timeout", "request-timeout", "keepalive-time", "keepalive-timeout",
            "insecure-transport", "insecure-skip-tls-verify", "cert", "key", "cacert", "user", "password",
        )
    },
}  # fmt: skip
"""The keys of each section, and the flags they stand for."""


class FileSettings(NamedTuple):
    """What a file says."""

    values: dict[str, str]
    """By flag."""
    unknown: list[str]
    """Keys that mean nothing."""


def read_config_file(path: str, text: str, table: Mapping[str, Flag]) -> FileSettings:
    """Return what the file at `path`, which says `text`, sets.

    Raises:
        ConfigError: it is no YAML, no table of keys, or gives a key a value of the wrong kind.
    """
    try:
        content = yaml.safe_load(text)
        if isinstance(content, dict):
            content = {str(key): _with_text_keys(value) for key, value in content.items()}
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML lets through what Python says of a date that is none, of a number too long, of a table as a key.
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    found = FileSettings({}, [])
    if content is None:
        return found
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: is not a table of keys and values")
    for key, value in content.items():
        section = SECTIONS.get(key)
        if section is None:
            _take(path, found, key, key, value, table)
        elif isinstance(value, dict):
            for inner, each in value.items():
                _take(path, found, f"{key}.{inner}", section.get(inner, ""), each, table)
        elif value is not None:
            raise ConfigError(f"{path}: {key}: is a section, with keys of its own below it")
    return found


def _with_text_keys(value: object) -> object:
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else value


def _take(path: str, found: FileSettings, key: str, name: str, value: object, table: Mapping[str, Flag]) -> None:
    flag = table.get(name)
    if flag is None or flag.kind is Kind.SWITCH or name in ("config-file", "version"):
        found.unknown.append(key)
    elif value is not None:
        found.values[name] = _written(path, key, flag, value)


def _written(path: str, key: str, flag: Flag, value: object) -> str:
    """Return a value as it would stand on the command line."""
    if isinstance(value, bool):
        if flag.kind is not Kind.TRUTH:
            raise ConfigError(f"{path}: {key}: is {flag.kind.value}, not true or false; put the word in quotes")
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) > UINT64_MAX:
            raise ConfigError(f"{path}: {key}: value out of range")
        return f"{value}ns" if flag.kind is Kind.TIME else str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list) and flag.kind in (Kind.LIST, Kind.URLS):
        parts = [part for part in value if isinstance(part, str)]
        if len(parts) == len(value):
            return ",".join(parts)
    # The value itself may be a table of tables that is written in a line and fills the memory when it is spelt out.
    raise ConfigError(f"{path}: {key}: is {flag.kind.value}, not a {type(value).__name__}")
