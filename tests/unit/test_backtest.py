"""A history through the live code path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monitor.backtest import (
    KnownEvent,
    compare,
    judge_events,
    null_replay,
    partition_of,
    run_backtest,
    score_documents,
    write_report,
)
from monitor.records import Document, LinkedEntity, ScoredMention
from tests.builders import WordJudge
from tests.unit.test_core import RULES, START_MS, history

FILES = ("alerts.jsonl", "summary.json", "report.html")


class CountingJudge(WordJudge):
    """Remembers how many documents it was asked for."""

    asked = 0

    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> Sequence[Sequence[ScoredMention]]:
        self.asked += len(documents)
        return super().judge(documents, now_ms=now_ms)


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


def test_a_null_replay_keeps_the_volume_and_breaks_the_burst() -> None:
    told = history()
    moved = null_replay(told, seed=1)
    assert sorted(m.id for m in moved) == sorted(m.id for m in told)
    assert moved == null_replay(told, seed=1)
    assert moved != null_replay(told, seed=2)


def test_scores_are_remembered_by_content_and_bundle(tmp_path: Path) -> None:
    documents = [
        (
            Document(id=str(k), source="s", channel="news", published_at_ms=START_MS + k, title=f"Apple falls {k}"),
            (LinkedEntity(entity="AAPL", spans=(), cue="name"),),
        )
        for k in range(5)
    ]
    judge = CountingJudge()
    first = score_documents(documents, judge=judge, bundle="b1", cache_dir=tmp_path)
    assert score_documents(documents, judge=judge, bundle="b1", cache_dir=tmp_path) == first
    assert judge.asked == 5
    score_documents(documents, judge=judge, bundle="b2", cache_dir=tmp_path)
    assert judge.asked == 10
    assert first[0].scored_at_ms == START_MS


def test_a_comparison_names_what_only_one_rule_file_finds() -> None:
    loud, quiet = run_backtest(history(), rules=RULES), run_backtest(history(crash_at_h=None), rules=RULES)
    assert compare(quiet, loud)["added"]
    assert compare(loud, loud)["added"] == compare(loud, loud)["dropped"] == []


def test_entities_lie_where_kafka_puts_them() -> None:
    assert partition_of("AAPL", 1) == 0
    assert {partition_of(f"E{k}", 4) for k in range(50)} == {0, 1, 2, 3}
