"""structlog to stderr: for people at a terminal, or one JSON object a line. Secrets and article bodies never get here."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]+|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")
_VALUE_CHARS_MAX = 1_000


def configure_logs(log_format: Literal["console", "json"] = "console", level: str = "info") -> None:
    """Once a process, before anything is logged."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _bounded,
    ]
    last = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*processors, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _bounded(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """No secret, and nothing that floods the log, whatever an error's text quotes."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _SECRET.sub("***", value[:_VALUE_CHARS_MAX])
    return event
