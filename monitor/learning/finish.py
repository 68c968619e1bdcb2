"""The last step of a training: fit what the validation split can say, judge on the test split, leave both beside the weights.

Afterwards a run folder holds all that an export needs: `finish_run` writes `finished.json` and `judged.jsonl.gz`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from monitor.errors import Fatal
from monitor.learning.augment import augmented_rows
from monitor.learning.calibrate import calibration_figures, fit_calibration, fit_conventions, softmax
from monitor.learning.card import model_card
from monitor.learning.metrics import classification, multilabel, polarity_figures, tag_f1
from monitor.learning.rows import LabelledRow, counts, fingerprint, licences, read_rows, splits_of

FINISHED, JUDGED = "finished.json", "judged.jsonl.gz"
_JUDGED_ROWS_MAX = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The arguments of `export_bundle` beside the two folders."""

    name: str
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    card: str
    data_fingerprint: str


def finish_run(run: Path, rows: Sequence[LabelledRow]) -> Finished:
    """Calibrate the best network of the finished run in `run`; `rows` are those that it was trained on.

    Raises Fatal when there is no finished run, or when the rows are others: their splits would leak.
    """
    from tokenizers import Tokenizer

    from monitor.learning.epoch import teaches
    from monitor.learning.features import make_examples
    from monitor.learning.outputs import as_heads, gather_outputs, merge_outputs
    from monitor.learning.recipe import Recipe, head_for

    network, identity = best_of(run), identity_of(run)
    recipe = Recipe.model_validate(identity["recipe"])
    rows = rows_of_run(run, rows)
    sides = splits_of(rows, valid_percent=recipe.data.valid_percent, test_percent=recipe.data.test_percent)
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    spec, data = network.spec, recipe.data
    by_source: dict[str, dict[str, Any]] = {"valid": {}, "test": {}}
    for side, found in by_source.items():
        for source in sorted({row.source for row, at in zip(rows, sides, strict=True) if at == side}):
            chosen = [row for row, at in zip(rows, sides, strict=True) if at == side and row.source == source]
            examples = make_examples(chosen, tokenizer, recipe, topics=spec.topics, events=spec.events)
            if told := [example for example in examples if teaches(example, recipe)]:
                found[source] = gather_outputs(network, told)
    every = {side: merge_outputs(list(found.values())) for side, found in by_source.items()}
    outputs = {
        side: as_heads(found, document=spec.serve_document, mention=spec.serve_mention) for side, found in every.items()
    }
    calibration = fit_calibration(outputs["valid"])
    calibration["conventions"] = fit_conventions(every["valid"], sources_of_heads(spec, data))
    metrics = {side: calibrated_figures(found, calibration) for side, found in outputs.items()}
    figures: dict[str, dict[str, Any]] = {}
    for side, found in by_source.items():
        for source, answers in found.items():
            heads = {"document": head_for(data.document_heads, source), "mention": head_for(data.mention_heads, source)}
            own = calibrated_figures(as_heads(answers, **heads), calibration_of(calibration, heads))
            if own:
                figures.setdefault(side, {})[source or "unnamed"] = own
    served = {"document": network.spec.serve_document, "mention": network.spec.serve_mention}
    generated = augmented_rows(data.augment_rows, seed=recipe.run.seed)
    card = model_card(
        name=recipe.name,
        base_model=spec.base_model,
        licences=licences([*rows, *generated]),
        rows=counts([*rows, *generated]),
        figures={
            f"{side} split, each source by its own convention's head": {
                **found,
                "all of the served conventions": metrics[side],
            }
            for side, found in figures.items()
        },
        calibration=calibration_figures(outputs["test"], calibration),
        served={task: head for task, head in served.items() if head},
    )
    finished = Finished(
        name=recipe.name,
        calibration=calibration,
        metrics=metrics | {f"{side}_by_source": found for side, found in figures.items()},
        card=card,
        data_fingerprint=identity["data"],
    )
    judged = [row for row, at in zip(rows, sides, strict=True) if at == "valid"]
    judged = sorted(judged, key=lambda row: sha256(row.text.encode()).digest())[:_JUDGED_ROWS_MAX]
    with gzip.GzipFile(run / JUDGED, "wb", mtime=0) as stream:
        stream.writelines(msgspec.json.encode(row) + b"\n" for row in judged)
    (run / FINISHED).write_text(json.dumps(asdict(finished), indent=1, sort_keys=True) + "\n", "utf-8")
    return finished


def best_of(run: Path) -> Any:
    """The best network of a finished run. Raises Fatal naming the folder when it is none."""
    from exporters.network import load_run
    from monitor.learning.train import BEST

    try:
        return load_run(run / BEST)
    except (FileNotFoundError, ValueError) as err:
        raise Fatal(f"{run}: not the folder of a finished training run: {err}") from err


def identity_of(run: Path) -> dict[str, Any]:
    """`recipe` and `data`, the fingerprint of the rows. Raises Fatal naming the folder when it holds no run."""
    from monitor.learning.train import RUN_FILE

    try:
        found: dict[str, Any] = json.loads((run / RUN_FILE).read_text("utf-8"))
    except (FileNotFoundError, ValueError) as err:
        raise Fatal(f"{run}: not the folder of a finished training run: {err}") from err
    return found


def rows_of_run(run: Path, rows: Sequence[LabelledRow]) -> list[LabelledRow]:
    """Those of `rows` that its recipe let train. Raises Fatal when they are not those that it was trained on."""
    from monitor.learning.recipe import Recipe
    from monitor.learning.train import allowed

    identity = identity_of(run)
    kept = allowed(rows, Recipe.model_validate(identity["recipe"]))
    if fingerprint(kept) != identity["data"]:
        raise Fatal(f"{run}: was trained on other rows; give the same --data files")
    return kept


def sources_of_heads(spec: Any, data: Any) -> dict[str, dict[str, list[str]]]:
    """Task → head → the sources (or prefixes with *) whose rows trained it."""
    found: dict[str, dict[str, list[str]]] = {}
    for task, heads, names in (
        ("document", spec.document_heads, data.document_heads),
        ("mention", spec.mention_heads, data.mention_heads),
    ):
        for head in heads:
            found.setdefault(task, {})[head] = sorted(source for source, to in names.items() if to == head)
    return found


def calibration_of(calibration: Mapping[str, Any], heads: Mapping[str, str | None]) -> dict[str, Any]:
    """The calibration with which these heads answer, in the shape of the served one."""
    found = dict(calibration)
    for task, head in heads.items():
        own = calibration["conventions"].get(task, {}).get(head)
        if own is not None:
            found[task] = {**calibration.get(task, {}), "temperature": own.get("temperature", 1.0)}
            if task == "mention" and "polarity" in own:
                found["polarity"] = own["polarity"]
    return found


def read_finished(run: Path) -> Finished:
    """What `finish_run` left. Raises Fatal naming the file when it isn't there or isn't whole."""
    path = run / FINISHED
    try:
        return Finished(**json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, TypeError, ValueError) as err:
        raise Fatal(f"{path}: missing or damaged; let `tapewatch train` come to its end") from err


def read_judged(run: Path) -> list[LabelledRow]:
    """Rows of the validation split, on which an export measures scales and compares precisions."""
    return read_rows(run / JUDGED)


def calibrated_figures(outputs: Mapping[str, Any], calibration: Mapping[str, Any]) -> dict[str, Any]:
    """The headline figures of one split, as the calibrated network answers; the keys are those of `evaluate`."""
    found: dict[str, Any] = {}
    for task, name in (("document", "sentiment"), ("mention", "mentions"), ("topic", "topic")):
        if task in outputs:
            logits, truth = outputs[task]
            p = softmax(logits, calibration.get(task, {}).get("temperature", 1.0))
            full = classification(truth, p, [str(c) for c in range(p.shape[-1])])
            found[name] = {key: full[key] for key in ("n", "accuracy", "macro_f1", "ece")}
    if "polarity" in outputs:
        logits, scores = outputs["polarity"]
        p = softmax(logits, calibration.get("mention", {}).get("temperature", 1.0))
        knots = calibration.get("polarity", {"knots_x": (-1.0, 1.0), "knots_y": (-1.0, 1.0)})
        found["polarity"] = polarity_figures(scores, np.interp(p[:, 2] - p[:, 0], knots["knots_x"], knots["knots_y"]))
    if "events" in outputs:
        logits, truth = outputs["events"]
        limits = np.array(calibration.get("events", {}).get("thresholds", [0.5] * np.shape(logits)[-1]))
        full = multilabel(truth, 1.0 / (1.0 + np.exp(-np.asarray(logits))) >= limits)
        found["events"] = {key: full[key] for key in ("n", "micro_f1", "macro_f1")}
    if "evidence" in outputs:
        limit = calibration.get("evidence", {}).get("threshold", 0.5)
        pairs = [
            (np.asarray(tags), (np.asarray(p)[:, 1:].sum(-1) >= limit).astype(np.int64))
            for p, tags in outputs["evidence"]
        ]
        found["evidence"] = {"n": len(pairs), "token_f1": tag_f1(pairs)}
    return found
