"""What each part of the recipe adds: short trainings that differ in one thing, judged on the validation split.

`python -m tests.bench.ablations --data FILE… [--soft FILE] --out DIR [--only NAME…]`. Two epochs of the default recipe on the
sentiment sources alone are what the others are compared with; a variant's name says what it changes. `without SOURCE`
never sees that source and is judged on it by the heads that would answer in service, which is what a user's own source
meets. Results are appended to DIR/results.jsonl, one variant a line; a variant that is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer

from exporters.network import Network, load_run
from monitor.learning.features import make_examples
from monitor.learning.metrics import classification, polarity_figures
from monitor.learning.outputs import gather_outputs
from monitor.learning.recipe import Recipe, load_recipe
from monitor.learning.rows import LabelledMention, LabelledRow, read_rows, splits_of
from monitor.learning.train import train
from monitor.records import LABELS

ROOT = Path(__file__).resolve().parents[2]
SENTIMENT = ("tfns", "sentfin", "fiqa-headline", "fiqa-post", "sentivent")
HELD_OUT = {
    "tfns": ("tfns",),
    "sentfin": ("sentfin",),
    "sentivent": ("sentivent",),
    "fiqa": ("fiqa-headline", "fiqa-post"),
}
Rows = list[LabelledRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`change` says which keys of the recipe are others; `rows` which rows, and how they are told."""

    change: Mapping[str, Any]
    rows: Callable[[Rows], Rows] = lambda rows: of_sources(rows, SENTIMENT)
    soft: bool = False
    without: str = ""


def of_sources(rows: Rows, sources: Sequence[str]) -> Rows:
    return [row for row in rows if row.source in sources]


def as_pairs(rows: Rows) -> Rows:
    """The company and the text as one input, once for each company: what encoding a text once is compared with."""
    return [row for given in of_sources(rows, SENTIMENT) for row in _pairs(given)]


def _pairs(row: LabelledRow) -> Iterator[LabelledRow]:
    if row.label is not None:
        yield msgspec.structs.replace(row, mentions=())
    for mention in row.mentions:
        told = msgspec.structs.replace(mention, start=0, end=len(mention.target), evidence=None)
        yield msgspec.structs.replace(row, text=f"{mention.target} | {row.text}", label=None, mentions=(told,))


SIDE_TASKS = {"tasks": {"topic": 0.0, "events": 0.0, "evidence": 0.0}}
ONE_HEAD = {
    "document_heads": {"tfns": "news", "sentivent": "news"},
    "mention_heads": {"sentfin": "company", "fiqa*": "company", "sentivent": "company"},
}
VARIANTS = {
    "full fine-tuning, sentiment alone": Variant(change=SIDE_TASKS),
    "LoRA, rank 16, rate 5e-4": Variant(change=SIDE_TASKS | {"peft": {"kind": "lora"}, "optimiser": {"rate": 5e-4}}),
    "heads alone": Variant(change=SIDE_TASKS | {"freeze": {"policy": "heads"}, "optimiser": {"rate": 3e-4}}),
    "one head for all conventions": Variant(change=SIDE_TASKS | {"data": ONE_HEAD}),
    "no joined headlines": Variant(change=SIDE_TASKS | {"data": {"joined_share": 0.0}}),
    "with generated rows": Variant(change=SIDE_TASKS | {"data": {"augment_rows": 2_000}}),
    "with the teacher's rows": Variant(change=SIDE_TASKS, soft=True),
    "all tasks": Variant(change={}, rows=lambda rows: rows),
    "text pair": Variant(change=SIDE_TASKS, rows=as_pairs),
} | {
    f"without {name}": Variant(
        change=SIDE_TASKS,
        rows=lambda rows, out=sources: of_sources(rows, [s for s in SENTIMENT if s not in out]),  # type: ignore[misc]
        without=name,
    )
    for name, sources in HELD_OUT.items()
}  # fmt: skip


def recipe_of(variant: Variant, *, epochs: int, soft: bool) -> Recipe:
    """The default recipe with the variant's changes; heads that nothing trains are left out."""
    fields = load_recipe(ROOT / "configs" / "train" / "default.toml").model_dump(mode="json")
    for table, keys in variant.change.items():
        fields[table] |= keys
    fields["run"]["epochs"] = epochs
    # Rows whose texts hash to the first 20 of 100 judge and are held back before; of the others the first hundredth validates.
    fields["data"] |= {"valid_percent": 21, "test_percent": 0}
    data, out = fields["data"], set(HELD_OUT.get(variant.without, ()))
    if not soft:
        out.add("teacher")
    for heads in ("document_heads", "mention_heads"):
        data[heads] = {k: head for k, head in data[heads].items() if not any(_names(k, source) for source in out)}
    if data["augment_rows"]:
        data["document_heads"]["generated"], data["mention_heads"]["generated"] = "news", "company"
    for serve, heads in (("serve_document", "document_heads"), ("serve_mention", "mention_heads")):
        if data[serve] not in data[heads].values():
            data[serve] = ""
    return Recipe.model_validate(fields)


def judge(network: Network, tokenizer: Tokenizer, recipe: Recipe, rows: Rows) -> dict[str, float]:
    """Accuracy and macro F1 a source, by the head of its convention where that was trained, else by the served one."""
    found: dict[str, float] = {}
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source]
        asked = recipe
        if not any(_names(key, source) for key in (*recipe.data.document_heads, *recipe.data.mention_heads)):
            own, asked = _as_served(own, recipe, source)
        outputs = gather_outputs(network, make_examples(own, tokenizer, asked, topics=(), events=()))
        for key, answers in outputs.items():
            task, _, head = key.partition(":")
            if task in {"document", "mention"}:
                figures = classification(answers[1], torch.from_numpy(answers[0]).softmax(-1).numpy(), LABELS)
                found[f"{source} {task} accuracy"] = round(figures["accuracy"], 4)
                found[f"{source} {task} macro_f1"] = round(figures["macro_f1"], 4)
            elif task == "polarity" and head == recipe.data.serve_mention:
                p = torch.from_numpy(answers[0]).softmax(-1).numpy()
                found[f"{source} r2"] = round(polarity_figures(p[:, 2] - p[:, 0], answers[1])["r2"], 4)
    return found


def _as_served(rows: Rows, recipe: Recipe, source: str) -> tuple[Rows, Recipe]:
    """Rows of a source that no head knows, asked of the served heads; of whatever head there is, if one isn't served."""
    data = recipe.data
    mention = data.serve_mention or "phrase"
    document = data.serve_document
    if not document:  # a text with no head of its own: judged as a company without words would be
        rows = [
            msgspec.structs.replace(r, label=None, mentions=(LabelledMention(target="", label=r.label),))
            if r.label
            else r
            for r in rows
        ]
    heads = data.model_copy(
        update={
            "document_heads": data.document_heads | ({source: document} if document else {}),
            "mention_heads": data.mention_heads | {source: mention},
        }
    )
    return rows, recipe.model_copy(update={"data": heads})


def _names(key: str, source: str) -> bool:
    return source == key or (key.endswith("*") and source.startswith(key[:-1]))


def run(name: str, variant: Variant, rows: Rows, soft: Rows, out: Path, *, epochs: int) -> dict[str, Any]:
    recipe = recipe_of(variant, epochs=epochs, soft=variant.soft)
    folder = out / name.replace(" ", "-").replace(",", "")
    # Split once, over all rows as they came: fewer or otherwise told rows would be split anew, and some that judge would train.
    sides = splits_of([*rows, *soft])
    own, taught = (
        [row for row, side in zip([*rows, *soft], sides, strict=True) if side == "train" and row.soft == by_teacher]
        for by_teacher in (False, True)
    )
    learnt = folder / "learnt.json"
    if not learnt.exists():
        started = time.process_time()
        trained = train([*variant.rows(own), *(taught if variant.soft else [])], recipe, folder, resume=folder.exists())
        minutes = (time.process_time() - started) / 60
        learnt.write_text(json.dumps({"epochs": trained.epochs, "cpu_minutes": round(minutes, 1)}), "utf-8")
    network, tokenizer = load_run(folder / "best"), Tokenizer.from_file(str(folder / "best" / "tokenizer.json"))
    judged = of_sources([row for row, side in zip([*rows, *soft], sides, strict=True) if side == "valid"], SENTIMENT)
    told = as_pairs(judged) if variant.rows is as_pairs else judged
    started = time.process_time()
    figures = judge(network, tokenizer, recipe, told)
    return {
        "variant": name,
        **json.loads(learnt.read_text("utf-8")),
        "judging_cpu_s": round(time.process_time() - started, 1),
        "figures": figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.ablations", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--soft", type=Path, help="rows of `tapewatch distil`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", action="append", choices=[*VARIANTS])
    given = parser.parse_args()
    rows = [row for path in given.data for row in read_rows(path)]
    soft = list(read_rows(given.soft)) if given.soft else []
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.jsonl"
    done = (
        {json.loads(line)["variant"] for line in results.read_text("utf-8").splitlines()} if results.exists() else set()
    )
    for name, variant in VARIANTS.items():
        if name in done or (given.only and name not in given.only) or (variant.soft and not soft):
            continue
        found = run(name, variant, rows, soft, given.out, epochs=given.epochs)
        with results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(found) + "\n")
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
