"""What follows from a try: delivered, again later, never again, or the receiver is gone. Pure; each decision has a reason."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum

from monitor.delivery.webhook import Answer

_GONE, _TOO_MANY, _UNAVAILABLE = 410, 429, 503


class Outcome(StrEnum):
    """Why a delivery is where it is; also the label of the metric."""

    DELIVERED = "delivered"
    SERVER_ERROR = "server_error"
    REDIRECTED = "redirected"
    REFUSED_BY_RECEIVER = "refused_by_receiver"
    ASKED_TO_WAIT = "asked_to_wait"
    UNREACHABLE = "unreachable"
    NOT_ALLOWED = "not_allowed"
    GONE = "gone"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPolicy:
    """Tries go on for `give_up_after_s`, pauses double from `pause_s` to `pause_max_s` with full jitter (seconds).

    After `failures_open` failures in a row nothing is sent to the receiver for `open_s`, doubling with each further one to
    `open_max_s`; then one try at a time.
    """

    pause_s: float = 5.0
    pause_max_s: float = 3_600.0
    retry_after_max_s: float = 14_400.0
    give_up_after_s: float = 86_400.0
    failures_open: int = 5
    open_s: float = 30.0
    open_max_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`retry_at_ms` is set when the delivery is to be tried again; `disable` when the receiver asked for silence."""

    outcome: Outcome
    retry_at_ms: int | None = None
    disable: bool = False


def decide(
    answer: Answer, *, attempts: int, first_attempt_at_ms: int, now_ms: int, policy: DeliveryPolicy, rng: random.Random
) -> Decision:
    """`attempts` counts this one."""
    outcome = _outcome(answer)
    if outcome is Outcome.DELIVERED:
        return Decision(outcome=outcome)
    if outcome is Outcome.GONE:
        return Decision(outcome=outcome, disable=True)
    if now_ms - first_attempt_at_ms >= policy.give_up_after_s * 1000:
        return Decision(outcome=Outcome.EXPIRED)
    ceiling_s = min(policy.pause_max_s, policy.pause_s * 2.0 ** min(attempts - 1, 30))
    wait_s = rng.uniform(ceiling_s / 2, ceiling_s)
    asked_s = retry_after_s(answer.retry_after, now_ms)
    if asked_s is not None:
        wait_s = max(wait_s, min(asked_s, policy.retry_after_max_s))
    return Decision(outcome=outcome, retry_at_ms=now_ms + round(wait_s * 1000))


def retry_after_s(value: str | None, now_ms: int) -> float | None:
    """Seconds or an HTTP date (RFC 9110, section 10.2.3); None for anything else."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):  # a year or a zone of twelve digits does not fit into a C int
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_ms / 1000)


def _outcome(answer: Answer) -> Outcome:
    status = answer.status
    if status is None:
        return Outcome.NOT_ALLOWED if answer.refused else Outcome.UNREACHABLE
    if 200 <= status < 300:
        return Outcome.DELIVERED
    if status == _GONE:
        return Outcome.GONE
    if status in {_TOO_MANY, _UNAVAILABLE}:
        return Outcome.ASKED_TO_WAIT
    if 300 <= status < 400:
        return Outcome.REDIRECTED
    return Outcome.SERVER_ERROR if status >= 500 else Outcome.REFUSED_BY_RECEIVER
