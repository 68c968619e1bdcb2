"""From windows to alerts: what is usual, how rare this is, what a budget of false alarms allows, and why. Pure but for `load_rules`.

Promises: the same mentions give the same alerts, byte for byte; a budget that is spent, and no more, by ranking against the record; reasons
that are facts. Knows nothing of Kafka, databases or receivers.
"""

from monitor.alerting.baselines import (
    Expected,
    Habit,
    Market,
    close_block,
    expected,
    exposure,
    note_peak,
    scaled,
)
from monitor.alerting.budget import Budget, BudgetState
from monitor.alerting.detectors import Signal, Voices, burst, divergence, drift, surplus, tone_shift
from monitor.alerting.evidence import Reasons, Said, quote, reasons
from monitor.alerting.lifecycle import OPENED, OpenAlert, Reason, alert_id, severity, step
from monitor.alerting.rules import MARKET_S, Rules, load_rules, parse_rules

__all__ = [
    "MARKET_S",
    "OPENED",
    "Budget",
    "BudgetState",
    "Expected",
    "Habit",
    "Market",
    "OpenAlert",
    "Reason",
    "Reasons",
    "Rules",
    "Said",
    "Signal",
    "Voices",
    "alert_id",
    "burst",
    "close_block",
    "divergence",
    "drift",
    "expected",
    "exposure",
    "load_rules",
    "note_peak",
    "parse_rules",
    "quote",
    "reasons",
    "scaled",
    "severity",
    "step",
    "surplus",
    "tone_shift",
]
