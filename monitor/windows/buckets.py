"""Base buckets: closed minutes of event time, aligned to the epoch, one row per entity and channel that was spoken of."""

from __future__ import annotations

import msgspec

from monitor.records import Channel


class BucketRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Absolute sums of one closed bucket [start_ms, start_ms + length). Voices are effective: copies count nothing.

    `raw_n` mentions as they came; `effective_n` = `negative` + `neutral` + `positive` voices; `polarity_sum` and
    `polarity_sq_sum` are weighted by voice.
    """

    entity: str
    channel: Channel
    start_ms: int
    raw_n: int
    effective_n: float
    negative: float
    neutral: float
    positive: float
    polarity_sum: float
    polarity_sq_sum: float


def bucket_start_ms(at_ms: int, length_ms: int) -> int:
    """The bucket that holds a moment."""
    return at_ms - at_ms % length_ms
