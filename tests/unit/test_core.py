"""The partition core: what is decided depends on the mentions within the lateness, not on order, batches or restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.alerting import Rules, parse_rules
from monitor.commands.watch_speed import bytes_per_idle_entity
from monitor.loops.core import STATE_VERSION, Fate, Outcome, PartitionCore, WatchPolicy
from monitor.records import AlertTransition, ScoredMention, Suppression, mention_id

START_MS = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
RULES = parse_rules({"budget": {"false_alerts_per_day": 1.0}}, "test")
POLICY = WatchPolicy.of(RULES, partitions=1)
TOPICS = "profit margin factory lawsuit tariff patent launch chief dividend outlook strike merger recall audit".split()  # noqa: SIM905  reads better


def mention(
    entity: str, at_ms: int, number: int, *, polarity: float = -0.8, text: str | None = None, author: str | None = None
) -> ScoredMention:
    """One judged story; texts with different numbers are different stories."""
    words = [TOPICS[number % 14], TOPICS[number // 3 % 14], f"w{number}", f"x{number * 7}", f"y{number * 11}"]
    negative = 0.9 if polarity < 0 else 0.05
    return ScoredMention(
        id=mention_id(f"d:{number}", entity),
        entity=entity,
        document=f"d:{number}",
        source="wire",
        channel="news",
        published_at_ms=at_ms,
        text=text or " ".join(words),
        author=author,
        probabilities=(negative, 0.05, 0.95 - negative),
        polarity=polarity,
        model="words@1",
        scored_at_ms=at_ms,
    )


def history(days: int = 4, crash_at_h: float | None = 80.0) -> list[ScoredMention]:
    """Quiet talk about three companies every few hours, then a dozen bad stories about one within an hour."""
    told = []
    for hour in range(days * 24):
        for index, entity in enumerate(("AAA", "BBB", "CCC")):
            if (hour + index) % 5 == 0:
                number = len(told)
                told.append(
                    mention(
                        entity, START_MS + hour * HOUR_MS + index * 400_000, number, polarity=0.1 * (number % 3 - 1)
                    )
                )
    if crash_at_h is not None:
        base_ms = START_MS + round(crash_at_h * HOUR_MS)
        told += [mention("BBB", base_ms + k * 4 * MINUTE_MS, 1_000 + k) for k in range(12)]
    return sorted(told, key=lambda m: (m.published_at_ms, m.id))


@dataclass
class Written:
    """What the database would hold."""

    stored: list[ScoredMention] = field(default_factory=list)
    states: dict[str, bytes] = field(default_factory=dict)
    state: bytes = b""
    watermark_ms: int | None = None
    transitions: list[AlertTransition] = field(default_factory=list)
    buckets: list[object] = field(default_factory=list)
    suppressed: list[Suppression] = field(default_factory=list)

    def apply(self, core: PartitionCore, outcome: Outcome) -> None:
        self.states.update(outcome.entity_states)
        self.state, self.watermark_ms = core.state(), core.watermark_ms
        self.transitions += outcome.transitions
        self.buckets += outcome.buckets
        self.suppressed += outcome.suppressed

    def restore(self, rules: Rules = RULES) -> PartitionCore:
        since_ms = (self.watermark_ms or 0) - POLICY.reach_back_ms
        return PartitionCore.restore(
            policy=POLICY,
            rules=rules,
            names={},
            state=self.state,
            watermark_ms=self.watermark_ms,
            entity_states=self.states,
            recent=[m for m in self.stored if m.published_at_ms >= since_ms],
        )


def play(mentions: Sequence[ScoredMention], *, cuts: Sequence[int] = (), stops: bool = False) -> Written:
    """Batches end at `cuts`; with `stops` the process dies after each of them and comes back."""
    written, core = Written(), PartitionCore(policy=POLICY, rules=RULES)
    edges = [0, *sorted(cuts), len(mentions)]
    for start, end in pairwise(edges):
        for each in mentions[start:end]:
            if core.take(each, origin="news/0", now_ms=None) is Fate.FOLDED:
                written.stored.append(each)
        written.apply(core, core.advance())
        if stops:
            core = written.restore()
    written.apply(core, core.finish())
    return written


def test_a_crash_opens_one_alert_and_the_quiet_after_it_resolves_it() -> None:
    told = [*history(), mention("AAA", START_MS + 120 * HOUR_MS, 5_000, polarity=0.0)]
    steps = [t for t in play(told).transitions if t.alert.entity == "BBB" and t.alert.direction == "negative"]
    assert [t.change for t in steps if t.change != "updated"] == ["opened", "resolved"]
    alert = steps[0].alert
    assert alert.evidence
    assert alert.baseline["cold_start"] is True
    assert 0 < alert.p_value <= 1
    assert steps[-1].alert.resolved_at is not None


def test_a_quiet_history_opens_no_more_than_the_budget() -> None:
    opened = [t for t in play(history(crash_at_h=None)).transitions if t.change == "opened"]
    assert len(opened) <= 4 * RULES.budget.false_alerts_per_day + 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(history())), max_size=5))
def test_stopping_anywhere_and_reading_back_changes_nothing(cuts: list[int]) -> None:
    """State blobs plus stored mentions are the whole memory."""
    told = history()
    whole, broken = play(told), play(told, cuts=cuts, stops=True)
    assert broken.transitions == whole.transitions
    assert broken.suppressed == whole.suppressed
    assert broken.buckets == whole.buckets
    assert broken.state == whole.state
    assert broken.states == whole.states


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.integers(0, len(history())), max_size=4))
def test_order_of_arrival_within_the_lateness_changes_no_alert(rng: object, cuts: list[int]) -> None:
    told = history()
    delay = {m.id: rng.randrange(POLICY.lateness_ms) for m in told}  # type: ignore[attr-defined]
    shuffled = sorted(told, key=lambda m: m.published_at_ms + delay[m.id])
    one, other = play(told), play(shuffled, cuts=cuts)
    assert one.transitions == other.transitions
    assert one.buckets == other.buckets


def test_three_hundred_reprints_decide_what_one_does() -> None:
    quiet = history(crash_at_h=None)
    base_ms = START_MS + 80 * HOUR_MS
    text = "Regulator opens probe into the accounts of the company after auditor resigns"

    def told(copies: int) -> Written:
        reprints = [mention("BBB", base_ms + k * 10_000, 2_000 + k, text=text) for k in range(copies)]
        return play(sorted([*quiet, *reprints], key=lambda m: m.published_at_ms))

    def opened(written: Written) -> list[tuple[str, str, str]]:
        return [(t.alert.entity, t.alert.kind, t.alert.opened_at) for t in written.transitions if t.change == "opened"]

    many = told(300)
    assert opened(many) == opened(told(1))
    assert sum(row.raw_n for row in many.buckets) == len(quiet) + 300  # type: ignore[attr-defined]


def test_a_brigade_of_similar_posts_counts_as_few_voices() -> None:
    base_ms = START_MS + 80 * HOUR_MS
    fill = ["now", "today", "fast", "all", "quick"]
    brigade = [
        mention(
            "BBB",
            base_ms + k * 1_000,
            3_000 + k,
            text=f"Dump this stock {fill[k % 5]} it is going to zero tomorrow {fill[k // 5 % 5]} n{k}",
            author=f"new{k}",
        )
        for k in range(500)
    ]
    written = play(sorted([*history(crash_at_h=None), *brigade], key=lambda m: m.published_at_ms))
    voices = sum(row.effective_n for row in written.buckets if row.start_ms >= base_ms - 60_000)  # type: ignore[attr-defined]
    assert voices < 15


def test_late_and_future_mentions_are_named_and_change_nothing() -> None:
    core = PartitionCore(policy=POLICY, rules=RULES)
    now_ms = START_MS + 30 * HOUR_MS
    assert core.take(mention("AAA", now_ms, 1), origin="news/0", now_ms=now_ms) is Fate.FOLDED
    assert core.take(mention("AAA", now_ms, 1), origin="news/0", now_ms=now_ms) is Fate.DUPLICATE
    assert core.take(mention("AAA", now_ms - HOUR_MS, 2), origin="news/0", now_ms=now_ms) is Fate.LATE
    assert core.take(mention("AAA", now_ms + HOUR_MS, 3), origin="news/0", now_ms=now_ms) is Fate.FUTURE
    watermark_ms = core.watermark_ms
    assert watermark_ms == now_ms - POLICY.lateness_ms
    assert dict(core.counts) == {Fate.LATE: 1, Fate.FUTURE: 1, Fate.DUPLICATE: 1, Fate.FOLDED: 1}


def test_a_silent_stream_still_closes_its_last_bucket() -> None:
    core = PartitionCore(policy=POLICY, rules=RULES)
    core.take(mention("AAA", START_MS, 1), origin="news/0", now_ms=START_MS)
    assert core.advance().buckets == ()
    assert core.tick(START_MS + 10 * MINUTE_MS, drained=False).buckets == ()
    assert [row.raw_n for row in core.tick(START_MS + 10 * MINUTE_MS, drained=True).buckets] == [1]


def test_an_idle_entity_is_small_in_the_database() -> None:
    written = play(history())
    assert all(len(blob) < 2_000 for name, blob in written.states.items() if name != "BBB")
    assert msgspec.msgpack.decode(written.states["AAA"])[0] == STATE_VERSION


def test_who_is_silent_for_a_day_sleeps_and_wakes_as_a_restart_would_find_it() -> None:
    """Asleep only the packed record is held; what is decided afterwards does not tell the two apart."""
    later_ms = START_MS + 9 * 24 * HOUR_MS
    silence = [mention("ZZZ", START_MS + day * 24 * HOUR_MS, 5_000 + day, polarity=0.0) for day in range(5, 9)]
    again = [mention("BBB", later_ms + k * 4 * MINUTE_MS, 6_000 + k) for k in range(12)]
    mentions = [*history(), *silence, *again]
    core = PartitionCore(policy=POLICY, rules=RULES)
    for each in [*history(), *silence]:
        core.take(each, origin="news/0", now_ms=None)
    core.finish()
    assert core.awake == 1, "only of ZZZ was anything said within a day"
    slept, restarted = play(mentions, cuts=[len(mentions) - 12]), play(mentions, cuts=[len(mentions) - 12], stops=True)
    assert slept.transitions == restarted.transitions
    assert slept.states == restarted.states
    assert [step.alert.entity for step in slept.transitions if step.at_ms >= later_ms][:1] == ["BBB"]


def test_a_block_that_held_only_copies_leaves_the_same_record_asleep_or_restarted() -> None:
    """What the last day's blocks were made from is dropped in sleep; a stored record from before is dropped when it wakes."""
    stories = [mention("QQQ", START_MS + block * 4 * HOUR_MS, block) for block in range(3)]
    copy = mention("QQQ", START_MS + 12 * HOUR_MS, 3, text=stories[-1].text)
    silence = [mention("ZZZ", START_MS + day * 24 * HOUR_MS, 5_000 + day, polarity=0.0) for day in range(1, 9)]
    mentions = [*stories, copy, *silence, mention("QQQ", START_MS + 9 * 24 * HOUR_MS, 6_000)]
    slept, restarted = (play(mentions, cuts=[len(mentions) - 1], stops=stops) for stops in (False, True))
    assert slept.states == restarted.states


def test_an_idle_entity_is_small_in_memory() -> None:
    """Two channels' records, everything counted: under 2 KB."""
    assert 200 < bytes_per_idle_entity(RULES, entities=300) < 2_000
