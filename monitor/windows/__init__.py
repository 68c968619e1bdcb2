"""Event time: watermarks, near-duplicate memory, buckets and sliding windows. Pure: no clock, no I/O, no logging.

Promises: the result depends on which mentions came within the lateness, never on their order; one very late or future
record moves nothing; a restart that reads `2 × horizon` of mentions back continues exactly. Knows nothing of alerts.
"""

from monitor.windows.buckets import BucketRow, bucket_start_ms
from monitor.windows.novelty import Heard, Hearing, NoveltyMemory, NoveltyPolicy, Print, is_copy
from monitor.windows.sums import UNIT, SlidingSums, Story, Sums
from monitor.windows.watermark import Arrival, Watermark, WatermarkPolicy

__all__ = [
    "UNIT",
    "Arrival",
    "BucketRow",
    "Heard",
    "Hearing",
    "NoveltyMemory",
    "NoveltyPolicy",
    "Print",
    "SlidingSums",
    "Story",
    "Sums",
    "Watermark",
    "WatermarkPolicy",
    "bucket_start_ms",
    "is_copy",
]
