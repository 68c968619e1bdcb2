"""The life of an alert: pending, opened, updated, resolved. Hysteresis lives here, and every step has a reason.

score   ───╱▔▔▔▔╲___╱▔╲_______________      opens where it may fire: at once when clear, after `pending_s` when it is
needed  ─ ─●─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─      barely loud enough; closes after `calm_s` below `close_share` × needed;
close   ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─[calm]●         the same direction then stays quiet for `cooldown_s` unless half as loud again

How loud it is: its score over the one needed. A burst has several windows, each with a needed score of its own; the loudest
of them counts, so that one seen within minutes lasts as long as it would have, had only the longest window seen it.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import Literal

import msgspec

from monitor.alerting.records import Signal
from monitor.alerting.rules import LifeRules
from monitor.records import Alert, AlertKind, Direction

Severity = Literal["low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")


class Reason(StrEnum):
    """Why an alert took a step, or why none was opened."""

    VOICES_SURGED = "voices_surged"
    TONE_SHIFTED = "tone_shifted"
    TONE_DRIFTED = "tone_drifted"
    CHANNELS_DISAGREED = "channels_disagreed"
    STRONGER = "stronger"
    CALMED = "calmed"
    REVERSED = "reversed"
    EXPIRED = "expired"
    COOLING_DOWN = "cooling_down"
    NOT_CONFIRMED = "not_confirmed"
    UNKNOWN_ACCOUNTS = "unknown_accounts"


OPENED: dict[AlertKind, Reason] = {
    "burst": Reason.VOICES_SURGED,
    "tone": Reason.TONE_SHIFTED,
    "drift": Reason.TONE_DRIFTED,
    "divergence": Reason.CHANNELS_DISAGREED,
}


class OpenAlert(msgspec.Struct, array_like=True):
    """An alert that lasts, as an entity keeps it. `needed`: the scores that it had to reach, by ledger; `peak`: how loud it was."""

    alert: Alert
    channel: str
    needed: dict[str, float]
    peak: float
    opened_ms: int
    updated_ms: int
    calm_since_ms: int | None = None


class Pending(msgspec.Struct, array_like=True, frozen=True):
    """Barely loud enough: it opens when it is still so at `due_ms`, or as soon as it is clear. With the facts of its first look."""

    kind: AlertKind
    direction: Direction
    since_ms: int
    due_ms: int
    score: float
    needed: float
    voices: float


class Weight(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the severity of an alert rests on.

    `size`: score over the score needed. `voices`: independent voices in the window. `sources` that they come from.
    `quality` 0 … 1: how much of what these sources say is usually new, their voices over their items. `novelty` 0 … 1:
    the mean weight of the window's stories, 1 when each says something new.
    """

    size: float
    voices: float
    sources: int
    quality: float
    novelty: float


def alert_id(*, entity: str, kind: AlertKind, direction: Direction, opened_at_ms: int, rule: str) -> str:
    """The same facts give the same id, live and in a backtest."""
    facts = "\x1f".join((entity, kind, direction, str(opened_at_ms), rule))
    return sha256(facts.encode()).hexdigest()[:32]


def confirm(pending: Pending | None, signal: Signal, *, needed: float, at_ms: int, rules: LifeRules) -> Pending | None:
    """What a firing signal waits for; None: it opens now."""
    if rules.pending_s == 0 or signal.score >= rules.clear_share * needed:
        return None
    if pending is not None and pending.direction == signal.direction:
        return pending if at_ms < pending.due_ms else None
    return Pending(
        kind=signal.kind,
        direction=signal.direction,
        since_ms=at_ms,
        due_ms=at_ms + round(rules.pending_s * 1000),
        score=signal.score,
        needed=needed,
        voices=signal.voices.total,
    )


def step(open_alert: OpenAlert, *, loudness: float, reversed_by: bool, at_ms: int, rules: LifeRules) -> Reason | None:
    """What happens to an open alert that is now so loud. Keeps peak and calm up to date; None: nothing to tell."""
    if reversed_by:
        return Reason.REVERSED
    if at_ms - open_alert.opened_ms >= rules.open_max_s * 1000:
        return Reason.EXPIRED
    if loudness >= rules.close_share:
        open_alert.calm_since_ms = None
    elif open_alert.calm_since_ms is None:
        open_alert.calm_since_ms = at_ms
    if open_alert.calm_since_ms is not None and at_ms - open_alert.calm_since_ms >= rules.calm_s * 1000:
        return Reason.CALMED
    if loudness >= 1.5 * open_alert.peak and at_ms - open_alert.updated_ms >= rules.update_s * 1000:
        open_alert.peak, open_alert.updated_ms = loudness, at_ms
        return Reason.STRONGER
    return None


def cooling_down(last: tuple[int, float] | None, *, loudness: float, at_ms: int, rules: LifeRules) -> bool:
    """The same was told lately and this is not half as loud again. `last`: moment of the last opening, and how loud it became."""
    return last is not None and at_ms - last[0] < rules.cooldown_s * 1000 and loudness < 1.5 * last[1]


def severity(weight: Weight) -> Severity:
    """Points for size (0 to 3), one more or less for breadth, quality and novelty; few voices never wake anybody.

    Breadth: one source alone loses a point, five or more gain one. Quality: sources that mostly repeat lose a point.
    Novelty: stories that mostly say again what was known lose a point.
    """
    points = sum(weight.size >= mark for mark in (1.3, 2.0, 3.0))
    points += (weight.sources >= 5) - (weight.sources <= 1)
    points -= weight.quality < 0.4
    points -= weight.novelty < 0.4
    highest = 3 if weight.voices >= 10 else 2 if weight.voices >= 5 else 1
    return SEVERITIES[max(0, min(points, highest))]
