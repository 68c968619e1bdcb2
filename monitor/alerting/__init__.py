"""From windows to alerts: what is usual, how rare this is, what a budget of false alarms allows, and why. Pure but for `load_rules`.

Promises: the same mentions give the same alerts, byte for byte; a budget that is held by ranking against the record; reasons
that are facts. Knows nothing of Kafka, databases or receivers.
"""

from monitor.alerting.baselines import Expected, Habit, Market, close_block, expected, exposure
from monitor.alerting.brief import brief
from monitor.alerting.budget import Budget, BudgetState
from monitor.alerting.detectors import Signal, Voices, burst, divergence, drift, tone_shift
from monitor.alerting.evidence import Reasons, Said, Shift, decompose, quote, reasons
from monitor.alerting.levels import Levels
from monitor.alerting.lifecycle import (
    OPENED,
    OpenAlert,
    Pending,
    Reason,
    Weight,
    alert_id,
    confirm,
    cooling_down,
    severity,
    step,
)
from monitor.alerting.paging import Message, Pager, PageReason, PagerState, Settled, Step, Told, Verdict
from monitor.alerting.rules import Rules, VoiceRules, load_rules, parse_rules
from monitor.alerting.silences import Hours, Silence
from monitor.alerting.sources import Sources

__all__ = [
    "OPENED",
    "Budget",
    "BudgetState",
    "Expected",
    "Habit",
    "Hours",
    "Levels",
    "Market",
    "Message",
    "OpenAlert",
    "PageReason",
    "Pager",
    "PagerState",
    "Pending",
    "Reason",
    "Reasons",
    "Rules",
    "Said",
    "Settled",
    "Shift",
    "Signal",
    "Silence",
    "Sources",
    "Step",
    "Told",
    "Verdict",
    "VoiceRules",
    "Voices",
    "Weight",
    "alert_id",
    "brief",
    "burst",
    "close_block",
    "confirm",
    "cooling_down",
    "decompose",
    "divergence",
    "drift",
    "expected",
    "exposure",
    "load_rules",
    "parse_rules",
    "quote",
    "reasons",
    "severity",
    "step",
    "tone_shift",
]
