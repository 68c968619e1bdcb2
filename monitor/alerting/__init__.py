"""From windows to alerts: what is usual, how rare this is, what a budget of false alarms allows, and why. Pure but for `load_rules`.

Promises: the same mentions give the same alerts, byte for byte; a budget that is spent, and no more, by ranking against the record; reasons
that are facts. Knows nothing of Kafka, databases or receivers.
"""

from monitor.alerting.baselines import (
    BLOCK_MS,
    close_block,
    expected,
    exposure,
    note_peak,
    scaled,
)
from monitor.alerting.brief import brief
from monitor.alerting.budget import Budget
from monitor.alerting.detectors import (
    burst,
    burst_score,
    divergence,
    divergence_score,
    drift,
    drift_score,
    surplus,
    tone_score,
    tone_shift,
)
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
from monitor.alerting.market import Market
from monitor.alerting.moves import share_move_pct
from monitor.alerting.paging import (
    Message,
    Pager,
    PageReason,
    PagerState,
    Settled,
    Step,
    Told,
    Verdict,
    page_history,
)
from monitor.alerting.records import BudgetState, Expected, Habit, Signal
from monitor.alerting.rescoring import (
    Rescoring,
    as_known,
    over_blocks,
    over_channels,
    over_window,
    score_of,
    support,
)
from monitor.alerting.robust import Without, without_top
from monitor.alerting.rules import MARKET_S, Rules, VoiceRules, load_rules, parse_rules
from monitor.alerting.silence_states import Feed, Finding, Hearing, KeeperState, OperatorMessage, Shares, Trouble
from monitor.alerting.silences import Hours, Silence
from monitor.alerting.sources import Sources

__all__ = [
    "BLOCK_MS",
    "MARKET_S",
    "OPENED",
    "Budget",
    "BudgetState",
    "Expected",
    "Feed",
    "Finding",
    "Habit",
    "Hearing",
    "Hours",
    "KeeperState",
    "Levels",
    "Market",
    "Message",
    "OpenAlert",
    "OperatorMessage",
    "PageReason",
    "Pager",
    "PagerState",
    "Pending",
    "Reason",
    "Reasons",
    "Rescoring",
    "Rules",
    "Said",
    "Settled",
    "Shares",
    "Shift",
    "Signal",
    "Silence",
    "Sources",
    "Step",
    "Told",
    "Trouble",
    "Verdict",
    "VoiceRules",
    "Weight",
    "Without",
    "alert_id",
    "as_known",
    "brief",
    "burst",
    "burst_score",
    "close_block",
    "confirm",
    "cooling_down",
    "decompose",
    "divergence",
    "divergence_score",
    "drift",
    "drift_score",
    "expected",
    "exposure",
    "load_rules",
    "note_peak",
    "over_blocks",
    "over_channels",
    "over_window",
    "page_history",
    "parse_rules",
    "quote",
    "reasons",
    "scaled",
    "score_of",
    "severity",
    "share_move_pct",
    "step",
    "support",
    "surplus",
    "tone_score",
    "tone_shift",
    "without_top",
]
