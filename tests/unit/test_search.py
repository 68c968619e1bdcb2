"""A search begins at the recipe, looks at the validation split alone, and ends when it said it would."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from monitor.errors import Fatal
from monitor.learning import train as training
from monitor.learning.recipe import Recipe, load_recipe
from monitor.learning.search import RANGES, search, to_toml
from monitor.learning.train import Trained

BEST_RATE = 3e-4


class Bench:
    """Stands in for trainings: a trial takes ten seconds, and is the better the nearer its rate is to BEST_RATE."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self.recipes: list[Recipe] = []

    def train(self, _rows: Sequence[Any], recipe: Recipe, out: Path, *, progress: Any) -> Trained:
        out.mkdir(parents=True)
        self.recipes.append(recipe)
        for step in range(1, 11):
            self.time_s += 1.0
            progress(step, 10, {})
        if recipe.optimiser.rate > 9e-4:
            raise Fatal("step 3: the loss of topic is nan")
        return Trained(folder=out, metrics={"score": 1.0 - abs(recipe.optimiser.rate - BEST_RATE) * 1e3}, epochs=1)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(training, "train", made.train)
    return made


def test_the_recipe_itself_is_the_first_trial_and_the_best_one_is_kept(bench: Bench, tmp_path: Path) -> None:
    start = Recipe.model_validate({"optimiser": {"rate": 1e-5, "weight_decay": 0.02}, "run": {"head_dropout": 0.2}})
    found = search([], start, tmp_path / "s", seconds_max=405, now_s=lambda: bench.time_s)
    assert bench.recipes[0] == start
    assert found.score > 1.0 - 0.29
    assert abs(found.recipe.optimiser.rate - BEST_RATE) < 1.5e-4
    assert found.recipe.data == start.data, "what is not searched stays as it was"
    folders = [path.name for path in (tmp_path / "s").iterdir() if path.is_dir()]
    facts = json.loads((tmp_path / "s" / "search.json").read_text())
    assert folders == [facts["best_run"]]
    assert load_recipe(tmp_path / "s" / "best.toml") == found.recipe


def test_a_trial_that_the_clock_overtakes_is_stopped_and_told(bench: Bench, tmp_path: Path) -> None:
    found = search([], Recipe(), tmp_path / "s", seconds_max=25, now_s=lambda: bench.time_s)
    assert bench.time_s == 25.0
    assert [trial["score"] is None for trial in found.trials] == [False, False, True]


def test_no_time_for_one_trial_is_a_fault_and_other_folders_are_left_alone(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(Fatal, match="no trial ended within 5 s"):
        search([], Recipe(), tmp_path / "s", seconds_max=5, now_s=lambda: bench.time_s)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(Fatal, match="is not empty"):
        search([], Recipe(), tmp_path, seconds_max=5, now_s=lambda: bench.time_s)


def test_the_same_recipe_searches_the_same_settings(bench: Bench, tmp_path: Path) -> None:
    one, other = (
        search([], Recipe(), tmp_path / name, seconds_max=1e9, now_s=lambda: bench.time_s, trials_max=4)
        for name in "ab"
    )
    assert one.trials == other.trials
    for trial in one.trials:
        assert all(RANGES[name].low <= value <= RANGES[name].high for name, value in trial["settings"].items())


def test_every_recipe_survives_being_written_as_toml(tmp_path: Path) -> None:
    for path in [None, *Path("configs/train").glob("*.toml")]:
        recipe = load_recipe(path)
        (tmp_path / "r.toml").write_text(to_toml(recipe))
        assert load_recipe(tmp_path / "r.toml") == recipe
