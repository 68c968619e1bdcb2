"""Sentences of our own for what finance texts turn on and few labelled rows show: what moves, which way, against what.

"Loss narrowed" is good news, "profit narrowed" is not; "missed by less than feared" is relief; who takes business from whom are
two judgements in one sentence; praise in a post may be scorn. A grammar of moved quantities and a few dozen templates,
with invented companies, make rows whose labels follow from how they were made. They train, and never judge.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monitor.learning.rows import GENERATED, LabelledMention, LabelledRow

LICENCE = "Apache-2.0"
_BAD, _NEUTRAL, _GOOD = "negative", "neutral", "positive"

_FIRST = ["Aldermoor", "Bexhollow", "Calderwyn", "Dravik", "Elmsgate", "Farrowby", "Gantrell", "Hollinsea", "Ivarson", "Jorvane", "Kestwick", "Lomira", "Marrowfield", "Nordhelm", "Oakvale", "Penhallow", "Quillon", "Ravenscar", "Saltmarsh", "Torvald", "Umberton", "Vantrice", "Westerfold", "Yarrow", "Zellmark", "Ashdown", "Brixley", "Corvant"]  # fmt: skip
_SECOND = ["Energy", "Foods", "Bank", "Steel", "Pharma", "Motors", "Retail", "Software", "Airlines", "Insurance", "Chemicals", "Mining", "Logistics", "Telecom", "Semiconductor", "Holdings", "Group", "Industries", "Biotech", "Properties"]  # fmt: skip
_MADE_OF = {
    "period": (
        "first-quarter",
        "second-quarter",
        "third-quarter",
        "Q4",
        "full-year",
        "half-year",
        "annual",
        "quarterly",
    ),
    "percent": ("2%", "3.4%", "5%", "7.8%", "11%", "14%", "22%", "37%", "60%"),
    "product": ("flagship drug", "new chip", "electric van", "cloud unit", "loyalty app", "northern mine"),
    "when": ("on Tuesday", "next week", "on May 14", "in early trading", "after the bell", "this morning"),
    "place": ("Leeds", "Tampere", "Ohio", "Gdansk", "Osaka", "southern Chile", "the Netherlands", "Hanoi", "Lyon", "Texas"),
    "staff": ("45", "120", "300", "650", "1,400", "2,500", "9,000"),
    "thing": ("crane", "paper machine", "turbine", "data centre", "ferry", "battery", "vaccine", "payment terminal", "rail car"),
    "who": ("regulators", "prosecutors", "the central bank", "a federal judge", "the competition watchdog", "tax authorities"),
    "year": ("2026", "2027", "2031", "the third quarter", "the end of the year", "early spring"),
}  # fmt: skip

# A small sum and a large one of the same money, so that one text does not mix currencies.
_MONEY = (
    ("$4 mln", "$38 mln"),
    ("EUR 6.1 million", "EUR 71 million"),
    ("$12m", "$140m"),
    ("8 cents a share", "96 cents a share"),
    ("£15 million", "£210 million"),
)

# Quantities of which more is good, and of which less is. The verbs say up or down whatever they are said of.
_MORE_IS_GOOD = (
    "profit",
    "net income",
    "revenue",
    "sales",
    "operating margin",
    "order intake",
    "cash flow",
    "market share",
)
_LESS_IS_GOOD = (
    "net loss",
    "operating loss",
    "debt",
    "costs",
    "bad-loan charges",
    "customer defections",
    "energy bill",
)
_NOT_MONEY = {"operating margin", "market share", "customer defections"}
# The same for reports that tell two amounts and leave it to the reader which is the better.
_EARNED = ("operating profit", "pretax profit", "net profit", "net sales", "turnover", "EBITDA", "order book", "free cash flow", "net interest income", "comparable sales", "gross profit", "like-for-like sales", "fee income", "new orders")  # fmt: skip
_LOST = ("operating loss", "pretax loss", "net loss", "net debt", "impairments", "credit losses", "restructuring charges", "inventory write-downs", "legal costs", "interest expense")  # fmt: skip
_CURRENCIES = (
    "EUR {} mn",
    "EUR {} million",
    "${} mln",
    "${} million",
    "£{}m",
    "SEK {} mn",
    "USD {}mn",
    "${}m",
    "{} million crowns",
)
_BEFORE = (
    "a year earlier",
    "in the same period last year",
    "a year ago",
    "in the corresponding quarter",
    "the year before",
)
_UP = ("rose", "climbed", "jumped", "increased", "grew", "went up")
_DOWN = ("fell", "declined", "shrank", "decreased", "dropped", "went down")
_LOSS = ("loss", "net loss", "operating loss", "pretax loss")
_FORECAST_VERBS_DOWN = ("cuts", "lowers", "reduces", "slashes")
_FORECAST_VERBS_UP = ("raises", "lifts", "increases", "hikes")


@dataclass(frozen=True, slots=True)
class Template:
    """`{C}` and `{D}` are companies with the fates `c` and `d`; [ ] holds the words that judge C, < > those that judge D."""

    kind: str
    text: str
    c: str
    d: str = ""


TEMPLATES = (
    # A loss that moves
    Template("direction", "{C} [narrows {period} loss] to {small} from {large}", _GOOD),
    Template("direction", "{C} [{period} loss widens] to {large} from {small}", _BAD),
    Template("direction", "{C} says its {period} [loss narrowed by {percent}]", _GOOD),
    Template("direction", "{C}: {period} [profit narrows] to {small}, {large} a year ago", _BAD),
    Template("direction", "{C} [swings to profit] of {small} from a loss of {large}", _GOOD),
    Template("direction", "{C} [swings to loss] of {large} from a profit of {small}", _BAD),
    Template("direction", "{C} [returns to profit] after three losing quarters", _GOOD),
    Template("direction", "{C} [slips back into the loss] it had promised to leave behind", _BAD),
    Template("direction", "{C} [losses are shrinking] faster than the board planned", _GOOD),
    Template("direction", "{C} [pays down {large} of debt] two years early", _GOOD),
    # Against what was expected
    Template("expectation", "{C} [misses by less than feared], {period} loss {small}", _GOOD),
    Template("expectation", "{C} {period} [loss is smaller than analysts expected]", _GOOD),
    Template("expectation", "{C} {period} [loss is larger than analysts expected]", _BAD),
    Template("expectation", "{C} {period} profit up {percent}, [short of what the street wanted]", _BAD),
    Template("expectation", "{C} {period} sales down {percent}, [a milder drop than forecast]", _GOOD),
    Template("expectation", "{C} [not as bad as feared]: {period} revenue off {percent}", _GOOD),
    Template("expectation", "{C} growth of {percent} [disappoints] after last year's pace", _BAD),
    Template("expectation", "{C} {period} results are in line with its own outlook", _NEUTRAL),
    # Said with a no
    Template("negation", "{C} [no longer expects a loss] this year", _GOOD),
    Template("negation", "{C} [no longer expects a profit] this year", _BAD),
    Template("negation", "{C} [did not cut its dividend], as some holders had feared", _GOOD),
    Template("negation", "{C} [fails to stop the decline] in {period} orders", _BAD),
    Template("negation", "{C} [could not meet] its {period} delivery target", _BAD),
    Template("negation", "{C} is [not among the banks hit] by the new levy", _GOOD),
    Template("negation", "{C} [never recovered] from the recall, {period} figures show", _BAD),
    Template("negation", "{C} has [nothing to fear] from the inquiry, regulator says", _GOOD),
    Template("negation", "{C} sees [no improvement] in demand before winter", _BAD),
    Template("negation", "{C} neither confirms nor denies talks about its {product}", _NEUTRAL),
    Template("negation", "{C} [without a single safety fault] in {period} audit", _GOOD),
    # Two companies, two fates
    Template("opposite", "{C} [wins {large} contract] that {D} <had held for a decade>", _GOOD, _BAD),
    Template("opposite", "{C} [loses its largest customer] to {D}", _BAD, _GOOD),
    Template("opposite", "{C} [takes market share] from {D} in {period} survey", _GOOD, _BAD),
    Template("opposite", "{C} [drops {percent}] while {D} <gains {percent}>", _BAD, _GOOD),
    Template("opposite", "{C} [up {percent}], {D} <down {percent}> {when}", _GOOD, _BAD),
    Template("opposite", "As {D} <stumbles>, {C} [posts its best quarter yet]", _GOOD, _BAD),
    Template("opposite", "{C} [beats estimates]; {D} <warns on margins>", _GOOD, _BAD),
    Template("opposite", "{C} [recalls its electric van], a gift to rival {D}", _BAD, _GOOD),
    Template("opposite", "Court [sides with {C}] and orders {D} <to pay {large}>", _GOOD, _BAD),
    Template("opposite", "Investors [dump {C}] and <pile into {D}> after {period} reports", _BAD, _GOOD),
    # Named, but only there
    Template("bystander", "{D} analysts [cut {C} to sell] {when}", _BAD, _NEUTRAL),
    Template("bystander", "{C} [raised to buy] at {D}", _GOOD, _NEUTRAL),
    Template("bystander", "{C} [shares sink {percent}], says a note by {D}", _BAD, _NEUTRAL),
    Template("bystander", "{D} hires the former finance chief of [crisis-hit] {C}", _BAD, _NEUTRAL),
    Template("bystander", "{C} [signs up] {D} as adviser for record share sale", _GOOD, _NEUTRAL),
    Template("bystander", "{C} and {D} will both speak at the conference {when}", _NEUTRAL, _NEUTRAL),
    # Numbers that say nothing
    Template("plain", "{C} to publish {period} figures {when}", _NEUTRAL),
    Template("plain", "{C} moves its head office to a building of {large} {when}", _NEUTRAL),
    Template("plain", "{C} closes unchanged {when}", _NEUTRAL),
    Template("plain", "{C} names a new head of its {product} business", _NEUTRAL),
    Template("plain", "{C} holds {percent} of {D}, filing shows", _NEUTRAL, _NEUTRAL),
    # Scorn and slang in posts
    Template("sarcasm", "Oh great, {C} [down another {percent}]. Money well spent 🙄", _BAD),
    Template("sarcasm", "{C} [delays the {product} again]. Shocking, nobody saw that coming", _BAD),
    Template("sarcasm", "Well done {C}, only [{large} burnt] this quarter /s", _BAD),
    Template("sarcasm", "Sure, {C}, blame the weather for [a {percent} miss]", _BAD),
    Template("sarcasm", "{C} guiding [lower] for the fifth time, but trust the process lol", _BAD),
    Template("sarcasm", "All the bears who told me to sell {C}, how is that short going? [+{percent}] today 😂", _GOOD),
    Template("sarcasm", "Terrible news for {C} haters: [record {period} sales]", _GOOD),
    Template("sarcasm", "{C} management [gave themselves a bonus after a {percent} drop]. Heroes.", _BAD),
    Template("post", "Loaded up on {C} {when}, [chart looks ready to run] 🚀", _GOOD),
    Template("post", "Getting out of {C}, [this one is broken]", _BAD),
    Template("post", "anyone know when {C} reports?", _NEUTRAL),
    Template("post", "{C} [breaking out on big volume], adding here", _GOOD),
    Template("post", "trimmed my {C} position, [momentum is gone]", _BAD),
    Template("post", "{C} [puts printing], told you this was a short", _BAD),
    Template("post", "{C} calls for me, [earnings are going to be huge]", _GOOD),
    Template("post", "added {C} to my watchlist, no opinion yet", _NEUTRAL),
    Template("post", "{C} chart, daily, with the usual averages", _NEUTRAL),
    Template("post", "{C} [crushed it], raise those targets", _GOOD),
    Template("post", "bagholding {C} since January, [{percent} under water]", _BAD),
    # What companies win and build
    Template("business", "{C} [wins order for {staff} {thing}s] from {place}", _GOOD),
    Template("business", "{C} has been [awarded a {large} contract] to supply {thing}s to {place}", _GOOD),
    Template("business", "{C} [signs {large} supply agreement] for its {product}", _GOOD),
    Template("business", "{C} [to hire {staff} people] as it expands in {place}", _GOOD),
    Template("business", "{C} will [invest {large} in a new {thing} plant] in {place}", _GOOD),
    Template("business", "{C} [gets approval] for its {product} from {who}", _GOOD),
    Template("business", "The new {thing} will [strengthen the position] of {C} in {place}", _GOOD),
    Template("business", "{C} [doubles its dividend] and [plans buyback of {large}]", _GOOD),
    Template("business", "{C} [completes refinancing on better terms]", _GOOD),
    Template("business", "Rating agency [upgrades {C}] on lower debt", _GOOD),
    Template("business", "Case against {C} [dropped] by {who}", _GOOD),
    Template("business", "{C} [shares hit record high]", _GOOD),
    Template("business", "{C} [tops forecasts] as {thing} demand picks up", _GOOD),
    Template("business", "Outlook for {C} [has brightened], chief executive says", _GOOD),
    # What they lose and close
    Template("business", "{C} [to lay off {staff} employees] in {place}", _BAD),
    Template("business", "{C} starts talks on [temporary layoffs] at its {thing} plant in {place}", _BAD),
    Template("business", "{C} [closes {thing} factory] in {place}, {staff} jobs go", _BAD),
    Template("business", "{C} [issues profit warning] for {period} results", _BAD),
    Template("business", "{C} [loses {large} contract] in {place}", _BAD),
    Template("business", "{C} [fined {large}] by {who} over {thing} sales", _BAD),
    Template("business", "{C} [under investigation] by {who}", _BAD),
    Template("business", "{C} [recalls {staff} {thing}s] after fires", _BAD),
    Template("business", "{C} [suspends dividend] to save cash", _BAD),
    Template("business", "{C} [sells new shares at a steep discount] to repay loans", _BAD),
    Template("business", "{C} [files for protection from creditors]", _BAD),
    Template("business", "{C} [delays opening] of {place} plant to {year}", _BAD),
    Template("business", "Strike [halts production] at {C} in {place}", _BAD),
    Template("business", "Rating agency [downgrades {C} to junk]", _BAD),
    Template("business", "{C} [shares slump] in [their worst day in years]", _BAD),
    Template("business", "{C} [warns that weak demand] will last until {year}", _BAD),
    Template("business", "Auditor [refuses to sign accounts] of {C}", _BAD),
    # Facts that are neither, with and without figures
    Template("plain", "{C} makes {thing}s and employs {staff} people in {place}", _NEUTRAL),
    Template("plain", "{C} is headquartered in {place}", _NEUTRAL),
    Template("plain", "The {thing} will be delivered by {C} in {year}", _NEUTRAL),
    Template("plain", "The value of the deal between {C} and its partner in {place} was not disclosed", _NEUTRAL),
    Template("plain", "{C} will hold its annual meeting in {place} {when}", _NEUTRAL),
    Template("plain", "The board of {C} proposes a dividend in line with its policy", _NEUTRAL),
    Template("plain", "{C} has {staff} shops, of which a third are in {place}", _NEUTRAL),
    Template("plain", "{C} said the transaction is expected to close in {year}", _NEUTRAL),
    Template("plain", "{C} issues {large} bond due {year}", _NEUTRAL),
    Template("plain", "{C} appoints new auditor from {year}", _NEUTRAL),
    Template("plain", "A subsidiary of {C} leases {thing}s to airports in {place}", _NEUTRAL),
    Template("plain", "{C} shares were {percent} of the index at the end of the month", _NEUTRAL),
    Template("plain", "{C} transcript: {period} earnings call", _NEUTRAL),
    Template("plain", "What to watch when {C} reports {period} numbers {when}", _NEUTRAL),
    Template("plain", "{C} to sell {thing}s under a new brand from {year}", _NEUTRAL),
    Template("plain", "{C} chief executive to speak in {place} {when}", _NEUTRAL),
)  # fmt: skip


def augmented_rows(count: int, *, seed: int) -> list[LabelledRow]:
    """`count` different rows; the same seed gives the same rows."""
    rng = random.Random(f"augment/{seed}")  # noqa: S311 - made-up sentences, not secrets
    found: dict[str, LabelledRow] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        template = rng.choice(TEMPLATES) if rng.random() < 0.6 else rng.choice(_GRAMMAR)(rng)
        row = _row(template, rng)
        found.setdefault(row.text, row)
    return list(found.values())


def _moved(rng: random.Random) -> Template:
    """A quantity went up or down: good or bad by which quantity it is."""
    good_when_up = rng.random() < 0.5
    quantity = rng.choice(_MORE_IS_GOOD if good_when_up else _LESS_IS_GOOD)
    level = "{percent}" if quantity in _NOT_MONEY else "{small}"
    up = rng.random() < 0.5
    verb = rng.choice(_UP if up else _DOWN)
    fate = _GOOD if up == good_when_up else _BAD
    shape = rng.choice(
        (
            f"{{C}} {{period}} [{quantity} {verb} {{percent}}]",
            f"{{C}} said its [{quantity} {verb}] to {level} in the period",
            f"[{quantity.capitalize()} {verb}] at {{C}}, {{period}} report shows",
        )
    )
    return Template("direction", shape, fate)


def _forecast(rng: random.Random) -> Template:
    """To cut a forecast is bad, unless it is a forecast of something bad."""
    of_loss, up = rng.random() < 0.5, rng.random() < 0.5
    quantity = rng.choice(_LOSS if of_loss else ("profit", "sales", "earnings", "revenue"))
    verb = rng.choice(_FORECAST_VERBS_UP if up else _FORECAST_VERBS_DOWN)
    noun = rng.choice(("forecast", "outlook", "guidance", "estimate"))
    return Template("direction", f"{{C}} [{verb} {{period}} {quantity} {noun}]", _GOOD if up != of_loss else _BAD)


def _reported(rng: random.Random) -> Template:
    """Two amounts side by side: which of them is now, and whether more of it is good, decides."""
    good_when_up = rng.random() < 0.55
    quantity = rng.choice(_EARNED if good_when_up else _LOST)
    written = rng.choice(_CURRENCIES)
    low = rng.choice((rng.uniform(1, 9), rng.uniform(10, 99), rng.uniform(100, 900)))
    small, large = (written.format(_amount(value)) for value in (low, low * rng.uniform(1.04, 2.5)))
    up = rng.random() < 0.5
    now, then = (large, small) if up else (small, large)
    before, verb, title = rng.choice(_BEFORE), rng.choice(_UP if up else _DOWN), quantity.capitalize()
    of_it = "were" if quantity.endswith("s") and quantity[-2] != "s" else "was"
    shape = rng.choice(
        (
            f"{{C}} {{period}} [{quantity} {of_it} {now}, compared with {then}] {before}",
            f"[{title} of {{C}} {of_it} {now}] in the period, [against {then}] {before}",
            f"{{C}} [reported {quantity} of {now}] for the {{period}} period ({then} {before})",
            f"{{C}}'s {{period}} [{quantity} {verb} to {now} from {then}]",
            f"[{title} {verb} to {now}] at {{C}}, from {then} {before}",
            f"{{C}}: {{period}} [{quantity} {now} vs {then}] {before}",
            f"[{title} totalled {now}, {'up' if up else 'down'} from {then}], {{C}} says",
        )
    )
    return Template("reported", shape, _GOOD if up == good_when_up else _BAD)


def _unchanged(rng: random.Random) -> Template:
    """The same amount as before, or an amount alone, says nothing."""
    quantity, written = rng.choice((*_EARNED, *_LOST)), rng.choice(_CURRENCIES)
    amount = written.format(_amount(rng.uniform(2, 900)))
    shape = rng.choice(
        (
            f"{{C}} {{period}} {quantity} unchanged at {amount}",
            f"{{C}} reports {quantity} of {amount} for the {{period}} period",
            f"The plant in {{place}} accounts for {amount} of the {quantity} of {{C}}",
            f"{{C}}: {{period}} {quantity} {amount}, the same as {rng.choice(_BEFORE)}",
        )
    )
    return Template("plain", shape, _NEUTRAL)


def _amount(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _both_moved(rng: random.Random) -> Template:
    """Two moved quantities of two companies, in one sentence, with different fates."""
    one, other = _moved(rng), _moved(rng)
    while one.c == other.c:
        other = _moved(rng)
    turned = other.text.replace("{C}", "{D}").replace("[", "<").replace("]", ">")
    return Template("opposite", f"{one.text}{rng.choice(('; ', ', while ', ' but ', ' | '))}{turned}", one.c, other.c)


_GRAMMAR: tuple[Callable[[random.Random], Template], ...] = (
    _moved,
    _forecast,
    _both_moved,
    _reported,
    _reported,
    _unchanged,
)


def _row(template: Template, rng: random.Random) -> LabelledRow:
    names = [f"{first} {second}" for first, second in zip(rng.sample(_FIRST, 2), rng.sample(_SECOND, 2), strict=True)]
    tags = template.kind in {"post", "sarcasm"} and rng.random() < 0.5
    short = rng.random() < 0.3
    small, large = rng.choice(_MONEY)
    company = {key: _called(name, tag=tags, short=short) for key, name in zip("CD", names, strict=True)}
    text, spans = "", dict[str, list[tuple[int, int]]]()
    opened = 0
    for kind, value in _pieces(template.text):
        if kind == "slot":
            said = company.get(value) or {"small": small, "large": large}.get(value) or rng.choice(_MADE_OF[value])
            if value in company:
                spans.setdefault(value, []).append((len(text), len(text) + len(said)))
            text += said
        elif kind == "mark":
            if value in "[<":
                opened = len(text)
            else:
                spans.setdefault(f"evidence {'C' if value == ']' else 'D'}", []).append((opened, len(text)))
        else:
            text += value
    fates = {"C": template.c, "D": template.d}
    mentions = tuple(
        LabelledMention(
            target=company[key],
            start=spans[key][0][0],
            end=spans[key][0][1],
            label=fate,
            evidence=tuple(spans[f"evidence {key}"]) if f"evidence {key}" in spans else None,
        )
        for key, fate in fates.items()
        if fate
    )
    alone = len(mentions) == 1
    return LabelledRow(
        text=text,
        source=GENERATED,
        license=LICENCE,
        label=template.c if alone else None,
        mentions=mentions,
        kinds=(template.kind,),
    )


def _called(name: str, *, tag: bool, short: bool) -> str:
    """In full, by its first word, or as posts do: by a dollar sign and what could be its symbol."""
    if tag:
        return "$" + "".join(c for c in name.upper() if c not in "AEIOU ")[:4]
    return name.split(maxsplit=1)[0] if short else name


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """("slot", name), ("mark", one of [ ] < >) and ("text", characters), in order."""
    at = 0
    while at < len(text):
        if text[at] == "{":
            end = text.index("}", at)
            yield "slot", text[at + 1 : end]
            at = end + 1
        elif text[at] in "[]<>":
            yield "mark", text[at]
            at += 1
        else:
            yield "text", text[at]
            at += 1
