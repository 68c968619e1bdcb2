"""Alerting: what is usual, what is not, whether it may wake somebody, and why. Pure: told everything, asks nobody.

Promises: the same history gives the same alerts; each step has a reason; the stated budget of false alerts is kept by
ranking scores among the past, not by believing a model. Knows nothing of Kafka, databases or receivers.
"""

from monitor.alerting.baselines import BLOCK_MS, BLOCKS_A_DAY, EntityBaseline, Expectation, MarketBaseline, expect
from monitor.alerting.detectors import Finding, Tribunal, detect_burst, detect_tone, limit_log10_p, voices_to_fire
from monitor.alerting.evidence import brief, decisive, fires_without, ranked, told
from monitor.alerting.lifecycle import Change, Life, Reason, close, severity_of, step
from monitor.alerting.rules import Rules, load_rules

__all__ = [
    "BLOCKS_A_DAY",
    "BLOCK_MS",
    "Change",
    "EntityBaseline",
    "Expectation",
    "Finding",
    "Life",
    "MarketBaseline",
    "Reason",
    "Rules",
    "Tribunal",
    "brief",
    "close",
    "decisive",
    "detect_burst",
    "detect_tone",
    "expect",
    "fires_without",
    "limit_log10_p",
    "load_rules",
    "ranked",
    "severity_of",
    "step",
    "told",
    "voices_to_fire",
]
