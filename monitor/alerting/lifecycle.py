"""The life of an alert: opened, updated, resolved. Hysteresis lives here, and every step has a reason.

score   ───╱▔▔▔▔╲___╱▔╲_______________      opens where it may fire, closes after `calm_s` below
needed  ─ ─●─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─      `close_share` × needed; the same direction then stays
close   ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─[calm]●         quiet for `cooldown_s` unless it is half as loud again
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import Literal

import msgspec

from monitor.alerting.rules import LifeRules
from monitor.records import Alert, AlertKind, Direction

Severity = Literal["low", "medium", "high", "critical"]


class Reason(StrEnum):
    """Why an alert took a step, or why none was opened."""

    VOICES_ABOVE_BASELINE = "voices_above_baseline"
    TONE_BEYOND_BASELINE = "tone_beyond_baseline"
    TONE_DRIFTED = "tone_drifted"
    CHANNELS_DISAGREE = "channels_disagree"
    STRONGER = "stronger"
    CALMED = "calmed"
    REVERSED = "reversed"
    EXPIRED = "expired"
    COOLING_DOWN = "cooling_down"
    HOUR_FULL = "hour_full"


OPENED: dict[AlertKind, Reason] = {
    "burst": Reason.VOICES_ABOVE_BASELINE,
    "tone": Reason.TONE_BEYOND_BASELINE,
    "drift": Reason.TONE_DRIFTED,
    "divergence": Reason.CHANNELS_DISAGREE,
}


class OpenAlert(msgspec.Struct, array_like=True):
    """An alert that lasts, as an entity keeps it. `needed` is the score that it had to reach."""

    alert: Alert
    channel: str
    needed: float
    peak: float
    opened_ms: int
    updated_ms: int
    calm_since_ms: int | None = None


def alert_id(*, entity: str, kind: AlertKind, direction: Direction, opened_at_ms: int, rule: str) -> str:
    """The same facts give the same id, live and in a backtest."""
    facts = "\x1f".join((entity, kind, direction, str(opened_at_ms), rule))
    return sha256(facts.encode()).hexdigest()[:32]


def step(open_alert: OpenAlert, *, score: float, reversed_by: bool, at_ms: int, rules: LifeRules) -> Reason | None:
    """What happens to an open alert whose score is now this one. Keeps peak and calm up to date; None: nothing to tell."""
    if reversed_by:
        return Reason.REVERSED
    if at_ms - open_alert.opened_ms >= rules.open_max_s * 1000:
        return Reason.EXPIRED
    if score >= rules.close_share * open_alert.needed:
        open_alert.calm_since_ms = None
    elif open_alert.calm_since_ms is None:
        open_alert.calm_since_ms = at_ms
    if open_alert.calm_since_ms is not None and at_ms - open_alert.calm_since_ms >= rules.calm_s * 1000:
        return Reason.CALMED
    if score >= 1.5 * open_alert.peak and at_ms - open_alert.updated_ms >= rules.update_s * 1000:
        open_alert.peak, open_alert.updated_ms = score, at_ms
        return Reason.STRONGER
    return None


def severity(*, score: float, needed: float, breadth: float) -> Severity:
    """From how far beyond the threshold it is and how many independent voices carry it."""
    excess = score / max(needed, 1.0)
    if excess >= 3.0 and breadth >= 10:
        return "critical"
    if excess >= 2.0 and breadth >= 5:
        return "high"
    return "medium" if excess >= 1.3 else "low"
