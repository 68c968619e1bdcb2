"""What becomes of signals: which fire within the budget, what waits, opens, is told again or closes, and what stays silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from monitor.alerting import (
    OPENED,
    Budget,
    BudgetState,
    OpenAlert,
    Reason,
    Rules,
    Signal,
    as_known,
    confirm,
    cooling_down,
    score_of,
    step,
)
from monitor.clock import to_rfc3339
from monitor.loops.core.memory import HOUR_MS, Entity, Memory
from monitor.loops.core.signals import Reader, Reading
from monitor.loops.core.telling import Teller, told_by
from monitor.records import AlertKind, AlertTransition, Direction, Suppression

SCORE_MIN = 0.5  # how loud an alert is, is a share of the score it needed, which no budget may make nothing
SILENT_AGAIN_MS = 6 * HOUR_MS
STRANGERS_SURE = 0.9  # of all posts: then nearly everybody is new
STANDS_MS = HOUR_MS


class Firing(NamedTuple):
    """A signal that the budget allows; `rarity`: the rate of its like over what is allowed."""

    rarity: float
    ledger: str
    signal: Signal
    channel: str


class Life:
    """Decides. `counts`: how often each reason kept an alert from opening. `share`: the partition's part of the budget."""

    def __init__(
        self,
        rules: Rules,
        memory: Memory,
        reader: Reader,
        teller: Teller,
        *,
        share: float,
        counts: Counter[str],
    ) -> None:
        self._rules, self._memory, self._reader, self._teller = rules, memory, reader, teller
        self._share, self._counts = share, counts
        self._budget: Budget | None = None
        self._watched = 1
        self._suppressed: list[Suppression] = []

    @property
    def budget(self) -> BudgetState | None:
        """What is kept of the budget; None before the first mention."""
        return self._budget.state if self._budget is not None else None

    def begin(self, state: BudgetState) -> None:
        """From here on the budget is earned."""
        own, gap_ms = self._rules, round(self._rules.life.cooldown_s * 1000)
        self._budget = Budget(rules=own.budget, shares=own.shares, gap_ms=gap_ms, share=self._share, state=state)

    def start(self, at_ms: int) -> None:
        """A moment at which entities are looked at."""
        self._reader.start(at_ms)
        self._watched = max(1, max((market.entities for market in self._memory.markets.values()), default=1))

    def take_suppressed(self) -> tuple[Suppression, ...]:
        """What stayed silent since the last step."""
        suppressed, self._suppressed = tuple(self._suppressed), []
        return suppressed

    def look(
        self,
        name: str,
        entity: Entity,
        at_ms: int,
        transitions: list[AlertTransition],
        spoken: Collection[str] = (),
    ) -> bool:
        """One look at an entity; True when it has to be looked at again by the clock. `spoken`: the channels that have
        something new; those without can't have become rarer than they were, and are read only while an alert depends on them."""
        budget, watched = self._budget, self._watched
        assert budget is not None, "who is looked at was spoken of"
        budget.move_to(at_ms)
        channels = entity.ears if entity.waits or not spoken else spoken
        readings = self._reader.readings(name, entity, at_ms, channels)
        firing: list[Firing] = []
        for ledger, reading in readings.items():
            score = reading.score
            budget.observe(ledger, name, score, at_ms)
            if not budget.may_fire(ledger, score, at_ms, watched):
                continue
            allowed = budget.allowed(ledger, at_ms)
            rate = budget.rate(ledger, score, watched)
            if rate <= allowed:
                signal = self._reader.signal(name, entity, at_ms, reading)
                firing.append(Firing(rate / allowed, ledger, signal, reading.channel))
        if len(firing) > 1:
            firing.sort(key=lambda each: (each.rarity, each.ledger))
        if entity.alert is not None:
            self._step(name, entity, readings, firing, at_ms=at_ms, transitions=transitions)
        if entity.alert is None and firing:
            return self._open(name, entity, firing[0], at_ms=at_ms, transitions=transitions)
        if entity.pending is not None and not firing:
            self._give_up(name, entity, at_ms)
        return False

    def _step(
        self,
        name: str,
        entity: Entity,
        readings: Mapping[str, Reading],
        firing: Sequence[Firing],
        *,
        at_ms: int,
        transitions: list[AlertTransition],
    ) -> None:
        """One look at an open alert."""
        own = entity.alert
        assert own is not None, "only an open alert takes a step"
        alert = own.alert
        signals = {
            ledger: self._reader.signal(name, entity, at_ms, readings[ledger])
            for ledger in own.needed
            if ledger in readings
        }
        same = [
            (signal.score / own.needed[ledger], ledger)
            for ledger, signal in signals.items()
            if signal.direction == alert.direction
        ]
        loudness, loudest = max(same, default=(0.0, ""))
        # Only the loudest may turn it round: a second opinion beside it is controversy, not a reversal.
        against = (
            bool(firing)
            and firing[0].signal.direction != alert.direction
            and self._may_open(name, entity, firing[0], at_ms)
        )
        reason = step(own, loudness=loudness, reversed_by=against, at_ms=at_ms, rules=self._rules.life)
        if reason is None:
            return
        if reason is Reason.STRONGER:
            channel, signal = readings[loudest].channel, signals[loudest]
            needed, p_value = own.needed[loudest], alert.p_value
            fresh = self._teller.tell(
                name, entity, signal, channel=channel, needed=needed, p_value=p_value, at_ms=at_ms
            )
            own.alert = msgspec.structs.replace(fresh, id=alert.id, opened_at=alert.opened_at)
            transitions.append(AlertTransition(alert=own.alert, change="updated", reason=reason, at_ms=at_ms))
            return
        resolved = msgspec.structs.replace(alert, resolved_at=to_rfc3339(at_ms))
        transitions.append(AlertTransition(alert=resolved, change="resolved", reason=reason, at_ms=at_ms))
        # What comes within the cool-down is measured against how loud it became, not against the story that opened it.
        entity.opened[alert.direction] = (own.opened_ms, own.peak)
        entity.alert = None

    def _open(
        self,
        name: str,
        entity: Entity,
        loudest: Firing,
        *,
        at_ms: int,
        transitions: list[AlertTransition],
    ) -> bool:
        """Open an alert unless the same was just told; one that is barely loud enough waits. True: see `look`."""
        budget, life = self._budget, self._rules.life
        assert budget is not None, "only a core that has folded something opens alerts"
        _, ledger, signal, channel = loudest
        needed = {
            each: max(budget.needed(each, at_ms, self._watched), SCORE_MIN)
            for each in self._rules.shares
            if each.partition("/")[0] == signal.kind
        }
        loudness = signal.score / needed[ledger]
        if cooling_down(entity.opened.get(signal.direction), loudness=loudness, at_ms=at_ms, rules=life):
            kind, direction, score, voices = signal.kind, signal.direction, signal.score, signal.voices.total
            self._stay_silent(name, entity, Reason.COOLING_DOWN, kind, direction, score, needed[ledger], voices, at_ms)
            return False
        if not self._may_open(name, entity, loudest, at_ms):
            kind, direction, score, voices = signal.kind, signal.direction, signal.score, signal.voices.total
            why = Reason.UNKNOWN_ACCOUNTS
            self._stay_silent(name, entity, why, kind, direction, score, needed[ledger], voices, at_ms)
            return False
        waits = confirm(entity.pending, signal, needed=needed[ledger], at_ms=at_ms, rules=life)
        if waits is not None:
            if waits is not entity.pending:
                self._give_up(name, entity, at_ms)
                entity.pending = waits
                return True
            return False
        entity.pending = None
        p_value = budget.rate(ledger, signal.score, self._watched) / self._watched
        budget.spend(at_ms)
        alert = self._teller.tell(
            name, entity, signal, channel=channel, needed=needed[ledger], p_value=p_value, at_ms=at_ms
        )
        entity.alert = OpenAlert(
            alert=alert, channel=channel, needed=needed, peak=loudness, opened_ms=at_ms, updated_ms=at_ms
        )
        entity.opened[signal.direction] = (at_ms, loudness)
        transitions.append(AlertTransition(alert=alert, change="opened", reason=OPENED[signal.kind], at_ms=at_ms))
        return True

    def _may_open(self, name: str, entity: Entity, firing: Firing, at_ms: int) -> bool:
        """Would it fire if of the newcomers only so many had spoken as usually come with the known?

        A crowd that is new to us is loud before it can be told whether it is a brigade. So what a newcomer said counts in full
        once it has stood for `STANDS_MS`; what came from them in a brigade's time, or as long before its first echo, counts
        nothing for as long as it is heard.
        """
        own, budget, signal, channel = self._rules, self._budget, firing.signal, firing.channel
        assert budget is not None, "only what a budget allows fires"
        ear = entity.ears[channel]
        index = self._reader.day_index if signal.kind == "drift" else own.windows_s.index(signal.window_s)
        inside = ear.sums.inside(index)
        since_ms, last_ms = ear.brigade
        unknown = [
            story
            for story in inside
            if story.newcomer and (story.at_ms >= at_ms - STANDS_MS or since_ms - STANDS_MS <= story.at_ms <= last_ms)
        ]
        if not unknown:
            return True
        # Where nearly everybody is new, the known tell nothing of how many more to expect; in a brigade they tell the wrong, and
        # for as long as its posts are heard, for it made the newcomers' share itself.
        on = ear.chorus.brigade is not None or any(since_ms <= story.at_ms <= last_ms for story in unknown)
        strangers = 0.0 if on or ear.strangers >= STRANGERS_SURE else ear.strangers
        threshold = min(budget.needed(firing.ledger, at_ms, self._watched), signal.score)
        counts = signal.kind in {"burst", "tone"}
        rarity = signal.expected.rarity if counts else 1.0
        said, gone = (told_by(stories, ear.decisive, rarity) for stories in (inside, unknown))
        if counts:
            missing = {each.mention.id for each in gone}
            known = [each for each in said if each.mention.id not in missing]
            lately = sum(each.weight for each in known if each.mention.published_at_ms >= at_ms - STANDS_MS)
            voices = as_known(known, signal.voices, lately * strangers / (1.0 - strangers))
            least = self._reader.voices_min[channel]
            return score_of(voices, signal, voices_min=least, rules=own.detectors) >= threshold
        if sum(each.weight for each in gone) <= strangers * sum(each.weight for each in said):
            return True
        return self._reader.rescoring(name, entity, signal, said, channel, at_ms)(gone) >= threshold

    def _give_up(self, name: str, entity: Entity, at_ms: int) -> None:
        """What waited to be confirmed, if anything did, no longer fires."""
        gone, entity.pending = entity.pending, None
        if gone is not None:
            self._stay_silent(
                name,
                entity,
                Reason.NOT_CONFIRMED,
                gone.kind,
                gone.direction,
                gone.score,
                gone.needed,
                gone.voices,
                at_ms,
            )

    def _stay_silent(
        self,
        name: str,
        entity: Entity,
        reason: Reason,
        kind: AlertKind,
        direction: Direction,
        score: float,
        needed: float,
        voices: float,
        at_ms: int,
    ) -> None:
        """Note why a loud signal opens nothing; once per direction and reason in `SILENT_AGAIN_MS`."""
        self._counts[reason] += 1
        key = f"{direction}/{reason}"
        if at_ms - entity.silent.get(key, at_ms - SILENT_AGAIN_MS) < SILENT_AGAIN_MS:
            return
        entity.silent[key] = at_ms
        self._suppressed.append(
            Suppression(
                entity=name,
                kind=kind,
                direction=direction,
                reason=reason,
                at_ms=at_ms,
                score=round(score, 3),
                needed=round(needed, 3),
                voices=round(voices, 3),
            )
        )
