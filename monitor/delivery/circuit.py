"""When a receiver is left in peace: whether it may be tried now, and what a failure changes. Pure; the state is kept in the
database, so that a restart does not begin to hammer anew and several deliver processes rest together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from monitor.delivery.outbox import DeliveryPolicy, Outcome, retry_after_s


class Passage(StrEnum):
    """What may go to a receiver now."""

    FLOWING = "flowing"
    PROBING = "probing"
    RESTING = "resting"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circuit:
    """What is remembered of a receiver between tries."""

    disabled: bool = False
    open_until_ms: int | None = None
    consecutive_failures: int = 0


def passage(circuit: Circuit, *, now_ms: int, policy: DeliveryPolicy) -> Passage:
    """After a rest, one try decides whether the rest goes on."""
    if circuit.disabled:
        return Passage.DISABLED
    if circuit.open_until_ms is not None and now_ms < circuit.open_until_ms:
        return Passage.RESTING
    return Passage.PROBING if circuit.consecutive_failures >= policy.failures_open else Passage.FLOWING


def after_failure(
    circuit: Circuit, outcome: Outcome, *, retry_after: str | None, now_ms: int, policy: DeliveryPolicy
) -> Circuit:
    """One more failure. Asked to wait, everything for this receiver waits, not only the message that was refused."""
    failures = circuit.consecutive_failures + 1
    rest_s = 0.0
    if failures >= policy.failures_open:
        rest_s = min(policy.open_max_s, policy.open_s * 2.0 ** min(failures - policy.failures_open, 30))
    if outcome is Outcome.ASKED_TO_WAIT:
        asked_s = retry_after_s(retry_after, now_ms) or 0.0
        rest_s = max(rest_s, min(asked_s, policy.retry_after_max_s))
    open_until_ms = now_ms + round(rest_s * 1000) if rest_s else circuit.open_until_ms
    return Circuit(open_until_ms=open_until_ms, consecutive_failures=failures)
