"""The parts of the training engine, each seen to do what its key in the recipe says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from exporters.network import Network, load_run
from monitor.errors import Fatal
from monitor.learning import average as averaging
from monitor.learning import bases
from monitor.learning import train as engine
from monitor.learning.average import average
from monitor.learning.building import build_network, build_optimiser, freeze, rate_factor, spec_of
from monitor.learning.epoch import collate
from monitor.learning.features import Example, MentionExample
from monitor.learning.finish import finish_run
from monitor.learning.losses import check_classes, class_weights, losses_of
from monitor.learning.recipe import Recipe, load_recipe
from monitor.learning.train import _tokenizer, train
from tests.builders import tiny_base
from tests.unit.test_learning import recipe_of, rows_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def network_of(base: Path, recipe: Recipe) -> Network:
    return build_network(base, spec_of(base, rows_of(), recipe), recipe)


def example(label: int, head: str = "company") -> Example:
    target = tuple(float(i == label) for i in range(3))
    mention = MentionExample(tokens=[1], head=head, target=target, tags=None)  # type: ignore[arg-type]
    return Example(ids=[2, 5, 3], source="s", mentions=[mention])


def test_upper_layers_and_heads_learn_faster(base: Path) -> None:
    recipe = recipe_of(base, optimiser={"rate": 1e-3, "layer_decay": 0.5, "head_rate_factor": 4.0})
    network = network_of(base, recipe)
    rates = {id(group["params"][0]): group["rate"] for group in build_optimiser(network, recipe).param_groups}
    named = {name: rates[id(parameter)] for name, parameter in network.named_parameters()}
    of = {
        part: {rate for name, rate in named.items() if part in name} for part in ("layer.1.", "layer.0.", "word_embed")
    }
    assert of == {"layer.1.": {5e-4}, "layer.0.": {2.5e-4}, "word_embed": {1.25e-4}}
    assert {rate for name, rate in named.items() if not name.startswith("encoder.")} == {4e-3}


def test_an_earlier_run_goes_on_with_its_heads(base: Path, tmp_path: Path) -> None:
    """All but the one whose labels are others now; what it was made from stays known."""
    recipe = recipe_of(base)
    train(rows_of(), recipe, tmp_path / "first")
    best = tmp_path / "first" / "best"
    others = [msgspec.structs.replace(r, topic="currencies") if r.topic == "people" else r for r in rows_of()]
    again = build_network(best, spec_of(best, others, recipe), recipe)
    assert again.spec.base_model == str(base)
    before, after = load_run(best).state_dict(), again.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name not in same and name.endswith("weight")} == {
        "topic.1.weight",
        "topic.4.weight",
    }


def test_an_earlier_run_whose_weights_do_not_fit_is_named(base: Path, tmp_path: Path) -> None:
    recipe = recipe_of(base)
    train(rows_of(), recipe, tmp_path / "first")
    best = tmp_path / "first" / "best"
    spec = json.loads((best / "network.json").read_text("utf-8"))
    (best / "network.json").write_text(json.dumps(spec | {"evidence": False}), "utf-8")
    with pytest.raises(Fatal, match=r"model\.safetensors: does not fit"):
        network_of(best, recipe)


def test_norms_and_biases_do_not_decay(base: Path) -> None:
    recipe = recipe_of(base, optimiser={"weight_decay": 0.1})
    groups = build_optimiser(network_of(base, recipe), recipe).param_groups
    assert {(group["params"][0].ndim > 1, group["weight_decay"]) for group in groups} == {(True, 0.1), (False, 0.0)}


def test_layers_open_one_an_epoch_from_the_top(base: Path) -> None:
    recipe = recipe_of(base, freeze={"policy": "gradual"})
    network = network_of(base, recipe)
    open_by_epoch = []
    for epoch in range(3):
        freeze(network, recipe, epoch)
        names = {name for name, parameter in network.encoder.named_parameters() if parameter.requires_grad}
        open_by_epoch.append({part for part in ("layer.0.", "layer.1.", "embeddings") if any(part in n for n in names)})
    assert open_by_epoch == [set(), {"layer.1."}, {"layer.0.", "layer.1.", "embeddings"}]


def test_sgd_is_the_textbook_step(base: Path) -> None:
    """The first step of momentum SGD moves a weight by rate times gradient."""
    recipe = recipe_of(base, optimiser={"kind": "sgd", "rate": 0.1, "weight_decay": 0.0, "head_rate_factor": 1.0})
    network = network_of(base, recipe)
    optimiser = build_optimiser(network, recipe)
    assert isinstance(optimiser, torch.optim.SGD)
    weight = network.mention["company"][-1].weight
    before = weight.detach().clone()
    network.mention["company"](torch.ones(1, 32)).sum().backward()
    optimiser.step()
    torch.testing.assert_close(weight.detach(), before - 0.1 * weight.grad)


@pytest.mark.parametrize(("schedule", "halfway"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_the_rate_warms_up_and_then_falls_as_scheduled(base: Path, schedule: str, halfway: float) -> None:
    recipe = recipe_of(base, optimiser={"warmup": 0.1, "schedule": schedule})
    assert [rate_factor(step, 100, recipe) for step in (0, 9)] == pytest.approx([0.1, 1.0])
    assert rate_factor(55, 100, recipe) == pytest.approx(halfway)
    assert rate_factor(100, 100, recipe) == pytest.approx(0.0 if schedule != "constant" else 1.0)


def test_rare_classes_weigh_more_and_absent_ones_nothing(base: Path) -> None:
    examples = [example(0)] + [example(2)] * 9
    weights = class_weights(examples, recipe_of(base, run={"class_weights": "sqrt_inverse"}))["mention/company"]
    assert weights[0] / weights[2] == pytest.approx(3.0)
    assert weights[1] == 0.0
    assert class_weights(examples, recipe_of(base)) == {}


def test_weights_and_smoothing_reach_the_loss(base: Path) -> None:
    """By hand: −log p of the true class, weighted; with smoothing s the target keeps 1 − 2s/3 of three."""
    batch, logits = collate([example(0)], 0), torch.tensor([[2.0, 0.0, 0.0]])
    answers = {"document": {}, "mention": {"company": logits}}
    log_p = torch.log_softmax(logits, -1)[0]
    plain = losses_of(answers, batch, [example(0)], recipe_of(base), {})["mention"]
    assert plain.item() == pytest.approx(-log_p[0].item())
    weighted = losses_of(answers, batch, [example(0)], recipe_of(base), {"mention/company": torch.tensor([2.0, 1, 1])})
    assert weighted["mention"].item() == pytest.approx(2 * plain.item())
    smooth = losses_of(answers, batch, [example(0)], recipe_of(base, run={"label_smoothing": 0.3}), {})["mention"]
    assert smooth.item() == pytest.approx(-(0.8 * log_p[0] + 0.1 * log_p[1] + 0.1 * log_p[2]).item(), rel=1e-5)


def test_an_empty_class_is_told_and_a_head_with_one_class_alone_is_refused() -> None:
    told = check_classes([example(0), example(2), example(0, "social"), example(1, "social"), example(2, "social")])
    assert told == ["mention head company (sources s): no training row is neutral; this head will never say so"]
    with pytest.raises(Fatal, match=r"mention head company \(sources s\): all 2 training rows are negative"):
        check_classes([example(0), example(0)])


def test_a_run_leaves_curves_losses_and_warnings(tmp_path: Path, base: Path) -> None:
    """The progress shows losses, and from the second epoch on what the validation split said."""
    shown: list[dict[str, float]] = []
    told: list[str] = []
    train(
        rows_of(),
        recipe_of(base),
        tmp_path / "run",
        progress=lambda _step, _steps, values: shown.append(values),
        warn=told.append,
    )
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert set(history[0]["train"]) == {"document", "mention", "topic", "events", "evidence"}
    assert "valid score" not in shown[0]
    assert shown[-1]["valid score"] == history[0]["valid"]["score"]
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(told) == 2
    assert json.loads((tmp_path / "run" / "data.json").read_text())["warnings"] == told


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_left_off_where_it_would_be_emulated(
    native: bool, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "computes_bf16", lambda _device: native)
    seen: list[bool] = []
    autocast = torch.autocast

    def spied(device: str, dtype: torch.dtype, *, enabled: bool) -> torch.autocast:
        seen.append(enabled)
        return autocast(device, dtype, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", spied)
    told: list[str] = []
    train(rows_of(), recipe_of(base, run={"bf16": True}), tmp_path / "run", steps_max=1, warn=told.append)
    assert seen == [native]
    assert any("run.bf16 is left off" in line for line in told) is not native


def test_generated_rows_train_where_the_recipe_asks_for_them(tmp_path: Path, base: Path) -> None:
    heads = {"sentfin": "company", "generated": "company"}
    recipe = recipe_of(base, run={"epochs": 1}, data={"mention_heads": heads, "augment_rows": 30})
    train(rows_of(), recipe, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["rows"] == 190
    assert facts["licences"]["generated"] == "Apache-2.0"


def test_generated_rows_that_no_head_learns_are_a_fault(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[data]\naugment_rows = 10\n")
    with pytest.raises(Fatal) as caught:
        load_recipe(tmp_path / "recipe.toml")
    assert "data.augment_rows: no head is trained by the source 'generated'" in caught.value.faults[0]


def copied(base: Path, to: Path) -> Path:
    to.mkdir()
    for file in base.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, base: Path) -> None:
    other = copied(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["vocab_size"] = 9
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(Fatal, match=r"tokenizer\.json: has \d+ tokens, but the encoder of config\.json knows 9"):
        train(rows_of(), recipe_of(other), tmp_path / "a")
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(Fatal, match=r"tokenizer\.json: not a tokenizer"):
        train(rows_of(), recipe_of(other), tmp_path / "b")
    with pytest.raises(Fatal, match=r"run\.tokens_max is 256, but .* reads at most 128"):
        train(rows_of(), recipe_of(base, run={"tokens_max": 256}), tmp_path / "c")


def test_the_packaged_encoder_and_its_tokenizer_fit_together() -> None:
    """Its tokenizer pads to 128 as it comes; ours must not."""
    base = bases.find_base("packaged:minilm")
    assert len(_tokenizer(base, recipe_of(base)).encode("up").ids) == 3


def test_an_encoder_with_another_hash_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    wrong = dataclasses.replace(bases.PACKAGED["minilm"], sha256="0" * 64)
    monkeypatch.setitem(bases.PACKAGED, "minilm", wrong)
    with pytest.raises(Fatal, match=r"model\.safetensors: sha256 53aa51172d14… is not the published 000000000000…"):
        bases.find_base("packaged:minilm")


def test_two_processes_train_one_network(tmp_path: Path, base: Path) -> None:
    """Started as `torchrun` starts them, over Gloo: one run folder, judged once an epoch, that exports as any other."""
    (tmp_path / "rows.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows_of()))
    recipe = f"base = {json.dumps(str(base))}\n[optimiser]\nrate = 1e-2\n[run]\nepochs = 2\nbatch_documents = 16\nhead_hidden = 8\nthreads = 1\n"
    (tmp_path / "recipe.toml").write_text(recipe)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "monitor.cli", "train"]  # fmt: skip
    command += ["--data", "rows.jsonl", "--recipe", "recipe.toml", "--seed", "5", "--out", "run", "--json"]
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert json.loads(done.stdout)["epochs"] == 2, "the leading process alone prints"
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in history] == [0, 1]
    assert history[1]["train"]["mention"] < history[0]["train"]["mention"]
    assert (tmp_path / "run" / "finished.json").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["run"]["seed"] == 5
    weights = load_run(tmp_path / "run" / "best").state_dict()
    assert all(np.isfinite(value.numpy()).all() for value in weights.values())


def test_a_log_gets_a_line_now_and_then_where_a_terminal_has_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    from monitor.cli import _step_progress

    with _step_progress(quiet=False) as tell:
        for step in range(1, 1_001):
            tell(step, 1_000, {"mention": 1 / step, "valid score": 0.5})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 100
    assert lines[-1] == "step 1000 of 1000: mention 0.001 valid score 0.500"


def test_the_mean_of_two_runs_is_what_the_validation_split_prefers(base: Path, tmp_path: Path) -> None:
    """Weights are the mean by parts, it is no worse than either run, and it finishes and goes on as a run of its own."""
    first, second = tmp_path / "first", tmp_path / "second"
    train(rows_of(), recipe_of(base), first)
    begun = recipe_of(base).model_copy(update={"base": str(first / "best")})
    alone = train(rows_of(), begun, second).metrics["score"]
    said: list[str] = []
    mean = average(rows_of(), [first, second], tmp_path / "mean", say=said.append)
    assert mean["score"] >= alone
    parts = json.loads((tmp_path / "mean" / "run.json").read_text("utf-8"))["average"]
    weights = {run: load_run(run / "best").state_dict() for run in (first, second, tmp_path / "mean")}
    for name, value in weights[tmp_path / "mean"].items():
        wanted = sum(parts[str(run)] * weights[run][name] for run in (first, second)) / sum(parts.values())
        torch.testing.assert_close(value, wanted)
    assert len(said) >= 3, "both alone, then together"
    assert finish_run(tmp_path / "mean", rows_of()).metrics["valid"]


def test_a_mean_is_found_although_its_first_step_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts to one are best, but one to one is worse than the better run alone."""
    goodness = {0.0: 0.8, 1.0: 0.9, 1 / 2: 0.85, 2 / 3: 0.95}

    class Held:
        def load_state_dict(self, weights: dict[str, torch.Tensor]) -> None:
            self.value = round(float(weights["w"]), 6)

    def judged(network: Held, _examples: object, *, bf16: bool) -> dict[str, float]:
        return {"score": next((good for value, good in goodness.items() if abs(value - network.value) < 1e-5), 0.1)}

    monkeypatch.setattr(averaging, "validate", judged)
    weights = {Path("a"): {"w": torch.tensor(0.0)}, Path("b"): {"w": torch.tensor(1.0)}}
    parts, metrics = averaging._choose(weights, Held(), [], Recipe(), lambda _text: None)  # type: ignore[arg-type]
    assert (dict(parts), metrics) == ({Path("a"): 1, Path("b"): 2}, {"score": 0.95})


def test_runs_that_cannot_be_averaged_are_named(base: Path, tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    train(rows_of(), recipe_of(base), first)
    train(rows_of(), recipe_of(base, run={"head_hidden": 4}), other)
    with pytest.raises(Fatal, match=r"first: has other heads or another encoder or tokenizer than .*other"):
        average(rows_of(), [first, other], tmp_path / "mean", say=print)
    with pytest.raises(Fatal, match="two different runs"):
        average(rows_of(), [first, first], tmp_path / "mean", say=print)
    with pytest.raises(Fatal, match=r"nowhere: not the folder of a finished training run"):
        average(rows_of(), [first, tmp_path / "nowhere"], tmp_path / "mean", say=print)
    with pytest.raises(Fatal, match=r"first: is not empty"):
        average(rows_of(), [other, first], first, say=print)
