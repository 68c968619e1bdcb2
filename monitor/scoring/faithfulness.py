"""Do the words that an explanation names carry the judgement? Measured by taking them out (deletion test).

Comprehensiveness of DeYoung et al. 2020 (section 4), averaged over shares of the words as there (AOPC): by how much the
probability of the label falls when the heaviest words are gone, against as many words drawn at random, and against the words
that the evidence head quotes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from monitor.records import Document, LinkedEntity, ScoredMention
from monitor.scoring.explain import Attribution, Judge, explain, without

SHARES = (0.05, 0.1, 0.2, 0.5)
_DRAWS = 3
_WORDS_MIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Faithfulness:
    """Mean falls of the label's probability over `mentions` judgements.

    `by_share`: share of the words taken out → (heaviest, at random); `aopc` and `aopc_random`: their means over the shares.
    `evidence` and `evidence_random`: without the quoted words, and without as many at random.
    """

    mentions: int
    aopc: float
    aopc_random: float
    by_share: dict[str, tuple[float, float]]
    evidence: float
    evidence_random: float


def faithfulness(
    asked: Sequence[tuple[Document, LinkedEntity]], judge: Judge, *, rng: random.Random
) -> Faithfulness | None:
    """Over all judgements of texts with at least four words beside the company's; None where there are none."""
    heaviest: dict[float, list[float]] = {share: [] for share in SHARES}
    drawn: dict[float, list[float]] = {share: [] for share in SHARES}
    quoted: list[float] = []
    quoted_drawn: list[float] = []
    count = 0
    for document, entity in asked:
        found = explain(document, entity, judge)
        words = list(found.attributions)
        if len(words) < _WORDS_MIN:
            continue
        count += 1
        ranked = sorted(words, key=lambda word: -word.weight)
        answer = [word for word in words if _inside(word, found.mention)]
        sizes = [max(1, round(share * len(words))) for share in SHARES]
        chosen: list[list[Attribution]] = [ranked[:size] for size in sizes]
        chosen += [rng.sample(words, size) for size in sizes for _ in range(_DRAWS)]
        if answer:
            chosen += [answer, *(rng.sample(words, len(answer)) for _ in range(_DRAWS))]
        falls = _falls(document, entity, found.mention, chosen, judge)
        for index, share in enumerate(SHARES):
            heaviest[share].append(falls[index])
            at = len(SHARES) + index * _DRAWS
            drawn[share].append(_mean(falls[at : at + _DRAWS]))
        if answer:
            quoted.append(falls[-1 - _DRAWS])
            quoted_drawn.append(_mean(falls[-_DRAWS:]))
    if not count:
        return None
    by_share = {f"{share:.0%}": (round(_mean(heaviest[share]), 4), round(_mean(drawn[share]), 4)) for share in SHARES}
    return Faithfulness(
        mentions=count,
        aopc=round(_mean([one for one, _ in by_share.values()]), 4),
        aopc_random=round(_mean([other for _, other in by_share.values()]), 4),
        by_share=by_share,
        evidence=round(_mean(quoted), 4),
        evidence_random=round(_mean(quoted_drawn), 4),
    )


def _falls(
    document: Document, entity: LinkedEntity, base: ScoredMention, chosen: Sequence[Sequence[Attribution]], judge: Judge
) -> list[float]:
    """By how much the probability of the label falls without each set of words."""
    label = max(range(3), key=base.probabilities.__getitem__)
    asked = [without(document, entity, sorted((w.start, w.end) for w in words)) for words in chosen]
    return [base.probabilities[label] - mentions[0].probabilities[label] for mentions in judge(asked)]


def _inside(word: Attribution, mention: ScoredMention) -> bool:
    return any(word.start < e.end and word.end > e.start for e in mention.evidence)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
