"""A history through the live code path."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from monitor.alerting import parse_rules
from monitor.backtest import (
    KnownEvent,
    calibrate,
    compare,
    judge_events,
    null_replay,
    run_backtest,
    score_documents,
    write_report,
)
from monitor.backtest.nulls import poisson_interval
from monitor.clock import to_rfc3339
from monitor.intake.kafka import partition_of
from monitor.records import AlertTransition, Document, LinkedEntity, ScoredMention
from tests.builders import WordJudge
from tests.unit.test_core import RULES, START_MS, history

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000
_FIELDS: dict[str, Callable[[ScoredMention], object]] = {
    "entity": lambda m: m.entity,
    "day": lambda m: m.published_at_ms // DAY_MS,
    "hour": lambda m: m.published_at_ms % DAY_MS,
}
FILES = ("alerts.jsonl", "summary.json", "report.html")


class CountingJudge(WordJudge):
    """Remembers how many documents it was asked for."""

    asked = 0

    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> Sequence[Sequence[ScoredMention]]:
        self.asked += len(documents)
        return super().judge(documents, now_ms=now_ms)


class _Balanced(HTMLParser):
    """Every tag that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_same_history_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, mentions in (("one", history()), ("other", list(reversed(history())))):
        write_report(run_backtest(mentions, rules=RULES), tmp_path / name)
    for file in FILES:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    assert "BBB" in (tmp_path / "one" / "report.html").read_text("utf-8")


def test_an_event_is_found_with_its_delay_and_other_alerts_are_counted() -> None:
    told = history()
    result = run_backtest(told, rules=RULES, partitions=1)
    event = KnownEvent(entity="BBB", name="crash", date="2027-01-18", direction="negative", pattern="w10")
    found = judge_events(result, told, [event])
    assert found["detected"] == found["judged"] == 1
    assert 0 <= found["events"][0]["delay_stories"] <= 6
    assert (found["recall"], found["precision"]) == (1.0, round(1 / len(result.alerts), 3))
    assert found["delay_stories_median"] == found["events"][0]["delay_stories"]


def test_copies_are_one_story_in_a_delay_and_an_early_alert_is_a_lead() -> None:
    told = history()
    crash = [m for m in told if m.entity == "BBB" and m.document in {f"d:{n}" for n in range(1_000, 1_012)}]
    copies = [
        msgspec.structs.replace(
            crash[0], id=f"copy{k}", document=f"c:{k}", published_at_ms=crash[0].published_at_ms + k
        )
        for k in range(1, 20)
    ]
    event = KnownEvent(entity="BBB", name="crash", date="2027-01-18", direction="negative", pattern="[wxy]")
    result = run_backtest([*told, *copies], rules=RULES, partitions=1)
    (one,) = judge_events(result, [*told, *copies], [event])["events"]
    assert one["items"] >= one["stories"] + len(copies)
    assert one["delay_stories"] <= 6
    late = KnownEvent(entity="BBB", name="crash", date="2027-01-18", direction="negative", pattern="w1011")
    (ahead,) = judge_events(result, told, [late])["events"]
    assert ahead["delay_minutes"] < 0
    assert ahead["delay_stories"] == 0


def densest(mentions: Sequence[ScoredMention]) -> int:
    """The most that is said of BBB within an hour of the clock."""
    return max(Counter(m.published_at_ms // 3_600_000 for m in mentions if m.entity == "BBB").values())


def test_a_null_replay_keeps_the_volume_and_breaks_the_burst() -> None:
    told = history()
    moved = null_replay(told, seed=1)
    assert sorted(m.id for m in moved) == sorted(m.id for m in told)
    assert moved == null_replay(told, seed=1)
    assert moved != null_replay(told, seed=2)
    for field in ("entity", "day", "hour"):
        assert Counter(map(_FIELDS[field], moved)) == Counter(map(_FIELDS[field], told))
    assert densest(moved) < densest(told) / 2


def test_a_story_moves_with_its_copies_in_a_null_replay() -> None:
    told = history()
    copies = [
        msgspec.structs.replace(m, id=f"copy{k}", published_at_ms=m.published_at_ms + 60_000)
        for k, m in enumerate(told)
    ]
    moved = {m.id: m.published_at_ms for m in null_replay([*told, *copies], seed=3)}
    assert all(moved[f"copy{k}"] - moved[m.id] == 60_000 for k, m in enumerate(told))


def test_promised_and_found_false_alerts_stand_side_by_side() -> None:
    seen: list[int] = []
    found = calibrate(history(), rules=RULES, sectors={}, replays=2, partitions=1, budgets=(0.5,), progress=seen.append)
    assert [row["promised_per_day"] for row in found["budgets"]] == [0.5, RULES.budget.false_alerts_per_day]
    assert [row["detector"] for row in found["detectors"]] == ["burst", "tone", "drift", "divergence"]
    assert sum(seen) == 2 * 2 * len(history())
    for row in found["budgets"]:
        assert row["low"] <= row["found_per_day"] <= row["high"]
        assert row["kept"] == (row["low"] <= row["promised_per_day"])
        assert sum(row["by_replay"]) == row["alerts"]


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.0, 3.7), (1, 0.03, 5.6), (10, 4.8, 18.4), (100, 81.4, 121.6)])
def test_the_interval_of_a_count_is_that_of_the_tables(count: int, low: float, high: float) -> None:
    """Exact limits, e.g. Breslow & Day 1987, table 2.10."""
    found = poisson_interval(count)
    assert found[0] == pytest.approx(low, abs=0.1)
    assert found[1] == pytest.approx(high, abs=0.1)


def test_scores_are_remembered_by_content_and_bundle(tmp_path: Path) -> None:
    documents = [
        (
            Document(id=str(k), source="s", channel="news", published_at_ms=START_MS + k, title=f"Apple falls {k}"),
            (LinkedEntity(entity="AAPL", spans=(), cue="name"),),
        )
        for k in range(5)
    ]
    judge = CountingJudge()
    assert score_documents(documents, judge=CountingJudge(), bundle="b1") == score_documents(
        documents, judge=CountingJudge(), bundle="b1", cache_dir=tmp_path / "fresh"
    )
    first = score_documents(documents, judge=judge, bundle="b1", cache_dir=tmp_path)
    assert score_documents(documents, judge=judge, bundle="b1", cache_dir=tmp_path) == first
    assert judge.asked == 5
    score_documents(documents, judge=judge, bundle="b2", cache_dir=tmp_path)
    assert judge.asked == 10
    assert first[0].scored_at_ms == START_MS
    for file in tmp_path.glob("*/*.msgpack"):
        file.write_bytes(b"torn")
    assert score_documents(documents, judge=judge, bundle="b1", cache_dir=tmp_path) == first


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Batches are kept one by one, and always cut at the same places: what was judged before changes no score."""
    documents = [
        (
            Document(id=str(k), source="s", channel="news", published_at_ms=START_MS + k, title=f"Apple falls {k}"),
            (LinkedEntity(entity="AAPL", spans=(), cue="name"),),
        )
        for k in range(600)
    ]

    class Dying(CountingJudge):
        def judge(
            self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
        ) -> Sequence[Sequence[ScoredMention]]:
            if self.asked:
                raise KeyboardInterrupt
            return super().judge(documents, now_ms=now_ms)

    with pytest.raises(KeyboardInterrupt):
        score_documents(documents, judge=Dying(), bundle="b", cache_dir=tmp_path)
    judge = CountingJudge()
    assert len(score_documents(documents, judge=judge, bundle="b", cache_dir=tmp_path)) == 600
    assert judge.asked == 600 - 256


def test_a_comparison_names_what_only_one_rule_file_finds() -> None:
    loud, quiet = run_backtest(history(), rules=RULES), run_backtest(history(crash_at_h=None), rules=RULES)
    assert compare(quiet, loud)["added"]
    assert compare(loud, loud)["added"] == compare(loud, loud)["dropped"] == []
    assert compare(loud, quiet)["dropped"] == compare(quiet, loud)["added"]


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_bytes_do_not_depend_on_the_order_of_sets(tmp_path: Path, seed: str) -> None:
    """Another process has another order of sets and hashes; the report has not."""
    write = (
        "import sys; from pathlib import Path; from monitor.backtest import run_backtest, write_report;"
        "from tests.unit.test_core import RULES, history;"
        "write_report(run_backtest(history(), rules=RULES), Path(sys.argv[1]))"
    )
    environ = os.environ | {"PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", write, str(tmp_path / "other")], check=True, env=environ, cwd=ROOT)
    write_report(run_backtest(history(), rules=RULES), tmp_path / "own")
    for file in FILES:
        assert (tmp_path / "own" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_the_report_is_whole_in_itself_and_shows_what_happened(tmp_path: Path) -> None:
    told = history()
    result = run_backtest(told, rules=RULES, partitions=1, names={"BBB": "B & Sons <Ltd>"})
    event = KnownEvent(entity="BBB", name="crash", date="2027-01-18", direction="negative", pattern="w10")
    quiet = run_backtest(told, rules=parse_rules({"name": "quiet"}, "test"), partitions=1)
    row = {"rule": "quiet", "by_kind": {}, **compare(result, quiet), "alerts": len(quiet.alerts), "alerts_per_day": 0.0}
    extra = {
        "events": judge_events(result, told, [event]),
        "calibration": calibrate(told, rules=RULES, sectors={}, replays=1, partitions=1, budgets=(1.0,)),
        "sweep": [row],
    }
    summary = write_report(result, tmp_path, extra=extra)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "//" not in re.sub(r"</?[a-z]+>", "", page).replace("<!doctype html>", "")
    assert "B &amp; Sons &lt;Ltd&gt;" in page
    assert "<Ltd>" not in page
    for alert in result.alerts:
        assert f'id="a-{alert.id}"' in page
        assert f'href="#a-{alert.id}"' in page
    for words in ("Known events", "Are the promises kept?", "Rules side by side", "Storms, flaps and brigades"):
        assert words in page
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert summary["flaps"] == result.flaps()


def test_an_empty_history_still_has_a_report(tmp_path: Path) -> None:
    summary = write_report(run_backtest([], rules=RULES), tmp_path)
    assert summary["alerts"] == summary["mentions"] == 0
    assert "No mentions" in (tmp_path / "report.html").read_text("utf-8")


def test_a_mistyped_year_does_not_stretch_a_history() -> None:
    """One item of next decade and one of long ago: named fates, and the days are those of the others."""
    told = history()
    strays = [
        msgspec.structs.replace(told[0], id="far", published_at_ms=told[0].published_at_ms + 3_650 * DAY_MS),
        msgspec.structs.replace(told[0], id="old", published_at_ms=told[0].published_at_ms - 400 * DAY_MS),
    ]
    clean, stretched = (run_backtest(each, rules=RULES, partitions=1) for each in (told, [*told, *strays]))
    assert (stretched.days, stretched.transitions) == (clean.days, clean.transitions)
    assert stretched.counts == {**clean.counts, "late": 1, "future": 1}


def test_a_flap_a_renewal_and_a_storm_are_told() -> None:
    """Alerts of four companies in one hour; two of them open again, one after it had calmed, one after its longest time."""
    told = run_backtest(history(), rules=RULES, partitions=1)
    first = next(t for t in told.transitions if t.change == "opened")

    def step(entity: str, change: str, at_ms: int, reason: str = "test") -> AlertTransition:
        alert = msgspec.structs.replace(
            first.alert, id=f"{entity}{at_ms}", entity=entity, opened_at=to_rfc3339(first.at_ms)
        )
        return AlertTransition(alert=alert, change=change, reason=reason, at_ms=at_ms)  # type: ignore[arg-type]

    steps = [step(entity, "opened", first.at_ms) for entity in "ABCD"]
    steps += [step("A", "resolved", first.at_ms + 60_000), step("B", "resolved", first.at_ms + 60_000, "expired")]
    steps += [step("A", "opened", first.at_ms + 61 * 60_000), step("B", "opened", first.at_ms + 60_000)]
    result = replace(told, transitions=tuple(steps), alerts=tuple(s.alert for s in steps[:4]))
    assert [(s["alerts"], s["entities"]) for s in result.storms()] == [(4, ["A", "B", "C", "D"])]
    assert [(f["entity"], f["minutes_after"]) for f in result.flaps()] == [("A", 60)]
    assert [(f["entity"], f["minutes_after"]) for f in result.renewals()] == [("B", 0)]


def test_entities_lie_where_kafka_puts_them() -> None:
    assert partition_of("AAPL", 1) == 0
    assert {partition_of(f"E{k}", 4) for k in range(50)} == {0, 1, 2, 3}
