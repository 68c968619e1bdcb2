"""Event time: watermarks, near-duplicate memory, choruses, buckets and sliding windows. Pure: no clock, no I/O, no logging.

Promises: the result depends on which mentions came within the lateness, never on their order; one very late or future
record moves nothing; a restart that reads the horizons of what decided back (see `WatchPolicy.reach_back_ms`) continues exactly. Knows nothing of alerts.
"""

from monitor.windows.buckets import BucketRow, bucket_start_ms
from monitor.windows.chorus import Chorus, ChorusPolicy
from monitor.windows.newcomers import Newcomers
from monitor.windows.novelty import NoveltyMemory, NoveltyPolicy, fingerprint, is_copy
from monitor.windows.records import Brigade, Heard, Hearing, NewcomersState, Print, Story, Told
from monitor.windows.shares import Shares
from monitor.windows.sums import UNIT, SlidingSums
from monitor.windows.tellers import Tellers
from monitor.windows.watermark import Arrival, Watermark, WatermarkPolicy

__all__ = [
    "UNIT",
    "Arrival",
    "Brigade",
    "BucketRow",
    "Chorus",
    "ChorusPolicy",
    "Heard",
    "Hearing",
    "Newcomers",
    "NewcomersState",
    "NoveltyMemory",
    "NoveltyPolicy",
    "Print",
    "Shares",
    "SlidingSums",
    "Story",
    "Tellers",
    "Told",
    "Watermark",
    "WatermarkPolicy",
    "bucket_start_ms",
    "fingerprint",
    "is_copy",
]
