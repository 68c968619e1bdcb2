"""What the detectors read of one entity at one moment, against what is usual for it and what the market does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

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
    divergence,
    drift,
    expected,
    exposure,
    note_peak,
    over_blocks,
    over_channels,
    over_window,
    scaled,
    surplus,
    tone_shift,
)
from monitor.loops.core.hearing import Listener
from monitor.loops.core.memory import HORIZON_MS, HOUR_MS, Entity, Memory
from monitor.records import Voices
from monitor.windows import UNIT, Story

RECORD_H_MIN = 2  # hours of a channel: before, everything is unheard of and nothing is unusual


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
        self._exposures: dict[tuple[str, int], float] = {}
        self._market_now: dict[str, tuple[float, float, float, float]] = {}

    def start(self, at_ms: int) -> None:
        """Bring what all entities share to this moment."""
        self._exposures.clear()
        self._market_now.clear()
        self._listener.slide_to(at_ms)

    def signals(
        self, name: str, entity: Entity, at_ms: int, channels: Collection[str]
    ) -> dict[str, tuple[str, Signal]]:
        """The best reading for each ledger of the budget over these channels, with its channel."""
        best: dict[str, tuple[str, Signal]] = {}
        for channel in sorted(channels):
            for ledger, signal in self._channel_signals(name, entity, at_ms, channel):
                if ledger not in best or signal.score > best[ledger][1].score:
                    best[ledger] = (channel, signal)
        if len(entity.ears) > 1:
            apart = self._divergence(name, entity, at_ms)
            if apart is not None:
                best[apart.kind] = ("news", apart)
        return best

    def over_the_day(self, name: str, entity: Entity, signal: Signal, channel: str, at_ms: int) -> Signal:
        """A drift is told by the voices of the last day: those of the tone's window say little of what took so long."""
        sums, day_s = entity.ears[channel].sums, self._rules.windows_s[self.day_index]
        sums.move_to(at_ms)
        voices, moved = sums.window(self.day_index), self._market_move(channel, sums.window(self._market_index), at_ms)
        usual = scaled(self._usual(name, entity, channel, at_ms), self._exposure(channel, at_ms, day_s), *moved)
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

    def _channel_signals(self, name: str, entity: Entity, at_ms: int, channel: str) -> Iterable[tuple[str, Signal]]:
        """Every reading of one channel, with its ledger."""
        ear, habit, market = entity.ears[channel], entity.habits[channel], self._memory.markets[channel]
        if market.hour - market.first_hour < RECORD_H_MIN:
            return ()
        own, sums, voices_min = self._rules.detectors, ear.sums, self.voices_min[channel]
        sums.move_to(at_ms)
        most = sums.total(self._longest_index)
        if most < voices_min:
            return ()
        found: list[tuple[str, Signal]] = []
        usual = self._usual(name, entity, channel, at_ms)
        rarity, decisive = usual.rarity, ear.decisive
        factor, market_tone = self._market_move(channel, sums.window(self._market_index), at_ms)
        peak = 0.0
        for index, window_s, ledger, least in self._bursts[channel]:
            # Windows are nested: none holds more than the one before it.
            if most < least or (most := sums.total(index)) < least:
                continue
            total, start_ms = most, at_ms - 1000 * window_s
            if decisive is not None:
                total = _with_decisive(sums.window(index), decisive, start_ms, rarity).total
            exposed = self._exposure(channel, at_ms, window_s)
            excess = surplus(total, usual.voices * exposed * factor, usual.size)
            if excess > 0.0:
                peak = peak or excess
                voices = _with_decisive(sums.window(index), decisive, start_ms, rarity)
                signal = burst(voices, scaled(usual, exposed, factor, market_tone), window_s, own)
                if signal is not None:
                    found.append((ledger, signal))
        note_peak(habit, peak)
        voices, drifting = sums.window(self._tone_index), any(habit.bank)
        if voices.total >= voices_min and (drifting or voices.total * rarity >= self._tone_min):
            window_s = own.tone_window_s
            voices = _with_decisive(voices, decisive, at_ms - 1000 * window_s, rarity)
            tone_usual = scaled(usual, self._exposure(channel, at_ms, window_s), factor, market_tone)
            read = (
                tone_shift(voices, tone_usual, window_s, own),
                drift(voices, tone_usual, window_s, habit.bank),
            )
            found += [(signal.kind, signal) for signal in read if signal is not None]
        return found

    def _divergence(self, name: str, entity: Entity, at_ms: int) -> Signal | None:
        """News against social, once both have said enough today."""
        own = self._rules.detectors
        window_s = own.divergence_window_s
        of_news, of_social = entity.ears["news"].sums, entity.ears["social"].sums
        of_news.move_to(at_ms)
        of_social.move_to(at_ms)
        if of_news.total(self.day_index) < self._tone_min or of_social.total(self.day_index) < self._tone_min:
            return None
        news, social = of_news.window(self.day_index), of_social.window(self.day_index)
        usual_news = self._usual(name, entity, "news", at_ms)
        usual_social = self._usual(name, entity, "social", at_ms)
        signal = divergence(news, usual_news, social, usual_social, window_s=window_s, rules=own)
        if signal is None:
            return None
        exposed = self._exposure("news", at_ms, window_s)
        return msgspec.structs.replace(signal, expected=scaled(usual_news, exposed, 1.0, 0.0))

    def _usual(self, name: str, entity: Entity, channel: str, at_ms: int) -> Expected:
        """The entity's average hour; it holds for an hour of the clock within a block of the habit."""
        ear, habit, market = entity.ears[channel], entity.habits[channel], self._memory.markets[channel]
        of = (at_ms // HOUR_MS, market.hour, habit.block)
        if ear.usual is None or ear.usual_of != of:
            sector = self._memory.sectors.get(name, "")
            ear.usual = expected(habit, market, at_ms=at_ms, rules=self._rules.baseline, sector=sector)
            ear.usual_of = of
        return ear.usual

    def _market_move(self, channel: str, own: Voices, at_ms: int) -> tuple[float, float]:
        """How much louder than usual all the others are, and how their tone has moved, in the last four hours."""
        known = self._market_now.get(channel)
        if known is None:
            market, (total_u, polarity_u) = self._memory.markets[channel], self._listener.loud_sums[channel]
            usual = market.level * self._exposure(channel, at_ms, MARKET_S)
            usual *= 1.0 - 1.0 / max(market.entities, 2)
            known = self._market_now[channel] = (total_u / UNIT, polarity_u / UNIT, usual + 20.0, market.tone)
        total, polarity, usual, tone = known
        others = total - own.total
        factor = min(max((others + 20.0) / usual, 1.0), 3.0)
        return factor, (polarity - own.polarity - others * tone) / (others + 20.0)

    def _exposure(self, channel: str, at_ms: int, window_s: int) -> float:
        """Average hours in the window; the same for all entities at one moment."""
        key = (channel, window_s)
        known = self._exposures.get(key)
        if known is None:
            known = exposure(self._memory.markets[channel], at_ms - 1000 * window_s, 1000 * window_s)
            self._exposures[key] = known
        return known


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
