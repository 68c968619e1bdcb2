"""The live code path over a history: the same cores, the same partitions, the same alerts. The same input gives the same bytes.

Promises: no clock and no randomness but a named seed; scores are kept by content and bundle, so that a change of rules
runs again in seconds. Knows nothing of Kafka or the database.
"""

from monitor.backtest.events import EventResult, KnownEvent, judge_events, load_events
from monitor.backtest.nulls import calibrate, null_replay
from monitor.backtest.report import write_report
from monitor.backtest.run import BacktestResult, compare, run_backtest
from monitor.backtest.scores import score_documents
from monitor.backtest.stories import group_stories

__all__ = [
    "BacktestResult",
    "EventResult",
    "KnownEvent",
    "calibrate",
    "compare",
    "group_stories",
    "judge_events",
    "load_events",
    "null_replay",
    "run_backtest",
    "score_documents",
    "write_report",
]
