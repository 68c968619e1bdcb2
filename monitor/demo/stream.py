"""A sample stream of our own writing: thirty hours of news and social posts about 42 listed companies.

What happens in it, in hours after the start (`SCRIPT`): twenty quiet hours of ordinary chatter, then a bot brigade
against one company, a good-news burst in another and a crash in the news of a third. Beside them run reprints, items
that name no company, words that only look like companies, and messages that no decoder should accept. The phrases are
data (`phrases.json`); nothing told there ever happened. The same seed and start give the same bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from monitor.clock import to_rfc3339
from monitor.records import Channel, Direction

HOUR_MS = 3_600_000
DURATION_H = 30
CHATTER_ITEMS = 2_650
REPRINTED_STORIES = 26
START_MS = 1_793_577_600_000  # 2026-11-02T00:00:00Z, a Monday

Kind = Literal["chatter", "reprint", "crash", "surge", "brigade", "hard", "offtopic", "malformed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoMessage:
    """What the demo sends to Kafka: `value` as it goes over the wire, `at_ms` in event time, `kind` for tests."""

    topic: str
    key: bytes
    value: bytes
    at_ms: int
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One scripted event: who, which way, and when in hours after the start."""

    entity: str
    direction: Direction
    start_h: float
    end_h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The three events, in the order in which they happen."""

    brigade: Event
    surge: Event
    crash: Event


SCRIPT = Script(
    brigade=Event(entity="TSLA", direction="negative", start_h=22.0, end_h=22.12),
    surge=Event(entity="NVDA", direction="positive", start_h=24.0, end_h=25.5),
    crash=Event(entity="PYPL", direction="negative", start_h=26.5, end_h=28.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a sound monitor makes of the stream."""

    fires: dict[str, Direction]
    quiet: frozenset[str]
    event_start_ms: dict[str, int]
    malformed: int
    messages: int


def demo_messages(seed: int = 7, *, start_ms: int = START_MS) -> Iterator[DemoMessage]:
    """The whole stream in order of event time, about 3,500 messages over `DURATION_H` hours."""
    composer = _Composer(random.Random(seed), start_ms)  # noqa: S311  a seeded sample, not a secret
    for compose in (_chatter, _reprints, _crash, _surge, _brigade, _strangers, _malformed):
        compose(composer)
    yield from sorted(composer.messages, key=lambda message: (message.at_ms, message.key, message.value))


def expected(seed: int = 7, *, start_ms: int = START_MS) -> Expected:
    """Who should fire and which way, who must not although much is said, and how many messages are unusable."""
    messages = list(demo_messages(seed, start_ms=start_ms))
    loud = (SCRIPT.surge, SCRIPT.crash)
    return Expected(
        fires={event.entity: event.direction for event in loud},
        quiet=frozenset(company["symbol"] for company in _phrases()["companies"]) - {event.entity for event in loud},
        event_start_ms={event.entity: start_ms + round(event.start_h * HOUR_MS) for event in (*loud, SCRIPT.brigade)},
        malformed=sum(message.kind == "malformed" for message in messages),
        messages=len(messages),
    )


# What happens, one function a strand.


def _chatter(composer: _Composer) -> None:
    """Ordinary talk about everybody at all hours, mostly neutral, mild both ways."""
    companies = composer.phrases["companies"]
    weights = [company["weight"] for company in companies]
    for company in composer.rng.choices(companies, weights, k=CHATTER_ITEMS):
        mood = composer.rng.choices(("neutral", "up", "down"), (62, 19, 19))[0]
        at_ms = composer.moment(0, DURATION_H)
        if composer.rng.random() < 0.55:
            title = composer.deal(company, "news", mood) + composer.tail()
            composer.news(company, title, at_ms, kind="chatter", body=composer.body(share=0.4))
        else:
            composer.post(company, composer.deal(company, "social", mood), at_ms, kind="chatter")


def _reprints(composer: _Composer) -> None:
    """One agency story that several outlets print with small edits: many items, one voice."""
    for _ in range(REPRINTED_STORIES):
        company = composer.rng.choice(composer.phrases["companies"])
        title = composer.deal(company, "news", composer.rng.choice(("neutral", "neutral", "up", "down")))
        first_ms = composer.moment(0, DURATION_H - 3)
        composer.syndicate(company, title, first_ms, copies=composer.rng.randint(3, 8), kind="reprint")


def _crash(composer: _Composer) -> None:
    """Every outlet writes its own bad story within an hour and a half; the leading ones are reprinted as well."""
    _burst(composer, SCRIPT.crash, "crash", posts=72, reprinted=6)


def _surge(composer: _Composer) -> None:
    """The same upwards."""
    _burst(composer, SCRIPT.surge, "surge", posts=54, reprinted=4)


def _burst(composer: _Composer, event: Event, kind: Literal["crash", "surge"], *, posts: int, reprinted: int) -> None:
    company = composer.company(event.entity)
    bank = composer.phrases[kind]
    for index, template in enumerate(bank["news"]):
        at_ms = composer.moment(event.start_h, event.end_h)
        title = composer.fill(template, company)
        composer.news(company, title, at_ms, kind=kind, body=composer.body(share=0.2))
        if index < reprinted:
            composer.syndicate(company, title, at_ms, copies=composer.rng.randint(3, 6), kind=kind)
    for template in bank["counter"]:
        at_ms = composer.moment(event.start_h + 0.4, event.end_h)
        composer.news(company, composer.fill(template, company), at_ms, kind=kind)
    for _ in range(posts):
        text = composer.deal(company, kind, "social")
        composer.post(company, text, composer.moment(event.start_h + 0.05, event.end_h), kind=kind)


def _brigade(composer: _Composer) -> None:
    """400 accounts made for the purpose post the same words within minutes. Loud, and one voice."""
    event, bank = SCRIPT.brigade, composer.phrases["brigade"]
    company = composer.company(event.entity)
    text = composer.fill(bank["text"], company)
    for _ in range(400):
        words = composer.rng.choice(bank["openings"]) + text + composer.rng.choice(bank["endings"])
        author = f"user{composer.rng.randrange(10**8):08d}"
        at_ms = composer.moment(event.start_h, event.end_h)
        composer.post(company, words, at_ms, kind="brigade", author=author, followers=composer.rng.randint(0, 5))


def _strangers(composer: _Composer) -> None:
    """Items that name no company, half of them with words that look like one."""
    kinds: tuple[tuple[Kind, int], ...] = (("hard", 2), ("offtopic", 4))
    for kind, rounds in kinds:
        for template in composer.phrases[kind] * rounds:
            text, at_ms = composer.fill(template, None), composer.moment(0, DURATION_H)
            if template[0].islower():
                composer.post(None, text, at_ms, kind=kind)
            else:
                composer.news(None, text, at_ms, kind=kind)


def _malformed(composer: _Composer) -> None:
    """Sixteen messages that must be quarantined, each for a reason of its own, spread over the stream."""
    at_ms = composer.moment(1, DURATION_H - 1)
    good = composer.fields("news", "Apple opens a store in Denver", at_ms)
    missing = [{name: value for name, value in good.items() if name != absent} for absent in ("id", "source", "title")]
    wrong: list[dict[str, Any]] = [
        good | {"id": {"nested": 1}},
        good | {"title": ["Apple", "opens"]},
        good | {"published_at": "yesterday afternoon"},
        good | {"published_at": "2026-13-45T99:99:00Z"},
        good | {"channel": "fax"},
        good | {"title": "Apple " + "very " * 80_000 + "long"},
    ]
    bad = [
        b"\xff\xfe\x00 not UTF-8 \x80\x81",
        json.dumps(good, ensure_ascii=False).replace("Denver", "Málaga").encode("latin-1"),
        b"this is a line of text, not JSON",
        json.dumps(good).encode()[:-20],
        json.dumps([good]).encode(),
        b'{"id": "deep", "source": "Atlas Newswire", "title": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b"",
        *(json.dumps(fields).encode() for fields in (*missing, *wrong)),
    ]
    for value in bad:
        composer.add("news", b"malformed", value, composer.moment(1, DURATION_H - 1), "malformed")


class _Composer:
    """Draws words, times and authors from one seeded source, and gathers the messages."""

    def __init__(self, rng: random.Random, start_ms: int) -> None:
        self.rng = rng
        self.start_ms = start_ms
        self.phrases = _phrases()
        self.messages: list[DemoMessage] = []
        self._companies = {company["symbol"]: company for company in self.phrases["companies"]}
        self._decks: dict[tuple[str, str, str], list[str]] = {}

    def company(self, symbol: str) -> dict[str, Any]:
        found: dict[str, Any] = self._companies[symbol]
        return found

    def moment(self, from_h: float, to_h: float) -> int:
        return self.start_ms + round(self.rng.uniform(from_h, to_h) * HOUR_MS)

    def deal(self, company: dict[str, Any], kind: str, mood: str) -> str:
        """A phrase about `company`. Nothing is dealt twice before the whole deck has been: people vary their words."""
        deck = self._decks.setdefault((company["symbol"], kind, mood), [])
        if not deck:
            deck.extend(self.phrases[kind][mood])
            self.rng.shuffle(deck)
        return self.fill(deck.pop(), company)

    def fill(self, template: str, company: dict[str, Any] | None) -> str:
        """Put words and numbers into the `{slots}` of a template; the same word slot keeps its word."""
        chosen = self._names(company) if company else {}

        def word(slot: re.Match[str]) -> str:
            name = slot[1]
            if name in self.phrases["numbers"]:
                low, high, decimals = self.phrases["numbers"][name]
                return f"{self.rng.uniform(low, high):.{decimals}f}"
            if name not in chosen:
                chosen[name] = self.rng.choice(self.phrases["words"][name])
            return chosen[name]

        text = _SLOT.sub(word, template)
        return text[0].upper() + text[1:] if template.startswith("{") else text

    def tail(self) -> str:
        return self.fill(self.rng.choice(self.phrases["tails"]), None)

    def body(self, *, share: float) -> str | None:
        return self.fill(self.rng.choice(self.phrases["bodies"]), None) if self.rng.random() < share else None

    def syndicate(self, company: dict[str, Any], title: str, first_ms: int, *, copies: int, kind: Kind) -> None:
        """The same story at `copies` outlets over the following half hour, each with a small edit of its own."""
        for _ in range(copies):
            before, after = self.rng.choice(self.phrases["reprint_edits"])
            at_ms = first_ms + self.rng.randrange(20_000, HOUR_MS // 2)
            self.news(company, f"{before}{title}{after}", at_ms, kind=kind)

    def news(
        self, company: dict[str, Any] | None, title: str, at_ms: int, *, kind: Kind, body: str | None = None
    ) -> None:
        fields = self.fields("news", title, at_ms)
        fields["url"] = f"https://news.example/{fields['id']}"
        if body:
            fields["body"] = body
        if company and self.rng.random() < 0.5:
            fields["symbols"] = [company["symbol"]]
        self._send("news", fields, at_ms, kind)

    def post(
        self,
        company: dict[str, Any] | None,
        text: str,
        at_ms: int,
        *,
        kind: Kind,
        author: str | None = None,
        followers: int | None = None,
    ) -> None:
        fields = self.fields("social", text, at_ms)
        handles, ends = self.phrases["handles"], self.phrases["handle_ends"]
        drawn = f"{self.rng.choice(handles)}{self.rng.choice(ends)}{self.rng.randrange(400)}"
        fields["author"] = author or drawn
        fields["author_followers"] = round(self.rng.lognormvariate(5.5, 1.4)) if followers is None else followers
        if company and self.rng.random() < 0.3:
            fields["symbols"] = [company["symbol"]]
        self._send("social", fields, at_ms, kind)

    def fields(self, channel: Channel, title: str, at_ms: int) -> dict[str, Any]:
        """The fields that every message has; ids are drawn, so they never repeat within a stream."""
        source = self.rng.choice(self.phrases["outlets"]) if channel == "news" else "chirper"
        return {
            "id": f"{self.rng.getrandbits(64):016x}",
            "source": source,
            "channel": channel,
            "published_at": to_rfc3339(at_ms),
            "title": title,
            "lang": "en",
        }

    def add(self, topic: str, key: bytes, value: bytes, at_ms: int, kind: Kind) -> None:
        self.messages.append(DemoMessage(topic=topic, key=key, value=value, at_ms=at_ms, kind=kind))

    def _send(self, channel: Channel, fields: dict[str, Any], at_ms: int, kind: Kind) -> None:
        self.add(channel, fields["id"].encode(), json.dumps(fields, ensure_ascii=False).encode(), at_ms, kind)

    def _names(self, company: dict[str, Any]) -> dict[str, str]:
        peers = [c for c in self._companies.values() if c["group"] == company["group"] and c is not company]
        peer = self.rng.choice(peers)
        return {
            "name": company["name"],
            "long": company["long"],
            "symbol": company["symbol"],
            "products": self.rng.choice(company["products"]),
            "peer": peer["name"],
            "peer_symbol": peer["symbol"],
        }


_SLOT = re.compile(r"\{(\w+)\}")


@cache
def _phrases() -> dict[str, Any]:
    phrases: dict[str, Any] = json.loads(files("monitor.demo").joinpath("phrases.json").read_text("utf-8"))
    return phrases
