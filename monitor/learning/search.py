"""A search for better settings of a recipe, judged on the validation split alone and ended within a stated time.

Tree-structured Parzen estimator (Bergstra et al. 2011) as in Optuna, seeded by the recipe; the recipe as it stands (within
RANGES) is the first trial, so that the answer is never worse than where it began. The test split is not looked at.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.errors import Fatal
from monitor.learning.recipe import Recipe
from monitor.learning.rows import LabelledRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What a trial may choose for a key of a part of the recipe."""

    part: str
    low: float
    high: float
    log: bool = False


RANGES = {
    "rate": Range(part="optimiser", low=1e-5, high=1e-3, log=True),
    "head_rate_factor": Range(part="optimiser", low=1.0, high=20.0, log=True),
    "layer_decay": Range(part="optimiser", low=0.7, high=1.0),
    "weight_decay": Range(part="optimiser", low=0.001, high=0.1, log=True),
    "head_dropout": Range(part="run", low=0.0, high=0.4),
    "label_smoothing": Range(part="run", low=0.0, high=0.1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """The best recipe found, its score, and every trial: number, settings, score (None: stopped by the clock)."""

    recipe: Recipe
    score: float
    trials: tuple[dict[str, Any], ...]


def search(
    rows: Sequence[LabelledRow],
    recipe: Recipe,
    out: Path,
    *,
    seconds_max: float,
    now_s: Callable[[], float],
    trials_max: int | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Searched:
    """Each trial is a run in `out`/trial-NNN; only the best one's weights are kept. Leaves `search.json` and `best.toml`.

    Raises Fatal when `out` isn't empty, or when the time didn't suffice for a single trial.
    """
    import optuna

    from monitor.learning.train import train

    if out.exists() and any(out.iterdir()):
        raise Fatal(f"{out}: is not empty; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    deadline = now_s() + seconds_max
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=recipe.run.seed))
    first = {name: getattr(getattr(recipe, of.part), name) for name, of in RANGES.items()}
    study.enqueue_trial({name: min(max(value, RANGES[name].low), RANGES[name].high) for name, value in first.items()})
    found: list[dict[str, Any]] = []
    best: tuple[float, Recipe, Path] | None = None

    def stop_in_time(_step: int, _steps: int, _values: dict[str, float]) -> None:
        if now_s() >= deadline:
            raise TimeoutError

    while now_s() < deadline and len(found) != trials_max:
        trial = study.ask()
        chosen = _suggested(trial, recipe)
        folder = out / f"trial-{trial.number:03}"
        score: float | None = None
        try:
            score = train(rows, chosen, folder, progress=stop_in_time).metrics[recipe.stop.metric]
            study.tell(trial, score)
        except TimeoutError:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except Fatal as err:  # settings under which the loss is no number are part of what a search finds out
            say(f"trial {trial.number}: {err}")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        found.append({"trial": trial.number, "settings": trial.params, "score": score})
        say(f"trial {trial.number}: {recipe.stop.metric} {score} with {trial.params}")
        if score is not None and (best is None or score > best[0]):
            if best is not None:
                shutil.rmtree(best[2])
            best = (score, chosen, folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if best is None:
        raise Fatal(f"search: no trial ended within {seconds_max:.0f} s; give more time, fewer rows or fewer epochs")
    (out / "best.toml").write_text(to_toml(best[1]), "utf-8")
    facts = {"metric": recipe.stop.metric, "best": best[0], "best_run": best[2].name, "trials": found}
    (out / "search.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return Searched(recipe=best[1], score=best[0], trials=tuple(found))


def to_toml(recipe: Recipe) -> str:
    """The recipe as a file that `load_recipe` reads."""
    plain, tables = [], []
    for key, value in json.loads(recipe.model_dump_json()).items():
        if isinstance(value, dict):
            tables.append(f"\n[{key}]\n" + "".join(f"{name} = {_toml(each)}\n" for name, each in value.items()))
        else:
            plain.append(f"{key} = {_toml(value)}\n")
    return "".join([*plain, *tables])


def _suggested(trial: Any, recipe: Recipe) -> Recipe:
    changed: dict[str, dict[str, float]] = {}
    for name, of in RANGES.items():
        changed.setdefault(of.part, {})[name] = trial.suggest_float(name, of.low, of.high, log=of.log)
    return recipe.model_copy(
        update={part: getattr(recipe, part).model_copy(update=values) for part, values in changed.items()}
    )


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)
