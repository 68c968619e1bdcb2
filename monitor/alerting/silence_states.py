"""Honest silence: no news, a dead feed, lag and degraded scoring are different things, and each is said as what it is.

    news/wire    ●●●─●●──●●●●─────────────┤ now     expected in the gap: 31 mentions     → feed down
    news/blog    ●───────────●────────────┤         expected in the gap: 0.4             → quiet, as usual
    social       ●●●●●●●●●●●●●●●●●●●●●●●●●┤

A silence is judged by the source's own record: hourly counts by hour of the day, weekdays and weekends apart, overdispersed
(negative binomial, so that an hour is empty with probability (1 + m/r)^-r). Event time is the clock, as far as others have
carried it; the wall clock counts only where the stream was live when it was last heard and nothing waits to be read. A
replay of the past that has ended is therefore not a silence.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import msgspec

from monitor.alerting.lifecycle import Severity
from monitor.alerting.rules import HealthRules
from monitor.clock import to_rfc3339
from monitor.records import Alert, Record

HOUR_MS = 3_600_000
EVERY = "*"  # all sources of a channel together


class Hearing(StrEnum):
    """What it means that nothing newer came from a source, a channel or about a company.

    AS_USUAL: no more than its own habit; if nothing was said, that is no news. QUIET: rarer, but it happens. SILENT: it does
    not happen. UNKNOWN: too little is known of it.
    """

    AS_USUAL = "as_usual"
    QUIET = "quiet"
    SILENT = "silent"
    UNKNOWN = "unknown"


class Trouble(StrEnum):
    """States of their own, each with its operator alert."""

    FEED_DOWN = "feed_down"
    LAG = "lag"
    SCORING_DEGRADED = "scoring_degraded"


class TroubleReason(StrEnum):
    """Why a trouble was found, or why it is over."""

    SOURCE_SILENT = "source_silent"
    CHANNEL_SILENT = "channel_silent"
    FALLING_BEHIND = "falling_behind"
    HEARD_LATE = "heard_late"
    SCORE_BEHIND = "score_behind"
    OTHER_ENGINE = "other_engine"
    ABSTAINING_MORE = "abstaining_more"
    MORE_DEAD_LETTERS = "more_dead_letters"
    OVER = "over"


class Pace(StrEnum):
    """How the stream's event time stands to the wall clock."""

    LIVE = "live"
    LATE = "late"
    HISTORY = "history"


class Feed(Record, frozen=True, kw_only=True):
    """The record of one source in one channel. `hours`: (kind of day, hour of day) → mentions; kind 0 weekday, 1 weekend.

    `squares`: sum of squared hourly counts. `first_hour` of the record, in hours of the epoch. `seen_ms`: when the newest
    mention (`newest_ms` of event time) was heard, by the wall clock.
    """

    channel: str
    source: str
    hours: Mapping[tuple[int, int], float]
    squares: float
    first_hour: int
    newest_ms: int
    seen_ms: int

    @property
    def subject(self) -> str:
        return self.channel if self.source == EVERY else f"{self.channel}/{self.source}"


class Reading(NamedTuple):
    """`expected` mentions in the gap since the newest; `score` = −log10 of the chance that none came."""

    hearing: Hearing
    silent_s: float
    expected: float
    score: float


class Shares(Record, frozen=True, kw_only=True):
    """Counts of a stretch of wall time: results, and how many of them were of the poor kind."""

    mentions: int = 0
    abstained: int = 0
    other_engine: int = 0
    dead_letters: int = 0


class Finding(Record, frozen=True, kw_only=True):
    """Something is wrong now."""

    trouble: Trouble
    subject: str
    reason: TroubleReason
    severity: Severity
    brief: str
    facts: Mapping[str, Any] = {}


class Known(msgspec.Struct, array_like=True):
    """A trouble that is remembered: pending until it was told, resolved when it has been clear long enough."""

    since_ms: int
    reason: str
    severity: Severity
    brief: str
    opened_ms: int | None = None
    clear_ms: int | None = None


class KeeperState(msgspec.Struct, array_like=True):
    """Troubles by `trouble subject`."""

    version: int = 1
    known: dict[str, Known] = msgspec.field(default_factory=dict)


class OperatorMessage(Record, frozen=True, kw_only=True):
    """What operators get: another kind of message than an analyst's alert. `page` is the thread."""

    page: str
    sequence: int
    event: str
    change: Literal["opened", "resolved"]
    reason: str
    at_ms: int
    severity: Severity
    alert: Alert | None = None
    body: Mapping[str, Any]
    trouble: str
    subject: str


def hear(feed: Feed, *, at_ms: int, rules: HealthRules) -> Reading:
    """What it means that nothing newer than `feed.newest_ms` has come."""
    silent_s = max(0, at_ms - feed.newest_ms) / 1000
    record_h = max(1, feed.newest_ms // HOUR_MS - feed.first_hour + 1)
    if record_h < rules.record_min_days * 24:
        return Reading(Hearing.UNKNOWN, silent_s, 0.0, 0.0)
    total = sum(feed.hours.values())
    mean = total / record_h
    variance = max(feed.squares / record_h - mean**2, mean)
    size = min(max(mean**2 / max(variance - mean, 1e-9), 0.3), 20.0)
    counted = _hours_by_kind(feed.first_hour, feed.newest_ms // HOUR_MS)
    expected = score = 0.0
    at = feed.newest_ms
    while at < at_ms and score < 99.0:
        until = min((at // HOUR_MS + 1) * HOUR_MS, at_ms)
        slot = _slot(at // HOUR_MS)
        # One hour more than there were: what was seen once is not yet a habit, what was never seen is none.
        usual = feed.hours.get(slot, 0.0) / (counted.get(slot, 0) + 1)
        part = (until - at) / HOUR_MS
        expected += part * usual
        score += part * size * math.log10(1.0 + usual / size)
        at = until
    if score < rules.quiet_score:
        return Reading(Hearing.AS_USUAL, silent_s, expected, score)
    silent = score >= rules.silence_score and silent_s >= rules.silence_min_s
    return Reading(Hearing.SILENT if silent else Hearing.QUIET, silent_s, expected, score)


def pace(feeds: Sequence[Feed], *, rules: HealthRules) -> Pace:
    """By how far behind the wall clock the freshest of the last mentions was when it was heard."""
    lately_ms = max((feed.seen_ms for feed in feeds), default=0) - round(rules.share_window_s * 1000)
    behind_s = min(
        ((feed.seen_ms - feed.newest_ms) / 1000 for feed in feeds if feed.seen_ms >= lately_ms), default=math.inf
    )
    if behind_s > rules.history_after_s:
        return Pace.HISTORY
    return Pace.LATE if behind_s > rules.lag_max_s else Pace.LIVE


def clock_ms(feeds: Sequence[Feed], *, now_ms: int, drained: bool, rules: HealthRules) -> int:
    """The moment by which silences are judged: the wall clock's only where the stream was live and nothing waits."""
    newest_ms = max((feed.newest_ms for feed in feeds), default=0)
    if drained and pace(feeds, rules=rules) is Pace.LIVE:
        return max(newest_ms, now_ms - round(rules.lag_max_s * 1000))
    return newest_ms


def feed_findings(feeds: Sequence[Feed], *, at_ms: int, rules: HealthRules) -> list[Finding]:
    """Sources and channels that should have spoken. A silent channel speaks for its sources."""
    found = []
    silent = {feed.channel for feed in feeds if feed.source == EVERY and _is_silent(feed, at_ms, rules)}
    for feed in feeds:
        if feed.source != EVERY and feed.channel in silent:
            continue
        reading = hear(feed, at_ms=at_ms, rules=rules)
        if reading.hearing is not Hearing.SILENT:
            continue
        whole = feed.source == EVERY
        found.append(
            Finding(
                trouble=Trouble.FEED_DOWN,
                subject=feed.subject,
                reason=TroubleReason.CHANNEL_SILENT if whole else TroubleReason.SOURCE_SILENT,
                severity="critical" if whole else "high",
                brief=(
                    f"{feed.subject} has said nothing for {_span(reading.silent_s)}; {reading.expected:.0f} mentions were to"
                    " be expected. Calm there means no data, not no news."
                ),
                facts={
                    "silent_s": round(reading.silent_s),
                    "expected_mentions": round(reading.expected, 2),
                    "score": round(reading.score, 2),
                    "last_mention_at": to_rfc3339(feed.newest_ms),
                },
            )
        )
    return found


def late_finding(feeds: Sequence[Feed], *, rules: HealthRules) -> list[Finding]:
    """What is heard now was published long ago, but not so long that it is a replay of the past."""
    heard = [feed for feed in feeds if feed.source != EVERY]
    if not heard or pace(heard, rules=rules) is not Pace.LATE:
        return []
    last = max(heard, key=lambda feed: (feed.seen_ms, feed.newest_ms))
    behind_s = (last.seen_ms - last.newest_ms) / 1000
    return [
        Finding(
            trouble=Trouble.LAG,
            subject="stream",
            reason=TroubleReason.HEARD_LATE,
            severity="high",
            brief=f"The freshest mentions are {_span(behind_s)} old when they are heard: alerts come that much late.",
            facts={"behind_s": round(behind_s)},
        )
    ]


def scoring_findings(now: Shares, before: Shares, *, rules: HealthRules) -> list[Finding]:
    """The last `share_window_s` against the days before."""
    found = []
    if now.other_engine:
        found.append(
            Finding(
                trouble=Trouble.SCORING_DEGRADED,
                subject="engine",
                reason=TroubleReason.OTHER_ENGINE,
                severity="high",
                brief=(
                    f"{now.other_engine} of {now.mentions} mentions were judged by another engine than the configuration"
                    " asks for, such as the CPU instead of the GPU."
                ),
                facts={"mentions": now.other_engine, "of": now.mentions},
            )
        )
    kinds = (
        ("abstention", TroubleReason.ABSTAINING_MORE, now.abstained, now.mentions, before.abstained, before.mentions),
        (
            "dead_letters",
            TroubleReason.MORE_DEAD_LETTERS,
            now.dead_letters,
            now.dead_letters + now.mentions,
            before.dead_letters,
            before.dead_letters + before.mentions,
        ),
    )
    for subject, reason, poor, of, poor_before, of_before in kinds:
        usual = (poor_before + 1.0) / (of_before + 50.0)
        share = poor / of if of else 0.0
        if (
            of < rules.share_items_min
            or of_before < rules.share_record_min
            or share < max(rules.share_min, 2.0 * usual)
        ):
            continue
        if _tail_score(poor, of, usual) < rules.share_score:
            continue
        what = "mentions were left undecided by the model" if subject == "abstention" else "messages could not be used"
        found.append(
            Finding(
                trouble=Trouble.SCORING_DEGRADED,
                subject=subject,
                reason=reason,
                severity="medium",
                brief=f"{share:.0%} of the last {of} {what}; {usual:.1%} is usual.",
                facts={"share": round(share, 4), "usual": round(usual, 4), "of": of},
            )
        )
    return found


class LagTrend:
    """Is a backlog being worked off? `observe` says True when it has not shrunk for `lag_after_s`."""

    def __init__(self, rules: HealthRules) -> None:
        self._after_s = rules.lag_after_s
        self._least: tuple[int, float] | None = None

    def observe(self, messages: int, now_s: float) -> bool:
        if messages <= 0:
            self._least = None
            return False
        if self._least is None or messages < self._least[0]:
            self._least = (messages, now_s)
        return now_s - self._least[1] >= self._after_s


def lag_finding(partition: str, messages: int) -> Finding:
    return Finding(
        trouble=Trouble.LAG,
        subject=partition,
        reason=TroubleReason.FALLING_BEHIND,
        severity="high",
        brief=f"{messages} messages wait in {partition}, and they do not become fewer: silence there may be our own.",
        facts={"messages": messages},
    )


def score_behind(behind_s: Mapping[str, float], *, rules: HealthRules) -> list[Finding]:
    """Raw partitions of which score has not worked off what was there so many seconds ago."""
    return [
        Finding(
            trouble=Trouble.LAG,
            subject=f"score {name}",
            reason=TroubleReason.SCORE_BEHIND,
            severity="high",
            brief=f"What came into {name} {_span(seconds)} ago is not judged yet: silence may be our own.",
            facts={"behind_s": round(seconds)},
        )
        for name, seconds in sorted(behind_s.items())
        if seconds > rules.lag_max_s
    ]


def keep_watch(
    state: KeeperState,
    findings: Sequence[Finding],
    *,
    now_ms: int,
    rules: HealthRules,
    mine: Collection[str] | None = None,
) -> list[OperatorMessage]:
    """Open what has lasted `pending_s`, resolve what has been clear for `calm_s`. `now_ms` is the wall clock's.

    Changes `state`. `mine`: keys (`trouble subject`) that only this process can see; of all others named in `state` as lag of
    a partition nothing is said. Without it, everything is judged.
    """
    messages = []
    present = {f"{finding.trouble} {finding.subject}": finding for finding in findings}
    for key, finding in sorted(present.items()):
        known = state.known.get(key)
        if known is None:
            known = state.known[key] = Known(now_ms, finding.reason, finding.severity, finding.brief)
        known.clear_ms = None
        known.brief = finding.brief
        if known.opened_ms is None and now_ms - known.since_ms >= rules.pending_s * 1000:
            known.opened_ms, known.reason, known.severity = now_ms, finding.reason, finding.severity
            messages.append(_message(key, known, "opened", finding.reason, now_ms, finding.facts))
    for key in sorted(state.known.keys() - present.keys()):
        if mine is not None and _is_partition(key) and key not in mine:
            continue
        known = state.known[key]
        if known.opened_ms is None:
            del state.known[key]
            continue
        if known.clear_ms is None:
            known.clear_ms = now_ms
        if now_ms - known.clear_ms >= rules.calm_s * 1000:
            messages.append(_message(key, known, "resolved", TroubleReason.OVER, now_ms, {}))
            del state.known[key]
    return messages


def troubles(state: KeeperState) -> list[str]:
    """Open troubles, as /readyz says them."""
    return [f"{key}: {known.brief}" for key, known in sorted(state.known.items()) if known.opened_ms is not None]


def _is_partition(key: str) -> bool:
    trouble, _, subject = key.partition(" ")
    return trouble == Trouble.LAG and subject != "stream"


def _is_silent(feed: Feed, at_ms: int, rules: HealthRules) -> bool:
    return hear(feed, at_ms=at_ms, rules=rules).hearing is Hearing.SILENT


def _message(
    key: str, known: Known, change: Literal["opened", "resolved"], reason: str, now_ms: int, facts: Mapping[str, Any]
) -> OperatorMessage:
    trouble, _, subject = key.partition(" ")
    assert known.opened_ms is not None, "only what was opened is told"
    page = sha256(f"{key}\x1f{known.opened_ms}".encode()).hexdigest()[:32]
    over = change == "resolved"
    return OperatorMessage(
        page=page,
        sequence=2 if over else 1,
        event=f"operator.{trouble}",
        change=change,
        reason=reason,
        at_ms=now_ms,
        severity=known.severity,
        trouble=trouble,
        subject=subject,
        body={
            "id": page,
            "kind": trouble,
            "subject": subject,
            "reason": str(known.reason),
            "severity": known.severity,
            "opened_at": to_rfc3339(known.opened_ms),
            "resolved_at": to_rfc3339(now_ms) if over else None,
            "brief": f"Over: {known.brief}" if over else known.brief,
            "facts": facts,
        },
    )


def _slot(hour: int) -> tuple[int, int]:
    """Kind of day and hour of day; the epoch was a Thursday."""
    return int((hour // 24 + 3) % 7 >= 5), hour % 24


def _hours_by_kind(first: int, last: int) -> dict[tuple[int, int], int]:
    """How many hours of each kind lie in the record; whole weeks at once."""
    counted: dict[tuple[int, int], int] = {}
    weeks, rest = divmod(last - first + 1, 168)
    for offset in range(168):
        slot = _slot(first + offset)
        counted[slot] = counted.get(slot, 0) + weeks + (offset < rest)
    return counted


def _tail_score(poor: int, of: int, usual: float) -> float:
    """−log10 of a bound on P(at least so many), Chernoff's: exp(−n·KL(share ‖ usual))."""
    share = min(poor / of, 1.0 - 1e-9)
    if share <= usual:
        return 0.0
    apart = share * math.log(share / usual) + (1 - share) * math.log((1 - share) / (1 - usual))
    return of * apart / math.log(10.0)


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"
