"""From alerts to pages: what is told, when, together with what, and why the rest is not.

Every step of every alert passes here, from all partitions, in the order of event time. Companies of one sector that turn the
same way become one page; so many of several sectors become one page about the market, and what follows stays under it.

    AAPL  ──●opened                                   each page waits `group_wait_s` for others of its sector
    MSFT  ────●opened          ●updated    ●resolved  later ones join as updates for `group_join_s`
    page  ────────▲ 2 members  ▲           ▲          resolved when all its members are

Pure, and a fold: state and decisions follow from the steps, the silences and the acknowledgements alone, whoever runs it and
however often it is restarted. Each step is settled with a reason, also when nobody is told.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any, Literal

import msgspec

from monitor.alerting.lifecycle import SEVERITIES, Severity
from monitor.alerting.rules import Rules
from monitor.alerting.silences import Silence
from monitor.clock import to_rfc3339
from monitor.records import Alert, AlertKind, AlertTransition, Direction, Record

HOUR_MS = 3_600_000
DIGEST_LINES_MAX = 100
MARKET = "market"
Change = Literal["opened", "updated", "resolved"]


class Verdict(StrEnum):
    """What became of a step. PENDING: it is on a page that is not due yet."""

    PENDING = "pending"
    TOLD = "told"
    DIGESTED = "digested"
    SILENT = "silent"


class PageReason(StrEnum):
    """Why a message was sent, or why a step was not told."""

    GROUP_WAIT = "group_wait"
    OPENED = "opened"
    JOINED = "joined"
    STRONGER = "stronger"
    RESOLVED = "resolved"
    REPEATED = "repeated"
    HOUR_FULL = "hour_full"
    SILENCED = "silenced"
    UNDER_MARKET_ALERT = "under_market_alert"
    ACKNOWLEDGED = "acknowledged"
    PART_RESOLVED = "part_resolved"
    ENDED_UNTOLD = "ended_untold"


class Step(Record, frozen=True, kw_only=True):
    """A step of an alert's life and its number in it."""

    transition: AlertTransition
    sequence: int


class Settled(Record, frozen=True, kw_only=True):
    """What became of a step, for the record. A silenced step is settled again when it is told after all."""

    alert: str
    sequence: int
    verdict: Verdict
    reason: PageReason
    page: str
    silence: int | None = None


class Message(Record, frozen=True, kw_only=True):
    """What receivers get. `page` is the thread: its messages are never reordered, and end with `resolved`.

    `alert`: the alert that stands for the page, with its members in `details`; None for a digest, whose `body` is its own.
    """

    page: str
    sequence: int
    event: str
    change: Change
    reason: PageReason
    at_ms: int
    severity: Severity
    alert: Alert | None
    body: Mapping[str, Any] | None = None


class Member(msgspec.Struct, array_like=True):
    """An alert on a page. `waiting`: its steps that nobody was told yet. `alert` is kept until it is told."""

    id: str
    entity: str
    name: str | None
    sector: str
    kind: AlertKind
    direction: Direction
    severity: Severity
    opened_ms: int
    brief: str
    alert: Alert | None
    waiting: list[int] = msgspec.field(default_factory=list)
    resolved_ms: int | None = None
    told: bool = False
    louder: bool = False
    under_market: bool = False


class Page(msgspec.Struct, array_like=True):
    """What an analyst sees as one thing. `lead` is the alert that stands for it once it was told."""

    group: str
    direction: Direction
    opened_ms: int
    members: dict[str, Member] = msgspec.field(default_factory=dict)
    due_ms: int | None = None
    id: str = ""
    lead: Alert | None = None
    sequence: int = 0
    repeat_ms: int | None = None
    severity: Severity = "low"

    @property
    def told(self) -> bool:
        return self.lead is not None


class Held(msgspec.Struct, array_like=True):
    """A line of the digest."""

    alert: str
    entity: str
    name: str | None
    kind: AlertKind
    direction: Direction
    severity: Severity
    opened_ms: int
    brief: str


class PagerState(msgspec.Struct, array_like=True):
    """Everything that is remembered between turns."""

    version: int = 1
    clock_ms: int = 0
    pages: list[Page] = msgspec.field(default_factory=list)
    sent_ms: list[int] = msgspec.field(default_factory=list)
    held: list[Held] = msgspec.field(default_factory=list)
    digest_due_ms: int | None = None


class Told(Record, frozen=True, kw_only=True):
    """What a turn decided, to be written in one transaction with the state."""

    messages: tuple[Message, ...] = ()
    settled: tuple[Settled, ...] = ()


class Pager:
    """Give it steps in any order within what is not reached yet, and the moment that event time has reached."""

    def __init__(self, *, rules: Rules, sectors: Mapping[str, str], state: PagerState | None = None) -> None:
        self.state = state or PagerState()
        self._rules, self._own, self._sectors = rules, rules.paging, sectors
        self._wait_ms = round(self._own.group_wait_s * 1000)
        self._silences: Sequence[Silence] = ()
        self._acknowledged: Collection[str] = ()
        self._messages: list[Message] = []
        self._settled: dict[tuple[str, int], Settled] = {}

    def advance(
        self,
        steps: Sequence[Step],
        *,
        reached_ms: int,
        silences: Sequence[Silence] = (),
        acknowledged: Collection[str] = (),
    ) -> Told:
        """Take the steps, and do what is due until `reached_ms`. `acknowledged`: ids of alerts that somebody has taken on."""
        self._silences, self._acknowledged = silences, acknowledged
        self._messages, self._settled = [], {}
        for step in sorted(steps, key=_order):
            self._run_timers(step.transition.at_ms - 1)
            self._take(step, max(step.transition.at_ms, self.state.clock_ms))
        self._run_timers(reached_ms)
        self.state.clock_ms = max(self.state.clock_ms, reached_ms)
        return Told(messages=tuple(self._messages), settled=tuple(self._settled.values()))

    def due_ms(self) -> int | None:
        """When something is to be done although no alert takes a step."""
        own = [self.state.digest_due_ms, *(when for page in self.state.pages for when in (page.due_ms, page.repeat_ms))]
        return min((when for when in own if when is not None), default=None)

    def _run_timers(self, until_ms: int) -> None:
        while (due_ms := self.due_ms()) is not None and due_ms <= until_ms:
            at_ms = self.state.clock_ms = max(due_ms, self.state.clock_ms)
            if self.state.digest_due_ms == due_ms:
                self._send_digest(at_ms)
                continue
            page = next(p for p in self.state.pages if due_ms in (p.due_ms, p.repeat_ms))
            if page.due_ms == due_ms:
                page.due_ms = None
                self._look_at(page, at_ms)
            else:
                self._repeat(page, at_ms)

    # Steps.

    def _take(self, step: Step, at_ms: int) -> None:
        alert, change = step.transition.alert, step.transition.change
        page = next((page for page in self.state.pages if alert.id in page.members), None)
        if page is None:
            if change == "resolved":
                self._settle_one(alert.id, step.sequence, Verdict.SILENT, PageReason.ENDED_UNTOLD, alert.id)
                return
            page = self._page_for(alert, at_ms)
            under = page.told and page.group == MARKET
            page.members[alert.id] = self._member(alert, step.transition.at_ms, under_market=under)
        member = page.members[alert.id]
        member.waiting.append(step.sequence)
        louder = SEVERITIES.index(alert.severity) > SEVERITIES.index(member.severity)
        member.severity = alert.severity if louder else member.severity
        member.brief, member.louder = alert.brief, member.louder or change == "updated"
        if page.lead is not None and page.lead.id == alert.id:
            page.lead = alert
        elif not member.told:
            member.alert = alert
        if change == "resolved":
            member.resolved_ms = step.transition.at_ms
        if member.under_market and not member.told:
            reason = PageReason.UNDER_MARKET_ALERT
            if member.severity == "critical" and member.resolved_ms is None:
                self._move_out(page, [member], at_ms)
            else:
                self._settle(member, Verdict.SILENT, reason, page.id, keep=True)
            return
        self._settle_one(alert.id, step.sequence, Verdict.PENDING, PageReason.GROUP_WAIT, page.id)
        page.due_ms = min(page.due_ms or at_ms + self._wait_ms, at_ms + self._wait_ms)

    def _page_for(self, alert: Alert, at_ms: int) -> Page:
        """The page that an alert belongs on: the market's while one is open, its sector's, or a new one."""
        group = self._group(alert.entity)
        for page in self.state.pages:
            if page.direction != alert.direction or not any(m.resolved_ms is None for m in page.members.values()):
                continue
            under = page.group == MARKET and page.told and group != MARKET and alert.severity != "critical"
            if under or (page.group == group and at_ms - page.opened_ms <= self._own.group_join_s * 1000):
                return page
        page = Page(group, alert.direction, at_ms)
        self.state.pages.append(page)
        return page

    def _group(self, entity: str) -> str:
        if entity in self._own.market_entities:
            return MARKET
        sector = self._sectors.get(entity, "")
        return f"sector/{sector}" if sector else f"entity/{entity}"

    def _member(self, alert: Alert, opened_ms: int, *, under_market: bool) -> Member:
        return Member(
            id=alert.id,
            entity=alert.entity,
            name=alert.name,
            sector=self._sectors.get(alert.entity, ""),
            kind=alert.kind,
            direction=alert.direction,
            severity=alert.severity,
            opened_ms=opened_ms,
            brief=alert.brief,
            alert=alert,
            under_market=under_market,
        )

    # Pages.

    def _look_at(self, page: Page, at_ms: int) -> None:
        """Decide what to tell of a page on which something has changed."""
        fresh = []
        for member in page.members.values():
            if member.told or member.under_market:
                continue
            held = self._silence(member, at_ms)
            if held is not None:
                silence, until_ms = held
                self._settle(member, Verdict.SILENT, PageReason.SILENCED, page.id or member.id, silence, keep=True)
                if member.resolved_ms is None:
                    page.due_ms = min(page.due_ms or until_ms, until_ms)
            elif member.resolved_ms is not None:
                self._settle(member, Verdict.SILENT, PageReason.ENDED_UNTOLD, page.id or member.id)
            else:
                fresh.append(member)
        if page.told:
            self._look_again(page, fresh, at_ms)
        elif fresh:
            self._open(page, fresh, at_ms)
        self._drop_ended(page)

    def _open(self, page: Page, fresh: list[Member], at_ms: int) -> None:
        if page.group != MARKET:
            fresh = self._as_market(page, fresh, at_ms)
        if self._is_full(at_ms):
            self._hold(fresh, page, at_ms)
            return
        first = min(fresh, key=lambda m: (m.opened_ms, m.id))
        assert first.alert is not None, "what was not told yet has its alert"
        page.id, page.lead = first.id, first.alert
        self._tell(page, "opened", PageReason.OPENED, fresh, at_ms)

    def _look_again(self, page: Page, fresh: list[Member], at_ms: int) -> None:
        told = [m for m in page.members.values() if m.told]
        if not any(m.resolved_ms is None for m in told):
            self._close(page, told, at_ms)
            return
        for member in told:
            if member.waiting and member.resolved_ms is None and (held := self._silence(member, at_ms)):
                self._settle(member, Verdict.SILENT, PageReason.SILENCED, page.id, held[0])
        changed = [m for m in told if m.waiting]
        louder = [m for m in changed if m.louder and m.resolved_ms is None]
        if not fresh and not louder:
            for member in changed:
                self._settle(member, Verdict.SILENT, PageReason.PART_RESOLVED, page.id)
            return
        worse = self._severity(page, fresh) > SEVERITIES.index(page.severity)
        if not fresh and not worse and self._is_acknowledged(page):
            for member in changed:
                self._settle(member, Verdict.SILENT, PageReason.ACKNOWLEDGED, page.id)
        elif self._is_full(at_ms):
            self._hold([*fresh, *changed], page, at_ms)
        else:
            reason = PageReason.JOINED if fresh else PageReason.STRONGER
            self._tell(page, "updated", reason, [*fresh, *changed], at_ms)

    def _close(self, page: Page, told: list[Member], at_ms: int) -> None:
        """All that was told is over; what nobody was told of because of this page goes on by itself."""
        self._tell(page, "resolved", PageReason.RESOLVED, [m for m in told if m.waiting], at_ms)
        self.state.pages.remove(page)
        alive = [m for m in page.members.values() if not m.told and m.resolved_ms is None]
        if alive:
            self._move_out(page, alive, at_ms)

    def _move_out(self, page: Page, members: list[Member], at_ms: int) -> None:
        """To pages of their own sectors, to be looked at after the usual wait."""
        for member in members:
            del page.members[member.id]
            assert member.alert is not None, "what was not told yet has its alert"
            member.under_market = False
            other = self._page_for(member.alert, at_ms)
            member.under_market = other.group == MARKET and other.told
            other.members[member.id] = member
            other.due_ms = min(other.due_ms or at_ms + self._wait_ms, at_ms + self._wait_ms)

    def _drop_ended(self, page: Page) -> None:
        """A page that ended before anybody was told of it."""
        if page not in self.state.pages or page.told or any(m.resolved_ms is None for m in page.members.values()):
            return
        self.state.pages.remove(page)

    def _as_market(self, page: Page, fresh: list[Member], at_ms: int) -> list[Member]:
        """When enough companies of enough sectors turn the same way, their untold pages become one about the market."""
        own = self._own
        others = [p for p in self.state.pages if p.direction == page.direction and p is not page and p.group != MARKET]
        lately_ms = at_ms - round(own.group_join_s * 1000)
        alive = [m for p in (page, *others) for m in p.members.values() if m.resolved_ms is None]
        alive = [m for m in alive if m.opened_ms >= lately_ms]
        sectors = {m.sector or m.entity for m in alive}
        if len({m.entity for m in alive}) < own.market_members_min or len(sectors) < own.market_sectors_min:
            return fresh
        page.group = MARKET
        for other in [p for p in others if not p.told]:
            page.members.update(other.members)
            fresh = [
                *fresh,
                *(m for m in other.members.values() if m.resolved_ms is None and not self._silence(m, at_ms)),
            ]
            self.state.pages.remove(other)
        return fresh

    def _repeat(self, page: Page, at_ms: int) -> None:
        """Nobody has taken it on yet."""
        page.repeat_ms = None
        alive = [m for m in page.members.values() if m.told and m.resolved_ms is None]
        if not alive or self._is_acknowledged(page):
            return
        page.repeat_ms = at_ms + round(self._own.repeat_s * 1000)
        if not all(self._silence(m, at_ms) for m in alive) and not self._is_full(at_ms):
            self._tell(page, "updated", PageReason.REPEATED, [], at_ms)

    # Telling.

    def _tell(self, page: Page, change: Change, reason: PageReason, members: Sequence[Member], at_ms: int) -> None:
        for member in members:
            member.told = True
            self._settle(member, Verdict.TOLD, reason, page.id)
            member.alert, member.louder = None, False
        page.severity = SEVERITIES[self._severity(page, ())]
        page.sequence += 1
        page.repeat_ms = None if change == "resolved" else at_ms + round(self._own.repeat_s * 1000)
        if change != "resolved":
            self.state.sent_ms.append(at_ms)
        self._messages.append(
            Message(
                page=page.id,
                sequence=page.sequence,
                event=f"alert.{change}",
                change=change,
                reason=reason,
                at_ms=at_ms,
                severity=page.severity,
                alert=_page_alert(page, resolved=change == "resolved"),
            )
        )

    def _hold(self, members: Sequence[Member], page: Page, at_ms: int) -> None:
        """The hour is full: they go into the digest."""
        if self.state.digest_due_ms is None:
            self.state.digest_due_ms = at_ms + round(self._own.digest_s * 1000)
        lines = {line.alert: line for line in self.state.held}
        for m in members:
            self._settle(m, Verdict.DIGESTED, PageReason.HOUR_FULL, page.id or m.id)
            m.louder = False
            lines[m.id] = Held(m.id, m.entity, m.name, m.kind, m.direction, m.severity, m.opened_ms, m.brief)
        self.state.held = list(lines.values())

    def _send_digest(self, at_ms: int) -> None:
        held, self.state.held, self.state.digest_due_ms = self.state.held, [], None
        held.sort(key=lambda line: (-SEVERITIES.index(line.severity), line.opened_ms, line.alert))
        severity = held[0].severity
        facts = "\x1f".join([str(at_ms), *sorted(line.alert for line in held)])
        page = sha256(facts.encode()).hexdigest()[:32]
        body = {
            "id": page,
            "kind": "digest",
            "severity": severity,
            "opened_at": to_rfc3339(min(line.opened_ms for line in held)),
            "resolved_at": None,
            "reason": PageReason.HOUR_FULL,
            "held_back": len(held),
            "alerts_per_hour_max": self._rules.budget.alerts_per_hour_max,
            "alerts": [
                {
                    "id": line.alert,
                    "entity": line.entity,
                    "name": line.name,
                    "kind": line.kind,
                    "direction": line.direction,
                    "severity": line.severity,
                    "opened_at": to_rfc3339(line.opened_ms),
                    "brief": line.brief,
                }
                for line in held[:DIGEST_LINES_MAX]
            ],
            "brief": (
                f"{len(held)} more alerts were held back, because {self._rules.budget.alerts_per_hour_max} an hour are the"
                f" most that are told one by one. Loudest: {', '.join(line.name or line.entity for line in held[:5])}."
            ),
        }
        self._messages.append(
            Message(
                page=page,
                sequence=1,
                event="alert.digest",
                change="opened",
                reason=PageReason.HOUR_FULL,
                at_ms=at_ms,
                severity=severity,
                alert=None,
                body=body,
            )
        )

    # Questions.

    def _silence(self, member: Member, at_ms: int) -> tuple[int, int] | None:
        """The silence that holds longest for a member, and until when."""
        found = [
            (until_ms, silence.id)
            for silence in self._silences
            if silence.fits(
                entity=member.entity,
                sector=member.sector,
                kind=member.kind,
                direction=member.direction,
                severity=member.severity,
            )
            and (until_ms := silence.until_ms(at_ms)) is not None
        ]
        return (max(found)[1], max(found)[0]) if found else None

    def _is_full(self, at_ms: int) -> bool:
        self.state.sent_ms = [each for each in self.state.sent_ms if at_ms - each < HOUR_MS]
        return len(self.state.sent_ms) >= self._rules.budget.alerts_per_hour_max

    def _is_acknowledged(self, page: Page) -> bool:
        alive = [m.id for m in page.members.values() if m.told and m.resolved_ms is None]
        return page.id in self._acknowledged or all(each in self._acknowledged for each in alive)

    def _severity(self, page: Page, fresh: Sequence[Member]) -> int:
        told = [m for m in page.members.values() if m.told]
        return max((SEVERITIES.index(m.severity) for m in (*told, *fresh)), default=0)

    def _settle(
        self,
        member: Member,
        verdict: Verdict,
        reason: PageReason,
        page: str,
        silence: int | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """All steps of a member that wait; `keep`: they may still be told."""
        for sequence in member.waiting:
            self._settle_one(member.id, sequence, verdict, reason, page, silence)
        if not keep:
            member.waiting = []

    def _settle_one(
        self, alert: str, sequence: int, verdict: Verdict, reason: PageReason, page: str, silence: int | None = None
    ) -> None:
        self._settled[alert, sequence] = Settled(
            alert=alert, sequence=sequence, verdict=verdict, reason=reason, page=page, silence=silence
        )


def page_history(
    transitions: Sequence[AlertTransition],
    *,
    rules: Rules,
    sectors: Mapping[str, str],
    silences: Sequence[Silence] = (),
) -> Told:
    """What would have been told of a history to whoever took nothing on: the same fold, to the end of what it waits for."""
    numbers: dict[str, int] = {}
    steps = []
    for transition in sorted(transitions, key=lambda each: each.at_ms):
        number = numbers[transition.alert.id] = numbers.get(transition.alert.id, 0) + 1
        steps.append(Step(transition=transition, sequence=number))
    pager = Pager(rules=rules, sectors=sectors)
    last_ms = max((each.at_ms for each in transitions), default=0)
    patience_s = max(rules.paging.group_wait_s, rules.paging.digest_s)
    return pager.advance(steps, reached_ms=last_ms + round(patience_s * 1000), silences=silences)


def _order(step: Step) -> tuple[int, str, bool, str, int]:
    """Of one moment: what ends before what begins."""
    t = step.transition
    return t.at_ms, t.alert.entity, t.change == "opened", t.alert.id, step.sequence


def _page_alert(page: Page, *, resolved: bool) -> Alert:
    """The alert that stands for the page; alone on it, it is what it always was."""
    lead = page.lead
    assert lead is not None, "only a page that was told has messages"
    shown = [m for m in page.members.values() if m.told or m.under_market]
    ended_ms = max((m.resolved_ms for m in shown if m.told and m.resolved_ms is not None), default=0)
    resolved_at = to_rfc3339(ended_ms) if resolved else None
    if len(shown) <= 1:
        return msgspec.structs.replace(lead, severity=page.severity, resolved_at=resolved_at)
    shown.sort(key=lambda m: (-SEVERITIES.index(m.severity), m.opened_ms, m.id))
    group = {
        "key": page.group,
        "members": [
            {
                "id": m.id,
                "entity": m.entity,
                "name": m.name,
                "kind": m.kind,
                "severity": m.severity,
                "opened_at": to_rfc3339(m.opened_ms),
                "resolved_at": to_rfc3339(m.resolved_ms) if m.resolved_ms is not None else None,
                "brief": m.brief,
            }
            for m in shown[:DIGEST_LINES_MAX]
        ],
        "count": len(shown),
    }
    return msgspec.structs.replace(
        lead,
        severity=page.severity,
        resolved_at=resolved_at,
        brief=f"{_who(page, shown)} {lead.brief}",
        details={**lead.details, "group": group},
    )


def _who(page: Page, shown: Sequence[Member]) -> str:
    names = ", ".join(m.name or m.entity for m in shown[:5])
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    what = "The market" if page.group == MARKET else page.group.partition("/")[2]
    return f"{what}: {len(shown)} companies turned {page.direction} ({names}{more})."
