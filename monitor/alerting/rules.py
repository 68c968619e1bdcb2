"""The rules of alerting: one TOML file, checked as a whole. Reading it is the only I/O of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.errors import Fatal
from monitor.records import AlertKind
from monitor.toml_files import read_toml

KINDS: tuple[AlertKind, ...] = ("burst", "tone", "drift", "divergence")
BUCKET_S = 60
DAY_S = 86_400
MARKET_S = 14_400

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetRules(_Section):
    """Alerts a day over the whole watchlist while nothing happens, and how the detectors share them.

    `short_windows`: what the shorter windows of burst have together, as a share of the longest's, beside it: they see the same
    bursts, only sooner, and what fires twice is told once.
    `half_life_days`: how long the record that scores are ranked against remembers. `prior_days`: how many days of record
    the theoretical p-values are worth while there is none. `gain`: by how much (natural log) one alert owed
    or overspent moves the rate that may fire, once the record is long.
    """

    false_alerts_per_day: Positive = 2.0
    burst: Share = 1.0
    tone: Share = 0.05
    drift: Share = 0.05
    divergence: Share = 0.05
    short_windows: Share = 0.3
    half_life_days: Positive = 30.0
    prior_days: Positive = 1.0
    gain: Positive = 0.05
    alerts_per_hour_max: Count = 12


class TimeRules(_Section):
    """How long to wait for the slow, and from when on a source counts as silent or as ahead of its time."""

    lateness_s: Positive = 120.0
    idle_after_s: Positive = 30.0
    future_max_s: Positive = 300.0


class VoiceRules(_Section):
    """What one voice is worth, and what nobody can buy.

    An author's post after k others within 24 hours counts 1 / (1 + k × `author_discount`)², so that with 1 nobody has more
    than 1.65 voices; the k-th of a chorus of similar posts 1 / (1 + k × `crowd_discount`); a text without a new pair of
    words `stale_weight`; one that names n cashtags n ^ −`list_discount`. A source that makes the share s of its channel has
    in four hours on one company, decisive stories apart, at most (`source_cap` + s × stories of the others) / (1 − s) voices:
    a small one can't fire alone, the only one has no limit. All accounts that are new to the partition today count as one such
    source, with `newcomer_cap`, in an hour and in four, beside as many as spoke in the 24 hours before.
    `brigade_accounts_min` newcomers who echo one another within four hours are a brigade; echoes of one have no voice. A
    decisive story is of one of `decisive_events`, or has one of `decisive_words` in its title, or the title says that shares
    moved by `decisive_move_pct` or more (0: none is).
    """

    author_discount: Annotated[float, Field(ge=0)] = 1.0
    crowd_discount: Annotated[float, Field(ge=0)] = 1.0
    stale_weight: Share = 0.3
    list_discount: Share = 0.5
    source_cap: Positive = 1.5
    newcomer_cap: Positive = 1.0
    brigade_accounts_min: Annotated[int, Field(ge=10)] = 40
    decisive_events: tuple[str, ...] = ()
    decisive_words: tuple[str, ...] = ()
    decisive_move_pct: Annotated[float, Field(ge=0)] = 0.0


class BaselineRules(_Section):
    """`half_life_days` of what an entity is used to; `prior_hours` of record that the market's average is worth for it;
    `decisive_weight_max` voices that a decisive story may be worth at most."""

    half_life_days: Positive = 30.0
    prior_hours: Positive = 48.0
    dispersion: Positive = 4.0
    tone_prior_voices: Positive = 20.0
    cold_days: Positive = 7.0
    decisive_weight_max: Annotated[float, Field(ge=1)] = 3.0


class DetectorRules(_Section):
    """Windows in seconds; `voices_min_*`: fewer never fire, and a post is cheaper than an article; in a shorter window
    of burst than the longest never fewer than `short_voices_min`, because two that meet by chance are no burst; `lean_weight`: standard deviations of surplus that one of lean is worth."""

    burst_windows_s: tuple[Count, ...] = (300, 3_600, 14_400, 28_800)
    tone_window_s: Count = 14_400
    divergence_window_s: Count = 86_400
    lean_weight: Annotated[float, Field(ge=0)] = 0.5
    short_voices_min: Positive = 4.0
    voices_min_news: Positive = 1.0
    voices_min_social: Positive = 1.0
    tone_voices_min: Positive = 6.0


class LifeRules(_Section):
    """Hysteresis: a signal under `clear_share` times the score it needs must last `pending_s` before it opens an alert (0: none
    waits); an alert closes when its score has stayed under `close_share` of the one it needed for `calm_s`."""

    clear_share: Annotated[float, Field(ge=1)] = 1.1
    pending_s: Annotated[float, Field(ge=0, le=3_600)] = 120.0
    close_share: Share = 0.6
    calm_s: Positive = 3_600.0
    check_s: Positive = 900.0
    open_max_s: Positive = 172_800.0
    cooldown_s: Positive = 28_800.0
    update_s: Positive = 1_800.0
    stories_max: Count = 5
    top_authors: Count = 3
    top_sources: Count = 1


class PagingRules(_Section):
    """From alerts to pages. A page waits `group_wait_s` of event time for others of its sector and takes more in for
    `group_join_s`; so many companies of so many sectors make it a page about the market, as does one of `market_entities`.
    What nobody acknowledged is told again every `repeat_s`; what `budget.alerts_per_hour_max` holds back comes in one digest
    after `digest_s`. A partition that has been silent for `silent_after_s` holds nobody back for more than `straggler_s`."""

    group_wait_s: Annotated[float, Field(ge=0)] = 30.0
    group_join_s: Positive = 3_600.0
    repeat_s: Positive = 43_200.0
    digest_s: Positive = 900.0
    market_members_min: Annotated[int, Field(ge=2)] = 8
    market_sectors_min: Count = 3
    market_entities: tuple[str, ...] = ()
    silent_after_s: Positive = 15.0
    straggler_s: Positive = 120.0


class HealthRules(_Section):
    """When a silence is a dead feed, and when scoring is degraded. Scores are minus the decimal log of a chance.

    A source with `record_min_days` of record is down when its silence of at least `silence_min_s` has reached
    `silence_score`, and while score has worked off all but the last `silent_after_settled_s`. A backlog that does not shrink for `lag_after_s`, or mentions heard `lag_max_s` after their time, is lag;
    from `history_after_s` on it is a replay of the past. Shares are those of the last `share_window_s`, judged once the week before holds `share_record_min` results. A trouble is told
    when it has lasted `pending_s` and is over when it has been clear for `calm_s`.
    """

    record_days: Annotated[float, Field(gt=0, le=90)] = 28.0
    record_min_days: Positive = 3.0
    silence_min_s: Positive = 900.0
    quiet_score: Positive = 1.0
    silence_score: Positive = 4.0
    silent_after_settled_s: Positive = 60.0
    lag_after_s: Positive = 300.0
    lag_max_s: Positive = 600.0
    history_after_s: Positive = 86_400.0
    share_window_s: Annotated[float, Field(ge=300, le=86_400)] = 1_800.0
    share_items_min: Count = 50
    share_record_min: Count = 1_000
    share_min: Share = 0.1
    share_score: Positive = 4.0
    pending_s: Annotated[float, Field(ge=0)] = 60.0
    calm_s: Annotated[float, Field(ge=0)] = 300.0


class Rules(_Section):
    """Everything that decides about alerts."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")] = "default"
    budget: BudgetRules = BudgetRules()
    time: TimeRules = TimeRules()
    voices: VoiceRules = VoiceRules()
    baseline: BaselineRules = BaselineRules()
    detectors: DetectorRules = DetectorRules()
    life: LifeRules = LifeRules()
    paging: PagingRules = PagingRules()
    health: HealthRules = HealthRules()

    @property
    def windows_s(self) -> tuple[int, ...]:
        """All window lengths, from short to long; the last is the horizon of 24 hours."""
        own = self.detectors
        return tuple(sorted({*own.burst_windows_s, own.tone_window_s, own.divergence_window_s, MARKET_S, DAY_S}))

    @property
    def shares(self) -> dict[str, float]:
        """Of the budget, by ledger: each detector's, and each of the shorter windows of burst its own ("burst/3600")."""
        own, short = self.budget, sorted(set(self.detectors.burst_windows_s))[:-1]
        found: dict[str, float] = {kind: getattr(own, kind) for kind in KINDS}
        return found | {f"burst/{window_s}": own.burst * own.short_windows / len(short) for window_s in short}


def load_rules(path: Path) -> Rules:
    """Read and check. Raises Fatal with every fault, one line each: file, key, what to do."""
    return parse_rules(read_toml(path, missing="no such rule file; set [rules] path to one"), str(path))


def parse_rules(raw: dict[str, Any], where: str) -> Rules:
    """As `load_rules`, from a table that is read already."""
    faults = []
    rules = Rules()
    try:
        rules = Rules.model_validate(raw)
    except ValidationError as err:
        faults = [f"{where}: {_fault(error)}" for error in err.errors(include_url=False, include_input=False)]
        # A section that is sound in itself is still checked against the others.
        sound = {key: value for key, value in raw.items() if not any(e["loc"][0] == key for e in err.errors())}
        rules = Rules.model_validate(sound)
    faults += [f"{where}: {fault}" for fault in _cross_checks(rules)]
    if faults:
        raise Fatal(f"{where}: {len(faults)} fault(s)", faults=tuple(faults))
    return rules


def _fault(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; remove it or correct its name"
    if key == "budget.false_alerts_per_day":
        return f"{key}: {error['msg']}; a budget of nothing can't be met: give the false alerts a day you can bear, e.g. 0.5"
    return f"{key}: {error['msg']}"


def _cross_checks(rules: Rules) -> list[str]:
    faults = []
    own = rules.detectors
    named = [(f"detectors.burst_windows_s.{i}", w) for i, w in enumerate(own.burst_windows_s)]
    named += [
        ("detectors.tone_window_s", own.tone_window_s),
        ("detectors.divergence_window_s", own.divergence_window_s),
    ]
    for key, window_s in named:
        if window_s < rules.time.lateness_s:
            faults.append(
                f"{key}: {window_s} s is shorter than time.lateness_s ({rules.time.lateness_s:g} s), so the window would be"
                " gone before it is complete; make it longer or the lateness smaller"
            )
        if window_s % BUCKET_S or window_s > DAY_S:
            faults.append(f"{key}: {window_s} s must be whole minutes and at most a day")
    if not own.burst_windows_s:
        faults.append("detectors.burst_windows_s: is empty; give at least one window")
    if not any(getattr(rules.budget, kind) for kind in KINDS):
        faults.append("budget: every detector's share is 0, so nothing could fire; give at least one a share")
    if rules.life.check_s > rules.life.calm_s:
        faults.append("life.check_s: is longer than life.calm_s; an open alert would not be looked at in time")
    if rules.health.history_after_s <= rules.health.lag_max_s:
        faults.append(
            "health.history_after_s: must be longer than health.lag_max_s, or no lag could be told from a replay"
        )
    return faults
