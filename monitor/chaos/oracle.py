"""What an undisturbed run would have left behind, and how that compares with what is there.

The oracle knows two things for sure: which mentions the sent messages hold (decoding and linking are pure), and what the
stored mentions fold into (the same core, over the whole history at once, never stopped).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from monitor.records import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One side of the comparison: what the oracle expects, or what the database and the sink hold. Dead letters by their keys.

    `buckets`: (entity, channel, start in ms) → rounded sums. `alerts`: ids of those that were opened.
    """

    mentions: frozenset[str]
    dead_letters: frozenset[str]
    buckets: Mapping[tuple[str, str, int], tuple[float, ...]]
    alerts: frozenset[str]


class Findings(Record, frozen=True, kw_only=True):
    """What `tapewatch chaos --json` prints. All but the sizes, `redelivered` and `faults` (made on purpose) must be 0.

    `late`: mentions that came too late for their bucket. Undisturbed none does, for every partition is in order of time.
    """

    kills: int
    documents: int
    mentions: int
    alerts: int
    deliveries: int
    lost: int
    duplicated: int
    dead_letters_lost: int
    dead_letters_extra: int
    buckets_differ: int
    alerts_missing: int
    alerts_extra: int
    undelivered: int
    redelivered: int
    late: int
    seconds: float
    faults: Mapping[str, int] = {}

    @property
    def sound(self) -> bool:
        """A delivery that the sink took just before the kill comes again with the same id: that is allowed."""
        return not any(
            (
                self.lost,
                self.duplicated,
                self.dead_letters_lost,
                self.dead_letters_extra,
                self.buckets_differ,
                self.alerts_missing,
                self.alerts_extra,
                self.undelivered,
                self.late,
            )
        )


def judge(
    wanted: Told,
    found: Told,
    *,
    outbox: Collection[str],
    received: Sequence[str],
    kills: int,
    documents: int,
    late: int,
    seconds: float,
    faults: Mapping[str, int] = {},
) -> Findings:
    """Compare. `outbox`: ids of all deliveries that the database holds; `received`: what the sink took, in order."""
    differing = [
        key for key in wanted.buckets.keys() | found.buckets.keys() if wanted.buckets.get(key) != found.buckets.get(key)
    ]
    surplus = sum(
        max(0, round(found.buckets.get(key, (0.0,))[0] - wanted.buckets.get(key, (0.0,))[0])) for key in differing
    )
    taken = Counter(received)
    return Findings(
        kills=kills,
        documents=documents,
        mentions=len(found.mentions),
        alerts=len(found.alerts),
        deliveries=len(taken),
        lost=len(wanted.mentions - found.mentions),
        duplicated=len(found.mentions - wanted.mentions) + surplus,
        dead_letters_lost=len(wanted.dead_letters - found.dead_letters),
        dead_letters_extra=len(found.dead_letters - wanted.dead_letters),
        buckets_differ=len(differing),
        alerts_missing=len(wanted.alerts - found.alerts),
        alerts_extra=len(found.alerts - wanted.alerts),
        undelivered=len(set(outbox) - taken.keys()),
        redelivered=sum(count - 1 for count in taken.values()),
        late=late,
        seconds=round(seconds, 1),
        faults=faults,
    )
