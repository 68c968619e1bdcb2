"""Which accounts are new here: not heard of, about any company of the partition, on an earlier day of the last weeks.

    older (two weeks)   old (two weeks)   │ day − 3 │ day − 2 │ yesterday │ today
    ──────────────────── known ──────────────────────────────────────────── │ new, all day

Each part is a Bloom filter (Bloom 1970) of 16 KiB with three probes by double hashing (Kirsch & Mitzenmacher 2006): with
15,000 accounts one stranger in forty passes for known. The last days are kept apart so that a restart, which hears two days
again, gives each post the verdict that it had.
"""

from __future__ import annotations

import zlib
from collections import deque

from monitor.windows.records import NewcomersState

DAY_MS = 86_400_000
_BITS = 1 << 17
_RECENT = 4  # days kept apart: what a restart may hear again, and the day before
_GENERATION_DAYS = 15


class Newcomers:
    """The accounts of one partition. Posts must come in event-time order, but for those that a restart hears again."""

    __slots__ = ("_day", "_known", "_old", "_older", "_packed", "_recent", "_turned")

    def __init__(self, state: NewcomersState | None = None) -> None:
        state = state or NewcomersState()
        self._day, self._turned = state.day, state.turned
        self._recent = deque(map(_unpack, state.recent or [b""] * _RECENT), maxlen=_RECENT)
        self._old, self._older = _unpack(state.old), _unpack(state.older)
        self._known = self._known_before(self._day)
        self._packed = self._pack_all()

    @property
    def state(self) -> NewcomersState:
        """As of now; only today's filter is packed anew."""
        self._packed.recent[-1:] = [_pack(self._recent[-1])]
        return self._packed

    def hear(self, at_ms: int, author: str) -> bool:
        """Is this account new today?"""
        day = at_ms // DAY_MS
        if day > self._day:
            self._turn(day)
        crc = zlib.crc32(author.encode())
        first, step = crc % _BITS, (crc >> 15) | 1
        probes = (first, (first + step) % _BITS, (first + 2 * step) % _BITS)
        age = self._day - day
        if age < _RECENT:
            today = self._recent[_RECENT - 1 - age]
            for place in probes:
                today[place >> 3] |= 1 << (place & 7)
        known = self._known if not age else self._known_before(day)
        return not all(known[place >> 3] >> (place & 7) & 1 for place in probes)

    def _known_before(self, day: int) -> bytearray:
        """Everybody who was heard of on earlier days, as far as the days are kept apart."""
        age = min(self._day - day, _RECENT - 1)
        earlier = [self._older, self._old, *list(self._recent)[: _RECENT - 1 - age]]
        return _together(earlier)

    def _turn(self, day: int) -> None:
        """A new day: the oldest of the recent joins the old, and every two weeks the old the older."""
        for _ in range(min(day - self._day, _RECENT)):
            self._old = _together([self._old, self._recent[0]])
            self._recent.append(_unpack(b""))
        if not self._turned:
            self._turned = day
        elif day - self._turned >= _GENERATION_DAYS:
            self._older = self._old if day - self._turned < 2 * _GENERATION_DAYS else _unpack(b"")
            self._old, self._turned = _unpack(b""), day
        self._day = day
        self._known = self._known_before(day)
        self._packed = self._pack_all()

    def _pack_all(self) -> NewcomersState:
        return NewcomersState(
            day=self._day,
            turned=self._turned,
            recent=[_pack(each) for each in self._recent],
            old=_pack(self._old),
            older=_pack(self._older),
        )


def _together(filters: list[bytearray]) -> bytearray:
    bits = 0
    for each in filters:
        bits |= int.from_bytes(each)
    return bytearray(bits.to_bytes(_BITS // 8))


def _pack(bits: bytearray) -> bytes:
    return zlib.compress(bits, 1) if any(bits) else b""


def _unpack(packed: bytes) -> bytearray:
    return bytearray(zlib.decompress(packed)) if packed else bytearray(_BITS // 8)
