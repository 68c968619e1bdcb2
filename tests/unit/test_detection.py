"""Detection delay against the optimum, and the judge of prices, on histories small enough to count by hand."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monitor.backtest.delay import delay_against_optimum
from monitor.backtest.prices import Day, Opened, at_rate, load_prices, make_judge, plain_detectors
from monitor.errors import Fatal
from monitor.records import ScoredMention, mention_id


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def told(entity: str, at_ms: int, number: int, *, polarity: float = -0.5, text: str | None = None) -> ScoredMention:
    return ScoredMention(
        id=mention_id(str(number), entity),
        entity=entity,
        document=str(number),
        source="wire",
        channel="social",
        published_at_ms=at_ms,
        text=text or f"story{number} about{number * 3} things{number * 7}",
        probabilities=(0.6, 0.3, 0.1),
        polarity=polarity,
        model="words@1",
        scored_at_ms=at_ms,
    )


def test_every_shift_is_seen_almost_as_soon_as_by_the_detector_that_knows_its_size() -> None:
    """Within 1.2 of the CUSUM optimum at equal false alarms; the seed is fixed, the law is not."""
    figures = delay_against_optimum(runs=150, false_alarm_every=150, seed=3)
    assert [each["sigma"] for each in figures["shifts"]] == [0.5, 1.0, 2.0]
    assert all(0.9 < each["ratio"] <= 1.2 for each in figures["shifts"])


DAYS = (
    Day(entity="AAA", date="2014-03-03", z=0.3),
    Day(entity="AAA", date="2014-03-04", z=-4.5),
    Day(entity="AAA", date="2014-03-05", z=0.1),
    Day(entity="BBB", date="2014-03-03", z=2.5),
    Day(entity="BBB", date="2014-03-04", z=0.0),
    Day(entity="BBB", date="2014-03-05", z=0.0),
)
STREAM = [told("AAA", at("2014-03-04T12:00") + k * 60_000, k) for k in range(10)]


def test_an_alert_is_right_on_its_day_or_the_next_in_its_direction_only() -> None:
    judge = make_judge(DAYS, STREAM)
    right = Opened("AAA", at("2014-03-03T15:00"), -1)
    wrong_way = Opened("AAA", at("2014-03-03T15:00"), 1)
    too_late = Opened("AAA", at("2014-03-05T15:00"), -1)
    assert judge.judge([right])["precision"] == 1.0
    assert judge.judge([right, wrong_way, too_late])["precision"] == pytest.approx(1 / 3, abs=0.001)


def test_a_move_without_documents_is_not_asked_for_and_one_with_them_is_found_within_a_day() -> None:
    """BBB's is too small, and AAA's had ten documents on its day."""
    judge = make_judge(DAYS, STREAM)
    found = judge.judge([Opened("AAA", at("2014-03-05T23:00"), -1)])
    assert (found["moves"], found["recall"]) == (1, 1.0)
    assert judge.judge([Opened("AAA", at("2014-03-06T01:00"), -1)])["recall"] == 0.0
    assert judge.judge([Opened("AAA", at("2014-03-04T01:00"), 1)])["recall"] == 0.0
    assert make_judge(DAYS, STREAM[:9]).judge([])["moves"] == 0


def test_before_the_close_means_before_the_moves_own_close() -> None:
    judge = make_judge(DAYS, STREAM)
    early, late = Opened("AAA", at("2014-03-04T19:00"), -1), Opened("AAA", at("2014-03-04T20:30"), -1)
    assert judge.judge([early])["right_before_the_close"] == 1.0
    assert judge.judge([early, late])["right_before_the_close"] == 0.5


def test_a_weekends_alert_belongs_to_monday() -> None:
    judge = make_judge(DAYS, STREAM)
    assert judge.judge([Opened("BBB", at("2014-03-01T12:00"), 1)])["precision"] == 1.0


def test_copies_are_raw_counts_but_no_voices() -> None:
    copies = [told("AAA", at("2014-03-04T12:00") + k * 1_000, k, text="the same words every time") for k in range(50)]
    readings = plain_detectors(copies)
    assert len(readings["distinct voices, 4 h"]) == 1
    assert len(readings["raw counts, 8 h"]) == 50
    assert max(score for _, _, score, _ in readings["raw counts, 8 h"]) > 10


def test_a_plain_detector_opens_as_many_alerts_as_it_is_given() -> None:
    stream = [told(f"E{k % 7}", at("2014-03-03T00:00") + k * 1_800_000, k) for k in range(300)]
    for readings in plain_detectors(stream).values():
        assert len(at_rate(readings, 12, cooldown_ms=8 * 3_600_000)) <= 12


def test_bad_lines_of_a_prices_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "z.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"entity": "AAA", "date": "2014-03-03", "z": 1.0}\n{"entity": "AAA"}\n'))
    with pytest.raises(Fatal) as caught:
        load_prices(path)
    assert "line 2" in caught.value.faults[0]
    with pytest.raises(Fatal, match="can't be read"):
        load_prices(tmp_path / "none.jsonl")
