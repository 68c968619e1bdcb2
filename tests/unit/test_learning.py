"""Training on a tiny random network: what a run promises, and what it refuses."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
import torch

from monitor.errors import Fatal
from monitor.learning import train as training
from monitor.learning.epoch import collate
from monitor.learning.recipe import Recipe, load_recipe
from monitor.learning.rows import LabelledMention, LabelledRow, groups_of, read_rows, splits_of
from monitor.learning.validate import ask
from tests.builders import WORDS, tiny_base


def rows_of(count: int = 160) -> list[LabelledRow]:
    """Made-up rows of every kind, each of words of its own."""
    rng = random.Random(3)
    rows = []
    for index in range(count):
        text = " ".join([f"tesla {rng.choice(['soars', 'plunges'])}", *rng.sample(WORDS, 7), f"q{index}"])
        good = "soars" in text.split()[1]
        label = "positive" if good else "negative"
        mention = LabelledMention(target="tesla", start=0, end=5, label=label, evidence=((6, 10),))
        kind = index % 4
        rows.append(
            LabelledRow(
                text=text,
                source=("tfns", "sentfin", "events", "topics")[kind],
                license="MIT",
                label=label if kind == 0 else None,
                mentions=(mention,) if kind == 1 else (),
                events=(("Profit",) if good else ()) if kind == 2 else None,
                topic=("markets" if good else "people") if kind == 3 else None,
            )
        )
    return rows


def recipe_of(base: Path, **parts: object) -> Recipe:
    run = {"epochs": 2, "batch_documents": 16, "head_hidden": 8, "threads": 1, "checkpoint_every_steps": 3}
    given = {"base": str(base), "optimiser": {"rate": 1e-3}, **parts}
    return Recipe.model_validate({**given, "run": {**run, **given.get("run", {})}})  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def weights_of(run: Path) -> bytes:
    return (run / "best" / "model.safetensors").read_bytes()


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, base: Path) -> None:
    """Dropout, order of batches, optimiser and schedule all come back: the weights are the same bytes."""
    rows, recipe = rows_of(), recipe_of(base)
    training.train(rows, recipe, tmp_path / "whole")
    training.train(rows, recipe, tmp_path / "cut", steps_max=4)
    assert not (tmp_path / "cut" / "best").exists()
    torch.rand(7)  # another process has drawn other numbers
    training.train(rows, recipe, tmp_path / "cut", resume=True)
    assert weights_of(tmp_path / "cut") == weights_of(tmp_path / "whole")


def test_another_seed_gives_another_network(tmp_path: Path, base: Path) -> None:
    """Guards the test above: equal bytes must not be for want of any learning."""
    rows = rows_of()
    training.train(rows, recipe_of(base), tmp_path / "a")
    training.train(rows, recipe_of(base, run={"seed": 8}), tmp_path / "b")
    assert weights_of(tmp_path / "a") != weights_of(tmp_path / "b")


def test_a_run_never_overwrites_another(tmp_path: Path, base: Path) -> None:
    rows = rows_of()
    training.train(rows, recipe_of(base), tmp_path / "run", steps_max=1)
    with pytest.raises(Fatal, match="holds a run already"):
        training.train(rows, recipe_of(base), tmp_path / "run")
    with pytest.raises(Fatal, match="not those of the interrupted run"):
        training.train(rows[:-1], recipe_of(base), tmp_path / "run", resume=True)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, base: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Fatal, match="is not empty"):
        training.train(rows_of(), recipe_of(base), tmp_path)


def test_training_stops_when_validation_no_longer_improves(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience 1: the epoch after the best is the last, and the best is what is kept."""
    scores = iter([0.4, 0.6, 0.5, 0.9])
    monkeypatch.setattr(training, "validate", lambda *_a, **_k: {"score": next(scores)})
    done = training.train(rows_of(), recipe_of(base, run={"epochs": 4}, stop={"patience": 1}), tmp_path / "run")
    assert done.epochs == 3
    assert done.metrics == {"score": 0.6}


def test_frozen_layers_keep_their_weights(tmp_path: Path, base: Path) -> None:
    """`heads`: nothing of the encoder moves; `top` 1: only the last layer does."""
    from safetensors.torch import load_file

    before = load_file(str(base / "model.safetensors"))
    for policy, moving in (("heads", ""), ("top", "encoder.layer.1.")):
        recipe = recipe_of(base, freeze={"policy": policy, "top_layers": 1})
        training.train(rows_of(), recipe, tmp_path / policy)
        after = load_file(str(tmp_path / policy / "best" / "model.safetensors"))
        moved = {name for name, value in before.items() if not torch.equal(value, after[f"encoder.{name}"])}
        assert all(moving and name.startswith(moving) for name in moved), policy
        assert bool(moved) == bool(moving)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers so
def test_merged_adapters_answer_as_the_adapters_did(tmp_path: Path, base: Path) -> None:
    """What is saved has no adapters in it, and says the same to 1e-5."""
    recipe = recipe_of(base, peft={"kind": "lora", "rank": 4, "alpha": 8})
    rows = rows_of()
    training._claim(tmp_path / "run", recipe, "", resume=False)
    trainer = training._Trainer(rows, recipe, tmp_path / "run")
    trainer.run(lambda *_: None, 5)
    network = trainer.network.eval()
    merged = training.merged(network).eval()
    batch = collate(trainer.train_set[:8], network.spec.pad_id)
    with torch.no_grad():
        one, other = ask(network, batch), ask(merged, batch)
    assert any("lora" in name for name, _ in network.named_parameters())
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(one["topic"], other["topic"], atol=1e-5, rtol=1e-4)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task and rows of the batch are named."""
    monkeypatch.setattr(training, "losses_of", lambda *_: {"topic": torch.tensor(float("nan"))})
    with pytest.raises(Fatal, match=r"the loss of topic is nan; lower optimiser\.rate.* has 16 rows: 'tesla "):
        training.train(rows_of(), recipe_of(base), tmp_path / "run")


def test_want_of_memory_is_one_line_that_says_what_to_lower(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried …")

    monkeypatch.setattr(training, "losses_of", fail)
    with pytest.raises(
        Fatal, match=r"step 0: out of memory at 16 texts of up to \d+ tokens; lower run\.batch_documents"
    ):
        training.train(rows_of(), recipe_of(base), tmp_path / "run")


def test_near_duplicates_stand_on_one_side() -> None:
    """A retweet, another link and another price are the same text."""
    stories = [
        " ".join(random.Random(i).sample(WORDS, 9)) + f" story{'abcdefghij'[i % 10]}{'xyz'[i // 10 % 3]}"
        for i in range(30)
    ]
    rows = [LabelledRow(text=text) for text in stories]
    copies = [LabelledRow(text=f"{text.upper()} https://example.org/{i} $12.{i}") for i, text in enumerate(stories)]
    split = splits_of(rows + copies)
    assert split[:30] == split[30:]
    assert len(set(split)) > 1
    groups = groups_of(rows + copies)
    assert groups[:30] == groups[30:]


def test_a_texts_side_does_not_hang_on_the_other_rows() -> None:
    rows = rows_of(80)
    whole = dict(zip([r.text for r in rows], splits_of(rows), strict=True))
    alone = [row for row in rows if groups_of(rows).count(groups_of(rows)[rows.index(row)]) == 1][:5]
    assert [splits_of([row])[0] for row in alone] == [whole[row.text] for row in alone]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": " "}, "text is empty"),
        ({}, "text"),
        ({"text": "up", "label": "bullish"}, "label 'bullish' is none of"),
        ({"text": "up", "mentions": [{"start": 0, "end": 9}]}, r"mentions\[0\]: span \[0, 9\) lies outside"),
        ({"text": "up", "mentions": [{"start": 0}]}, "start and end come together"),
        ({"text": "up", "mentions": [{"score": 2}]}, "score 2.0 lies outside"),
        ({"text": "up e\u0301 on", "mentions": [{"start": 0, "end": 4}]}, r"span \[0, 4\) cuts the character"),
        ({"text": "go \U0001f468\u200d\U0001f680 up", "mentions": [{"start": 5, "end": 9}]}, r"span \[5, 9\) cuts"),
        ({"text": "up", "mentions": [{"label": "buy"}]}, r"mentions\[0\]: label 'buy' is none of"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, row: dict[str, object], fault: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "fine"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(Fatal) as caught:
        read_rows(path)
    assert caught.value.faults[0].startswith(f"{path}: line 2: ")
    assert re.search(fault, caught.value.faults[0])


def test_half_a_character_is_named_with_file_and_line(tmp_path: Path) -> None:
    """A lone surrogate is no text in any encoding."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "up \\ud83d"}\n')
    with pytest.raises(Fatal) as caught:
        read_rows(path)
    assert caught.value.faults[0].startswith(f"{path}: line 1: ")


def test_a_recipes_faults_come_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("nmae = 'x'\n[run]\nepochs = 0\n")
    with pytest.raises(Fatal) as caught:
        load_recipe(path)
    assert len(caught.value.faults) == 2


def test_a_recipe_says_what_is_other_than_in_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text("name = 'a'\n[run]\nepochs = 5\nseed = 1\n[data.passes]\nx = 2\ny = 3\n")
    (tmp_path / "second.toml").write_text("extends = 'first.toml'\n[run]\nseed = 2\n[data.passes]\nx = 0.5\n")
    (tmp_path / "third.toml").write_text("extends = 'second.toml'\n[optimiser]\nrate = 1\n")
    found = load_recipe(tmp_path / "third.toml")
    assert (found.name, found.run.epochs, found.run.seed, found.optimiser.rate) == ("a", 5, 2, 1.0)
    assert found.data.passes == {"x": 0.5, "y": 3.0}


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("extends = 'recipe.toml'", r"recipe\.toml: extends: .*recipe\.toml extends this file in turn"),
        ("extends = 'beside/../recipe.toml'", r"recipe\.toml extends this file in turn"),
        ("extends = 'lost.toml'", r"lost\.toml: no such file; .*recipe\.toml extends it"),
        ("extends = 3", r"recipe\.toml: extends: must be the name"),
    ],
)
def test_a_recipe_that_extends_nothing_that_can_be(tmp_path: Path, says: str, told: str) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "recipe.toml").write_text(says + "\n")
    with pytest.raises(Fatal, match=told):
        load_recipe(tmp_path / "recipe.toml")


def test_the_recipes_that_come_with_the_product_are_sound() -> None:
    for path in Path("configs/train").glob("*.toml"):
        assert load_recipe(path).name.startswith("tapewatch")
