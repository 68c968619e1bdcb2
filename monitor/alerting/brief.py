"""An alert in plain sentences, made from its own facts and nothing else."""

from __future__ import annotations

from typing import Any

from monitor.records import Alert


def brief(alert: Alert) -> str:
    """What happened, against what is usual, why the tone moved, and what it rests on."""
    return " ".join(sentence for sentence in _sentences(alert) if sentence)


def _sentences(alert: Alert) -> list[str]:
    base, details = alert.baseline, alert.details
    who = alert.name or alert.entity
    return [
        (
            f"{who}: {alert.effective_n:.1f} independent {alert.direction} voices leaning ({alert.raw_n} items) in"
            f" {_span(base['window_s'])}; {base['voices']:.1f} are usual."
        ),
        f"Tone {alert.polarity:+.2f}, usually {base['polarity']:+.2f}.",
        _shift(details.get("shift", {})),
        "Little is known of what is usual yet, so the threshold is wider." if base["cold_start"] else "",
        _sources(details),
        (
            "It rests on few authors: without the loudest it would not have fired."
            if details.get("fires_without_top_authors") is False
            else ""
        ),
        _carriers(details.get("stories_needed", 0)),
        (
            "What came before carries it too: it would stand without all of these stories."
            if details.get("fires_without_all_stories")
            else ""
        ),
        f"Strongest: “{alert.evidence[0].quote}” ({alert.evidence[0].source})." if alert.evidence else "",
        (
            f"Against it: “{alert.counter_evidence[0].quote}” ({alert.counter_evidence[0].source})."
            if alert.counter_evidence
            else ""
        ),
    ]


def _shift(shift: dict[str, Any]) -> str:
    """Only what another reason than opinion adds is worth a sentence."""
    said = []
    if abs(shift.get("source_mix", 0.0)) >= 0.05:
        said.append(f"{shift['source_mix']:+.2f} of the shift is who speaks")
    if abs(shift.get("model", 0.0)) >= 0.02:
        said.append(f"{shift['model']:+.2f} is another model version and is not counted")
    text = ", ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _sources(details: Any) -> str:
    count = details.get("sources", 0)
    if not count:
        return ""
    weak = ", which mostly repeat others" if details.get("source_quality", 1.0) < 0.4 else ""
    return f"It comes from {count} source{'s' if count > 1 else ''}{weak}."


def _carriers(count: int) -> str:
    if not count:
        return ""
    return "One story carries it." if count == 1 else f"{count} stories carry it: without them it would not have fired."


def _span(window_s: int) -> str:
    return f"{window_s / 3600:g} h" if window_s >= 3600 else f"{window_s // 60} min"
