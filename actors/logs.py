"""How every process writes its log: one line an event, keys and values, never sentences."""

import logging
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any, Final, TextIO, cast

import structlog

LEVELS: Final = ("debug", "info", "warning", "error")


class Tee:
    """A file that writes to several."""

    def __init__(self, files: Sequence[TextIO]) -> None:
        self._files = files

    def write(self, text: str) -> int:
        """Write to all."""
        for file in self._files:
            file.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush all."""
        for file in self._files:
            file.flush()


def _as_zap(_logger: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Give a line the keys of etcd's logger, in its order."""
    event.pop("level", None)
    line = {"level": "warn" if level == "warning" else level, "ts": event.pop("timestamp"), "msg": event.pop("event")}
    return {**line, **event}


def configure_logs(style: str, level: str, outputs: Sequence[TextIO] = ()) -> None:
    """Set up structlog for this process and those it forks.

    Args:
        style: "console" for people, "json" for machines, "zap" for machines that read etcd's log.
        level: one of `LEVELS`, or critical; what is below is dropped.
        outputs: where lines go; stderr without.
    """
    file = outputs[0] if len(outputs) == 1 else cast("TextIO", Tee(outputs)) if outputs else sys.stderr
    renderer: structlog.typing.Processor
    if style in ("json", "zap"):
        renderer = structlog.processors.JSONRenderer(default=str)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=file.isatty() if len(outputs) < 2 else False,
            pad_event_to=24,
            exception_formatter=structlog.dev.plain_traceback,
        )
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style in ("json", "zap"):
        processors.append(structlog.processors.dict_tracebacks)
    if style == "zap":
        processors.append(_as_zap)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file),
        cache_logger_on_first_use=False,
    )
