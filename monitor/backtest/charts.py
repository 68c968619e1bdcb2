"""Drawings for the report, as SVG text: nothing to load, the same numbers give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

DAY_MS = 86_400_000
WIDE, HIGH, FOOT = 960.0, 110.0, 20.0
COLOURS = ("#d7655f", "#c3ccd6", "#58a883")  # negative, neutral, positive


def timeline(
    daily: Mapping[int, Sequence[float]],
    marks: Sequence[tuple[int, str, str, str]],
    *,
    days: int,
    first_day: int,
    events: Sequence[tuple[int, str]] = (),
    unit: str = "voices",
    high: float = HIGH,
) -> str:
    """Stacked bars a day (negative, neutral, positive), alerts above them, known events as lines.

    `marks`: (moment in ms, direction, alert id, what to say); an empty id draws no link.
    """
    top = max((sum(each) for each in daily.values()), default=0.0) or 1.0
    step, roof = WIDE / days, 22.0
    shapes = [_grid(days, first_day, high), _scale(top, roof, high)]
    for day in sorted(daily):
        base, said = high, daily[day]
        told = f"{_date(first_day + day)}: {sum(said):.1f} {unit}"
        if len(said) == 3:
            told += f" ({said[0]:.1f} negative, {said[2]:.1f} positive)"
        bars = []
        for value, colour in zip(said, COLOURS, strict=False):
            tall = value / top * (high - roof)
            base -= tall
            if tall > 0.05:
                bars.append(
                    f'<rect x="{day * step:.2f}" y="{base:.2f}" width="{max(step * 0.86, 0.8):.2f}" height="{tall:.2f}"'
                    f' fill="{colour}"/>'
                )
        shapes.append(f"<g><title>{escape(told)}</title>{''.join(bars)}</g>")
    for day, name in events:
        x = (day + 0.5) * step
        shapes.append(
            f'<g><title>{escape(name)}</title><line x1="{x:.2f}" x2="{x:.2f}" y1="2" y2="{high:.0f}" class="event"/></g>'
        )
    for at_ms, direction, alert, told in marks:
        x = (at_ms / DAY_MS - first_day) * step
        points = f"M{x - 5:.2f} 3h10l-5 10z" if direction == "negative" else f"M{x - 5:.2f} 13h10l-5 -10z"
        shape = f'<path d="{points}" class="{direction}"/>'
        link = f'<a href="#a-{alert}">{shape}</a>' if alert else shape
        shapes.append(f"<g><title>{escape(told)}</title>{link}</g>")
    return _svg(WIDE, high + FOOT, "".join(shapes))


def calibration(rows: Sequence[Mapping[str, Any]]) -> str:
    """Promised against found false alerts a day, both on a log scale, with 95% intervals; on the diagonal the promise is kept."""
    values = [row[key] for row in rows for key in ("promised_per_day", "found_per_day", "high")]
    low = 10 ** math.floor(math.log10(max(min((v for v in values if v > 0), default=0.1), 0.01)))
    high = 10 ** math.ceil(math.log10(max([*values, low * 10])))
    size, left = 300.0, 46.0
    span = math.log10(high / low)

    def place(value: float) -> float:
        return math.log10(max(value, low) / low) / span * size

    shapes = [f'<rect x="{left}" y="0" width="{size}" height="{size}" class="frame"/>']
    tick = float(low)
    while tick <= high * 1.001:
        at = place(tick)
        shapes.append(
            f'<line x1="{left + at:.1f}" x2="{left + at:.1f}" y1="0" y2="{size}" class="grid"/>'
            f'<line x1="{left}" x2="{left + size}" y1="{size - at:.1f}" y2="{size - at:.1f}" class="grid"/>'
            f'<text x="{left + at:.1f}" y="{size + 15}" text-anchor="middle">{tick:g}</text>'
            f'<text x="{left - 6}" y="{size - at + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
        tick *= 10
    shapes.append(f'<line x1="{left}" y1="{size}" x2="{left + size}" y2="0" class="diagonal"/>')
    for row in rows:
        x, y = left + place(row["promised_per_day"]), size - place(row["found_per_day"])
        kind = "kept" if row["kept"] else "broken"
        told = (
            f"promised {row['promised_per_day']:g} a day, found {row['found_per_day']:g}"
            f" (95%: {row['low']:g} to {row['high']:g})"
        )
        shapes.append(
            f'<g class="{kind}"><title>{told}</title><line x1="{x:.1f}" x2="{x:.1f}" y1="{size - place(row["high"]):.1f}"'
            f' y2="{size - place(row["low"]):.1f}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="5"/></g>'
        )
    shapes.append(
        f'<text x="{left + size / 2}" y="{size + 34}" text-anchor="middle">promised false alerts a day</text>'
        f'<text transform="translate(11 {size / 2}) rotate(-90)" text-anchor="middle">found on null replays</text>'
    )
    moved = f'<g transform="translate(0 8)">{"".join(shapes)}</g>'  # room for the topmost number
    return _svg(left + size + 14, size + 50, moved, style="max-width:360px")


def _grid(days: int, first_day: int, high: float) -> str:
    """Dates below: days where there are few, months where there are many."""
    step = WIDE / days
    every = next((n for n in (1, 2, 7, 14) if days / n <= 14), 0)
    shown = []
    for day in range(days):
        moment = datetime.fromtimestamp((first_day + day) * 86_400, UTC)
        months = max(1, round(days / 30 / 12))
        if day % every == 0 if every else moment.day == 1 and (moment.month - 1) % months == 0:
            label = f"{moment:%b} {moment.day}" if every else f"{moment:%b %Y}"
            x = day * step
            shown.append(
                f'<line x1="{x:.2f}" x2="{x:.2f}" y1="18" y2="{high + 4:.0f}" class="grid"/>'
                f'<text x="{x + 3:.2f}" y="{high + 15:.0f}">{label}</text>'
            )
    return "".join(shown) + f'<line x1="0" x2="{WIDE:.0f}" y1="{high:.0f}" y2="{high:.0f}" class="axis"/>'


def _scale(top: float, roof: float, high: float) -> str:
    nice = 10 ** math.floor(math.log10(top))
    value = next(n * nice for n in (5, 2, 1) if n * nice <= top)
    y = high - value / top * (high - roof)
    return (
        f'<line x1="0" x2="{WIDE:.0f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
        f'<text x="{WIDE - 2:.0f}" y="{y - 3:.1f}" text-anchor="end">{value:g}</text>'
    )


def _date(day: int) -> str:
    return f"{datetime.fromtimestamp(day * 86_400, UTC):%Y-%m-%d}"


def _svg(width: float, height: float, inside: str, *, style: str = "") -> str:
    styled = f' style="{style}"' if style else ""
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img"{styled}>{inside}</svg>'
