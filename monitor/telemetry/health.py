"""Alive and ready, with reasons. A part that has not been seen for too long is named, never glossed over. Pure."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

TROUBLE_S = 45.0  # longer than the longest pause between two tries


class Health:
    """`limits_s`: how old each part's last beat may be. Parts that never beat keep the role from being ready."""

    def __init__(self, limits_s: Mapping[str, float]) -> None:
        self._limits_s = dict(limits_s)
        self._beats_s: dict[str, float] = {}
        self._degraded: tuple[str, ...] = ()
        self._held: tuple[str, ...] = ()
        self._troubles: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def beat(self, part: str, now_s: float) -> None:
        """The part is alive; beats of parts without a limit are kept for show."""
        with self._lock:
            self._beats_s[part] = now_s

    def show_degraded(self, troubles: Sequence[str]) -> None:
        """What is wrong although the role works: shown beside readiness, never as calm."""
        with self._lock:
            self._degraded = tuple(troubles)

    @property
    def degraded(self) -> tuple[str, ...]:
        with self._lock:
            return self._degraded

    def hold(self, reasons: Sequence[str]) -> None:
        """What is not worked on until somebody acts: alive, but not ready. An empty list: everything goes on."""
        with self._lock:
            self._held = tuple(reasons)

    def trouble(self, part: str, what: str | None, now_s: float) -> None:
        """Why the part could not do its work just now; None: it did. What is not told again is over after `TROUBLE_S`."""
        with self._lock:
            if what is None:
                self._troubles.pop(part, None)
            else:
                self._troubles[part] = (what, now_s)

    def ages_s(self, now_s: float) -> dict[str, float | None]:
        """Seconds since each part's last beat; None: it has not started yet."""
        with self._lock:
            return {
                part: round(now_s - self._beats_s[part], 3) if part in self._beats_s else None
                for part in {**self._limits_s, **self._beats_s}
            }

    def faults(self, now_s: float, *, alive_only: bool = False) -> list[str]:
        """Why the role is not ready; with `alive_only`, why it is stuck: not having started yet is no fault then."""
        ages = self.ages_s(now_s)
        with self._lock:
            recent = [f"{part}: {what}" for part, (what, at_s) in self._troubles.items() if now_s - at_s < TROUBLE_S]
            faults = [] if alive_only else [*self._held, *recent]
        for part, limit_s in self._limits_s.items():
            age_s = ages[part]
            if age_s is None:
                if not alive_only:
                    faults.append(f"{part}: not started yet")
            elif age_s > limit_s:
                faults.append(f"{part}: last seen {age_s:.0f} s ago, at most {limit_s:.0f} s is healthy")
        return faults
