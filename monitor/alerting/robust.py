"""Would it fire without its loudest? Asked of authors and of sources, so that nobody's voice can be bought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from monitor.alerting.evidence import Said, sums_of
from monitor.records import Voices


class Without(NamedTuple):
    """`names`: the loudest of `known`, by voices; `share`: theirs of all voices. `fires` None: nobody is named."""

    known: int
    names: tuple[str, ...]
    share: float
    fires: bool | None


def without_top(
    said: Sequence[Said], *, name: Callable[[Said], str | None], top: int, fires: Callable[[Voices], bool]
) -> Without:
    """Take the `top` loudest away, and ask again."""
    voices: dict[str, float] = {}
    for each in said:
        who = name(each)
        if who is not None:
            voices[who] = voices.get(who, 0.0) + each.weight
    total = sum(each.weight for each in said)
    loudest = sorted(voices, key=lambda who: (-voices[who], who))[:top]
    kept = [each for each in said if name(each) not in loudest]
    return Without(
        known=len(voices),
        names=tuple(loudest),
        share=round(sum(voices[who] for who in loudest) / total, 4) if total else 0.0,
        fires=fires(sums_of(kept)) if voices else None,
    )
