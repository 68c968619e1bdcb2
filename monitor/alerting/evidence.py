"""Why an alert fired, in facts: the stories that carry it, those against it, and what it would take to silence it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

from monitor.alerting.levels import LevelledMention
from monitor.clock import to_rfc3339
from monitor.records import AlertEvidence, ScoredMention, Voices

QUOTE_CHARS_MAX = 240
CANDIDATES = 40


class Said(NamedTuple):
    """One story of the window: its first mention, its voice and how many copies came."""

    mention: ScoredMention
    weight: float
    copies: int


class Reasons(NamedTuple):
    """`needed`: the smallest set of stories without which the score falls under the threshold, strongest first; `evidence`
    quotes the first of them. `flip_margin`: their share of the window's voices. Not `enough`: it would fire without all of
    them, because what came before the window carries it too."""

    evidence: tuple[AlertEvidence, ...]
    counter_evidence: tuple[AlertEvidence, ...]
    needed: tuple[str, ...]
    flip_margin: float
    enough: bool


class Shift(NamedTuple):
    """Why the tone differs from the usual: `opinion` + `source_mix` + `model` = `tone` − `usual`. See `decompose`."""

    tone: float
    usual: float
    opinion: float
    source_mix: float
    model: float


def reasons(
    said: Sequence[Said],
    *,
    support: Callable[[Said], float],
    without: Callable[[Sequence[Said]], float],
    threshold: float,
    stories_max: int,
) -> Reasons:
    """`without` is the detector's score once some stories are gone; `support` how much a story speaks for the alert."""
    ranked = sorted(said, key=lambda each: (-support(each), each.mention.id))
    against = [each for each in reversed(ranked) if support(each) < 0]
    needed = _smallest(ranked, without, threshold)
    total = sum(each.weight for each in said) or 1.0
    return Reasons(
        evidence=tuple(_evidence(each) for each in needed[:stories_max]),
        counter_evidence=tuple(_evidence(each) for each in against[: min(3, stories_max)]),
        needed=tuple(each.mention.document for each in needed),
        flip_margin=round(min(1.0, sum(each.weight for each in needed) / total), 4),
        enough=without(needed) < threshold,
    )


def decompose(said: Sequence[Said], *, usual: float, channel_tone: float, source_tone: Callable[[str], float]) -> Shift:
    """Split a shift of tone, as Kitagawa (1955) splits a difference of rates: into who speaks and how they judge.

    `source_mix` is the tone that these sources would have if each spoke as it usually does, against the channel's mean;
    `model` is what another model version than the record's adds (see levels.py); what is left is `opinion`.
    """
    total = sum(each.weight for each in said)
    if not total:
        return Shift(0.0, usual, -usual, 0.0, 0.0)
    levelled = sum(each.weight * each.mention.polarity for each in said) / total
    judged = sum(each.weight * _judged(each.mention) for each in said) / total
    mix = sum(each.weight * (source_tone(each.mention.source) - channel_tone) for each in said) / total
    return Shift(judged, usual, levelled - usual - mix, mix, judged - levelled)


def quote(mention: ScoredMention) -> str:
    """The words that carry the judgement; the title where the model names none."""
    best = next((each.quote for each in mention.evidence if each.quote.strip()), None)
    text = best or mention.text.split("\n", 1)[0]
    return text if len(text) <= QUOTE_CHARS_MAX else text[: QUOTE_CHARS_MAX - 1].rstrip() + "…"


def _smallest(ranked: Sequence[Said], without: Callable[[Sequence[Said]], float], threshold: float) -> list[Said]:
    """The smallest set whose removal brings the score under the threshold, strongest first.

    Exact for one and two stories, by trying all. Beyond, greedy: always the story whose removal lowers the score most; then
    whatever turns out not to be needed is put back, so that no story of the set is there in vain. `CANDIDATES` limits the
    work: where more of the strongest must go, it is as many of them as it takes.
    """
    strongest = _prefix(len(ranked), lambda count: without(ranked[:count]) < threshold)
    if strongest > CANDIDATES:
        return list(ranked[:strongest])
    candidates = list(ranked[:CANDIDATES])
    for size in (1, 2):
        best = min(
            ((without(chosen), index, chosen) for index, chosen in enumerate(combinations(candidates, size))),
            default=None,
        )
        if best is not None and best[0] < threshold:
            return list(best[2])
    gone: list[Said] = []
    while candidates and without(gone) >= threshold:
        _, index = min((without([*gone, each]), index) for index, each in enumerate(candidates))
        gone.append(candidates.pop(index))
    for each in reversed(gone[:]):
        fewer = [other for other in gone if other is not each]
        if without(fewer) < threshold:
            gone = fewer
    if len(gone) > strongest:
        gone = list(ranked[:strongest])
    kept = {each.mention.id for each in gone}
    return [each for each in ranked if each.mention.id in kept]


def _prefix(count: int, enough: Callable[[int], bool]) -> int:
    """The smallest number of the strongest that is enough, by bisection; all of them if none is."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def sums_of(said: Sequence[Said]) -> Voices:
    """An abstained judgement counts at what it expects: of many posts each is uncertain, and their mean is not."""
    return Voices(
        total=sum(each.weight for each in said),
        negative=sum(each.weight * each.mention.probabilities[0] for each in said),
        positive=sum(each.weight * each.mention.probabilities[2] for each in said),
        polarity=sum(each.weight * each.mention.polarity for each in said),
    )


def _evidence(said: Said) -> AlertEvidence:
    mention = said.mention
    return AlertEvidence(
        document=mention.document,
        quote=quote(mention),
        polarity=round(_judged(mention), 4),
        weight=round(said.weight, 4),
        source=mention.source,
        published_at=to_rfc3339(mention.published_at_ms),
        url=mention.url,
        copies=said.copies,
    )


def _judged(mention: ScoredMention) -> float:
    """The polarity as the model gave it."""
    return mention.judged if isinstance(mention, LevelledMention) else mention.polarity
