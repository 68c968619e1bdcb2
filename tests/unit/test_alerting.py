"""Rules, baselines, detectors, budget and life cycle, each on its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from scipy.stats import poisson

from monitor.alerting import Budget, BudgetState, Habit, Market, OpenAlert, Reason, Rules, load_rules, parse_rules
from monitor.alerting.baselines import close_block, expected, note_peak
from monitor.alerting.cusum import EMPTY, heights, step_bank
from monitor.alerting.detectors import burst, surplus, tail_score
from monitor.alerting.lifecycle import alert_id, step
from monitor.alerting.rules import BaselineRules, BudgetRules, DetectorRules, LifeRules
from monitor.errors import Fatal
from monitor.records import Voices
from tests.builders import an_alert

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
ROOT = Path(__file__).resolve().parents[2]


def test_the_shipped_rules_are_sound() -> None:
    rules = load_rules(ROOT / "configs/rules/default.toml")
    assert rules.budget.false_alerts_per_day == 2.0
    assert rules.windows_s == (300, 3_600, 14_400, 28_800, 86_400)


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
    assert surplus(2, 10, size=1) < 0


def test_a_cold_start_expects_a_wider_spread_than_a_long_record() -> None:
    rules = BaselineRules()
    young, old = Market(hour=0, first_hour=0), Market(hour=0, first_hour=0)
    habit_young, habit_old = Habit(at_hour=0, block=0), Habit(at_hour=0, block=0, voices=200.0, squares=400.0)
    for market, hours in ((young, 24), (old, 24 * 60)):
        market.entities = 10
        for hour in range(hours):
            market.add(5.0, 0.0, 1.0, 1.0, 1.0)
            market.move_to(hour + 1, rules)
    wide = expected(habit_young, young, at_ms=0, rules=rules)
    narrow = expected(habit_old, old, at_ms=0, rules=rules)
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
    usual = expected(Habit(at_hour=0, block=0), market, at_ms=0, rules=BaselineRules())
    assert burst(Voices(total=0, negative=0, positive=0, polarity=0), usual, 3_600, rules) is None
    signal = burst(Voices(total=12, negative=9, positive=1, polarity=-8), usual, 3_600, rules)
    assert signal is not None
    assert signal.direction == "negative"


def budget(per_day: float) -> Budget:
    rules = BudgetRules(false_alerts_per_day=per_day)
    shares = Rules(budget=rules).shares
    return Budget(rules=rules, shares=shares, gap_ms=DAY_MS, share=1.0, state=BudgetState.since(0))


def fired_by(own: Budget, scores: Sequence[float], *, days: int, entities: int = 100) -> list[int]:
    """One reading after the other, evenly over the days, of ever other entities; the moments at which an alert opened."""
    fired = []
    for k, score in enumerate(scores):
        at_ms = k * days * DAY_MS // len(scores)
        own.move_to(at_ms)
        own.observe("burst", f"e{k}", score, at_ms)
        if own.rate("burst", score, entities) <= own.allowed("burst", at_ms):
            own.spend(at_ms)
            fired.append(at_ms)
    return fired


# What the theory promises, a far heavier tail and a lighter one.
LAWS: dict[str, Callable[[float], float]] = {
    "exact": lambda u: -math.log10(u),
    "heavy": lambda u: 3.0 / u**0.3,
    "light": lambda u: math.sqrt(-math.log(u)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("per_day", [0.5, 2.0, 10.0])
def test_the_budget_is_spent_and_no_more_whatever_the_scores_are(per_day: float, law: str) -> None:
    """Realised alerts lie within the 95% interval of a Poisson count with the budget's mean, from the first day on."""
    rng = random.Random(f"{per_day} {law}")
    days, a_day = 28, 60
    scores = [LAWS[law](1.0 - rng.random()) for _ in range(days * a_day)]
    count = len(fired_by(budget(per_day), scores, days=days))
    low, high = poisson.ppf([0.025, 0.975], per_day * days)
    assert low <= count <= high


def test_when_scores_rise_for_good_the_account_brings_the_rate_back() -> None:
    """The record is half a year of faint scores; then all are louder, and the budget still holds after a while."""
    rng = random.Random(5)
    own, days = budget(2.0), 240
    scores = [rng.random() + (3.0 if k >= 120 * 20 else 0.0) for k in range(days * 20)]
    late = [at_ms for at_ms in fired_by(own, scores, days=days) if at_ms >= 180 * DAY_MS]
    assert 0.7 * 2.0 <= len(late) / 60 <= 1.3 * 2.0


def test_a_stretch_of_one_entity_is_one_episode() -> None:
    own = budget(2.0)
    for minute in range(100):
        own.observe("burst", "AAA", 3.0 + minute / 100, minute * 60_000)
    assert sum(own.state.ledgers["burst"].peaks) == pytest.approx(1.0)


def test_the_record_fades_with_its_half_life() -> None:
    own = budget(2.0)
    own.observe("burst", "AAA", 3.0, 0)
    own.move_to(30 * DAY_MS)
    assert sum(own.state.ledgers["burst"].peaks) == pytest.approx(0.5)
    assert own.state.ledgers["burst"].now == {}
    assert own.state.days == pytest.approx(30 / math.log(4), rel=0.01)


def test_the_needed_score_is_the_edge_of_what_fires() -> None:
    own = budget(2.0)
    needed = own.needed("burst", 0, 100)
    assert own.rate("burst", needed, 100) <= own.allowed("burst", 0)
    assert own.rate("burst", needed - 0.01, 100) > own.allowed("burst", 0)


def test_a_short_record_does_not_make_the_third_loud_company_wait_for_the_loudest() -> None:
    """Two real bursts in a day of murmur: ranks alone would let nothing fire that is not louder than they were."""
    own = budget(1.0)
    for k in range(60):
        own.move_to(k * DAY_MS // 60)
        own.observe("burst", f"e{k}", 0.5 + k % 10 / 5, k * DAY_MS // 60)
    for name in ("AAA", "BBB"):
        own.observe("burst", name, 40.0, DAY_MS)
        own.spend(DAY_MS)
    own.observe("burst", "CCC", 25.0, DAY_MS)
    assert own.rate("burst", 25.0, 60) <= own.allowed("burst", DAY_MS) < own.rate("burst", 2.3, 60)


def test_shorter_windows_have_shares_of_their_own_beside_the_longest() -> None:
    rules = Rules(budget=BudgetRules(short_windows=0.3), detectors=DetectorRules(burst_windows_s=(300, 3_600, 28_800)))
    assert rules.shares["burst"] == 1.0
    assert rules.shares["burst/300"] == rules.shares["burst/3600"] == pytest.approx(0.15)


def test_a_sectors_tone_stands_in_for_a_company_of_which_little_is_known() -> None:
    """A bank that nobody has spoken of yet is expected to sound like banks, not like the market."""
    rules, market = BaselineRules(), Market(hour=0, first_hour=0, entities=10)
    market.add(500.0, -250.0, 125.0, 400.0, 10.0, sector="Finance")
    market.add(500.0, 50.0, 5.0, 10.0, 60.0, sector="Technology")
    market.move_to(1, rules)
    tones = {
        sector: expected(Habit(at_hour=0, block=0), market, at_ms=0, rules=rules, sector=sector).tone
        for sector in ("Finance", "Technology", "")
    }
    assert tones["Finance"] < -0.4 < tones[""] < 0 < tones["Technology"]


def test_a_decisive_story_weighs_less_where_there_were_many() -> None:
    rules, market = BaselineRules(decisive_weight_max=10.0), Market(hour=0, first_hour=0, entities=10)
    market.add(1_000.0, 0.0, 10.0, 0.0, 0.0, decisive=20.0)
    market.move_to(1, rules)
    calm, troubled = Habit(at_hour=0, block=0, tone_w=50.0), Habit(at_hour=0, block=0, tone_w=50.0, decisive=30.0)
    worth = [expected(h, market, at_ms=0, rules=rules).rarity for h in (calm, troubled)]
    assert worth[0] > 3.0
    assert worth[1] == pytest.approx(1.0, abs=0.2)


def test_who_is_often_loud_must_be_louder() -> None:
    rules, market = BaselineRules(), Market(hour=0, first_hour=0, entities=2)
    wild, calm = Habit(at_hour=0, block=0), Habit(at_hour=0, block=0)
    for day in range(1, 60):
        for habit, peak in ((wild, 8.0), (calm, 1.0)):
            close_block(habit, market, day * DAY_MS, rules, "")
            note_peak(habit, peak)
        market.move_to(day * 24, rules)
    usual = [expected(h, market, at_ms=60 * DAY_MS, rules=rules).habit for h in (wild, calm)]
    assert usual[0] > 1.1
    assert usual[1] < 0.9


def test_a_reading_that_is_turned_away_unranked_could_not_have_fired() -> None:
    """`may_fire` saves the rank, it never decides otherwise."""
    rng, own, turned_away = random.Random(2), budget(2.0), 0
    for k in range(3_000):
        at_ms, score = k * 600_000, -math.log10(1.0 - rng.random())
        own.move_to(at_ms)
        own.observe("burst", f"e{k % 50}", score, at_ms)
        fires = own.rate("burst", score, 50) <= own.allowed("burst", at_ms)
        if not own.may_fire("burst", score, at_ms, 50):
            turned_away += 1
            assert not fires
        elif fires:
            own.spend(at_ms)
    assert turned_away > 2_000


def test_a_lasting_shift_raises_one_side_of_the_bank_and_its_end_lets_it_fall() -> None:
    bank = list(EMPTY)
    for _ in range(30):
        step_bank(bank, -0.8)
    up, down = heights(bank)
    assert up == 0.0
    assert down > 5.0
    for _ in range(30):
        step_bank(bank, 0.8)
    assert heights(bank)[1] == 0.0


def open_alert() -> OpenAlert:
    return OpenAlert(
        alert=an_alert(entity="AAA"),
        channel="news",
        needed={"burst": 4.0},
        peak=1.25,
        opened_ms=0,
        updated_ms=0,
    )


def test_an_alert_closes_only_after_it_stayed_calm() -> None:
    """A dip below the closing score that recovers is no end."""
    rules, own = LifeRules(close_share=0.5, calm_s=3_600, check_s=900), open_alert()
    for quarter, loudness in [(1, 0.25), (2, 0.63), (3, 0.25), (4, 0.48)]:
        assert step(own, loudness=loudness, reversed_by=False, at_ms=quarter * 900_000, rules=rules) is None
    assert step(own, loudness=0.25, reversed_by=False, at_ms=7 * 900_000, rules=rules) is Reason.CALMED


def test_a_firing_the_other_way_ends_it_and_so_does_age() -> None:
    assert step(open_alert(), loudness=2.25, reversed_by=True, at_ms=1, rules=LifeRules()) is Reason.REVERSED
    late_ms = round(LifeRules().open_max_s * 1000)
    assert step(open_alert(), loudness=2.25, reversed_by=False, at_ms=late_ms, rules=LifeRules()) is Reason.EXPIRED


def test_updates_need_a_clear_rise_and_a_pause() -> None:
    own, rules = open_alert(), LifeRules()
    assert step(own, loudness=1.37, reversed_by=False, at_ms=2 * HOUR_MS, rules=rules) is None
    assert step(own, loudness=2.0, reversed_by=False, at_ms=60_000, rules=rules) is None
    assert step(own, loudness=2.0, reversed_by=False, at_ms=2 * HOUR_MS, rules=rules) is Reason.STRONGER


def test_the_same_facts_give_the_same_id() -> None:
    one = alert_id(entity="A", kind="burst", direction="negative", opened_at_ms=1, rule="r")
    assert one == alert_id(entity="A", kind="burst", direction="negative", opened_at_ms=1, rule="r")
    assert one != alert_id(entity="A", kind="burst", direction="positive", opened_at_ms=1, rule="r")
    assert isinstance(Rules().name, str)
