"""Everything that is said of an alert, from the facts at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from monitor.alerting import (
    Rules,
    Said,
    Signal,
    Weight,
    alert_id,
    brief,
    decompose,
    reasons,
    severity,
    support,
    without_top,
)
from monitor.clock import to_rfc3339
from monitor.loops.core.memory import Entity, Memory
from monitor.loops.core.signals import Reader
from monitor.records import Alert, ScoredMention
from monitor.windows import UNIT, Story


class Teller:
    """Writes alerts. `names`: what people call the entities."""

    def __init__(self, rules: Rules, memory: Memory, reader: Reader, names: Mapping[str, str]) -> None:
        self._rules, self._memory, self._reader, self._names = rules, memory, reader, names

    def tell(
        self, name: str, entity: Entity, signal: Signal, *, channel: str, needed: float, p_value: float, at_ms: int
    ) -> Alert:
        """The alert as it stands at this moment. `needed`: the score that fires; `p_value`: how rare this one is."""
        own = self._rules
        if signal.kind == "drift":
            signal = self._reader.over_the_day(name, entity, signal, channel, at_ms)
        ear, usual, voices = entity.ears[channel], signal.expected, signal.voices
        rarity = usual.rarity if signal.kind in {"burst", "tone"} else 1.0
        said = told_by(ear.sums.inside(own.windows_s.index(signal.window_s)), ear.decisive, rarity)
        both = said
        if signal.kind == "divergence":
            both = [*said, *told_by(entity.ears["social"].sums.inside(self._reader.day_index), None, 1.0)]
        threshold = min(needed, signal.score)
        without = self._reader.rescoring(name, entity, signal, both, channel, at_ms)
        why = reasons(
            both, support=support(signal), without=without, threshold=threshold, stories_max=own.life.stories_max
        )
        authors, loudest = (
            without_top(said, name=name_of, top=top, fires=lambda gone: without(gone) >= threshold)
            for name_of, top in (
                (lambda each: each.mention.author, own.life.top_authors),
                (lambda each: each.mention.source, own.life.top_sources),
            )
        )
        brigade = ear.chorus.brigade
        raw_n = sum(each.copies for each in said)
        sources = self._memory.sources[channel]
        names = {each.mention.source for each in said}
        mean_tone = self._memory.markets[channel].mean_tone()
        shift = decompose(
            said,
            usual=usual.tone,
            channel_tone=mean_tone,
            source_tone=lambda source: sources.tone(source, mean_tone),
        )
        weight = Weight(
            size=signal.score / max(needed, 1.0),
            voices=voices.total,
            sources=len(names),
            quality=sum(each.weight * sources.quality(each.mention.source) for each in said) / max(voices.total, 1e-9),
            novelty=min(1.0, voices.total / max(len(said), 1)),
        )
        polarity = voices.polarity / voices.total
        cold = usual.exposure_h < 24 * own.baseline.cold_days
        alert = Alert(
            id=alert_id(entity=name, kind=signal.kind, direction=signal.direction, opened_at_ms=at_ms, rule=own.name),
            entity=name,
            kind=signal.kind,
            direction=signal.direction,
            opened_at=to_rfc3339(at_ms),
            resolved_at=None,
            severity=severity(weight),
            p_value=float(f"{min(1.0, p_value):.4g}"),
            polarity=round(polarity, 4),
            effective_n=round(voices.total, 3),
            raw_n=raw_n,
            baseline={
                "channel": channel,
                "window_s": signal.window_s,
                "voices": round(usual.voices, 4),
                "dispersion": round(1.0 / usual.size, 4),
                "polarity": round(usual.tone, 4),
                "market_factor": round(usual.market, 4),
                "record_hours": round(usual.exposure_h, 1),
                "cold_start": cold,
            },
            evidence=why.evidence,
            counter_evidence=why.counter_evidence,
            flip_margin=why.flip_margin,
            model=said[-1].mention.model if said else "",
            rule=own.name,
            name=self._names.get(name),
            details={
                "score": round(signal.score, 3),
                "score_needed": round(needed, 3),
                "stories": len(said),
                "stories_needed": len(why.needed) if why.enough else 0,
                "documents_needed": list(why.needed) if why.enough else [],
                "fires_without_all_stories": not why.enough,
                "shift": {name: round(value, 4) for name, value in shift._asdict().items()},
                "volume_ratio": round(voices.total / max(usual.voices, 0.01), 2),
                "sources": len(names),
                "source_quality": round(weight.quality, 3),
                "novelty": round(weight.novelty, 3),
                "authors": authors.known,
                "top_author_share": authors.share,
                "fires_without_top_authors": authors.fires,
                "top_sources": list(loudest.names),
                "top_source_share": loudest.share,
                "fires_without_top_sources": loudest.fires,
                "brigade_accounts": brigade.accounts if brigade is not None else 0,
                "budget_per_day": own.budget.false_alerts_per_day,
            },
        )
        return msgspec.structs.replace(alert, brief=brief(alert))


def told_by(stories: Iterable[Story], decisive: Story | None, rarity: float) -> list[Said]:
    """These stories, the decisive one at what it weighs."""
    return [
        Said(story.mention, (rarity if story is decisive else 1.0) * story.total_u / UNIT, story.copies)
        for story in stories
        if isinstance(story.mention, ScoredMention)
    ]
