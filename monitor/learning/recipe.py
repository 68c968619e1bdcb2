"""A recipe: everything that decides how a training goes, in one TOML file. Unknown keys are refused, all faults at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.errors import Fatal
from monitor.learning.rows import GENERATED
from monitor.toml_files import read_toml

T = TypeVar("T")
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A frozen table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Part):
    """`document_heads` and `mention_heads` map a row's source to the head of its label convention.

    A source that isn't named trains none of these heads; a key may end in * . `licences` keeps only rows whose licence,
    as stated, is listed (empty: all).

    `passes`: how often an epoch visits the rows of a source (1 if not named; a key may end in *): a large side task need
    not drown a small main one. `joined_share`: for each visited row of the served mention head, so many pairs of such
    rows are told in one breath, different fates first: the model has to find out whose words are whose. `augment_rows`: so
    many rows of our own grammar (`augment`, source `generated`) train beside the others.
    """

    document_heads: dict[str, str] = {"tfns": "news"}
    mention_heads: dict[str, str] = {
        "sentfin": "company",
        "fiqa*": "company",
        "sentivent": "phrase",
        "stockemotions": "social",
    }
    serve_document: str = "news"
    serve_mention: str = "company"
    licences: tuple[str, ...] = ()
    rows_max_per_source: int = 0
    passes: dict[str, Annotated[float, Field(ge=0, le=20)]] = {}
    joined_share: Share = 0.0
    augment_rows: Annotated[int, Field(ge=0, le=100_000)] = 0
    valid_percent: Annotated[int, Field(ge=1, le=40)] = 10
    test_percent: Annotated[int, Field(ge=0, le=40)] = 10


class Tasks(Part):
    """Weight of each task's mean loss; 0 leaves the task out."""

    document: float = 1.0
    mention: float = 1.0
    topic: float = 0.5
    events: float = 1.0
    evidence: float = 0.5


class Peft(Part):
    """Low-rank adapters on every linear layer of the encoder (Hu et al. 2021); `dora` after Liu et al. 2024."""

    kind: Literal["none", "lora", "dora"] = "none"
    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.05


class Freeze(Part):
    """`heads`: only heads learn; `top`: heads and the top n layers; `gradual`: one layer more after each epoch."""

    policy: Literal["none", "heads", "top", "gradual"] = "none"
    top_layers: Count = 2
    word_embeddings: bool = True


class Optimiser(Part):
    kind: Literal["adamw", "sgd"] = "adamw"
    rate: Positive = 1e-4
    head_rate_factor: Positive = 5.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip_norm: Positive = 1.0
    warmup: Share = 0.06
    schedule: Literal["linear", "cosine", "constant"] = "linear"


class Run(Part):
    epochs: Count = 3
    batch_documents: Count = 48
    tokens_max: Annotated[int, Field(ge=8, le=512)] = 128
    head_dropout: Share = 0.1
    head_hidden: Count = 256
    label_smoothing: Share = 0.0
    class_weights: Literal["none", "sqrt_inverse"] = "none"
    bf16: bool = False
    threads: int = 0
    seed: int = 7
    checkpoint_every_steps: Count = 200


class Stop(Part):
    """Stop after `patience` evaluations (one an epoch) without a better `metric` on the validation split.

    `score` is the mean over all tasks, `sentiment` over the served heads for texts and companies.
    """

    metric: Literal[
        "score", "sentiment", "document_macro_f1", "mention_macro_f1", "topic_accuracy", "events_micro_f1"
    ] = "score"
    patience: Count = 2


class Recipe(Part):
    """The whole file; every key has a default.

    `base`: packaged:NAME, a folder with an encoder, the `best` folder of an earlier run (its heads go on too; split as it
    split, or its training rows may come to judge), or a hub name.
    """

    name: str = "tapewatch"
    base: str = "packaged:minilm"
    data: Data = Data()
    tasks: Tasks = Tasks()
    peft: Peft = Peft()
    freeze: Freeze = Freeze()
    optimiser: Optimiser = Optimiser()
    run: Run = Run()
    stop: Stop = Stop()


def load_recipe(path: Path | None) -> Recipe:
    """A file may begin with `extends = "other.toml"`, beside it: the other's keys hold where it says nothing else.

    Raises Fatal with every fault, one line each: file, key, what is wrong.
    """
    if path is None:
        return Recipe()
    raw = _read(path, ())
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as err:
        faults = tuple(
            f"{path}: {'.'.join(map(str, e['loc']))}: "
            + ("unknown key; remove it or correct its name" if e["type"] == "extra_forbidden" else e["msg"])
            for e in err.errors(include_url=False, include_input=False)
        )
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=faults) from err
    data = recipe.data
    faults = tuple(
        f"{path}: data.{key}: head {name!r} is trained by no source"
        for key, name, heads in (
            ("serve_document", data.serve_document, data.document_heads),
            ("serve_mention", data.serve_mention, data.mention_heads),
        )
        if name and name not in heads.values()
    )
    generated = (head_for(data.document_heads, GENERATED), head_for(data.mention_heads, GENERATED))
    if data.augment_rows and not any(generated):
        faults += (
            f"{path}: data.augment_rows: no head is trained by the source {GENERATED!r}; name it in data.mention_heads",
        )
    if faults:
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=faults)
    return recipe


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in [other.resolve() for other in extending]:
        raise Fatal(f"{extending[-1]}: extends: {path} extends this file in turn")
    by = f"; {extending[-1]} extends it" if extending else "; name a recipe with --recipe"
    raw = read_toml(path, missing=f"no such file{by}")
    other = raw.pop("extends", None)
    if other is None:
        return raw
    if not isinstance(other, str) or not other:
        raise Fatal(f"{path}: extends: must be the name of a recipe file")
    return _over(_read(path.parent / other, (*extending, path)), raw)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables are laid over each other key by key, all else is replaced."""
    both = {
        k: _over(below[k], v) if isinstance(v, dict) and isinstance(below.get(k), dict) else v for k, v in above.items()
    }
    return below | both


def head_for(heads: dict[str, str], source: str) -> str | None:
    """The head that a source trains: its own name first, then a pattern that ends in *."""
    return named_for(heads, source)


def named_for(named: dict[str, T], source: str) -> T | None:
    """What a table of sources says of this one: its own name first, then a pattern that ends in *."""
    if source in named:
        return named[source]
    return next((value for key, value in named.items() if key.endswith("*") and source.startswith(key[:-1])), None)
