"""An alert's life: opened once, updated when it grows, resolved once, and quiet for a while after. Pure state machine."""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import Literal

import msgspec

from monitor.alerting.detectors import Finding
from monitor.alerting.rules import LifeRules
from monitor.records import AlertKind, Direction

Severity = Literal["low", "medium", "high", "critical"]
_ORDER: tuple[Severity, ...] = ("low", "medium", "high", "critical")


class Reason(StrEnum):
    """Why a step was taken, or not."""

    OVER_LIMIT = "over_limit"
    GREW = "grew"
    TURNED = "turned"
    CALM = "calm"
    UNDER_LIMIT = "under_limit"
    STILL_OPEN = "still_open"
    COOLING_DOWN = "cooling_down"


class Life(msgspec.Struct, array_like=True):
    """One kind of alert on one entity. `calm_since_ms` −1: not calm."""

    id: str = ""
    direction: str = ""
    opened_at_ms: int = -1
    severity: str = "low"
    updates: int = 0
    calm_since_ms: int = -1
    cool_until_ms: int = -1
    cool_direction: str = ""

    @property
    def is_open(self) -> bool:
        return bool(self.id)


Change = Literal["opened", "updated", "resolved"]


def alert_id(entity: str, kind: AlertKind, direction: Direction, opened_at_ms: int, rule: str) -> str:
    """Deterministic: the same history gives the same alert."""
    return sha256(f"{entity}\x1f{kind}\x1f{direction}\x1f{opened_at_ms}\x1f{rule}".encode()).hexdigest()[:24]


def severity_of(finding: Finding, limit: float) -> Severity:
    """By how far it is beyond the limit (powers of ten) and how many voices say so."""
    beyond = limit - finding.log10_p
    if beyond >= 8 and finding.voices >= 20:
        return "critical"
    if beyond >= 4 and finding.voices >= 8:
        return "high"
    return "medium" if beyond >= 1.5 else "low"


def step(  # noqa: PLR0917 - the six facts that a decision rests on
    life: Life, entity: str, finding: Finding | None, limit: float, at_ms: int, rules: LifeRules, rule: str
) -> tuple[Change | None, Reason]:
    """Advance one life to `at_ms`; changes `life` in place and says which step was taken and why."""
    if life.is_open:
        return _go_on(life, finding, limit, at_ms, rules)
    if finding is None or finding.log10_p > limit:
        return None, Reason.UNDER_LIMIT
    if at_ms < life.cool_until_ms and finding.direction == life.cool_direction:
        return None, Reason.COOLING_DOWN
    life.id = alert_id(entity, finding.kind, finding.direction, at_ms, rule)
    life.direction, life.opened_at_ms = finding.direction, at_ms
    life.severity, life.updates, life.calm_since_ms = severity_of(finding, limit), 0, -1
    return "opened", Reason.OVER_LIMIT


def close(life: Life, at_ms: int, rules: LifeRules) -> None:
    """After `resolved` has been told: forget the alert, remember to be quiet."""
    life.cool_until_ms, life.cool_direction = at_ms + round(rules.cool_down_s * 1000), life.direction
    life.id, life.direction, life.opened_at_ms = "", "", -1
    life.severity, life.updates, life.calm_since_ms = "low", 0, -1


def _go_on(
    life: Life, finding: Finding | None, limit: float, at_ms: int, rules: LifeRules
) -> tuple[Change | None, Reason]:
    turned = finding is not None and finding.direction != life.direction and finding.log10_p <= limit
    loud = finding is not None and finding.direction == life.direction and 10.0**finding.log10_p <= rules.calm_p
    if turned:
        return "resolved", Reason.TURNED
    if not loud:
        if life.calm_since_ms < 0:
            life.calm_since_ms = at_ms
        if at_ms - life.calm_since_ms >= rules.calm_s * 1000:
            return "resolved", Reason.CALM
        return None, Reason.STILL_OPEN
    life.calm_since_ms = -1
    assert finding is not None
    now = severity_of(finding, limit)
    if _ORDER.index(now) > _ORDER.index(life.severity) and life.updates < rules.updates_max:  # type: ignore[arg-type]
        life.severity, life.updates = now, life.updates + 1
        return "updated", Reason.GREW
    return None, Reason.STILL_OPEN
