"""Starts that are planned and not made: what flags, variables and a file come to."""

from collections.abc import Mapping, Sequence

from daemon.plan import NodePlan, plan
from daemon.settings import Settings, gather

LISTEN = ("--listen-client-urls=http://127.0.0.1:1", "--advertise-client-urls=http://127.0.0.1:1")


def addresses(name: str) -> frozenset[str]:
    """Names as this world knows them."""
    return frozenset({"a.example": {"10.0.0.1"}, "b.example": {"10.0.0.1"}}.get(name, set()))


def settings_of(
    words: Sequence[str] = (), environment: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
) -> Settings:
    """What was given."""

    def read_text(path: str) -> str:
        if path not in (files or {}):
            raise FileNotFoundError(2, "No such file or directory", path)
        return (files or {})[path]

    return gather(words, environment or {}, read_text)


def planned(
    *words: str,
    environment: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    begun: bool = False,
) -> NodePlan:
    """The node that would be started."""
    return plan(settings_of(words, environment, files), addresses, begun=begun)


def warned(*words: str, environment: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None) -> str:
    """Everything that would be warned of, as one text."""
    settings = settings_of(words, environment, files)
    plan(settings, addresses, begun=False)
    return "\n".join(f"{event} {fields}" for event, fields in settings.warnings)
