"""A run: actions drawn from the seed, then repair, then the comparison with the oracle."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import structlog

from monitor.backtest import run_backtest
from monitor.chaos import Told, judge
from monitor.chaos.oracle import Findings
from monitor.clock import to_rfc3339
from monitor.errors import Rejectable
from monitor.intake.kafka import partition_of
from monitor.records import ScoredMention, mention_id
from monitor.store import StoredBucket
from tests.simulation.broker import SimBroker
from tests.simulation.roles import (
    CHOKES,
    ENTITIES,
    KILLS,
    PARTITIONS,
    RULES,
    Build,
    DeliverProcess,
    Inbox,
    Process,
    ScoreProcess,
    WatchProcess,
    fresh_store,
    raw,
    reader,
    settings,
)
from tests.simulation.world import Faults, World

START_MS = 1_800_000_000_000 - 1_800_000_000_000 % 86_400_000
STEPS = 110  # of a run among the tests
HOUR_S = 3_600
ROLES = ("score", "watch", "deliver")
_SUMS = ("raw_n", "effective_n", "negative", "neutral", "positive", "polarity_sum", "polarity_sq_sum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run came to. No `problems`: nothing was lost, doubled or left half done."""

    seed: int
    steps: int
    findings: Findings
    problems: tuple[str, ...]
    happened: Counter[str]
    trace: tuple[str, ...]

    def told(self) -> str:
        lines = [f"seed {self.seed}, {self.steps} steps: {len(self.problems)} problem(s)"]
        lines += [f"  {problem}" for problem in self.problems]
        lines += [
            f"  findings: {self.findings}",
            f"  faults: {dict(sorted(self.happened.items()))}",
            "  the last steps:",
        ]
        lines += [f"  {line}" for line in self.trace[-80:]]
        lines.append(f"replay: python -m tests.simulation --seed {self.seed} --steps {self.steps}")
        return "\n".join(lines)


def simulate(seed: int, steps: int, *, faults: Faults | None = None, build: Build | None = None) -> Report:
    """The same seed and number of steps give the same run, to the last byte."""
    with quiet_logs():
        simulation = Simulation(seed, faults=faults, build=build)
        for _ in range(steps):
            simulation.act()
        return simulation.finish(steps)


class Simulation:
    """The world with its processes. `act` draws what happens next; a state machine may call the actions itself."""

    def __init__(self, seed: int, *, faults: Faults | None = None, build: Build | None = None) -> None:
        self.seed = seed
        self.world = World(seed, faults=faults or Faults(), start_ms=START_MS)
        self.world.meanwhile = self._meanwhile  # type: ignore[method-assign]
        self.world.stall = self._stall  # type: ignore[method-assign]
        self._build = build or Build()
        self._rng = self.world.rng
        kafka = settings().kafka
        self._raw = {kafka.topic_news: 2, kafka.topic_social: 1}
        self._mentions, self._letters = kafka.topic_mentions, kafka.topic_dead_letters
        self.broker = SimBroker(self.world, {**self._raw, self._mentions: PARTITIONS, self._letters: 1})
        self.store = fresh_store(self.world)
        self.inbox = Inbox(self.store)
        self._written: list[bytes] = []
        self._garbage: set[tuple[str, int, int]] = set()
        self._storm: tuple[str, str] | None = None
        self._born = 0
        self._said = 0
        self.problems: list[str] = []
        self._retried: set[str] = set()
        self._reached: dict[tuple[str, int], int] = {}
        self.processes: list[Process] = []
        for role in ROLES:
            self.start(role)
        self._warm_up()
        for role in ROLES[:2]:
            self.start(role)

    # What can happen.

    def supervise(self, share: float = 1.0) -> None:
        """Roles without a process are started again."""
        for process in [p for p in self.processes if not p.alive]:
            self._bury(process)
        for role in ROLES:
            if not any(p.name.startswith(role) for p in self.processes) and self._rng.random() < share:
                self.start(role)

    def act(self) -> None:
        """One thing, drawn from the seed; a supervisor starts again what is missing."""
        self.supervise(0.3)
        (action,) = self._rng.choices(
            (self.turn, self.produce, self.advance, self.jump, self.start_any, self.kill_any, self.stop_any, self.deal),
            weights=(70, 12, 11, 1, 3, 1, 1, 1),
        )
        action()
        self.check()

    def turn(self, role: str | None = None) -> None:
        role = role or self._rng.choices(ROLES, weights=(3, 4, 2))[0]
        ready = [p for p in self.processes if p.alive and not p.busy and p.name.startswith(role)]
        if ready:
            process = self._rng.choice(ready)
            self.world.note(f"turn {process.name}")
            process.turn()
            self._bury(process)

    def produce(self) -> None:
        for _ in range(self._rng.randint(1, 10)):
            topic = self._rng.choice(list(self._raw))
            self.broker.append(topic, None, self._document(topic), partition=self._rng.randrange(self._raw[topic]))
        if self._rng.random() < 0.03:
            place = self.broker.append(self._mentions, b"AAA", b'{"not": "ours"}')
            self._garbage.add((place.topic, place.partition, place.offset))
        self.world.note("produce")

    def advance(self) -> None:
        seconds = self._rng.choice((0.05, 0.3, 2.0, 10.0, 20.0, 40.0, 60.0, 90.0))
        self.world.note(f"{seconds} s pass")
        self.world.clock.advance(seconds)

    def jump(self) -> None:
        """The wall clock is set forward or back by an hour; it may be set right again."""
        self.world.clock.offset_ms = self._rng.choice((-HOUR_S, 0, HOUR_S)) * 1_000
        self.world.note(f"wall clock {self.world.clock.offset_ms:+} ms")

    def start_any(self) -> None:
        self.start(self._rng.choice(ROLES))

    def kill_any(self) -> None:
        """SIGKILL between two turns; the ones within a turn are `Faults.crash`."""
        ready = [p for p in self.processes if p.alive and not p.busy]
        if ready:
            process = self._rng.choice(ready)
            self.world.note(f"kill {process.name}")
            process.alive = False
            self._bury(process)

    def stop_any(self) -> None:
        ready = [p for p in self.processes if p.alive and not p.busy]
        if ready:
            process = self._rng.choice(ready)
            self.world.note(f"stop {process.name}")
            process.stop()
            process.alive = False
            self._bury(process)

    def deal(self) -> None:
        """A rebalance for whatever reason."""
        self.world.note("rebalance")
        self.broker.rebalance(self._rng.choice(("score", "watch")))

    def start(self, role: str) -> None:
        if sum(p.alive and p.name.startswith(role) for p in self.processes) >= 3:
            return
        self._born += 1
        name = f"{role}{self._born}"
        self.world.note(f"start {name}")
        made: Process
        if role == "score":
            made = ScoreProcess(self.world, name, self.broker, self.store, self._build)
        elif role == "watch":
            made = WatchProcess(self.world, name, self.broker, self.store, self._build)
        else:
            made = DeliverProcess(self.world, name, self.store, self._build, self.inbox)
        self.processes.append(made)

    def check(self) -> None:
        """What must hold at every moment: a stored offset never goes back and never passes the end of its log."""
        for place, following in self._stored().items():
            name, end = f"{place[0]}/{place[1]}", len(self.broker.logs[place])
            if following < self._reached.get(place, 0):
                self._problem(f"{name}: the stored offset went back from {self._reached[place]} to {following}")
            if following > end:
                self._problem(f"{name}: the stored offset {following} is beyond the end {end}")
            self._reached[place] = following

    def finish(self, steps: int) -> Report:
        """Repair everything, let it come to rest, compare."""
        self.settle()
        findings = self._compare()
        if not findings.sound:
            self.problems.append(f"not sound: {findings}")
        self._judge_deliveries()
        self.problems += self.world.surprises
        return Report(
            seed=self.seed,
            steps=steps,
            findings=findings,
            problems=tuple(self.problems),
            happened=self.world.happened,
            trace=tuple(self.world.trace),
        )

    def settle(self) -> None:
        """No more faults; every role has a process; nothing new arrives. All that is open must come to an end by itself."""
        self.world.faulty = False
        for _ in range(200):
            self.supervise()
            self._all_turn("score", "watch")
            self.world.clock.advance(1.0)
            if self._read_up():
                break
        else:
            self._problem("it does not settle: messages are left unread")
        for _ in range(12):  # longer than lateness, idleness and what may lie in the future together
            self.world.clock.advance(60.0)
            self._all_turn("watch")
        for _ in range(60):
            given_up = [d.id for d in self.store.deliveries(limit=10_000) if d.status in {"failed", "disabled"}]
            self.store.retry_deliveries(given_up, now_ms=self.world.clock.now_ms())  # as the desk would
            self._retried.update(given_up)
            while self._all_turn("deliver"):
                pass
            if self.store.oldest_pending_ms() is None:
                break
            self.world.clock.advance(300.0)
        else:
            self._problem("it does not settle: deliveries are left over")

    # Inside.

    def _warm_up(self) -> None:
        """Three days of few words, for a cold start is wary, and ten minutes of more, so that alerts stand at
        the threshold when the trouble begins."""
        self.world.faulty = False
        for pause_s in [*(14_400.0,) * 18, *(60.0,) * 10]:
            self.supervise()
            self.produce()
            self._all_turn("score", "watch")
            self.world.clock.advance(pause_s)
        self.world.faulty = True

    def _meanwhile(self, name: str) -> None:
        self._rng.choice((self.turn, self.turn, self.deal, self.kill_any, self.jump, self.produce))()

    def _stall(self, name: str) -> None:
        process = next((p for p in self.processes if p.name == name), None)
        self.world.note(f"    {name} stands still")
        if process is not None and process.source is not None:
            self.start(name.rstrip("0123456789"))
            self.broker.leave(process.source)
        for _ in range(self._rng.randint(1, 8)):
            self._rng.choice((self.turn, self.turn, self.turn, self.produce, self.advance))()
        self.check()
        self.world.note(f"    {name} goes on")

    def _bury(self, process: Process) -> None:
        """The group notices a death late or soon: partitions of the dead stay with nobody until then."""
        if not process.alive:
            if process.source is not None:
                self.broker.leave(process.source)
            self.processes.remove(process)

    def _all_turn(self, *roles: str) -> int:
        return sum(p.turn() for p in list(self.processes) if p.alive and p.name.startswith(roles))

    def _read_up(self) -> bool:
        reached = self._stored() | {p: at for (group, p), at in self.broker.committed.items() if group == "score"}
        return all(reached.get(place, 0) >= len(log) for place, log in self.broker.logs.items())

    def _stored(self) -> dict[tuple[str, int], int]:
        """The next offset of each partition, as the database has it."""
        rows = raw(self.store).execute('SELECT topic, partition, "next" FROM partition_states').fetchall()
        return {(topic, number): following for topic, number, following in rows}

    def _problem(self, what: str) -> None:
        if what not in self.problems:
            self.problems.append(what)

    def _document(self, topic: str) -> bytes | None:
        rng = self._rng
        if self._written and rng.random() < 0.06:
            return rng.choice(self._written)  # a producer that retries
        if rng.random() < 0.04:
            return rng.choice((None, b"", b"\xff\xfe", b"{", b"[1]", b'{"id": "1"}', b"[" * 500))
        self._said += 1
        if self._storm is None or rng.random() < 0.1:
            self._storm = (rng.choice(ENTITIES), rng.choice(("plunges fraud", "soars record", "meets")))
        entity, tone = (
            self._storm if rng.random() < 0.6 else (rng.choice(ENTITIES), rng.choice(("falls", "wins", "waits")))
        )
        words = [f"w{rng.randrange(500)}" for _ in range(6)]
        age_ms = rng.choice((0, 0, 0, 20_000, 60_000, 60_000))
        if rng.random() < 0.1:
            age_ms = rng.choice((600_000, 7_200_000, -200_000, -1_200_000))  # late, very late, early, from the future
        if rng.random() < 0.02:
            words.append(CHOKES)
        elif rng.random() < 0.003:
            words.append(KILLS)
        symbols = [entity] if rng.random() < 0.9 else rng.sample(ENTITIES, 3)
        if rng.random() < 0.05:
            symbols = []
        value = msgspec.json.encode(
            {
                "id": str(self._said),
                "source": "wire",
                "channel": "news" if topic == settings().kafka.topic_news else "social",
                "published_at": to_rfc3339(self.world.clock.true_ms() - age_ms - rng.randrange(1_000)),
                "title": " ".join([tone, *words]),
                "author": f"author{rng.randrange(40)}",
                "symbols": symbols,
            }
        )
        self._written.append(value)
        return value

    def _compare(self) -> Findings:
        """As `monitor.chaos` does it, but here every place is known, and event time has come to the end."""
        wanted_mentions, wanted_letters, either = self._expected()
        rows = raw(self.store).execute("SELECT id, late, payload FROM mentions").fetchall()
        counted = [msgspec.json.decode(payload, type=ScoredMention) for _, late, payload in rows if not late]
        undisturbed = run_backtest(counted, rules=RULES, partitions=PARTITIONS)
        ends = _ends(counted)
        wanted = Told(
            mentions=wanted_mentions,
            dead_letters=wanted_letters,
            buckets={(b.entity, str(b.channel), b.start_ms): _sums(b) for b in undisturbed.buckets},
            alerts=frozenset(a.id for a in undisturbed.alerts),
        )
        found = Told(
            mentions=frozenset(row[0] for row in rows) - either,
            dead_letters=frozenset(
                (s.letter.place.topic, s.letter.place.partition, s.letter.place.offset)
                for s in self.store.dead_letters(limit=100_000)
            ),
            buckets={(b.entity, str(b.channel), b.start_ms): _sums(b) for e in ENTITIES for b in self.store.buckets(e)},
            # Timers go on after the last story and may open more: the undisturbed run stops there.
            alerts=frozenset(
                a.id for a in self.store.alerts(limit=100_000) if a.opened_at <= ends.get(partition(a.entity), "")
            ),
        )
        return judge(
            wanted,
            found,
            outbox=[d.id for d in self.store.deliveries(limit=100_000)],
            received=self.inbox.ids,
            kills=self.world.happened["crash"],
            documents=self._said,
            late=0,  # some are sent too late on purpose
            seconds=0.0,
        )

    def _expected(self) -> tuple[frozenset[str], frozenset[tuple[str, int, int]], frozenset[str]]:
        """Decoding and linking are pure: which mentions and which dead letters the raw logs hold.

        A message with which in hand alone the process died twice by chance is quarantined like one that kills it:
        its mentions, which come last, may have been published or not.
        """
        condemned = {
            (s.letter.place.topic, s.letter.place.partition, s.letter.place.offset)
            for s in self.store.dead_letters(limit=100_000, reason="kills_the_process")
        }
        mentions: set[str] = set()
        either: set[str] = set()
        letters = set(self._garbage)
        for (topic, number), log in self.broker.logs.items():
            for record in log if topic in self._raw else ():
                place = (topic, number, record.place.offset)
                try:
                    document, entities = reader().read(record)
                except Rejectable:
                    letters.add(place)
                    continue
                if entities and (CHOKES in document.text or KILLS in document.text):
                    letters.add(place)
                    continue
                ids = {mention_id(document.key, entity.entity) for entity in entities}
                if place in condemned and self.world.happened["crash"] >= 3:
                    letters.add(place)
                    either |= ids
                else:
                    mentions |= ids
        return frozenset(mentions), frozenset(letters), frozenset(either - mentions)

    def _judge_deliveries(self) -> None:
        """One id, one body; the steps of an alert in their order; nothing again without a reason."""
        rows = {d.id: d for d in self.store.deliveries(limit=100_000)}
        bodies: dict[str, bytes] = {}
        told: dict[tuple[str, str], list[int]] = defaultdict(list)
        for each in self.inbox.accepted:
            row = rows.get(each.id)
            if row is None or row.receiver != each.receiver:
                self._problem(f"{each.receiver} got {each.id}, which is none of its deliveries")
                continue
            if bodies.setdefault(each.id, each.body) != each.body:
                self._problem(f"{each.receiver} got {each.id} with another body")
            if each.again_for_nothing:
                self._problem(f"{each.receiver} got {each.id} again although it was delivered")
            steps = told[each.receiver, row.alert_id]
            if steps and row.sequence < steps[-1] and each.id not in self._retried:
                self._problem(f"{each.receiver} heard of {row.alert_id} step {row.sequence} after step {steps[-1]}")
            steps.append(row.sequence)


def partition(entity: str) -> int:
    return partition_of(entity, PARTITIONS)


def _ends(counted: list[ScoredMention]) -> dict[int, str]:
    """Per partition, when the bucket of its last story closes."""
    ends: dict[int, int] = {}
    for mention in counted:
        key = partition(mention.entity)
        ends[key] = max(ends.get(key, 0), mention.published_at_ms // 60_000 * 60_000 + 60_000)
    return {key: to_rfc3339(end_ms) for key, end_ms in ends.items()}


def _sums(row: StoredBucket) -> tuple[float, ...]:
    return tuple(round(float(getattr(row, name)), 5) for name in _SUMS)


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Thousands of faults on purpose are no news."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**before)
