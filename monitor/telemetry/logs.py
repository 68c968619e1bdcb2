"""structlog to stderr: for people at a terminal, or one JSON object a line. Secrets and article bodies never get here."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence, Set
from itertools import islice
from typing import Any, Literal

import structlog

_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]+|(?<=://)[^/@\s:]*:[^/@\s]+(?=@)")
_VALUE_CHARS_MAX = 1_000
_ITEMS_MAX = 50
_DEPTH_MAX = 4


def configure_logs(
    log_format: Literal["console", "json"] = "console", level: str = "info", *, secrets: Sequence[str] = ()
) -> None:
    """Before anything is logged, and again when the configuration changes. `secrets` are blanked out wherever they occur."""
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        Bounded(secrets),
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
        cache_logger_on_first_use=False,  # a reload may change all of this
    )


class Bounded:
    """A processor: no secret, nothing that floods the log or moves a terminal's cursor, whatever an error's text quotes."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        """The longest first: one may be a part of another."""
        known = [re.escape(secret) for secret in sorted(secrets, key=len, reverse=True) if secret]
        self._secret = re.compile("|".join([*known, _SECRET.pattern]))

    def __call__(self, _logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in event.items():
            event[key] = self.text(value, lines=key == "exception") if isinstance(value, str) else self._value(value)
        return event

    def text(self, text: str, *, lines: bool = False) -> str:
        """Blanked out before it is cut, or half a secret might stay."""
        shown = self._secret.sub("***", text)[: _VALUE_CHARS_MAX * (8 if lines else 1)]
        return "".join(c if c.isprintable() or (lines and c == "\n") else "\ufffd" for c in shown)

    def _value(self, value: Any, depth: int = 0) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.text(value)
        nested = isinstance(value, Mapping | Sequence | Set) and not isinstance(value, bytes | bytearray)
        if nested and depth == _DEPTH_MAX:
            return "…"  # not even as text: whoever builds that deep may build exponentially
        if isinstance(value, Mapping):
            return {self.text(str(k)): self._value(v, depth + 1) for k, v in islice(value.items(), _ITEMS_MAX)}
        if nested:
            return [self._value(item, depth + 1) for item in islice(value, _ITEMS_MAX)]
        return self.text(str(value))
