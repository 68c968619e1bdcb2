"""What the detectors read of one entity at one moment, against what is usual for it and what the market does.

Nearly every reading ends in the record of the budget and is heard of no more. So it is a score alone at first; what else
there is to a signal is put together for those that may fire.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from monitor.alerting import (
    BLOCK_MS,
    MARKET_S,
    Expected,
    Rescoring,
    Rules,
    Said,
    Signal,
    burst,
    burst_score,
    divergence,
    divergence_score,
    drift,
    drift_score,
    expected,
    exposure,
    note_peak,
    over_blocks,
    over_channels,
    over_window,
    scaled,
    surplus,
    tone_score,
    tone_shift,
)
from monitor.loops.core.hearing import Listener
from monitor.loops.core.memory import HORIZON_MS, HOUR_MS, Entity, Memory
from monitor.records import AlertKind, Voices
from monitor.windows import UNIT, Story

RECORD_H_MIN = 2  # hours of a channel: before, everything is unheard of and nothing is unusual


class Reading(NamedTuple):
    """How loud a detector is: the score of the signal that `Reader.signal` makes of it. `window`: its place in the rules."""

    score: float
    channel: str
    kind: AlertKind
    window: int


class Reader:
    """Reads signals. `start` comes before the readings of a moment."""

    def __init__(self, rules: Rules, memory: Memory, listener: Listener) -> None:
        self._rules, self._memory, self._listener = rules, memory, listener
        own = rules.detectors
        longest = max(own.burst_windows_s)
        self.voices_min = {"news": own.voices_min_news, "social": own.voices_min_social}
        # From long to short, with the voices that each needs.
        self._bursts = {
            channel: tuple(
                (
                    rules.windows_s.index(each),
                    each,
                    "burst" if each == longest else f"burst/{each}",
                    least if each == longest else own.short_voices_min,
                )
                for each in sorted(set(own.burst_windows_s), reverse=True)
            )
            for channel, least in self.voices_min.items()
        }
        self._tone_index = rules.windows_s.index(own.tone_window_s)
        self.day_index = rules.windows_s.index(own.divergence_window_s)
        self._market_index = rules.windows_s.index(MARKET_S)
        self._longest_index = len(rules.windows_s) - 1
        self._tone_min = own.tone_voices_min
        self._exposures: dict[str, tuple[float, ...]] = {}
        self._market_now: dict[str, tuple[float, float, float, float]] = {}

    def start(self, at_ms: int) -> None:
        """Bring what all entities share to this moment."""
        self._exposures.clear()
        self._market_now.clear()
        self._listener.slide_to(at_ms)

    def readings(self, name: str, entity: Entity, at_ms: int, channels: Collection[str]) -> dict[str, Reading]:
        """The loudest reading for each ledger of the budget over these channels."""
        best: dict[str, Reading] = {}
        for channel in sorted(channels) if len(channels) > 1 else channels:
            self._read_channel(name, entity, at_ms, channel, best)
        if len(entity.ears) > 1:
            both = self._both_channels(name, entity, at_ms)
            if both is not None and (score := divergence_score(*both)) > 0.0:
                best["divergence"] = Reading(score, "news", "divergence", self.day_index)
        return best

    def signal(self, name: str, entity: Entity, at_ms: int, reading: Reading) -> Signal:
        """All that there is to a reading of this moment."""
        _, channel, kind, index = reading
        own, window_s = self._rules.detectors, self._rules.windows_s[index]
        signal: Signal | None
        if kind == "divergence":
            both = self._both_channels(name, entity, at_ms)
            assert both is not None, "both channels were read"
            news, usual, social, usual_social = both
            usual_there = scaled(usual, self._exposure(channel, at_ms, index), 1.0, 0.0)
            signal = divergence(news, usual_there, social, usual_social, window_s=window_s, rules=own)
        else:
            ear = entity.ears[channel]
            usual_there = self._usual_in(index, name, entity, channel, at_ms)
            voices = _with_decisive(ear.sums.window(index), ear.decisive, at_ms - 1000 * window_s, usual_there.rarity)
            if kind == "drift":
                signal = drift(voices, usual_there, window_s, entity.habits[channel].bank)
            else:
                signal = (burst if kind == "burst" else tone_shift)(voices, usual_there, window_s, own)
        assert signal is not None, "what was read is there"
        assert signal.score == reading.score, "a reading is its signal's score"
        return signal

    def over_the_day(self, name: str, entity: Entity, signal: Signal, channel: str, at_ms: int) -> Signal:
        """A drift is told by the voices of the last day: those of the tone's window say little of what took so long."""
        sums, day_s = entity.ears[channel].sums, self._rules.windows_s[self.day_index]
        sums.move_to(at_ms)
        voices, usual = sums.window(self.day_index), self._usual_in(self.day_index, name, entity, channel, at_ms)
        tone = voices.polarity / voices.total - usual.tone
        return msgspec.structs.replace(signal, window_s=day_s, voices=voices, expected=usual, tone=tone)

    def rescoring(
        self, name: str, entity: Entity, signal: Signal, said: Sequence[Said], channel: str, at_ms: int
    ) -> Rescoring:
        """The detector that spoke, over fewer stories."""
        own = self._rules
        if signal.kind == "drift":
            since = (at_ms - HORIZON_MS + BLOCK_MS - 1) // BLOCK_MS
            steps = [each for each in entity.habits[channel].steps if each.block >= since]
            return over_blocks(signal, said, steps=steps, prior=own.baseline.tone_prior_voices)
        if signal.kind == "divergence":
            social = self._usual(name, entity, "social", at_ms)
            return over_channels(signal, said, social=social, window_s=signal.window_s, rules=own.detectors)
        return over_window(signal, said, voices_min=self.voices_min[channel], rules=own.detectors)

    def _read_channel(self, name: str, entity: Entity, at_ms: int, channel: str, best: dict[str, Reading]) -> None:
        """Every reading of one channel, where it is louder than what is in `best`."""
        ear, habit, market = entity.ears[channel], entity.habits[channel], self._memory.markets[channel]
        if market.hour - market.first_hour < RECORD_H_MIN:
            return
        own, sums, voices_min = self._rules.detectors, ear.sums, self.voices_min[channel]
        sums.move_to(at_ms)
        most = sums.total(self._longest_index)
        if most < voices_min:
            return
        usual = self._usual(name, entity, channel, at_ms)
        rarity, decisive = usual.rarity, ear.decisive
        factor, market_tone = self._market_move(channel, sums.window(self._market_index), at_ms)
        peak = 0.0
        for index, window_s, ledger, least in self._bursts[channel]:
            # Windows are nested: none holds more than the one before it.
            if most < least:
                continue
            most, polarity = sums.said(index)
            if most < least:
                continue
            total = most
            if decisive is not None:
                voices = _with_decisive(sums.window(index), decisive, at_ms - 1000 * window_s, rarity)
                total, polarity = voices.total, voices.polarity
            excess = surplus(total, usual.voices * self._exposure(channel, at_ms, index) * factor, usual.size)
            if excess > 0.0:
                peak = peak or excess
                score = burst_score(excess, total, polarity, usual, market_tone, own)
                _keep_louder(best, ledger, Reading(score, channel, "burst", index))
        note_peak(habit, peak)
        voices, drifting = sums.window(self._tone_index), any(habit.bank)
        if voices.total >= voices_min and (drifting or voices.total * rarity >= self._tone_min):
            if drifting:
                _, score = drift_score(habit.bank)
                _keep_louder(best, "drift", Reading(score, channel, "drift", self._tone_index))
            voices = _with_decisive(voices, decisive, at_ms - 1000 * own.tone_window_s, rarity)
            if voices.total >= self._tone_min:
                score = tone_score(voices, usual, market_tone)
                _keep_louder(best, "tone", Reading(score, channel, "tone", self._tone_index))

    def _both_channels(self, name: str, entity: Entity, at_ms: int) -> tuple[Voices, Expected, Voices, Expected] | None:
        """The day's news and social, each with what is usual there, once both have said enough."""
        day, least = self.day_index, self._tone_min
        of_news, of_social = entity.ears["news"].sums, entity.ears["social"].sums
        of_news.move_to(at_ms)
        of_social.move_to(at_ms)
        if of_news.total(day) < least or of_social.total(day) < least:
            return None
        usual_news = self._usual(name, entity, "news", at_ms)
        usual_social = self._usual(name, entity, "social", at_ms)
        return of_news.window(day), usual_news, of_social.window(day), usual_social

    def _usual(self, name: str, entity: Entity, channel: str, at_ms: int) -> Expected:
        """The entity's average hour; it holds for an hour of the clock within a block of the habit."""
        ear, habit, market = entity.ears[channel], entity.habits[channel], self._memory.markets[channel]
        of = (at_ms // HOUR_MS, market.hour, habit.block)
        if ear.usual is None or ear.usual_of != of:
            sector = self._memory.sectors.get(name, "")
            ear.usual = expected(habit, market, at_ms=at_ms, rules=self._rules.baseline, sector=sector)
            ear.usual_of = of
        return ear.usual

    def _usual_in(self, index: int, name: str, entity: Entity, channel: str, at_ms: int) -> Expected:
        """What is usual in one window, while the market does what it does."""
        moved = self._market_move(channel, entity.ears[channel].sums.window(self._market_index), at_ms)
        return scaled(self._usual(name, entity, channel, at_ms), self._exposure(channel, at_ms, index), *moved)

    def _market_move(self, channel: str, own: Voices, at_ms: int) -> tuple[float, float]:
        """How much louder than usual all the others are, and how their tone has moved, in the last four hours."""
        known = self._market_now.get(channel)
        if known is None:
            market, (total_u, polarity_u) = self._memory.markets[channel], self._listener.loud_sums[channel]
            usual = market.level * self._exposure(channel, at_ms, self._market_index)
            usual *= 1.0 - 1.0 / max(market.entities, 2)
            known = self._market_now[channel] = (total_u / UNIT, polarity_u / UNIT, usual + 20.0, market.tone)
        total, polarity, usual, tone = known
        others = total - own.total
        factor = min(max((others + 20.0) / usual, 1.0), 3.0)
        return factor, (polarity - own.polarity - others * tone) / (others + 20.0)

    def _exposure(self, channel: str, at_ms: int, index: int) -> float:
        """Average hours in a window; the same for all entities at one moment."""
        known = self._exposures.get(channel)
        if known is None:
            market = self._memory.markets[channel]
            known = self._exposures[channel] = tuple(
                exposure(market, at_ms - 1000 * window_s, 1000 * window_s) for window_s in self._rules.windows_s
            )
        return known[index]


def _keep_louder(best: dict[str, Reading], ledger: str, reading: Reading) -> None:
    known = best.get(ledger)
    if known is None or reading.score > known.score:
        best[ledger] = reading


def _with_decisive(voices: Voices, story: Story | None, start_ms: int, rarity: float) -> Voices:
    """The sums of a window, with the day's decisive story at what its rarity earns."""
    if story is None or story.at_ms < start_ms or rarity <= 1.0:
        return voices
    more = (rarity - 1.0) / UNIT
    return Voices(
        total=voices.total + more * story.total_u,
        negative=voices.negative + more * story.negative_u,
        positive=voices.positive + more * story.positive_u,
        polarity=voices.polarity + more * story.polarity_u,
    )
