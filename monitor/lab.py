"""Composition of the work on a model that needs no broker: export, evaluation, comparison with others, explanation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import msgspec

from monitor.app import make_scorer
from monitor.errors import Fatal
from monitor.learning.evaluate import Answers, Predict, figures_of
from monitor.learning.evaluate import evaluate as figures_by
from monitor.learning.findings import findings
from monitor.learning.report import render_report
from monitor.learning.rows import LabelledRow, groups_of, read_rows, splits_of
from monitor.learning.served import ServedModel, conventions_of
from monitor.records import Document, LinkedEntity, Span
from monitor.settings import Settings

Convention = Literal["source", "serve"]
FIT_ROWS_MAX = 4_000  # a source, for heads that are fitted to compare: more would cost minutes and change little


def export(run: Path, out: Path, *, data: Sequence[Path] = ()) -> dict[str, Any]:
    """A finished run becomes a bundle, with parity. `data`: calibrate and judge the run anew, on the rows of its training."""
    from exporters.bundle import export_bundle
    from exporters.errors import ExportError
    from monitor.intake import clean
    from monitor.learning.finish import finish_run, read_finished, read_judged
    from monitor.learning.train import BEST

    finished = finish_run(run, [row for path in data for row in read_rows(path)]) if data else read_finished(run)
    rows = read_judged(run)
    texts = []
    for row in rows:
        text = clean(row.text)
        spans = [text.to_clean(m.start, m.end) for m in row.mentions if m.start is not None and m.end is not None]
        texts.append((text.text, spans))
    try:
        manifest = export_bundle(
            run / BEST,
            out,
            name=finished.name,
            calibration=finished.calibration,
            metrics=finished.metrics,
            card=finished.card,
            data_fingerprint=finished.data_fingerprint,
            texts=texts,
            judge=lambda folder: _macro_f1(folder, rows),
        )
    except ExportError as err:
        raise Fatal(str(err)) from err
    return {"out": str(out), "name": manifest["name"], "parity": manifest["parity"], "files": manifest["files"]}


def evaluate(
    settings: Settings,
    data: Path,
    *,
    bundle: Path | None = None,
    convention: Convention = "source",
    before: Path | None = None,
    fit: Sequence[Path] = (),
    report: Path | None = None,
) -> dict[str, Any]:
    """The figures for which the file has labels; with `report`, a page that a person reads, and the same as JSON beside it.

    What the page shows as before: the bundle `before`, or the base encoder with a linear head fitted on the rows of `fit`.
    """
    if before is not None and fit:
        raise Fatal("evaluate: either --before or --fit, not both")
    rows = read_rows(data)
    model = served(settings, bundle, convention)
    after = model(rows)
    conventions = conventions_of(model, rows)
    if report is not None:
        old: Answers | None = None
        if before is not None:
            old = served(settings, before, convention)(rows)
        elif fit:
            old = _frozen(rows, [row for path in fit for row in read_rows(path)])(rows)
        found = findings(rows, after, before=old, conventions=conventions)
        page = render_report(
            found,
            title=f"Evaluation on {data.name}",
            before_name=before.name if before else "the base encoder, frozen, with a linear head",
            after_name=model.name,
        )
        report.write_text(page, "utf-8")
        report.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    figures = figures_of(rows, after)
    if not figures:
        raise Fatal(f"{data}: nothing to evaluate: no row has a label that the bundle answers")
    return {**figures, "conventions": conventions}


def peers(
    settings: Settings, data: Sequence[Path], *, bundle: Path | None = None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The bundle and what others would do, on the test split of the same rows; what is fitted is fitted on the train split."""
    from monitor.learning.peers import BagOfWords, FrozenEncoder, finance_vader, loughran_mcdonald

    rows = [row for path in data for row in read_rows(path)]
    rows = [row for row in rows if not row.soft and (row.label or any(m.label for m in row.mentions))]
    sides = splits_of(rows)
    train = _few([row for row, side in zip(rows, sides, strict=True) if side == "train"])
    test = [row for row, side in zip(rows, sides, strict=True) if side == "test"]
    if not train or not test:
        raise Fatal(f"{', '.join(map(str, data))}: too few rows with sentiment labels to split for a comparison")
    models: dict[str, Callable[[], Predict]] = {
        "tapewatch": lambda: served(settings, bundle, "source"),
        "vader_finance": finance_vader,
        "loughran_mcdonald": loughran_mcdonald,
        "tfidf_logistic": lambda: BagOfWords(train),
        "frozen_encoder_linear": lambda: FrozenEncoder(train),
    }
    result: dict[str, Any] = {"train_rows": len(train), "test_rows": len(test)}
    for name, make in models.items():
        say(name)
        for task, figures in figures_by(test, make()).items():
            if task in {"sentiment", "mentions"}:
                kept = {key: round(figures[key], 4) for key in ("n", "accuracy", "macro_f1")}
                result.setdefault(task, {})[name] = kept
    return result


def label_errors(data: Sequence[Path]) -> dict[str, Any]:
    """Labels that are probably wrong, and what leaving them out would do."""
    from monitor.learning.label_errors import audit

    rows = [row for path in data for row in read_rows(path)]
    rows = [row for row in rows if not row.soft and (row.label or any(m.label for m in row.mentions))]
    if not rows:
        raise Fatal(f"{', '.join(map(str, data))}: no row has a sentiment label")
    return audit(rows)


def search(
    data: Sequence[Path],
    out: Path,
    *,
    recipe: Path | None,
    seconds_max: float,
    trials_max: int | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Better settings for a recipe, found on the validation split within a stated time."""
    import time

    from monitor.learning.recipe import load_recipe
    from monitor.learning.search import search as search_settings

    rows = [row for path in data for row in read_rows(path)]
    found = search_settings(
        rows,
        load_recipe(recipe),
        out,
        seconds_max=seconds_max,
        now_s=time.monotonic,
        trials_max=trials_max,
        say=say,
    )
    return {"best": found.score, "recipe": str(out / "best.toml"), "trials": list(found.trials)}


def explain_text(settings: Settings, text: str, *, entity: str, bundle: Path | None) -> Any:
    """Why the model judges `entity` in this text as it does. `entity`: a symbol of the watchlist, or words of the text."""
    from monitor.linking import Linker, load_watchlist
    from monitor.scoring import explain

    document = Document(id="1", source="shell", channel="news", published_at_ms=0, title=text)
    linked = Linker(load_watchlist(settings.watchlist.path)).link(text)
    named = next((one for one in linked if one.entity == entity.upper()), None)
    if named is None:
        at = text.lower().find(entity.lower())
        if at < 0:
            found = ", ".join(one.entity for one in linked) or "none"
            raise Fatal(f"--entity {entity}: neither a company linked in the text ({found}) nor words of it")
        named = LinkedEntity(entity=entity, spans=(Span(start=at, end=at + len(entity)),), cue="name")
    scorer = make_scorer(settings, bundle)
    return explain(document, named, lambda documents: scorer.judge(documents, now_ms=0))


def faithful(
    settings: Settings, data: Path, *, bundle: Path | None, mentions_max: int, seed: int = 7
) -> dict[str, Any]:
    """The deletion test on companies that rows of the file judge, neutral judgements left out: nothing carries those."""
    import random

    from monitor.scoring import faithfulness

    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    asked = [
        (
            Document(id=str(number), source=row.source, channel="news", published_at_ms=0, title=row.text),
            LinkedEntity(entity=m.target, spans=(Span(start=m.start, end=m.end),), cue="name"),
        )
        for number, row in enumerate(read_rows(data))
        for m in row.mentions
        if m.start is not None and m.end is not None and m.label != "neutral"
    ]
    rng.shuffle(asked)
    scorer = make_scorer(settings, bundle)
    found = faithfulness(asked[:mentions_max], lambda documents: scorer.judge(documents, now_ms=0), rng=rng)
    if found is None:
        raise Fatal(f"{data}: no row judges a company in a text of at least four other words")
    return msgspec.to_builtins(found)  # type: ignore[no-any-return]


def served(settings: Settings, bundle: Path | None, convention: Convention) -> ServedModel:
    """A bundle as the model that evaluations ask, on the engine of the settings."""
    from monitor.intake import clean
    from monitor.scoring.evidence import answer_spans

    scorer = make_scorer(settings, bundle, every_convention=convention == "source")
    return ServedModel(scorer, clean=clean, answer_spans=answer_spans, convention=convention)


def _macro_f1(folder: Path, rows: Sequence[LabelledRow]) -> dict[str, float]:
    """Mean over the tasks that the rows have labels for, at fp32 and at int8."""
    from monitor.intake import clean
    from monitor.registry import engine_file, load_bundle
    from monitor.scoring import OnnxEngine, Scorer
    from monitor.scoring.evidence import answer_spans

    bundle, found = load_bundle(folder), {}
    with tempfile.TemporaryDirectory() as cache:
        for precision in ("fp32", "int8"):
            graph = engine_file(bundle, precision, Path(cache), every_convention=True)
            model = ServedModel(Scorer(bundle, OnnxEngine(graph), clean=clean), clean=clean, answer_spans=answer_spans)
            each = [values.get("macro_f1", values.get("token_f1")) for values in figures_by(rows, model).values()]
            scores = [score for score in each if score is not None]
            found[precision] = sum(scores) / max(1, len(scores))
    return found


def _frozen(rows: Sequence[LabelledRow], fit: Sequence[LabelledRow]) -> Predict:
    """The base encoder with a linear head, fitted on rows that are no near-duplicates of those that it is judged on."""
    from monitor.learning.peers import FrozenEncoder

    groups = groups_of([*rows, *fit])
    judged = set(groups[: len(rows)])
    apart = [row for row, group in zip(fit, groups[len(rows) :], strict=True) if group not in judged and not row.soft]
    if not apart:
        raise Fatal("--fit: no row is left that isn't a near-duplicate of an evaluated one")
    return FrozenEncoder(_few(apart))


def _few(rows: Sequence[LabelledRow]) -> list[LabelledRow]:
    """At most FIT_ROWS_MAX a source, always the same ones."""
    seen: dict[str, int] = {}
    kept = []
    for row in sorted(rows, key=lambda row: sha256(row.text.encode()).digest()):
        seen[row.source] = seen.get(row.source, 0) + 1
        if seen[row.source] <= FIT_ROWS_MAX:
            kept.append(row)
    return kept
