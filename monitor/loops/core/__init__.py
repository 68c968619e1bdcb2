"""The partition core: what `watch` knows of one partition of mentions. Pure: no clock, no I/O, no logging.

Mentions wait until the watermark has passed their base bucket of 60 seconds; then they are folded in the order of
(published_at_ms, id), entities that were spoken of are evaluated at the bucket's end, and open alerts at their timers. So
neither the order of arrival within the lateness, nor where batches are cut, nor a restart changes what is decided: state
blobs hold the records that decay, and the windows are read back from the stored mentions (`reach_back_ms`).

    contract.py    what it is told, what it answers
    partition.py   event time: what waits, is folded and looked at; what is written and read back
    memory.py      what is kept: records that decay, of each entity and shared
    records.py     as what it is stored
    hearing.py     mentions → voices in windows
    signals.py     windows → the detectors' readings
    life.py        readings → alerts, or why there is none
    telling.py     what an alert says
"""

from monitor.loops.core.contract import Fate, Outcome, WatchPolicy
from monitor.loops.core.memory import STATE_VERSION
from monitor.loops.core.partition import PartitionCore

__all__ = ["STATE_VERSION", "Fate", "Outcome", "PartitionCore", "WatchPolicy"]
