"""Watching over the service itself, within the watch role: dead feeds, lag and degraded scoring become operator alerts.

Facts are read from the database (what was heard of each source, how results came in) and from the broker (what waits). The
decision is pure; state, steps and outbox rows are written in one transaction by compare-and-swap, as the pager's are. Other
processes' partitions are theirs to judge: only who owns a partition knows what waits in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import msgspec
import structlog

from monitor.alerting import Feed, Finding, KeeperState, OperatorMessage, Rules, Shares, Trouble
from monitor.alerting.silence_states import (
    EVERY,
    LagTrend,
    clock_ms,
    feed_findings,
    keep_watch,
    lag_finding,
    late_finding,
    score_behind,
    scoring_findings,
    troubles,
)
from monitor.clock import Clock
from monitor.errors import Fatal, Fenced
from monitor.loops.offsets import Partition
from monitor.store import WATCHKEEPER, StoredFeedHour, StoredShares
from monitor.telemetry import Metrics

log = structlog.get_logger()
DAY_MS = 86_400_000
HOUR_MS = 3_600_000
SHARES_BEFORE_MS = 7 * DAY_MS


class Transaction(Protocol):
    """All of it is written, or nothing."""

    def save_paging(self, *, expected: int, state: bytes, keeper: int) -> None: ...
    def keep_operator_alerts(self, messages: Iterable[OperatorMessage]) -> None: ...
    def tell(
        self, messages: Iterable[OperatorMessage], receivers: Sequence[Any], *, now_ms: int, topic: Any
    ) -> int: ...


class Store(Protocol):
    """What was heard, and what is remembered of troubles."""

    def newest_heard_hour(self) -> int | None: ...
    def feed_hours(self, since_hour: int) -> Sequence[StoredFeedHour]: ...
    def intake_shares(self, since_ms: int, until_ms: int) -> StoredShares: ...
    def paging_state(self, keeper: int) -> tuple[int, bytes]: ...
    def forget_health(self, *, before_hour: int, before_ms: int) -> int: ...
    def transaction(self) -> AbstractContextManager[Transaction]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchkeepingPolicy:
    """How often the facts are read."""

    every_s: float = 30.0
    forget_every_s: float = 3_600.0


class Watchkeeping:
    """`turn` looks around when it is time to."""

    def __init__(
        self,
        *,
        store: Store,
        rules: Rules,
        receivers: Sequence[Any],
        clock: Clock,
        metrics: Metrics,
        show: Callable[[Sequence[str]], None] = lambda _troubles: None,
        policy: WatchkeepingPolicy | None = None,
    ) -> None:
        self._store, self._rules, self._receivers, self._clock = store, rules, receivers, clock
        self._metrics, self._show, self._policy = metrics, show, policy or WatchkeepingPolicy()
        self._trends: dict[Partition, LagTrend] = {}
        self._next_s = clock.monotonic_s() + self._policy.every_s
        self._forget_s = clock.monotonic_s() + self._policy.forget_every_s

    def turn(self, lag: Callable[[], Mapping[Partition, int]], settled: Mapping[str, int] | None = None) -> int:
        """Returns how many operators' messages were written. Raises Retryable.

        `settled`: raw partition → milliseconds of the monotonic clock until which score has worked it off; None: nobody asks.
        """
        now_s = self._clock.monotonic_s()
        if now_s < self._next_s:
            return 0
        self._next_s = now_s + self._policy.every_s
        waiting = lag()
        behind_s = {name: now_s - at_ms / 1000 for name, at_ms in (settled or {}).items()}
        quiet_s = self._rules.health.silent_after_settled_s
        # Silence is the world's only when nothing waits, neither here nor before score.
        drained = bool(waiting) and all(messages <= 0 for messages in waiting.values())
        drained = drained and (settled is None or (bool(settled) and max(behind_s.values()) <= quiet_s))
        behind = score_behind({n: s for n, s in behind_s.items() if (settled or {})[n] > 0}, rules=self._rules.health)
        findings = [*self._backlogs(waiting, now_s), *behind, *self._feeds(drained), *self._shares()]
        mine = {f"{Trouble.LAG} {_name(partition)}" for partition in waiting}
        mine |= {f"{Trouble.LAG} score {name}" for name in behind_s}
        try:
            return self._apply(findings, mine)
        except Fenced:
            log.debug("watchkeeping.fenced")  # another process looks around: the next turn sees what it wrote
            return 0

    def _backlogs(self, waiting: Mapping[Partition, int], now_s: float) -> list[Finding]:
        for gone in self._trends.keys() - waiting.keys():
            del self._trends[gone]
        found = []
        for partition, messages in sorted(waiting.items()):
            trend = self._trends.setdefault(partition, LagTrend(self._rules.health))
            if trend.observe(messages, now_s):
                found.append(lag_finding(_name(partition), messages))
        return found

    def _feeds(self, drained: bool) -> list[Finding]:
        newest = self._store.newest_heard_hour()
        if newest is None:
            return []
        own = self._rules.health
        first = newest - round(own.record_days * 24)
        feeds = feeds_of(self._store.feed_hours(first))
        if self._clock.monotonic_s() >= self._forget_s:
            self._forget_s = self._clock.monotonic_s() + self._policy.forget_every_s
            self._store.forget_health(before_hour=first, before_ms=self._clock.now_ms() - SHARES_BEFORE_MS - DAY_MS)
        at_ms = clock_ms(feeds, now_ms=self._clock.now_ms(), drained=drained, rules=own)
        return [*feed_findings(feeds, at_ms=at_ms, rules=own), *late_finding(feeds, rules=own)]

    def _shares(self) -> list[Finding]:
        now_ms, own = self._clock.now_ms(), self._rules.health
        since_ms = now_ms - round(own.share_window_s * 1000)
        now = self._store.intake_shares(since_ms, now_ms + 1)
        before = self._store.intake_shares(since_ms - SHARES_BEFORE_MS, since_ms)
        return scoring_findings(_shares(now), _shares(before), rules=own)

    def _apply(self, findings: Sequence[Finding], mine: set[str]) -> int:
        version, blob = self._store.paging_state(WATCHKEEPER)
        state = _state(blob) if version else KeeperState()
        now_ms = self._clock.now_ms()
        messages = keep_watch(state, findings, now_ms=now_ms, rules=self._rules.health, mine=mine)
        fresh = msgspec.msgpack.encode(state)
        if fresh != blob and (version or state.known):
            with self._store.transaction() as transaction:
                transaction.save_paging(expected=version, state=fresh, keeper=WATCHKEEPER)
                transaction.keep_operator_alerts(messages)
                transaction.tell(messages, self._receivers, now_ms=now_ms, topic="operator")
        self._tell(state, messages)
        return len(messages)

    def _tell(self, state: KeeperState, messages: Sequence[OperatorMessage]) -> None:
        shown = troubles(state)
        self._show(shown)
        counts = Counter(line.split(" ", 1)[0] for line in shown)
        for trouble in Trouble:
            self._metrics.gauge("operator_troubles", counts[trouble], label=str(trouble))
        for message in messages:
            log.warning(f"{message.event}.{message.change}", subject=message.subject, reason=message.reason)


def feeds_of(rows: Sequence[StoredFeedHour]) -> list[Feed]:
    """A record for each source, and one for each channel as a whole. Rows in the order of (channel, source, hour)."""
    feeds = []
    for channel, of_channel in groupby(rows, key=lambda row: row.channel):
        whole: dict[int, list[StoredFeedHour]] = {}
        for source, of_source in groupby(of_channel, key=lambda row: row.source):
            hours = list(of_source)
            feeds.append(_feed(channel, source, [[row] for row in hours]))
            for row in hours:
                whole.setdefault(row.hour, []).append(row)
        feeds.append(_feed(channel, EVERY, [whole[hour] for hour in sorted(whole)]))
    return feeds


def _feed(channel: str, source: str, hours: Sequence[Sequence[StoredFeedHour]]) -> Feed:
    slots: dict[tuple[int, int], float] = {}
    squares = 0.0
    for rows in hours:
        hour, count = rows[0].hour, sum(row.mentions for row in rows)
        slot = (int((hour // 24 + 3) % 7 >= 5), hour % 24)
        slots[slot] = slots.get(slot, 0.0) + count
        squares += count**2
    newest = max((row for row in hours[-1]), key=lambda row: row.newest_ms)
    return Feed(
        channel=channel,
        source=source,
        hours=slots,
        squares=squares,
        first_hour=hours[0][0].hour,
        newest_ms=newest.newest_ms,
        seen_ms=newest.seen_at_ms,
    )


def _name(partition: Partition) -> str:
    return f"{partition[0]}/{partition[1]}"


def _shares(row: StoredShares) -> Shares:
    return Shares(
        mentions=row.mentions,
        abstained=row.abstained,
        other_engine=row.other_engine,
        dead_letters=row.dead_letters,
    )


def _state(blob: bytes) -> KeeperState:
    try:
        return msgspec.msgpack.decode(blob, type=KeeperState)
    except msgspec.MsgspecError as err:
        raise Fatal(
            f"stored state of the watchkeeper can't be read: {err}; was it written by a newer version?"
        ) from err
