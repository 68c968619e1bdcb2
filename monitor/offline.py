"""Composition of the work that needs no broker: backtests, training, benchmarks. What is asked of a model: `lab`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from monitor.app import FileLine, make_reader, make_scorer
from monitor.errors import Fatal, Rejectable
from monitor.learning.rows import LabelledMention
from monitor.records import UNDECODABLE, Document, LinkedEntity, Span
from monitor.settings import Settings

Linked = tuple[Document, tuple[LinkedEntity, ...]]
Progress = Callable[[int], None]


class _Text(msgspec.Struct):
    """What is read of a line that a teacher is asked about."""

    text: str = ""
    license: str = ""
    mentions: tuple[LabelledMention, ...] = ()


def read_documents(
    settings: Settings,
    files: Sequence[Path],
    watchlist: Path | None,
    *,
    progress: Progress,
    warn: Callable[[str], None],
) -> Iterator[Linked]:
    """Decoded and linked as score does it; a line that can't be used is told to `warn`."""
    from monitor.linking import load_watchlist
    from monitor.replay import lines

    reader = make_reader(settings, load_watchlist(watchlist or settings.watchlist.path))
    for file in files:
        for number, (_, line) in enumerate(lines(file, progress), 1):
            try:
                yield reader.read(FileLine(settings, file, number, line))
            except Rejectable as err:
                warn(f"{file}: line {number}: {err}")


def backtest(
    settings: Settings,
    files: Sequence[Path],
    out: Path,
    *,
    watchlist: Path | None = None,
    events: Path | None = None,
    rules: Path | None = None,
    sweep: Sequence[Path] = (),
    nulls: int = 0,
    progress: Callable[[str, int, int], None],
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """The live code path over history; returns the summary that was written to `out`.

    `progress` hears of each stage by name: how much more of it is done, and how much there is in all.
    """
    from monitor.alerting import load_rules
    from monitor.backtest import (
        calibrate,
        compare,
        group_stories,
        judge_events,
        load_events,
        run_backtest,
        score_documents,
        write_report,
    )
    from monitor.backtest.nulls import BUDGETS
    from monitor.linking import load_watchlist

    chosen = load_rules(rules or settings.rules.path)
    others = [load_rules(path) for path in sweep]
    known = load_events(events) if events else ()
    companies = load_watchlist(watchlist or settings.watchlist.path)
    names, sectors = companies.names(), companies.sectors()
    scorer = make_scorer(settings)
    cache = settings.bundle.cache_dir or Path.home() / ".cache" / "tapewatch"
    size = sum(file.stat().st_size for file in files if file.exists())
    documents = read_documents(
        settings, files, watchlist, progress=lambda count: progress("reading and judging", count, size), warn=warn
    )
    mentions = score_documents(
        documents, judge=scorer, bundle=f"{scorer.bundle.model}/{settings.bundle.precision}", cache_dir=cache
    )
    partitions, total = settings.kafka.partitions, len({mention.id for mention in mentions})

    def run(by: Any) -> Any:
        stage = f"rule {by.name}"
        return run_backtest(
            mentions,
            rules=by,
            names=names,
            sectors=sectors,
            partitions=partitions,
            progress=lambda count: progress(stage, count, total),
        )

    result = run(chosen)
    extra: dict[str, Any] = {}
    stories = group_stories(mentions) if known else {}
    if known:
        extra["events"] = judge_events(result, mentions, known, stories=stories)
    if nulls and mentions:
        replays = nulls * total * len({chosen.budget.false_alerts_per_day, *BUDGETS})
        extra["calibration"] = calibrate(
            mentions,
            rules=chosen,
            sectors=sectors,
            replays=nulls,
            partitions=partitions,
            progress=lambda count: progress("null replays", count, replays),
        )
    if others:
        extra["sweep"] = []
        for path, other in zip(sweep, others, strict=True):
            again = run(other)
            row = {
                "rule": other.name if other.name != chosen.name else f"{other.name} ({path.name})",
                **compare(result, again),
                "alerts": len(again.alerts),
                "alerts_per_day": again.summary()["alerts_per_day"],
                "by_kind": again.summary()["by_kind"],
            }
            if known:
                row["events"] = judge_events(again, mentions, known, stories=stories)
            extra["sweep"].append(row)
    return write_report(result, out, extra=extra)


def train(
    data: Sequence[Path],
    out: Path,
    *,
    recipe: Path | None,
    base: str | None,
    seed: int | None,
    resume: bool,
    progress: Any,
    warn: Callable[[str], None],
) -> dict[str, Any] | None:
    """Fine-tune and calibrate; the run folder then holds all that `export` needs.

    Of several processes (`torchrun`), the leading one returns what was found, the others None.
    """
    from monitor.learning.finish import finish_run
    from monitor.learning.recipe import load_recipe
    from monitor.learning.rows import read_rows
    from monitor.learning.train import train as fine_tune
    from monitor.learning.workers import Workers

    chosen = load_recipe(recipe)
    if base is not None:
        chosen = chosen.model_copy(update={"base": base})
    if seed is not None:
        chosen = chosen.model_copy(update={"run": chosen.run.model_copy(update={"seed": seed})})
    rows = [row for path in data for row in read_rows(path)]
    workers = Workers.of_environment()
    trained = fine_tune(rows, chosen, out, resume=resume, progress=progress, warn=warn, workers=workers)
    if not workers.leads:
        return None
    finished = finish_run(out, rows)
    return {"out": str(out), "epochs": trained.epochs, "validation": trained.metrics, "metrics": finished.metrics}


def average(data: Sequence[Path], runs: Sequence[Path], out: Path, *, say: Callable[[str], None]) -> dict[str, Any]:
    """The mean of the networks of several runs as a run of its own, calibrated; see `learning/average.py`."""
    from monitor.learning.average import average as mean_of
    from monitor.learning.finish import finish_run
    from monitor.learning.rows import read_rows

    rows = [row for path in data for row in read_rows(path)]
    metrics = mean_of(rows, runs, out, say=say)
    finished = finish_run(out, rows)
    return {"out": str(out), "validation": metrics, "metrics": finished.metrics}


def distil(
    settings: Settings,
    texts: Sequence[Path],
    teacher: Path,
    out: Path,
    *,
    watchlist: Path | None,
    rows_max: int,
    licence: str,
    progress: Progress,
) -> dict[str, Any]:
    """A teacher's soft labels for texts that nobody has labelled, as rows that `train --data` reads.

    From each file as many texts as from the others, as far as it has them; about half have a tone. A labelled file may be
    given too: the teacher then says of its texts what people were not asked.
    """
    import gzip
    import random

    from monitor.learning.distil import choose, question, shares, soften

    if out.exists():
        raise Fatal(f"{out}: exists already; name another file")
    scorer = make_scorer(settings)
    pools: list[list[tuple[Linked, str]]] = []
    seen = set[str]()
    for file in texts:
        pool = []
        for linked, own in _texts_to_ask(settings, file, watchlist):
            key = linked[0].text.casefold()
            if linked[1] and key not in seen:
                seen.add(key)
                pool.append((linked, own or licence))
        pools.append(pool)
    questions = []
    for pool, share in zip(pools, shares([len(pool) for pool in pools], rows_max), strict=True):
        chosen = random.Random(7).sample(pool, min(len(pool), 2 * share))  # noqa: S311 - a sample, not a secret
        if len(chosen) > share:
            judged = [
                found
                for start in range(0, len(chosen), 512)
                for found in scorer.judge([linked for linked, _ in chosen[start : start + 512]], now_ms=0)
            ]
            chosen = choose(chosen, judged, rows_max=share)
        questions += [question(*linked, licence=stated) for linked, stated in chosen]
    if not questions:
        raise Fatal(f"{', '.join(map(str, texts))}: no text names anybody")
    half = out.with_name(out.name + ".half")
    written = 0
    with gzip.GzipFile(half, "wb", mtime=0) as stream:
        for row in soften(teacher, questions, progress=progress):
            stream.write(msgspec.json.encode(row) + b"\n")
            written += 1
    half.replace(out)
    return {"out": str(out), "rows": written}


def _texts_to_ask(settings: Settings, file: Path, watchlist: Path | None) -> Iterator[tuple[Linked, str]]:
    """Texts with whom a teacher is asked about, and their licence as stated in the line.

    Lines of the message schema, of labelled rows, or of nothing but `text`. Who is named in a text: the targets of its row;
    without any, companies of the watchlist; without these, whatever looks like a name.
    """
    from monitor.learning.distil import names_in
    from monitor.linking import Linker, load_watchlist
    from monitor.replay import lines

    found = load_watchlist(watchlist or settings.watchlist.path)
    reader, linker = make_reader(settings, found), Linker(found)
    for number, (_, line) in enumerate(lines(file, lambda _bytes: None), 1):
        try:
            row = msgspec.json.decode(line, type=_Text)
            if not row.text:
                document, entities = reader.read(FileLine(settings, file, number, line))
            else:
                document = Document(id=str(number), source=file.name, channel="news", published_at_ms=0, title=row.text)
                targets = {
                    (m.start, m.end): LinkedEntity(entity=m.target, spans=(Span(start=m.start, end=m.end),), cue="name")
                    for m in row.mentions
                    if m.start is not None and m.end is not None and 0 <= m.start < m.end <= len(row.text)
                }
                entities = tuple(targets.values()) or linker.link(row.text)
            entities = tuple(entity for entity in entities if entity.spans) or names_in(document.text)
            yield (document, entities), row.license
        except (*UNDECODABLE, Rejectable) as err:
            raise Fatal(f"{file}: line {number}: {err}") from err


def bench_engine(
    settings: Settings, file: Path, *, watchlist: Path | None, documents_max: int = 2_048
) -> dict[str, Any]:
    """Documents a second of the bare engine on tokenised, length-sorted texts, at both precisions, in one run."""
    documents = _sample(settings, file, watchlist, documents_max)
    result: dict[str, Any] = {"documents": len(documents)}
    decisions: dict[str, list[str]] = {}
    for precision in ("fp32", "int8"):
        chosen = settings.model_copy(update={"bundle": settings.bundle.model_copy(update={"precision": precision})})
        scorer = make_scorer(chosen)
        rate = _engine_rate(scorer, documents)
        result[f"{precision}_documents_per_second"] = round(rate, 1)
        decisions[precision] = [m.label for found in scorer.judge(documents, now_ms=0) for m in found]
    result["int8_over_fp32"] = round(result["int8_documents_per_second"] / result["fp32_documents_per_second"], 3)
    pairs = list(zip(decisions["fp32"], decisions["int8"], strict=True))
    result["int8_decisions_equal"] = round(sum(a == b for a, b in pairs) / max(1, len(pairs)), 4)
    return result


def _sample(settings: Settings, file: Path, watchlist: Path | None, documents_max: int) -> list[Linked]:
    linked = read_documents(settings, [file], watchlist, progress=lambda _n: None, warn=lambda _text: None)
    documents = []
    for document, entities in linked:
        if entities:
            documents.append((document, entities))
        if len(documents) == documents_max:
            break
    if not documents:
        raise Fatal(f"{file}: names no company of the watchlist; choose another with --watchlist")
    return documents


def _engine_rate(scorer: Any, documents: Sequence[Linked]) -> float:
    from monitor.intake import clean
    from monitor.scoring import BatchPolicy, cut_batches

    units = scorer.units([clean(d.text) for d, _ in documents], [entities for _, entities in documents])
    batches = [
        scorer.inputs([units[i] for i in batch]) for batch in cut_batches([len(u.ids) for u in units], BatchPolicy())
    ]
    best = math.inf
    for _ in range(2):
        started = time.perf_counter()
        for batch in batches:
            scorer.engine.run(batch)
        best = min(best, time.perf_counter() - started)
    return len(documents) / best


def bench_pipeline(
    settings: Settings, config: Path, file: Path, *, watchlist: Path | None, documents_max: int = 2_048
) -> dict[str, Any]:
    """Documents a second from broker to committed windows, over the bare engine on the same texts in the same run.

    Embedded broker and SQLite; score and watch run as in service. Only documents that name a company are sent, and the
    clock runs from the first one sent to the last mention committed.
    """
    import tempfile
    from contextlib import ExitStack, closing

    from monitor.app import topics_of
    from monitor.broker import EmbeddedBroker, free_port
    from monitor.clock import SystemClock
    from monitor.demo.run import DemoPolicy, Roles, role_environment
    from monitor.intake import encode
    from monitor.intake.kafka import KafkaConfig, KafkaSink, ensure_topics
    from monitor.store import Store

    documents = _sample(settings, file, watchlist, documents_max)
    wanted = sum(len(entities) for _, entities in {d.key: (d, e) for d, e in documents}.values())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tapewatch-bench-")))
        broker = stack.enter_context(EmbeddedBroker())
        ports = {role: free_port() for role in ("score", "watch")}
        environ = role_environment(broker.bootstrap_servers, f"sqlite:///{folder / 'tapewatch.db'}", ports) | {
            "TAPEWATCH_WATCHLIST__PATH": str((watchlist or settings.watchlist.path).resolve()),
            "TAPEWATCH_KAFKA__SESSION_TIMEOUT_MS": "6000",
        }
        kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(kafka, topics_of(settings), create=True)
        roles = Roles(config, environ, ports, clock=SystemClock(), policy=DemoPolicy())
        stack.callback(roles.stop)
        roles.wait_until_ready()
        time.sleep(8)  # both have joined their groups by then; joining is not what is measured
        store = stack.enter_context(closing(Store.open(environ["TAPEWATCH_DATABASE__URL"])))
        sink = stack.enter_context(closing(KafkaSink(kafka)))
        started = time.perf_counter()
        for document, _ in documents:
            topic = settings.kafka.topic_social if document.channel == "social" else settings.kafka.topic_news
            sink.send(topic, key=None, value=encode(document), event_ms=document.published_at_ms)
        sink.flush()
        while store.counts().mentions < wanted and time.perf_counter() - started < 600:
            roles.check()
            time.sleep(0.1)
        seconds, arrived = time.perf_counter() - started, store.counts().mentions
        roles.stop()
    if arrived < wanted:
        raise Fatal(f"bench pipeline: {arrived} of {wanted} mentions after {seconds:.0f} s")
    engine = _engine_rate(make_scorer(settings), documents)
    rate = len(documents) / seconds
    return {
        "documents": len(documents),
        "mentions": wanted,
        "pipeline_documents_per_second": round(rate, 1),
        "engine_documents_per_second": round(engine, 1),
        "pipeline_over_engine": round(rate / engine, 3),
    }
