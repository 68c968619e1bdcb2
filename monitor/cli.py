"""Thin commands. Exit codes: 0 good, 1 the work failed, 2 the call or the configuration is wrong."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from monitor import __version__
from monitor.commands import desk
from monitor.commands.models import models
from monitor.errors import Fatal, TapewatchError

if TYPE_CHECKING:
    from monitor.settings import Settings
    from monitor.store import Store

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
DEFAULT_CONFIG = CONFIGS / "default.toml"
LINES_A_RUN = 100  # of a training that no terminal shows

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
dead_letters = typer.Typer(no_args_is_help=True, help="Messages that could not be used.")
notices = typer.Typer(no_args_is_help=True, help="What the operator should know and is no alert.")
deliveries = typer.Typer(no_args_is_help=True, help="What was or will be sent to receivers.")
bench = typer.Typer(no_args_is_help=True, help="Benchmarks, each within one run.")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(notices, name="notices")
app.add_typer(deliveries, name="deliveries")
app.add_typer(bench, name="bench")
offsets = typer.Typer(no_args_is_help=True, help="Where the roles stand in their topics, and what is refused.")
app.add_typer(offsets, name="offsets")
app.add_typer(desk.silences, name="silences")
app.add_typer(desk.alerts, name="alerts")
app.add_typer(models, name="models")

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]
ConfigOption = Annotated[Path, typer.Option("--config", help="The TOML file.")]
BundleOption = Annotated[Path | None, typer.Option("--bundle", help="A bundle folder; the shipped one if left out.")]
WatchlistOption = Annotated[Path | None, typer.Option("--watchlist", help="A watchlist CSV instead of the config's.")]


@app.callback()
def tapewatch() -> None:
    """Watch what the market says about each company."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="The TOML file.")], as_json: JsonOption = False) -> None:
    """Report every fault of a configuration at once, with file and key: the file, its watchlist, rules and bundle."""
    from monitor.app import check

    faults = check(file)
    if as_json:
        _print_json({"ok": not faults, "faults": faults})
    else:
        for fault in faults:
            typer.echo(f"tapewatch: {fault}", err=True)
        if not faults:
            typer.echo(f"{file}: good")
    if faults:
        raise typer.Exit(2)


@app.command()
def run(
    config: ConfigOption = DEFAULT_CONFIG,
    role: Annotated[
        str | None, typer.Option("--role", help="score | watch | deliver; all of them if left out.")
    ] = None,
) -> None:
    """Run the service: one role, or all under one supervisor. SIGTERM ends it in order, SIGHUP reads the file again."""
    from monitor.app import run_all, run_role
    from monitor.service import Orders
    from monitor.settings import load_settings

    settings = load_settings(config)
    _logs(settings)
    with _stopped_by_signals() as stop, _reloaded_by_signal() as reload:
        orders = Orders(stop, reload)
        code = run_all(settings, config, orders) if role is None else run_role(settings, role, config, orders)
    if any(thread.name.startswith("model") for thread in threading.enumerate()):
        # Everything is closed. A batch in the runtime's native code can't be stopped, and Python would wait for it.
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


@app.command()
def demo(
    headless: Annotated[bool, typer.Option("--headless", help="Show no alerts, for scripts.")] = False,
    for_s: Annotated[float | None, typer.Option("--for", min=1, help="End by itself after so many seconds.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIGS / "demo.toml",
) -> None:
    """Broker, database, every role, a sample stream and a webhook sink on this machine; Ctrl-C ends it."""
    from rich.console import Console

    from monitor.demo.run import run_demo
    from monitor.demo.view import render, summary_line

    console = Console(stderr=True, quiet=as_json)

    def show(kind: str, data: Any) -> None:
        if headless:
            console.print(f"{kind}: {summary_line(data)}", markup=False, highlight=False)
        else:
            console.print(render(data, event_type=kind))

    with _stopped_by_signals() as stop:
        summary = run_demo(
            config, on_delivery=show, say=lambda text: console.print(text, style="dim"), stop=stop, for_s=for_s
        )
    if as_json:
        _print_json(summary)
    else:
        console.print(
            f"{summary.documents} documents, {summary.mentions} mentions, {summary.alerts} alerts, "
            f"{summary.deliveries} deliveries, {summary.dead_letters} dead letters, "
            f"{summary.documents_per_second} documents a second"
        )


@app.command()
def replay(
    files: Annotated[list[Path], typer.Argument(help=".jsonl or .jsonl.gz, one message a line.")],
    topic: Annotated[str, typer.Option("--topic", help="The raw topic, such as news or social.")],
    speed: Annotated[
        float | None, typer.Option("--speed", min=0.001, help="1 is real time, 60 an hour a minute.")
    ] = None,
    asap: Annotated[bool, typer.Option("--asap", help="As fast as the broker takes it.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Play a stream on disk into Kafka."""
    from monitor.app import replay_files
    from monitor.settings import load_settings

    if asap == (speed is not None):
        raise Fatal("replay: say either --speed X or --asap")
    settings = load_settings(config)
    with _stopped_by_signals() as stop, _byte_progress(files, quiet=as_json) as progress:
        sent = replay_files(settings, files, topic=topic, speed=speed, progress=progress, stop=stop)
    _print_json({"sent": sent, "topic": topic}) if as_json else typer.echo(f"{sent} messages sent to {topic}")


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help=".jsonl or .jsonl.gz, one message a line.")],
    out: Annotated[Path, typer.Option("--out", help="Scored mentions, one JSON object a line.")],
    config: ConfigOption = DEFAULT_CONFIG,
    bundle: BundleOption = None,
    watchlist: WatchlistOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a file without Kafka: decode, link, judge. What can't be used is counted and named on stderr."""
    from monitor.app import score_file
    from monitor.settings import load_settings

    settings = load_settings(config)
    with _byte_progress([file], quiet=as_json) as progress:
        summary = score_file(settings, file, out, bundle=bundle, watchlist=watchlist, progress=progress, warn=_warn)
    if as_json:
        _print_json(summary)
    else:
        typer.echo(f"{out}: " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in summary.items()))


@app.command()
def backtest(
    stream: Annotated[list[Path], typer.Option("--stream", help="A stream on disk; may be given several times.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for alerts.jsonl, summary.json and report.html.")],
    events: Annotated[Path | None, typer.Option("--events", help="Known events to be judged by.")] = None,
    rules: Annotated[Path | None, typer.Option("--rules", help="A rules file instead of the config's.")] = None,
    sweep: Annotated[list[Path] | None, typer.Option("--sweep", help="Other rules files, to compare.")] = None,
    nulls: Annotated[
        int | None,
        typer.Option("--nulls", min=0, max=100, help="Replays with nothing happening; 3 where no --events are given."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    watchlist: WatchlistOption = None,
    as_json: JsonOption = False,
) -> None:
    """The live code path over history: what would have fired, when and why. The same input gives the same bytes."""
    from monitor import offline
    from monitor.settings import load_settings

    settings = load_settings(config)
    with _stage_progress(quiet=as_json) as progress:
        summary = offline.backtest(
            settings,
            stream,
            out,
            watchlist=watchlist,
            events=events,
            rules=rules,
            sweep=sweep or (),
            nulls=nulls if nulls is not None else 0 if events else 3,
            progress=progress,
            warn=_warn,
        )
    if as_json:
        _print_json(summary)
        return
    typer.echo(f"{summary['mentions']} mentions, {summary['alerts']} alerts, {summary['alerts_per_day']} a day")
    if events is not None:
        found = summary["events"]
        typer.echo(
            f"{found['detected']} of {found['judged']} events, {found['other_alerts_per_day']} other alerts a day"
        )
    for row in summary.get("calibration", {}).get("budgets", ()):
        typer.echo(
            f"budget {row['promised_per_day']:g} a day: {row['found_per_day']:g} false ones on null replays"
            f" ({row['low']:g} to {row['high']:g})"
        )
    for row in summary.get("sweep", ()):
        typer.echo(f"{row['rule']}: {row['alerts']} alerts, +{len(row['added'])} -{len(row['dropped'])}")
    typer.echo(f"{out / 'report.html'}")


@app.command()
def chaos(
    kills: Annotated[int, typer.Option("--kills", min=1, help="How often a random role is killed.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Of the stream and of the kills.")] = 7,
    servers: Annotated[str | None, typer.Option("--kafka", help="A broker instead of the embedded one.")] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database", help="An empty database's URL instead of SQLite.", envvar="TAPEWATCH_CHAOS_DATABASE"
        ),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, max=8, help="Of score and of watch, each.")] = 1,
    config: ConfigOption = CONFIGS / "demo.toml",
    as_json: JsonOption = False,
) -> None:
    """Kill roles at random points under load, then compare with what an undisturbed run would have left behind."""
    import msgspec

    from monitor.chaos import ChaosPlan, run_chaos
    from monitor.telemetry import configure_logs

    configure_logs(level="error")  # restarts are what is asked for here
    findings = run_chaos(
        config,
        ChaosPlan(kills=kills, seed=seed, processes=processes),
        bootstrap_servers=servers,
        database_url=database,
        say=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        _print_json(findings)
    else:
        for name, value in msgspec.structs.asdict(findings).items():
            typer.echo(f"{name:>20} {value}")
    if not findings.sound:
        raise typer.Exit(1)


@offsets.command("list")
def offsets_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Which topics the roles' offsets belong to; partitions that are held come first, with the reason."""
    from monitor.commands.offsets import listed

    with _store(config) as (settings, store):
        anchors = listed(settings, store)
    if as_json:
        _print_json({"partitions": anchors, "refused": sum(a.refused_reason is not None for a in anchors)})
        return
    for anchor in anchors:
        place = f"{anchor.topic}/{anchor.partition} {anchor.consumer_group}"
        if anchor.refused_reason is not None and anchor.refused_at_ms is not None:
            detail = _visible(anchor.refused_detail or "", 500)
            typer.echo(f"{place}: REFUSED since {_time(anchor.refused_at_ms)} ({anchor.refused_reason}): {detail}")
        else:
            typer.echo(f"{place}: topic id {anchor.topic_id or 'none'}, read since {_time(anchor.anchored_at_ms)}")


@offsets.command("accept")
def offsets_accept(
    topic: Annotated[str, typer.Argument(help="The topic of which partitions are refused.")],
    partition: Annotated[int | None, typer.Option("--partition", min=0, help="This one only.")] = None,
    start: Annotated[
        str, typer.Option("--from", help="earliest: what the topic holds now; latest: only what comes from now on.")
    ] = "earliest",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Go on with a topic that was made anew or lost messages. Running roles take it up within seconds."""
    from monitor.clock import SystemClock
    from monitor.commands.offsets import accept

    if start not in ("earliest", "latest"):
        raise Fatal("offsets accept: --from is earliest or latest")
    with _store(config) as (settings, store):
        accepted = accept(
            settings,
            store,
            topic,
            partition=partition,
            start="earliest" if start == "earliest" else "latest",
            clock=SystemClock(),
        )
    if as_json:
        _print_json({"accepted": accepted})
        return
    for each in accepted:
        typer.echo(f"{each.group}: {each.topic}/{each.partition} goes on at {each.next}")


@app.command()
def train(
    data: Annotated[list[Path], typer.Option("--data", help="Labelled rows; may be given several times.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder.")],
    recipe: Annotated[Path | None, typer.Option("--recipe", help="TOML; see configs/train/.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="packaged:NAME, a folder, RUN/best or a hub name.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune one encoder for all tasks, calibrate it, and leave everything needed to repeat it.

    Several processes or GPUs: `torchrun --standalone --nproc-per-node N -m monitor.cli train …`.
    """
    from monitor import offline

    follows = os.environ.get("RANK", "0") != "0"  # one of several processes; the leading one shows how far they are
    with _step_progress(quiet=as_json or follows) as progress:
        summary = offline.train(
            data, out, recipe=recipe, base=base, seed=seed, resume=resume, progress=progress, warn=_warn
        )
    if summary is None:
        return
    _print_json(summary) if as_json else typer.echo(f"{out}: {summary['validation']}")


@app.command()
def average(
    runs: Annotated[list[Path], typer.Argument(help="Finished runs, the last one the latest.")],
    data: Annotated[list[Path], typer.Option("--data", help="The rows of the last run; may be given several times.")],
    out: Annotated[Path, typer.Option("--out", help="The new run's folder.")],
    as_json: JsonOption = False,
) -> None:
    """Average runs that began from one another, as the validation split says, and calibrate the result."""
    from monitor import offline

    summary = offline.average(data, runs, out, say=lambda text: typer.echo(text, err=True))
    _print_json(summary) if as_json else typer.echo(f"{out}: {summary['validation']}")


@app.command("label-errors")
def label_errors(
    data: Annotated[list[Path], typer.Option("--data", help="Labelled rows; may be given several times.")],
    as_json: JsonOption = False,
) -> None:
    """Labels that are probably wrong: one text judged twice and differently, and labels that all else speaks against."""
    from monitor import lab

    found = lab.label_errors(data)
    if as_json:
        _print_json(found)
        return
    for one in found["suspects"]:
        typer.echo(
            f"{one['p']:.3f} {one['label']} → {one['rather']}  {_visible(one['about'], 40)}: {_visible(one['text'], 160)}"
        )
    typer.echo(
        f"{found['suspect_count']} labels are suspected, {found['conflict_count']} texts have labels that differ"
    )
    typer.echo(
        f"bag of words on the test split, macro F1: {found['macro_f1_with']}; trained without them {found['macro_f1_without']}"
    )


@app.command()
def search(
    data: Annotated[list[Path], typer.Option("--data", help="Labelled rows; may be given several times.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder for the best run, best.toml and search.json.")],
    for_s: Annotated[float, typer.Option("--for", min=1, help="End within so many seconds.")],
    recipe: Annotated[Path | None, typer.Option("--recipe", help="TOML; where the search begins.")] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="At most so many.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Search rates, decay, dropout and smoothing on the validation split alone, within a stated time."""
    from monitor import lab

    summary = lab.search(
        data,
        out,
        recipe=recipe,
        seconds_max=for_s,
        trials_max=trials,
        say=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        _print_json(summary)
    else:
        typer.echo(f"{summary['recipe']}: {summary['best']:.4f}, the best of {len(summary['trials'])} trials")


@app.command()
def distil(
    texts: Annotated[
        list[Path], typer.Option("--texts", help="Unlabelled texts or streams; may be given several times.")
    ],
    teacher: Annotated[Path, typer.Option("--teacher", help="The `best` folder of a training run.")],
    out: Annotated[Path, typer.Option("--out", help="Rows for `train --data`, .jsonl.gz.")],
    config: ConfigOption = DEFAULT_CONFIG,
    watchlist: WatchlistOption = None,
    rows_max: Annotated[int, typer.Option("--rows", min=2, help="How many rows to write at most.")] = 20_000,
    licence: Annotated[str, typer.Option("--licence", help="Licence of the texts, as stated.")] = "not stated",
    as_json: JsonOption = False,
) -> None:
    """A teacher's soft labels for texts that nobody has labelled; the small model learns from them beside the labelled rows."""
    from monitor import offline
    from monitor.settings import load_settings

    with _step_progress(quiet=as_json) as progress:
        done = 0

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done, rows_max, {})

        summary = offline.distil(
            load_settings(config),
            texts,
            teacher,
            out,
            watchlist=watchlist,
            rows_max=rows_max,
            licence=licence,
            progress=count,
        )
    _print_json(summary) if as_json else typer.echo(f"{out}: {summary['rows']} rows")


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished training run.")],
    out: Annotated[Path, typer.Option("--out", help="The new bundle's folder.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Calibrate and judge anew, on the rows of the training.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A training run becomes a bundle: graph, precision, parity, manifest, card."""
    from monitor import lab

    summary = lab.export(run_folder, out, data=data or ())
    _print_json(summary) if as_json else typer.echo(f"{out}: {summary['name']}, parity {summary['parity']}")


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option("--data", help="Labelled rows.")],
    bundle: BundleOption = None,
    before: Annotated[Path | None, typer.Option("--before", help="Another bundle, shown beside it.")] = None,
    fit: Annotated[
        list[Path] | None,
        typer.Option(
            "--fit", help="Instead of --before: fit the untrained encoder's linear head on these rows, and show that."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write an HTML page for people, and the same as .json beside it.")
    ] = None,
    convention: Annotated[
        Literal["source", "serve"],
        typer.Option(
            "--convention",
            help="source: a row is judged by the head of its own source's convention, where the bundle knows the source; "
            "serve: all rows by the head that answers in service.",
        ),
    ] = "source",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Precision, recall, F1, support, calibration: for whatever the file has labels."""
    from monitor import lab
    from monitor.settings import load_settings

    figures = lab.evaluate(
        load_settings(config),
        data,
        bundle=bundle,
        convention=convention,
        before=before,
        fit=fit or (),
        report=report,
    )
    if as_json:
        _print_json(figures)
        return
    for source, tasks in figures.pop("conventions").items():
        said = ", ".join(f"{task} by head {v['head']} ({v['by']})" for task, v in tasks.items())
        typer.echo(f"source {source}: {said}")
    for task, values in figures.items():
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items() if isinstance(v, int | float)}
        typer.echo(f"{task}: " + ", ".join(f"{name} {value}" for name, value in shown.items()))


@app.command()
def explain(
    text: Annotated[str, typer.Argument(help="A headline or a post.")],
    entity: Annotated[str, typer.Option("--entity", help="A symbol of the watchlist, or words of the text.")],
    config: ConfigOption = DEFAULT_CONFIG,
    bundle: BundleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which words pulled the judgement of a company, and what the model quotes as evidence."""
    from monitor import lab
    from monitor.settings import load_settings

    found = lab.explain_text(load_settings(config), text, entity=entity, bundle=bundle)
    if as_json:
        _print_json(found)
        return
    p = found.mention.probabilities
    typer.echo(
        f"{found.label}: negative {p[0]:.2f}, neutral {p[1]:.2f}, positive {p[2]:.2f}; polarity {found.mention.polarity:+.2f}"
    )
    for word in sorted(found.attributions, key=lambda a: -a.weight):
        quoted = any(word.start < e.end and word.end > e.start for e in found.mention.evidence)
        typer.echo(f"  {word.weight:+.3f} {'“' if quoted else ' '} {_visible(word.word, 60)}")
    typer.echo("“ evidence: " + " | ".join(_visible(e.quote, 160) for e in found.mention.evidence))
    typer.echo(f"without the heaviest fifth of the words the judgement loses {found.comprehensiveness:.2f}")


@bench.command("engine")
def bench_engine(
    file: Annotated[Path, typer.Option("--stream", help="Texts to measure on.")],
    config: ConfigOption = DEFAULT_CONFIG,
    watchlist: WatchlistOption = None,
    as_json: JsonOption = False,
) -> None:
    """The bare engine on tokenised, length-sorted texts: fp32 and int8 in one run."""
    from monitor import offline
    from monitor.settings import load_settings

    _show(offline.bench_engine(load_settings(config), file, watchlist=watchlist), as_json)


@bench.command("pipeline")
def bench_pipeline(
    file: Annotated[Path, typer.Option("--stream", help="Documents to send.")],
    documents: Annotated[int, typer.Option(min=64, max=100_000)] = 2_048,
    config: ConfigOption = DEFAULT_CONFIG,
    watchlist: WatchlistOption = None,
    as_json: JsonOption = False,
) -> None:
    """Broker to committed windows, over the bare engine on the same texts, in one run."""
    from monitor import offline
    from monitor.settings import load_settings

    settings = load_settings(config)
    _show(offline.bench_pipeline(settings, config, file, watchlist=watchlist, documents_max=documents), as_json)


@bench.command("watch")
def bench_watch(
    entities: Annotated[int, typer.Option(min=1, max=1_000_000)] = 500,
    mentions: Annotated[int, typer.Option(min=1_000, max=5_000_000)] = 50_000,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Novelty, buckets and detectors on one core, and the memory of a company of whom nobody speaks."""
    from monitor.commands import watch_speed
    from monitor.settings import load_settings

    _show(watch_speed.watch(load_settings(config), entities=entities, mentions=mentions), as_json)


@bench.command("detection")
def bench_detection(
    runs: Annotated[int, typer.Option(min=50, max=100_000, help="Simulated histories of each kind.")] = 1_000,
    every: Annotated[int, typer.Option(min=50, max=10_000, help="Steps between false alarms.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Delay of the drift detector on synthetic shifts, over the optimum's at equal false alarms."""
    from monitor.commands import detectors

    result = detectors.detection(runs=runs, false_alarm_every=every, seed=seed)
    if as_json:
        _print_json(result)
        return
    for shift in result["shifts"]:
        typer.echo("{sigma} sigma: {delay} steps, the optimum {optimum}, ratio {ratio}".format(**shift))


@bench.command("prices")
def bench_prices(
    stream: Annotated[list[Path], typer.Option("--stream", help="A stream on disk; may be given several times.")],
    prices: Annotated[
        Path, typer.Option("--prices", help="Lines of entity, date and z, the day's move in deviations.")
    ],
    rate: Annotated[list[float] | None, typer.Option("--rate", min=0.01, help="Alerts a day.")] = None,
    split: Annotated[str, typer.Option(help="Rules were chosen on the days before this one.")] = "2015-01-01",
    rules: Annotated[Path | None, typer.Option("--rules", help="A rules file instead of the config's.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Alerts against price moves, beside plain detectors at the same number of alerts: precision / recall."""
    from monitor.commands import detectors
    from monitor.settings import load_settings

    with _byte_progress(stream, quiet=as_json) as progress:
        result = detectors.prices(
            load_settings(config),
            stream,
            prices,
            rates=rate or (1.0, 2.0, 5.0),
            split=split,
            rules=rules,
            progress=progress,
            warn=_warn,
        )
    _print_json(result) if as_json else typer.echo("\n".join(detectors.lines_of(result)))


@bench.command("peers")
def bench_peers(
    data: Annotated[list[Path], typer.Option("--data", help="Labelled rows; may be given several times.")],
    bundle: BundleOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Against word lists, bags of words and the untrained encoder, on the test split of the same rows."""
    from monitor import lab
    from monitor.settings import load_settings

    result = lab.peers(load_settings(config), data, bundle=bundle, say=lambda name: typer.echo(name, err=True))
    if as_json:
        _print_json(result)
        return
    for task in ("sentiment", "mentions"):
        for name, figures in result.get(task, {}).items():
            typer.echo(
                f"{task:>10} {name:<24} accuracy {figures['accuracy']:.3f}  macro F1 {figures['macro_f1']:.3f}  "
                f"n {figures['n']}"
            )


@bench.command("faithfulness")
def bench_faithfulness(
    data: Annotated[Path, typer.Option("--data", help="Labelled rows with companies.")],
    mentions: Annotated[int, typer.Option(min=1, max=100_000, help="How many judgements to test.")] = 300,
    bundle: BundleOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Do explained words carry the judgement? By how much it falls without them, and without as many at random."""
    from monitor import lab
    from monitor.settings import load_settings

    _show(lab.faithful(load_settings(config), data, bundle=bundle, mentions_max=mentions), as_json)


@app.command()
def broker(port: Annotated[int, typer.Option(min=1, max=65_535)] = 9092) -> None:
    """The embedded Kafka-protocol broker in the foreground: for trying things out. It forgets everything when it stops."""
    from monitor.broker import EmbeddedBroker

    with _stopped_by_signals() as stop, EmbeddedBroker(port=port) as running:
        typer.echo(f"listening on {running.bootstrap_servers}; Ctrl-C stops it", err=True)
        stop.wait()


@dead_letters.command("list")
def list_dead_letters(
    config: ConfigOption = DEFAULT_CONFIG,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """The newest quarantined messages: place, reason, time and the first bytes."""
    with _store(config) as (_, store):
        letters = store.dead_letters(limit=limit, reason=reason)
    if as_json:
        _print_json({"dead_letters": letters})
        return
    for stored in letters:
        letter = stored.letter
        replayed = "" if stored.replayed_at_ms is None else f"  replayed {_time(stored.replayed_at_ms)}"
        typer.echo(f"{stored.id:>6}  {_time(letter.failed_at_ms)}  {letter.place}  {letter.reason}{replayed}")
        typer.echo(f"        {_visible(letter.detail, 200)}")
        typer.echo(f"        {_visible(repr((letter.value or b'')[:120]), 160)}")
    typer.echo(f"{len(letters)} dead letters")


@dead_letters.command("replay")
def replay_dead_letters(
    ids: Annotated[list[int] | None, typer.Argument(help="Numbers from `dead-letters list`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that were not replayed yet.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Send quarantined messages to their topic again, byte for byte, once their cause is mended."""
    from monitor.app import replay_letters

    if bool(ids) == every:
        raise Fatal("dead-letters replay: name numbers from `dead-letters list`, or say --all")
    with _store(config) as (settings, store):
        count = replay_letters(settings, store, ids=None if every else ids)
    _print_json({"replayed": count}) if as_json else typer.echo(f"{count} messages sent again")


@notices.command("list")
def list_notices(
    config: ConfigOption = DEFAULT_CONFIG,
    entity: Annotated[str | None, typer.Option(help="Only those of one company.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """The latest notices: brigades, with how many new accounts took part and how many voices they were worth."""
    with _store(config) as (_, store):
        found = store.notices(limit=limit, entity=entity)
    if as_json:
        _print_json({"notices": found})
        return
    for each in found:
        typer.echo(
            f"{_time(each.since_ms)} to {_time(each.last_ms)}  {each.entity} {each.channel}  {each.kind}:"
            f" {each.accounts} new accounts, {each.voices:g} voices  {_visible(each.text, 100)}"
        )
    typer.echo(f"{len(found)} notices")


@deliveries.command("list")
def list_deliveries(
    config: ConfigOption = DEFAULT_CONFIG,
    status: Annotated[str | None, typer.Option(help="pending | delivered | failed | disabled")] = None,
    receiver: Annotated[str | None, typer.Option(help="Only those for this receiver.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """The newest rows of the outbox, and which receivers rest or are disabled."""
    from monitor.clock import SystemClock

    with _store(config) as (_, store):
        rows = store.deliveries(limit=limit, status=status, receiver=receiver)
        states = store.receiver_states()
    if as_json:
        _print_json({"deliveries": rows, "receivers": states})
        return
    for row in rows:
        error = f"  {_visible(row.last_error, 120)}" if row.last_error else ""
        typer.echo(f"{row.id}  {row.receiver}  {row.change}  {row.status}  {row.attempts} tries{error}")
    typer.echo(f"{len(rows)} deliveries")
    for state in states:
        if state.disabled_at_ms is not None:
            why = _visible(state.disabled_reason or "", 120)
            typer.echo(
                f"{state.name}: disabled since {_time(state.disabled_at_ms)}, {why}; `deliveries retry` enables it"
            )
        elif state.open_until_ms is not None and state.open_until_ms > SystemClock().now_ms():
            typer.echo(f"{state.name}: rests until {_time(state.open_until_ms)}, {state.consecutive_failures} failures")


@deliveries.command("retry")
def retry_deliveries(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids from `deliveries list`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that failed or are disabled.")] = False,
    receiver: Annotated[str | None, typer.Option(help="With --all: only those for this receiver.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Try failed or disabled deliveries again, at once and with the same id; their receivers are enabled."""
    from monitor.clock import SystemClock

    if bool(ids) == every or (receiver is not None and not every):
        raise Fatal("deliveries retry: name ids from `deliveries list`, or say --all, with or without --receiver")
    with _store(config) as (_, store):
        count = store.retry_deliveries(None if every else ids, now_ms=SystemClock().now_ms(), receiver=receiver)
    _print_json({"retried": count}) if as_json else typer.echo(f"{count} deliveries will be tried again")
    if not count:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: our own errors become one line and an exit code, never a traceback."""
    try:
        app()
    except Fatal as err:
        for fault in err.faults:
            typer.echo(f"tapewatch: {fault}", err=True)
        sys.exit(2)
    except TapewatchError as err:
        typer.echo(f"tapewatch: {err}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C ask to end in order; a second Ctrl-C ends at once."""
    stop = threading.Event()

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _reloaded_by_signal() -> Iterator[threading.Event]:
    reload = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: reload.set())
    try:
        yield reload
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def _store(config: Path) -> Iterator[tuple[Settings, Store]]:
    from monitor.app import database_url
    from monitor.settings import load_settings
    from monitor.store import Store

    settings = load_settings(config)
    with closing(Store.open(database_url(settings))) as store:
        yield settings, store


@contextmanager
def _byte_progress(files: list[Path], *, quiet: bool) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    total = sum(file.stat().st_size for file in files if file.exists())
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=quiet), transient=False) as bar:
        task = bar.add_task(files[0].name if len(files) == 1 else f"{len(files)} files", total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _stage_progress(*, quiet: bool) -> Iterator[Any]:
    """A bar a stage: told the stage's name, how much more is done, and how much there is."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as bar:
        tasks: dict[str, Any] = {}

        def tell(stage: str, count: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.advance(tasks[stage], count)

        yield tell


@contextmanager
def _step_progress(*, quiet: bool) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True, quiet=quiet)
    if not console.is_terminal:  # a log file: a line now and then instead of a bar

        def log(step: int, steps: int, losses: dict[str, float]) -> None:
            if step == steps or step % max(1, steps // LINES_A_RUN) == 0:
                console.print(f"step {step} of {steps}: {_figures(losses)}", soft_wrap=True, highlight=False)

        yield log
        return
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)

        def tell(step: int, steps: int, losses: dict[str, float]) -> None:
            bar.update(task, completed=step, total=steps, description=_figures(losses))

        yield tell


def _figures(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in values.items())


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(result)
        return
    for name, value in result.items():
        typer.echo(f"{name.replace('_', ' ')}: {value}")


def _logs(settings: Settings) -> None:
    from monitor.app import secrets_of
    from monitor.telemetry import configure_logs

    configure_logs(settings.telemetry.log_format, settings.telemetry.log_level, secrets=secrets_of(settings))


def _print_json(value: Any) -> None:
    typer.echo(msgspec.json.encode(value).decode())


def _warn(text: str) -> None:
    typer.echo(f"tapewatch: {_visible(text, 300)}", err=True)


def _time(epoch_ms: int) -> str:
    from monitor.clock import to_rfc3339

    return to_rfc3339(epoch_ms)


def _visible(text: str, chars_max: int) -> str:
    """Strangers' text on one line of a terminal: nothing in it may move the cursor."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:chars_max])


if __name__ == "__main__":
    main()
