"""The desk's work from a shell: silences and mute times, alerts, acknowledgements, and why somebody was not told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from monitor.clock import SystemClock, to_rfc3339
from monitor.errors import Fatal

if TYPE_CHECKING:
    from monitor.settings import Settings
    from monitor.store import Store, StoredSilence

DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "default.toml"
_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}

silences = typer.Typer(no_args_is_help=True, help="Who must not be paged about what, and until when.")
alerts = typer.Typer(no_args_is_help=True, help="Alerts, who has taken them on, and why some were not told.")

Config = Annotated[Path, typer.Option("--config", help="The TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]
Author = Annotated[str, typer.Option("--author", help="Who says so.")]


@silences.command("add")
def add_silence(
    author: Author,
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    entity: Annotated[str | None, typer.Option("--entity", help="A symbol of the watchlist.")] = None,
    sector: Annotated[str | None, typer.Option("--sector", help="A sector of the watchlist.")] = None,
    kind: Annotated[Literal["tone", "burst", "drift", "divergence"] | None, typer.Option("--kind")] = None,
    direction: Annotated[Literal["negative", "positive"] | None, typer.Option("--direction")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every alert, when nothing else is named.")] = False,
    up_to: Annotated[
        Literal["low", "medium", "high", "critical"], typer.Option("--up-to", help="Louder ones get through.")
    ] = "critical",
    for_: Annotated[str | None, typer.Option("--for", help="How long: 90m, 2h, 3d, 1w.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="RFC 3339; now if left out.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="RFC 3339, instead of --for.")] = None,
    days: Annotated[str | None, typer.Option("--days", help="A mute time on these days: mon,tue,…")] = None,
    between: Annotated[str | None, typer.Option("--between", help="Its hours in UTC: 22:00-06:00.")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Alerts that fit are not told from now on; those that are open when it ends are told then.

    Times are event time, which is the wall clock's but for replays of the past: there, say --from and --until.
    """
    if everything == bool(entity or sector or kind or direction):
        raise Fatal("silences add: name --entity, --sector, --kind or --direction, or say --all")
    if (for_ is None) == (until is None):
        raise Fatal("silences add: say how long: either --for or --until")
    hours = _hours(days, between)
    with _store(config) as (settings, store):
        _check_watchlist(settings, entity, sector)
        now_ms = SystemClock().now_ms()
        reached_ms = _reached_ms(settings, store, now_ms)
        starts_ms = _moment(start, "--from") if start else reached_ms
        ends_ms = _moment(until, "--until") if until else max(now_ms, starts_ms) + _duration_ms(for_ or "")
        if ends_ms <= starts_ms:
            raise Fatal(
                f"silences add: it would end ({to_rfc3339(ends_ms)}) before it starts ({to_rfc3339(starts_ms)})"
            )
        number = store.add_silence(
            author=author,
            reason=reason,
            created_at_ms=now_ms,
            starts_at_ms=starts_ms,
            ends_at_ms=ends_ms,
            entity=entity,
            sector=sector,
            kind=kind,
            direction=direction,
            severity_max=up_to,
            days=hours[0] if hours else None,
            start_minute=hours[1] if hours else None,
            until_minute=hours[2] if hours else None,
        )
    if as_json:
        _print_json({"id": number, "starts_at": to_rfc3339(starts_ms), "ends_at": to_rfc3339(ends_ms)})
    else:
        typer.echo(f"silence {number}: {to_rfc3339(starts_ms)} to {to_rfc3339(ends_ms)}")


@silences.command("list")
def list_silences(
    everything: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Silences and mute times that hold or will, with author and reason."""
    with _store(config) as (settings, store):
        reached_ms = _reached_ms(settings, store, SystemClock().now_ms())
        rows = store.silences(ended_before_ms=None if everything else reached_ms)
    if as_json:
        _print_json({"silences": rows})
        return
    for row in rows:
        ended = f"  expired by {_visible(row.expired_by)}" if row.expired_by else ""
        typer.echo(f"{row.id:>5}  {to_rfc3339(row.starts_at_ms)} to {to_rfc3339(row.ends_at_ms)}  {_what(row)}{ended}")
        typer.echo(f"       {_visible(row.author)}: {_visible(row.reason)}")
    typer.echo(f"{len(rows)} silences")


@silences.command("expire")
def expire_silence(
    number: Annotated[int, typer.Argument(help="A number from `silences list`.")],
    author: Author,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """End a silence now. What it kept quiet and is still open is told."""
    with _store(config) as (settings, store):
        now_ms = SystemClock().now_ms()
        done = store.expire_silence(number, author=author, at_ms=_reached_ms(settings, store, now_ms), now_ms=now_ms)
    if as_json:
        _print_json({"expired": done})
    elif done:
        typer.echo(f"silence {number} has ended")
    if not done:
        if not as_json:
            typer.echo(f"tapewatch: silence {number}: there is none that still holds", err=True)
        raise typer.Exit(1)


@alerts.command("list")
def list_alerts(
    entity: Annotated[str | None, typer.Option("--entity", help="Only this company's.")] = None,
    status: Annotated[Literal["open", "resolved"] | None, typer.Option("--status")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """The newest alerts, and who has taken them on."""
    with _store(config) as (_, store):
        rows = store.alerts(limit=limit, entity=entity, status=status)
        taken = store.acknowledged([row.id for row in rows])
    if as_json:
        _print_json({"alerts": rows, "acknowledged": taken})
        return
    for row in rows:
        by = f"  taken on by {_visible(taken[row.id])}" if row.id in taken else ""
        typer.echo(f"{row.id[:12]}  {row.opened_at}  {row.resolved_at or 'open':<20}  {row.severity}{by}")
        typer.echo(f"              {row.entity} {row.direction} {row.kind}: {_visible(row.brief, 200)}")
    typer.echo(f"{len(rows)} alerts")


@alerts.command("ack")
def acknowledge(
    alert: Annotated[str, typer.Argument(help="An id from `alerts list`, or how it begins.")],
    author: Author,
    reason: Annotated[str, typer.Option("--reason", help="What is being done.")] = "",
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Take an alert on: its page is not repeated, and updates are told only when it gets worse."""
    with _store(config) as (_, store):
        known = store.alert_id(alert)
        done = known is not None and store.acknowledge(
            known, author=author, reason=reason, now_ms=SystemClock().now_ms()
        )
    if as_json:
        _print_json({"acknowledged": done, "alert": known})
    elif done:
        typer.echo(f"{known}: taken on by {_visible(author)}")
    if not done:
        if not as_json:
            typer.echo(f"tapewatch: {_visible(alert)}: no such alert, or several begin so", err=True)
        raise typer.Exit(1)


@alerts.command("why")
def why(
    entity: Annotated[str, typer.Argument(help="A symbol of the watchlist.")],
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 10,
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Why a company's alerts were told or not, why loud signals opened none, and what its silence means."""
    with _store(config) as (settings, store):
        found = [(row, store.decisions(row.id)) for row in store.alerts(limit=limit, entity=entity)]
        silent = store.suppressions(entity=entity, limit=limit)
        heard = _heard(settings, store, entity)
    if as_json:
        _print_json(
            {
                "entity": entity,
                "alerts": [{"alert": row.id, "opened_at": row.opened_at, "steps": steps} for row, steps in found],
                "suppressed": silent,
                "heard": heard,
            }
        )
        return
    for row, steps in found:
        typer.echo(f"{row.id[:12]}  {row.opened_at}  {row.severity} {row.direction} {row.kind}")
        for step in steps:
            what = f" by silence {step.silence_id}" if step.silence_id is not None else ""
            typer.echo(f"              step {step.sequence}: {step.verdict}, {step.reason}{what}")
    for each in silent:
        typer.echo(
            f"no alert      {to_rfc3339(each.at_ms)}  {each.direction} {each.kind}, {each.voices:g} voices: {each.reason}"
            f" (score {each.score:g}, {each.needed:g} needed)"
        )
    for line in heard:
        typer.echo(
            f"{line['channel']:<14}{line['hearing']}: last heard of {line['last_mention_at']}, since then"
            f" {line['expected_mentions']:g} mentions were to be expected"
        )
    typer.echo(f"{len(found)} alerts, {len(silent)} signals that opened none")


@contextmanager
def _store(config: Path) -> Iterator[tuple[Settings, Store]]:
    from monitor.app import database_url
    from monitor.settings import load_settings
    from monitor.store import Store

    settings = load_settings(config)
    with closing(Store.open(database_url(settings))) as store:
        yield settings, store


def _reached_ms(settings: Settings, store: Store, now_ms: int) -> int:
    """Where event time stands; the wall clock before the first mention."""
    marks = store.partition_marks(settings.kafka.topic_mentions)
    return min((mark.watermark_ms for mark in marks if mark.watermark_ms is not None), default=now_ms)


def _heard(settings: Settings, store: Store, entity: str) -> list[dict[str, Any]]:
    """By channel: is the silence about a company no news, or can nothing be said because the channel itself is silent?"""
    from monitor.alerting import Hearing, load_rules
    from monitor.alerting.silence_states import EVERY, hear
    from monitor.loops.watchkeeping import feeds_of

    rules, newest = load_rules(settings.rules.path).health, store.newest_heard_hour()
    if newest is None:
        return []
    first = newest - round(rules.record_days * 24)
    at_ms = _reached_ms(settings, store, SystemClock().now_ms())
    channels = {feed.channel: feed for feed in feeds_of(store.feed_hours(first)) if feed.source == EVERY}
    lines = []
    for feed in feeds_of(store.entity_hours(entity, first * _UNITS_MS["h"])):
        if feed.source == EVERY:
            continue
        reading, channel = hear(feed, at_ms=at_ms, rules=rules), channels.get(feed.channel)
        down = channel is not None and hear(channel, at_ms=at_ms, rules=rules).hearing is Hearing.SILENT
        lines.append(
            {
                "channel": feed.channel,
                "hearing": "feed_down" if down else str(reading.hearing),
                "last_mention_at": to_rfc3339(feed.newest_ms),
                "expected_mentions": round(reading.expected, 2),
            }
        )
    return lines


def _check_watchlist(settings: Settings, entity: str | None, sector: str | None) -> None:
    """A silence that fits nothing would be a false comfort."""
    from monitor.linking import load_watchlist

    companies = load_watchlist(settings.watchlist.path).companies
    if entity is not None and entity not in {company.symbol for company in companies}:
        raise Fatal(f"--entity {_visible(entity)}: no such symbol in {settings.watchlist.path}")
    sectors = sorted({company.sector for company in companies if company.sector})
    if sector is not None and sector not in sectors:
        raise Fatal(f"--sector {_visible(sector)}: no such sector in {settings.watchlist.path}; {', '.join(sectors)}")


def _hours(days: str | None, between: str | None) -> tuple[str, int, int] | None:
    from monitor.alerting.silences import DAYS

    if days is None and between is None:
        return None
    chosen = [day.strip().lower() for day in (days or ",".join(DAYS)).split(",")]
    unknown = [day for day in chosen if day not in DAYS]
    if unknown:
        raise Fatal(f"--days: {_visible(', '.join(unknown))}: write {', '.join(DAYS)}")
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)", between or "00:00-24:00")
    if found is None:
        raise Fatal(f"--between {_visible(between or '')}: write hours in UTC as 22:00-06:00")
    start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if end > 1_440:
        raise Fatal(f"--between {between}: a day ends at 24:00")
    return ",".join(sorted(set(chosen), key=DAYS.index)), start, end % 1_440


def _duration_ms(text: str) -> int:
    found = re.fullmatch(r"(\d{1,5})([mhdw])", text.strip())
    if found is None or int(found[1]) == 0:
        raise Fatal(f"--for {_visible(text)}: write a number and m, h, d or w, as in 90m")
    return int(found[1]) * _UNITS_MS[found[2]]


def _moment(text: str, option: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as err:
        raise Fatal(f"{option} {_visible(text)}: write a time as 2026-11-03T14:00:00Z") from err
    if moment.tzinfo is None:
        raise Fatal(f"{option} {_visible(text)}: say in which zone, as in 2026-11-03T14:00:00Z")
    return round(moment.astimezone(UTC).timestamp() * 1000)


def _what(row: StoredSilence) -> str:
    parts = [part for part in (row.entity, row.sector, row.kind, row.direction) if part] or ["every alert"]
    if row.severity_max != "critical":
        parts.append(f"up to {row.severity_max}")
    if row.days is not None and row.start_minute is not None and row.until_minute is not None:
        start, until = (f"{minute // 60:02}:{minute % 60:02}" for minute in (row.start_minute, row.until_minute))
        parts.append(f"{row.days} {start}-{until} UTC")
    return ", ".join(parts)


def _print_json(value: Any) -> None:
    typer.echo(msgspec.json.encode(value).decode())


def _visible(text: str, chars_max: int = 120) -> str:
    """Strangers' text on one line of a terminal: nothing in it may move the cursor."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:chars_max])
