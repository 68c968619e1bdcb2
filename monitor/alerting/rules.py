"""The rules file: what may wake somebody. Every fault at once, with file and key."""

from __future__ import annotations

import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.errors import Fatal

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TimeRules(_Part):
    """`lateness_s`: how long a window waits for stragglers. `idle_after_s`: then a silent feed holds nobody back."""

    lateness_s: Positive = 120.0
    idle_after_s: Positive = 30.0
    future_max_s: Positive = 300.0


class VoiceRules(_Part):
    """One voice a story. A story none of whose words are new counts `repeated_weight`; new words earn the rest.

    `new_words_full`: the share of new words from which a story counts in full.
    """

    repeated_weight: Share = 0.05
    new_words_full: Annotated[float, Field(gt=0, le=1)] = 0.3


class BaselineRules(_Part):
    """`half_life_days`: how fast the past is forgotten. `prior_days`: how much the market's average weighs against an
    entity's own record. `warm_up_days`: until then an entity is new, and needs `voices_min_new`."""

    half_life_days: Positive = 14.0
    prior_days: Positive = 1.0
    warm_up_days: Positive = 2.0


class BurstRules(_Part):
    """More voices than usual, in one direction: in the last hour or the last four."""

    enabled: bool = True
    voices_min: Positive = 3.0
    voices_min_new: Positive = 4.0
    tone_min: Share = 0.15


class ToneRules(_Part):
    """Another tone than usual over four hours, from at least `voices_min` voices."""

    enabled: bool = True
    voices_min: Positive = 8.0
    shift_min: Share = 0.35


class LifeRules(_Part):
    """An alert is resolved when its p-value has stayed above `calm_p` for `calm_s`; the same kind may fire again on the
    entity `cool_down_s` after that."""

    calm_p: Share = 0.05
    calm_s: Positive = 7_200.0
    cool_down_s: Annotated[float, Field(ge=0)] = 21_600.0
    updates_max: Annotated[int, Field(ge=0)] = 5


class Rules(_Part):
    """The whole file. `false_alerts_per_day` is the budget over the whole watchlist."""

    name: str = "default"
    false_alerts_per_day: Positive = 2.0
    time: TimeRules = TimeRules()
    voices: VoiceRules = VoiceRules()
    baseline: BaselineRules = BaselineRules()
    burst: BurstRules = BurstRules()
    tone: ToneRules = ToneRules()
    life: LifeRules = LifeRules()

    @property
    def fingerprint(self) -> str:
        """How alerts name the rules that they were raised by."""
        return f"{self.name}@{sha256(self.model_dump_json().encode()).hexdigest()[:12]}"


def load_rules(path: Path) -> Rules:
    """Raises Fatal with every fault, one line each."""
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as err:
        raise Fatal(f"{path}: no such file; name one in [rules] path") from err
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise Fatal(f"{path}: not readable as TOML: {err}") from err
    try:
        rules = Rules.model_validate(raw)
    except ValidationError as err:
        faults = tuple(
            f"{path}: {'.'.join(map(str, e['loc']))}: "
            + ("unknown key; remove it or correct its name" if e["type"] == "extra_forbidden" else e["msg"])
            for e in err.errors(include_url=False, include_input=False)
        )
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=faults) from err
    if rules.time.lateness_s >= 3_600:
        raise Fatal(
            f"{path}: time.lateness_s: {rules.time.lateness_s:.0f} s reaches the shortest rule's window of 3600 s"
        )
    return rules
