"""The mean of the weights of several runs of one descent.

Runs of which one began from the other's weights lie in one basin, and a mean between them is often better than each, most
of all on texts like none that they learnt from (model soups: Wortsman et al. 2022, ICML; between a fine-tuned network and
the one that it began from: Wortsman et al. 2022, CVPR). How often each takes part is chosen greedily, with replacement, on
the validation split, once from the best run on and once from all of them together, where a lucky single run misleads less
(ensemble selection and its start from several: Caruana et al. 2004).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from exporters.network import Network, save_run
from monitor.errors import Fatal
from monitor.learning.epoch import teaches
from monitor.learning.features import Example, make_examples
from monitor.learning.finish import best_of, identity_of, rows_of_run
from monitor.learning.recipe import Recipe
from monitor.learning.rows import LabelledRow, splits_of
from monitor.learning.train import BEST, RUN_FILE, computes_bf16
from monitor.learning.validate import validate

PARTS_MAX = 8


def average(
    rows: Sequence[LabelledRow], runs: Sequence[Path], out: Path, *, say: Callable[[str], None]
) -> dict[str, float]:
    """Leave in `out` a run like the last of `runs`, with the mean of their best networks instead of its own; returns what
    the validation split says of it.

    `rows`: those that the last was trained on; its recipe says by which metric a mean is better. The others must have split
    their rows as it did, or rows that they were trained on come to judge. Raises Fatal when a folder
    is no finished run, when networks differ in more than weights, or when `out` is not empty.
    """
    if len(set(runs)) < 2:
        raise Fatal("an average needs two different runs or more")
    if out.exists() and any(out.iterdir()):
        raise Fatal(f"{out}: is not empty; name another folder")
    networks = {run: best_of(run) for run in runs}
    last, network = runs[-1], best_of(runs[-1])  # one of its own, to hold means
    for run, other in networks.items():
        if other.spec != network.spec or _tokenizer(run).read_bytes() != _tokenizer(last).read_bytes():
            raise Fatal(
                f"{run}: has other heads or another encoder or tokenizer than {last}; runs of one descent can be averaged"
            )
    identity = identity_of(last)
    recipe = Recipe.model_validate(identity["recipe"])
    examples = _validation(rows_of_run(last, rows), recipe, network, Tokenizer.from_file(str(_tokenizer(last))))
    weights = {run: each.state_dict() for run, each in networks.items()}
    parts, metrics = _choose(weights, network, examples, recipe, say)
    network.load_state_dict(_mean(weights, parts))
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "data.json"):
        shutil.copyfile(last / name, out / name)
    save_run(out / BEST, network, out / "tokenizer.json")
    told = identity | {"average": {str(run): parts[run] for run in runs}}
    (out / RUN_FILE).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")
    return metrics


def _choose(
    weights: Mapping[Path, Mapping[str, Tensor]],
    network: Network,
    examples: Sequence[Example],
    recipe: Recipe,
    say: Callable[[str], None],
) -> tuple[Counter[Path], dict[str, float]]:
    """How often each run takes part, and what the validation split says of their mean."""
    bf16, metric = recipe.run.bf16 and computes_bf16(torch.device("cpu")), recipe.stop.metric
    known: dict[frozenset[tuple[Path, float]], dict[str, float]] = {}

    def judge(parts: Counter[Path]) -> dict[str, float]:
        same = frozenset((run, count / parts.total()) for run, count in parts.items())
        if same not in known:
            network.load_state_dict(_mean(weights, parts))
            metrics = validate(network, examples, bf16=bf16)
            if metric not in metrics:
                raise Fatal(f"the rows of the validation split say nothing of {metric}, the recipe's stop.metric")
            say(f"{' + '.join(f'{count} {each}' for each, count in parts.items())}: {metric} {metrics[metric]:.4f}")
            known[same] = metrics
        return known[same]

    def best(candidates: Sequence[Counter[Path]]) -> Counter[Path]:
        return max(candidates, key=lambda parts: judge(parts)[metric])

    def grown(parts: Counter[Path]) -> Counter[Path]:
        while parts.total() < PARTS_MAX:
            more = best([parts + Counter([run]) for run in weights])
            if judge(more)[metric] <= judge(parts)[metric]:
                break
            parts = more
        return parts

    alone = best([Counter([run]) for run in weights])
    chosen = best([grown(alone), grown(Counter(weights.keys()))])
    return chosen, judge(chosen)


def _mean(weights: Mapping[Path, Mapping[str, Tensor]], parts: Counter[Path]) -> dict[str, Tensor]:
    total = parts.total()
    chosen = [(weights[run], count / total) for run, count in parts.items()]
    first = chosen[0][0]
    return {
        name: sum((own[name] * share for own, share in chosen), torch.zeros(())) if value.is_floating_point() else value
        for name, value in first.items()
    }


def _validation(rows: Sequence[LabelledRow], recipe: Recipe, network: Network, tokenizer: Tokenizer) -> list[Example]:
    sides = splits_of(rows, valid_percent=recipe.data.valid_percent, test_percent=recipe.data.test_percent)
    valid = [row for row, side in zip(rows, sides, strict=True) if side == "valid"]
    spec = network.spec
    examples = make_examples(valid, tokenizer, recipe, topics=spec.topics, events=spec.events)
    return [example for example in examples if teaches(example, recipe)]


def _tokenizer(run: Path) -> Path:
    return run / BEST / "tokenizer.json"
