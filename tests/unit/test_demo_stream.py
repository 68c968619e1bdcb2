"""The demo's stream is what it says it is, and its view trusts no text."""

from __future__ import annotations

import io
import json
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console

from monitor.demo import DURATION_H, START_MS, DemoMessage, demo_messages, expected, render, summary_line
from monitor.demo.stream import HOUR_MS, SCRIPT


@pytest.fixture(scope="module")
def stream() -> list[DemoMessage]:
    return list(demo_messages())


def fields_of(stream: list[DemoMessage], *kinds: str) -> list[dict[str, Any]]:
    return [json.loads(message.value) for message in stream if message.kind in kinds]


def words(text: str) -> frozenset[str]:
    return frozenset(text.lower().split())


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(stream: list[DemoMessage]) -> None:
    assert list(demo_messages()) == stream
    assert list(demo_messages(8)) != stream


def test_stream_is_a_few_thousand_messages_in_order_of_event_time(stream: list[DemoMessage]) -> None:
    times = [message.at_ms for message in stream]
    assert times == sorted(times)
    assert 3_400 <= len(stream) <= 3_800
    assert times[0] >= START_MS
    assert times[-1] <= START_MS + DURATION_H * HOUR_MS


def test_start_moves_the_whole_stream_and_nothing_else(stream: list[DemoMessage]) -> None:
    moved = list(demo_messages(start_ms=START_MS + HOUR_MS))
    assert [message.at_ms - HOUR_MS for message in moved] == [message.at_ms for message in stream]
    assert [message.key for message in moved] == [message.key for message in stream]


def test_every_good_message_follows_the_schema_and_is_named_once(stream: list[DemoMessage]) -> None:
    good = [message for message in stream if message.kind != "malformed"]
    ids = set()
    for message in good:
        fields = json.loads(message.value)
        assert fields["channel"] == message.topic
        assert fields["title"].strip()
        assert "{" not in fields["title"] + fields.get("body", "")
        published = datetime.fromisoformat(fields["published_at"])
        assert published.timestamp() * 1000 == pytest.approx(message.at_ms)
        ids.add((fields["source"], fields["id"]))
    assert len(ids) == len(good)


def test_twenty_quiet_hours_come_before_the_first_event(stream: list[DemoMessage]) -> None:
    first = min(message.at_ms for message in stream if message.kind in ("crash", "surge", "brigade"))
    assert first - START_MS >= 20 * HOUR_MS
    told = Counter(
        fields["channel"] for fields in fields_of([m for m in stream if m.at_ms < first], "chatter", "reprint")
    )
    assert min(told["news"], told["social"]) > 700


def test_every_company_is_talked_about_before_the_events(stream: list[DemoMessage]) -> None:
    early = [m for m in stream if m.at_ms < START_MS + 20 * HOUR_MS]
    text = "\n".join(fields["title"] for fields in fields_of(early, "chatter"))
    quiet_and_loud = expected().quiet | set(expected().fires)
    assert len(quiet_and_loud) == 42
    assert all(f"${symbol}" in text for symbol in quiet_and_loud)


@pytest.mark.parametrize(("kind", "event"), [("crash", SCRIPT.crash), ("surge", SCRIPT.surge)])
def test_an_event_is_told_by_many_independent_voices(stream: list[DemoMessage], kind: str, event: Any) -> None:
    """No two of at least 34 stories share more than half of their words; copies come on top."""
    voices: list[frozenset[str]] = []
    for fields in fields_of(stream, kind):
        title = words(fields["title"])
        if fields["channel"] == "news" and all(len(title & v) / len(title | v) <= 0.5 for v in voices):
            voices.append(title)
    assert len(voices) >= (40 if kind == "crash" else 34)
    at_ms = [message.at_ms for message in stream if message.kind == kind]
    assert max(at_ms) - min(at_ms) <= (event.end_h - event.start_h + 0.6) * HOUR_MS


def test_brigade_is_400_new_accounts_with_one_text_within_minutes(stream: list[DemoMessage]) -> None:
    posts = fields_of(stream, "brigade")
    assert len(posts) == 400
    assert len({post["author"] for post in posts}) == 400
    assert max(post["author_followers"] for post in posts) <= 5
    common = frozenset.intersection(*(words(post["title"]) for post in posts))
    assert all(len(common) / len(words(post["title"])) > 0.7 for post in posts)
    times = [message.at_ms for message in stream if message.kind == "brigade"]
    assert max(times) - min(times) <= 10 * 60_000


def test_ordinary_items_about_one_company_are_not_copies_of_each_other(stream: list[DemoMessage]) -> None:
    """At most a twentieth of the chatter shares 80% of its words with an earlier item about the same company."""
    earlier: dict[str, list[frozenset[str]]] = {}
    chatter = [fields for fields in fields_of(stream, "chatter") if fields.get("symbols")]
    copies = 0
    for fields in chatter:
        seen, title = earlier.setdefault(fields["symbols"][0], []), words(fields["title"])
        copies += any(len(title & other) / len(title | other) >= 0.8 for other in seen)
        seen.append(title)
    assert len(chatter) > 800
    assert copies / len(chatter) < 0.05


def test_expectation_names_who_fires_who_stays_quiet_and_what_is_unusable(stream: list[DemoMessage]) -> None:
    outlook = expected()
    assert outlook.fires == {"NVDA": "positive", "PYPL": "negative"}
    assert "TSLA" in outlook.quiet
    assert outlook.malformed == sum(message.kind == "malformed" for message in stream) == 16
    assert outlook.messages == len(stream)


def alert(**changes: Any) -> dict[str, Any]:
    evidence = {
        "document": "Atlas Newswire:1",
        "quote": "shares plunge 30%",
        "polarity": -0.94,
        "weight": 1.0,
        "source": "Atlas Newswire",
        "published_at": "2026-11-03T02:31:00Z",
        "url": None,
        "copies": 4,
    }
    data = {
        "id": "a1",
        "entity": "PYPL",
        "name": "PayPal Holdings",
        "kind": "burst",
        "direction": "negative",
        "opened_at": "2026-11-03T02:45:00Z",
        "resolved_at": None,
        "severity": "critical",
        "p_value": 0.00002,
        "polarity": -0.71,
        "effective_n": 38.5,
        "raw_n": 92,
        "baseline": {"voices": 1.4, "polarity": 0.02},
        "evidence": [evidence],
        "counter_evidence": [evidence | {"quote": "sell-off overdone", "polarity": 0.4, "copies": 1}],
        "flip_margin": 0.62,
        "model": "m1",
        "rule": "burst-1h",
        "brief": "38 independent voices in an hour against 1.4 usually.",
    }
    return data | changes


def shown(data: dict[str, Any], event_type: str = "alert.opened") -> str:
    console = Console(file=io.StringIO(), width=140, force_terminal=False)
    console.print(render(data, event_type=event_type))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_panel_shows_what_an_analyst_asks_for() -> None:
    text = shown(alert())
    for fact in (
        *("CRITICAL", "PayPal Holdings (PYPL)", "negative burst", "38 independent voices", "voices 1.4", "-0.71"),
        *("2e-05", "0.62", "“shares plunge 30%”", "Atlas Newswire, 2026-11-03 02:31Z, 4 copies"),
        *("on the other side", "+0.40", "model m1", "rule burst-1h"),
    ):
        assert fact in text, fact


def test_resolved_alert_is_one_line() -> None:
    text = shown(alert(resolved_at="2026-11-03T06:00:00Z"), "alert.resolved")
    assert "resolved" in text
    assert "2026-11-03 02:45Z to 2026-11-03 06:00Z" in " ".join(text.split())
    assert "╭" not in text


def test_strangers_text_can_neither_colour_nor_steer_the_terminal() -> None:
    """Markup is shown as written; escape sequences, line breaks and bidirectional overrides are gone."""
    nasty = "[red]boo[/red] \x1b[2J\x07 two\nlines \u202etxet\u200b"
    data = alert(name=nasty, brief=nasty, evidence=[alert()["evidence"][0] | {"quote": nasty, "source": nasty}])
    for text in (shown(data), summary_line(data), shown(data, "alert.resolved")):
        assert "[red]boo[/red]" in text
        assert not set(text) & set("\x1b\x07\u202e\u200b")
    assert "\n" not in summary_line(data)


def test_alert_with_missing_parts_is_still_shown() -> None:
    text = shown({"entity": "PYPL", "evidence": None, "baseline": None})
    assert "PYPL" in text
    assert "unknown" in text
