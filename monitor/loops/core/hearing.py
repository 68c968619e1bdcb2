"""From mentions to voices: what each adds to what was said before, who tells it, and what that is worth.

Nothing here but what can be read back from stored mentions, and the accounts that are known. Mentions come in the order of
(published_at_ms, id).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

from monitor.alerting import MARKET_S, Rules, VoiceRules, share_move_pct
from monitor.loops.core.memory import HORIZON_MS, Ear, Entity
from monitor.records import Channel, Notice, ScoredMention
from monitor.windows import (
    UNIT,
    Brigade,
    ChorusPolicy,
    Hearing,
    Newcomers,
    NewcomersState,
    NoveltyPolicy,
    Shares,
    Story,
    Told,
)

MARKET_WINDOW_MS = 1000 * MARKET_S
STRANGERS_MAX = 0.5  # where nearly everybody is always new, newcomers can't be told apart
FRESH_ENOUGH = 0.4  # a text with this share of new word pairs is a full voice
QUOTE_CHARS_MAX = 240
_CASHTAG = re.compile(r"\$[A-Za-z]")
_UNHEARD = (0, 0, 0, 0)


class Listener:
    """The ears of one partition, and what its channels have in common."""

    def __init__(self, rules: Rules) -> None:
        self._voices = own = rules.voices
        self._lengths_ms = tuple(1000 * window_s for window_s in rules.windows_s)
        self._novelty = NoveltyPolicy(horizon_ms=HORIZON_MS)
        self._chorus = ChorusPolicy(accounts_min=own.brigade_accounts_min)
        self._decisive = frozenset(event.casefold() for event in own.decisive_events)
        self._words = tuple(sorted(word.casefold() for word in own.decisive_words))
        self._loud: dict[str, deque[tuple[int, int, int]]] = {}
        self.loud_sums: dict[str, list[int]] = {}  # voices and polarity in the market's window, in millionths
        self._shares, self._strangers = Shares(), Shares()
        self.newcomers = Newcomers()
        self._brigades: dict[tuple[str, Channel], Brigade] = {}

    def restore(self, newcomers: NewcomersState | None) -> None:
        """The accounts that were known when this was stored."""
        self.newcomers = Newcomers(newcomers)

    def novelties(self, batch: Iterable[tuple[Entity, ScoredMention]]) -> list[Hearing]:
        """What each adds to what was heard before of its entity. It depends on nothing else, and one kind of work in a row
        costs less than one mention after another."""
        found = []
        for entity, mention in batch:
            ear = entity.ears.get(mention.channel)
            if ear is None:
                ear = entity.ears[mention.channel] = Ear(self._lengths_ms, self._novelty, self._chorus)
            found.append(ear.novelty.hear(mention.published_at_ms, mention.text, mention.author, None))
        return found

    def hear(self, entity: Entity, mention: ScoredMention, hearing: Hearing) -> tuple[tuple[int, int, int, int], bool]:
        """Who tells it, and what that is worth: into the windows. Returns its weights in millionths (in all, negative, positive,
        by polarity), and whether it is decisive. `hearing`: see `novelties`."""
        ear = entity.ears[mention.channel]
        at_ms, author, channel = mention.published_at_ms, mention.author, mention.channel
        share = self._shares.hear(at_ms, channel, mention.source)
        newcomer, strangers = False, 0.0
        if author is not None:
            newcomer = self.newcomers.hear(at_ms, author)
            ear.strangers = strangers = self._strangers.hear(at_ms, channel, "new" if newcomer else "known")
        heard, fresh, spoken, crowd = hearing.heard, hearing.fresh, hearing.spoken, hearing.crowd
        copy = heard.copied is not None
        echo = newcomer and ear.chorus.is_echo(mention.text, copy=copy, crowd=crowd, spoken=spoken)
        total_u, decisive, first = 0, False, False
        if not copy:
            told = ear.tellers.hear(at_ms, mention.source, newcomer=newcomer, echo=echo)
            room = _room(told, own=self._voices, share=share, strangers=strangers if newcomer else None)
            decisive = not newcomer and self._is_decisive(mention)
            if decisive:
                first = ear.decisive_ms is None or at_ms - ear.decisive_ms > HORIZON_MS
                ear.decisive_ms = at_ms
                room = max(room, 1.0) if first else room
            total_u = self._weight_u(mention, room=room, fresh=fresh, spoken=spoken, crowd=crowd)
        if author is not None:
            if echo and ear.chorus.brigade is not None:
                total_u = 0
            brigade = ear.chorus.hear(at_ms, echo, total_u, mention)
            if brigade is not None:
                self._brigades[mention.entity, channel] = brigade
                ear.brigade = (brigade.since_ms, brigade.last_ms)
        if copy:
            story = heard.root.token
            if isinstance(story, Story):
                story.copies += 1
            return _UNHEARD, False
        negative_u = round(total_u * mention.probabilities[0])
        positive_u = round(total_u * mention.probabilities[2])
        polarity_u = round(total_u * mention.polarity)
        heard.token = story = Story(
            at_ms=at_ms,
            total_u=total_u,
            negative_u=negative_u,
            positive_u=positive_u,
            polarity_u=polarity_u,
            mention=mention,
            newcomer=newcomer,
        )
        ear.sums.add(story)
        if first:
            ear.decisive = story
        self._add_to_market(channel, at_ms, total_u, polarity_u)
        return (total_u, negative_u, positive_u, polarity_u), decisive

    def slide_to(self, at_ms: int) -> None:
        """Let the market's window end here."""
        for channel, loud in self._loud.items():
            sums = self.loud_sums[channel]
            while loud and loud[0][0] < at_ms - MARKET_WINDOW_MS:
                _, total_u, polarity_u = loud.popleft()
                sums[0] -= total_u
                sums[1] -= polarity_u

    def take_notices(self) -> tuple[Notice, ...]:
        """What became of brigades since the last step."""
        notices = []
        for (entity, channel), brigade in sorted(self._brigades.items()):
            example = brigade.example
            assert isinstance(example, ScoredMention), "the ear hears mentions"
            notices.append(
                Notice(
                    kind="brigade",
                    entity=entity,
                    channel=channel,
                    since_ms=brigade.since_ms,
                    last_ms=brigade.last_ms,
                    accounts=brigade.accounts,
                    voices=round(brigade.voices_u / UNIT, 3),
                    document=example.document,
                    text=example.text.split("\n", 1)[0][:QUOTE_CHARS_MAX],
                )
            )
        self._brigades.clear()
        return tuple(notices)

    def _add_to_market(self, channel: str, at_ms: int, total_u: int, polarity_u: int) -> None:
        """What everybody's voices come to in the market's window."""
        sums = self.loud_sums.get(channel)
        if sums is None:
            self._loud[channel] = deque()
            sums = self.loud_sums[channel] = [0, 0]
        self._loud[channel].append((at_ms, total_u, polarity_u))
        sums[0] += total_u
        sums[1] += polarity_u

    def _weight_u(self, mention: ScoredMention, *, room: float, fresh: float, spoken: int, crowd: int) -> int:
        """What a story's voice is worth, in millionths; see VoiceRules. How many follow an author counts nothing."""
        own = self._voices
        weight = own.stale_weight + (1.0 - own.stale_weight) * min(1.0, fresh / FRESH_ENOUGH)
        if spoken or crowd:
            weight /= (1.0 + own.author_discount * spoken) ** 2 * (1.0 + own.crowd_discount * crowd)
        if "$" in mention.text:
            weight *= float(max(1, len(_CASHTAG.findall(mention.text))) ** -own.list_discount)
        return round(weight * min(max(room, 0.0), 1.0) * UNIT)

    def _is_decisive(self, mention: ScoredMention) -> bool:
        """An event that may stand alone, told in a clear tone: tagged by the model, or named in the title, or a large move."""
        if abs(mention.polarity) < 0.3:
            return False
        if self._decisive and any(event.casefold() in self._decisive for event in mention.events):
            return True
        title = mention.text.split("\n", 1)[0].casefold()
        if any(map(title.__contains__, self._words)):
            return True
        least = self._voices.decisive_move_pct
        return least > 0.0 and share_move_pct(title) >= least


def _room(told: Told, *, own: VoiceRules, share: float, strangers: float | None) -> float:
    """How many voices its source has left, and where the author is new, how many all newcomers have: see VoiceRules."""

    room = _left(own.source_cap, share, told.by_other_sources, told.same_source)
    if strangers is not None:
        usual = min(strangers, STRANGERS_MAX)
        many = _left(own.newcomer_cap, usual, told.by_others, told.by_newcomers) + told.newcomers_before / 6
        few = _left(own.newcomer_cap, usual, told.by_others_h, told.by_newcomers_h) + told.newcomers_before / 24
        room = min(room, many, few)
    return room


def _left(cap: float, usual: float, others: int, same: int) -> float:
    return (cap + usual * others) / max(1.0 - usual, 1e-6) - same
