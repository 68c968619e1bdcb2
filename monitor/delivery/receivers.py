"""A receiver as the operator configured it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from monitor.delivery.guard import Network
from monitor.records import Alert

Severity = Literal["low", "medium", "high", "critical"]
Topic = Literal["alerts", "operator"]
_ORDER = ("low", "medium", "high", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """`secrets`: the current one first; during a rotation the previous one signs too. Neither is ever shown.

    `allow_networks` opens some private networks, `allow_private` all of them; `ca_file` replaces the system's authorities.
    """

    name: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    allow_http: bool = False
    allow_private: bool = False
    allow_networks: tuple[Network, ...] = ()
    ca_file: Path | None = None
    min_severity: Severity = "low"
    topics: tuple[Topic, ...] = ("alerts", "operator")
    timeout_s: float = 10.0

    def wants(self, alert: Alert, /) -> bool:
        """Is the alert severe enough for this receiver?"""
        return _ORDER.index(alert.severity) >= _ORDER.index(self.min_severity)

    def hears(self, topic: Topic, severity: Severity, /) -> bool:
        """Does it take this kind of message, and one as severe as this?"""
        return topic in self.topics and _ORDER.index(severity) >= _ORDER.index(self.min_severity)
