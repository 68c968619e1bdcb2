"""What a detector would have said without some of the stories, all else equal: evidence and robustness ask nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monitor.alerting.baselines import BLOCK_MS, block_reading
from monitor.alerting.cusum import step_bank
from monitor.alerting.detectors import burst, divergence, drift_score, tone_shift
from monitor.alerting.evidence import Said, sums_of
from monitor.alerting.records import BlockStep, Expected, Signal
from monitor.alerting.rules import DetectorRules
from monitor.records import Voices

Rescoring = Callable[[Sequence[Said]], float]


def over_window(signal: Signal, said: Sequence[Said], *, voices_min: float, rules: DetectorRules) -> Rescoring:
    """Burst and tone: the detector over the sums of what is left. 0 where too few are left or they turn the other way."""
    whole = sums_of(said)

    def without(gone: Sequence[Said]) -> float:
        return score_of(_less(whole, sums_of(gone)), signal, voices_min=voices_min, rules=rules)

    return without


def score_of(voices: Voices, signal: Signal, *, voices_min: float, rules: DetectorRules) -> float:
    """What burst or tone would say of these voices instead."""
    if voices.total < voices_min:
        return 0.0
    detect = burst if signal.kind == "burst" else tone_shift
    again = detect(voices, signal.expected, signal.window_s, rules)
    return again.score if again is not None and again.direction == signal.direction else 0.0


def over_channels(
    signal: Signal, said: Sequence[Said], *, social: Expected, window_s: int, rules: DetectorRules
) -> Rescoring:
    """Divergence: both channels again; `said` holds the stories of both, `social` is what is usual there."""
    news, posts = (_of(said, channel) for channel in ("news", "social"))

    def without(gone: Sequence[Said]) -> float:
        again = divergence(
            _less(news, _of(gone, "news")),
            signal.expected,
            _less(posts, _of(gone, "social")),
            social,
            window_s=window_s,
            rules=rules,
        )
        return again.score if again is not None and again.direction == signal.direction else 0.0

    return without


def over_blocks(signal: Signal, said: Sequence[Said], *, steps: Sequence[BlockStep], prior: float) -> Rescoring:
    """Drift: the bank as it stood before the first of these blocks, stepped through them again. What came before stays."""
    blocks = [step for step in steps if any(_block(each) == step.block for each in said)]

    def without(gone: Sequence[Said]) -> float:
        if not blocks:
            return signal.score
        bank = list(blocks[0].bank)
        missing = {each.mention.id for each in gone}
        sums: dict[int, tuple[float, float]] = {}
        for each in said:
            if each.mention.id not in missing:
                n, p = sums.get(_block(each), (0.0, 0.0))
                sums[_block(each)] = (n + each.weight, p + each.weight * each.mention.polarity)
        for step in blocks:
            n, p = sums.get(step.block, (0.0, 0.0))
            if n > 0.0:
                step_bank(bank, block_reading(n, p, step, prior))
        direction, score = drift_score(bank)
        return score if direction == signal.direction else 0.0

    return without


def as_known(known: Sequence[Said], whole: Voices, newcomers: float) -> Voices:
    """The voices of known accounts, and so many of newcomers as if these said the same. Never more than spoke."""
    voices = sums_of(known)
    if voices.total <= 0.0:
        return voices
    more = min(whole.total, voices.total + newcomers) / voices.total
    return Voices(**{name: more * getattr(voices, name) for name in Voices.__struct_fields__})


def support(signal: Signal) -> Callable[[Said], float]:
    """How much a story speaks for the alert: its weighted polarity in the alert's direction. Where news and social diverge, a
    post speaks for it by saying the opposite."""
    sign = 1.0 if signal.direction == "positive" else -1.0

    def of(each: Said) -> float:
        turned = signal.kind == "divergence" and each.mention.channel == "social"
        return (-sign if turned else sign) * each.weight * each.mention.polarity

    return of


def _of(said: Sequence[Said], channel: str) -> Voices:
    return sums_of([each for each in said if each.mention.channel == channel])


def _less(whole: Voices, gone: Voices) -> Voices:
    return Voices(**{name: getattr(whole, name) - getattr(gone, name) for name in Voices.__struct_fields__})


def _block(each: Said) -> int:
    return each.mention.published_at_ms // BLOCK_MS
