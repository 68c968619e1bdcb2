"""Rules, baselines, detectors, budget and life cycle, each on its own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from monitor.alerting import Budget, BudgetState, Habit, Market, OpenAlert, Reason, Rules, load_rules, parse_rules
from monitor.alerting.baselines import expected
from monitor.alerting.detectors import Voices, burst, surplus, tail_score
from monitor.alerting.lifecycle import alert_id, step
from monitor.alerting.rules import BaselineRules, BudgetRules, DetectorRules, LifeRules
from monitor.errors import Fatal
from monitor.records import Alert

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_rules_are_sound() -> None:
    rules = load_rules(ROOT / "configs/rules/default.toml")
    assert rules.budget.false_alerts_per_day == 2.0
    assert rules.windows_s == (300, 3_600, 14_400, 86_400)


def test_every_fault_of_a_rule_file_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        "[budget]\nfalse_alerts_per_day = 0\n[time]\nlateness_s = 600\n[detectors]\nburst_windows_s = [300, 3600]\n"
        "[life]\ncool_s = 3\n"
    )
    with pytest.raises(Fatal) as caught:
        load_rules(path)
    faults = "\n".join(caught.value.faults)
    assert "budget.false_alerts_per_day" in faults
    assert "detectors.burst_windows_s.0: 300 s is shorter than time.lateness_s" in faults
    assert "life.cool_s: unknown key" in faults
    assert all(str(path) in fault for fault in caught.value.faults)


def test_a_missing_rule_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="no such rule file"):
        load_rules(tmp_path / "none.toml")


def test_a_budget_that_no_detector_shares_is_refused() -> None:
    with pytest.raises(Fatal, match=r"1 fault"):
        parse_rules({"budget": {"burst": 0, "tone": 0, "drift": 0, "divergence": 0}}, "rules")


@pytest.mark.parametrize("z", [0.5, 2.0, 5.0, 29.0])
def test_the_tail_score_is_the_normal_tail(z: float) -> None:
    assert math.isclose(tail_score(z), -math.log10(0.5 * math.erfc(z / math.sqrt(2))), rel_tol=1e-9)


def test_the_tail_score_goes_on_where_floating_point_ends() -> None:
    assert tail_score(29.99) < tail_score(30.01) < tail_score(37.0)


def test_overdispersion_makes_the_same_surplus_less_surprising() -> None:
    assert surplus(10, 2, size=100) > surplus(10, 2, size=1) > surplus(10, 9, size=1) > 0
    assert surplus(2, 10, size=1) == 0


def test_a_cold_start_expects_a_wider_spread_than_a_long_record() -> None:
    rules = BaselineRules()
    young, old = Market(hour=0, first_hour=0), Market(hour=0, first_hour=0)
    habit_young, habit_old = Habit(at_hour=0, block=0), Habit(at_hour=0, block=0, voices=200.0, squares=400.0)
    for market, hours in ((young, 24), (old, 24 * 60)):
        market.entities = 10
        for hour in range(hours):
            market.add(5.0, 0.0, 1.0, 1.0, 1.0)
            market.move_to(hour + 1, rules)
    wide = expected(habit_young, young, at_ms=0, exposure=4.0, factor=1.0, rules=rules)
    narrow = expected(habit_old, old, at_ms=0, exposure=4.0, factor=1.0, rules=rules)
    assert wide.size < narrow.size
    assert wide.exposure_h < narrow.exposure_h


def test_the_profile_learns_the_hours_of_the_day() -> None:
    market = Market(hour=0, first_hour=0, entities=1)
    for hour in range(24 * 21):
        market.add(9.0 if hour % 24 == 14 else 1.0, 0.0, 0.0, 0.0, 0.0)
        market.move_to(hour + 1, BaselineRules())
    assert market.profile(14) > 3 * market.profile(3)


def test_no_surplus_is_no_burst_and_a_burst_leans_with_its_tone() -> None:
    rules = DetectorRules()
    market = Market(hour=0, first_hour=0, entities=1)
    usual = expected(Habit(at_hour=0, block=0), market, at_ms=0, exposure=4.0, factor=1.0, rules=BaselineRules())
    assert burst(Voices(total=0, negative=0, positive=0, polarity=0), usual, 3_600, rules) is None
    signal = burst(Voices(total=12, negative=9, positive=1, polarity=-8), usual, 3_600, rules)
    assert signal is not None
    assert signal.direction == "negative"


def budget(per_day: float) -> Budget:
    rules = BudgetRules(false_alerts_per_day=per_day, burst=1.0)
    return Budget(rules=rules, gap_ms=DAY_MS, share=1.0, state=BudgetState(since_ms=0))


@pytest.mark.parametrize("per_day", [0.5, 2.0, 10.0])
def test_the_budget_is_held_whatever_the_scores_are(per_day: float) -> None:
    """Scores from a law that the theory knows nothing of: the rank alone holds the rate."""
    own, fired, seed = budget(per_day), 0, 1
    for day in range(60):
        for k in range(40):
            seed = (seed * 1_103_515_245 + 12_345) % 2**31
            score = 2.0 + 6.0 * seed / 2**31
            at_ms, entity = day * DAY_MS + k * DAY_MS // 40, f"e{k}.{day}"
            own.observe("burst", entity, score, at_ms)
            if own.rate("burst", entity, score, at_ms, 100) <= own.allowed("burst"):
                fired += day >= 10
    assert 0.5 * per_day <= fired / 50 <= 1.6 * per_day


def test_a_stretch_of_one_entity_is_one_episode() -> None:
    own = budget(2.0)
    for minute in range(100):
        own.observe("burst", "AAA", 3.0 + minute / 100, minute * 60_000)
    assert own.rate("burst", "AAA", 3.5, DAY_MS, 1) == pytest.approx(own.rate("burst", "BBB", 3.5, DAY_MS, 1) - 1 / 4)


def test_the_needed_score_is_the_edge_of_what_fires() -> None:
    own = budget(2.0)
    needed = own.needed("burst", 10 * DAY_MS, 100)
    assert own.rate("burst", "x", needed, 10 * DAY_MS, 100) <= own.allowed("burst")
    assert own.rate("burst", "x", needed - 0.01, 10 * DAY_MS, 100) > own.allowed("burst")


def open_alert() -> OpenAlert:
    alert = Alert(
        id="a",
        entity="AAA",
        kind="burst",
        direction="negative",
        opened_at="2026-01-01T00:00:00Z",
        resolved_at=None,
        severity="low",
        p_value=0.01,
        polarity=-0.5,
        effective_n=5,
        raw_n=5,
        baseline={},
        evidence=(),
        counter_evidence=(),
        flip_margin=0.5,
        model="m",
        rule="r",
    )
    return OpenAlert(alert=alert, channel="news", needed=4.0, peak=5.0, opened_ms=0, updated_ms=0)


def test_an_alert_closes_only_after_it_stayed_calm() -> None:
    """A dip below the closing score that recovers is no end."""
    rules, own = LifeRules(close_share=0.5, calm_s=3_600, check_s=900), open_alert()
    scores = [(1, 1.0), (2, 2.5), (3, 1.0), (4, 1.9)]
    for quarter, score in scores:
        assert step(own, score=score, reversed_by=False, at_ms=quarter * 900_000, rules=rules) is None
    assert step(own, score=1.0, reversed_by=False, at_ms=7 * 900_000, rules=rules) is Reason.CALMED


def test_a_firing_the_other_way_ends_it_and_so_does_age() -> None:
    assert step(open_alert(), score=9.0, reversed_by=True, at_ms=1, rules=LifeRules()) is Reason.REVERSED
    late_ms = round(LifeRules().open_max_s * 1000)
    assert step(open_alert(), score=9.0, reversed_by=False, at_ms=late_ms, rules=LifeRules()) is Reason.EXPIRED


def test_updates_need_a_clear_rise_and_a_pause() -> None:
    own, rules = open_alert(), LifeRules()
    assert step(own, score=5.5, reversed_by=False, at_ms=2 * HOUR_MS, rules=rules) is None
    assert step(own, score=8.0, reversed_by=False, at_ms=60_000, rules=rules) is None
    assert step(own, score=8.0, reversed_by=False, at_ms=2 * HOUR_MS, rules=rules) is Reason.STRONGER


def test_the_same_facts_give_the_same_id() -> None:
    one = alert_id(entity="A", kind="burst", direction="negative", opened_at_ms=1, rule="r")
    assert one == alert_id(entity="A", kind="burst", direction="negative", opened_at_ms=1, rule="r")
    assert one != alert_id(entity="A", kind="burst", direction="positive", opened_at_ms=1, rule="r")
    assert isinstance(Rules().name, str)
