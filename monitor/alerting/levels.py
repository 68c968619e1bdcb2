"""One scale for several models: another version's judgements are brought to the level that the records were made on.

A new model's share of negative and of positive judgements differs a little from the old one's, and compared with the old
one's baseline that would look like news. So each model but a channel's first one gets two factors, which bring its mean
shares to those that the channel was used to when the model came (moments are matched, as in linear equating of test scores:
Kolen & Brennan 2014, ch. 2):

    voices of the new model   0 ······ 20 ······ 40 ······ 80 …… 1280
    factors                   1        estimated again at each mark, from all voices so far
    slack                     ±0.25    ±0.07     ±0.05     ±0.04    0     moves every share towards the usual one

Until the factors are known, the slack takes away what a change of scale could make up: a plain crash is still seen, a small
shift is not. An entity's k-th voice counts 1/k in the estimate, so that one company's bad day is not taken for the model's
temper. Marks hold for ever and apply by (published_at_ms, id): a restart levels stored mentions exactly as before.
"""

from __future__ import annotations

import math

import msgspec

from monitor.records import ScoredMention

MARKS = (20, 40, 80, 160, 320, 640, 1_280)
_PRIOR_VOICES = 10.0
_SPREAD = 0.35  # of a share of one voice, roughly: slack is one standard error of its mean
_MODELS_MAX = 16


class LevelledMention(ScoredMention, frozen=True, kw_only=True):
    """A mention on the channel's scale; `judged` is the polarity as the model gave it. Lives in memory only."""

    judged: float


class Mark(msgspec.Struct, array_like=True, frozen=True):
    """Factors for the mentions after this place in event time."""

    at_ms: int
    id: str
    negative: float
    positive: float
    slack: float


class Level(msgspec.Struct, array_like=True):
    """One model: what the channel was used to when it came, and what it said since. No marks: its scale is the channel's."""

    usual_negative: float
    usual_positive: float
    last_ms: int
    heard: int = 0
    weight: float = 0.0
    negative: float = 0.0
    positive: float = 0.0
    told: dict[str, int] = msgspec.field(default_factory=dict)
    marks: list[Mark] = msgspec.field(default_factory=list)

    def hear(self, mention: ScoredMention) -> None:
        """Take a judgement of a model that is not known well yet into the estimate, and set a mark when one is due."""
        if self.heard >= MARKS[-1]:
            return
        self.heard += 1
        count = self.told[mention.entity] = self.told.get(mention.entity, 0) + 1
        self.weight += 1.0 / count
        self.negative += mention.probabilities[0] / count
        self.positive += mention.probabilities[2] / count
        if self.heard not in MARKS:
            return
        known = self.heard == MARKS[-1]
        slack = 0.0 if known else _slack(self.weight)
        negative, positive = (
            self._factor(self.usual_negative, self.negative),
            self._factor(self.usual_positive, self.positive),
        )
        self.marks.append(Mark(mention.published_at_ms, mention.id, negative, positive, slack))
        if known:
            self.told = {}

    def _factor(self, usual: float, said: float) -> float:
        factor = usual * (_PRIOR_VOICES + self.weight) / (_PRIOR_VOICES * usual + said)
        return round(min(max(factor, 0.25), 4.0), 6)


class Levels(msgspec.Struct, array_like=True):
    """The models of one channel."""

    models: dict[str, Level] = msgspec.field(default_factory=dict)

    def hear(self, mention: ScoredMention, usual: tuple[float, float]) -> ScoredMention:
        """The mention on the channel's scale. In event-time order; `usual` are the channel's shares of negative and positive."""
        level = self.models.get(mention.model)
        if level is None:
            level = self._welcome(mention, usual)
        level.last_ms = max(level.last_ms, mention.published_at_ms)
        if not level.marks:
            return mention
        levelled = self.level(mention)
        level.hear(mention)
        return levelled

    def level(self, mention: ScoredMention) -> ScoredMention:
        """As `hear` did it, without learning from it."""
        level = self.models.get(mention.model)
        if level is None:
            return mention
        key = (mention.published_at_ms, mention.id)
        mark = next((mark for mark in reversed(level.marks) if (mark.at_ms, mark.id) < key), None)
        return mention if mark is None else _levelled(mention, mark, level.usual_negative, level.usual_positive)

    def _welcome(self, mention: ScoredMention, usual: tuple[float, float]) -> Level:
        level = Level(*usual, mention.published_at_ms)
        if self.models:
            level.marks.append(Mark(mention.published_at_ms, "", 1.0, 1.0, _slack(0.0)))
        if len(self.models) >= _MODELS_MAX:
            del self.models[min(self.models, key=lambda name: (self.models[name].last_ms, name))]
        self.models[mention.model] = level
        return level


def _slack(weight: float) -> float:
    return round(_SPREAD / math.sqrt(2.0 + weight), 6)


def _levelled(mention: ScoredMention, mark: Mark, usual_negative: float, usual_positive: float) -> ScoredMention:
    negative = _towards(mention.probabilities[0] * mark.negative, usual_negative, mark.slack)
    positive = _towards(mention.probabilities[2] * mark.positive, usual_positive, mark.slack)
    both = max(1.0, negative + positive)
    negative, positive = negative / both, positive / both
    moved = (positive - mention.probabilities[2]) - (negative - mention.probabilities[0])
    facts = {name: getattr(mention, name) for name in ScoredMention.__struct_fields__}
    facts["probabilities"] = (negative, 1.0 - negative - positive, positive)
    facts["polarity"] = min(max(mention.polarity + moved, -1.0), 1.0)
    return LevelledMention(**facts, judged=mention.polarity)


def _towards(value: float, usual: float, slack: float) -> float:
    """Soft threshold (Donoho 1995) around the usual value."""
    apart = min(value, 1.0) - usual
    return usual + math.copysign(max(0.0, abs(apart) - slack), apart)
