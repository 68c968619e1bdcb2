"""Fine-tune one encoder for all tasks at once. A run can be interrupted at any step and goes on bit for bit as it was.

Multi-task with masked losses: each row trains the heads that it has labels for. The order of batches follows from the
seed and the epoch alone, and a checkpoint keeps weights, optimiser, schedule and random state. Several processes can train
one network together (`workers`).
"""

from __future__ import annotations

import json
import math
import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from exporters.network import Network, save_run
from monitor.errors import Fatal
from monitor.learning.augment import augmented_rows
from monitor.learning.bases import encoder_config, find_base
from monitor.learning.building import build_network, build_optimiser, freeze, rate_factor, spec_of
from monitor.learning.curves import draw_curves
from monitor.learning.epoch import JOINERS, batches_of, collate, epoch_examples, teaches
from monitor.learning.features import Example, make_examples
from monitor.learning.losses import check_classes, class_weights, losses_of
from monitor.learning.recipe import Recipe
from monitor.learning.rows import LabelledRow, fingerprint, licences, splits_of
from monitor.learning.validate import ask, validate
from monitor.learning.workers import Workers

RUN_FILE, CHECKPOINT, BEST, HISTORY = "run.json", "checkpoint.pt", "best", "history.jsonl"
Progress = Callable[[int, int, dict[str, float]], None]
_ROWS_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Where the best network lies, and how good it is on the validation split."""

    folder: Path
    metrics: dict[str, float]
    epochs: int


def train(
    rows: Sequence[LabelledRow],
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress = lambda _step, _steps, _values: None,
    warn: Callable[[str], None] = lambda _text: None,
    steps_max: int | None = None,
    workers: Workers | None = None,
) -> Trained:
    """Train and leave everything in `out`.

    `progress`: step, steps, the step's losses and the last figures of the validation split. `steps_max` ends early with a
    checkpoint, as an interruption would. Raises Fatal if `out` holds another run, when the loss is not a number, or when
    the memory doesn't suffice.
    """
    workers = workers or Workers()
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    rows = allowed(rows, recipe)
    if workers.leads:
        _claim(out, recipe, fingerprint(rows), resume=resume)
    _seed(recipe.run.seed)
    rows = [*rows, *augmented_rows(recipe.data.augment_rows, seed=recipe.run.seed)]
    trainer = _Trainer(rows, recipe, out, workers, warn)
    return trainer.run(progress, steps_max)


def allowed(rows: Sequence[LabelledRow], recipe: Recipe) -> list[LabelledRow]:
    """The rows that the recipe lets train. Raises Fatal when there are none."""
    kept = [row for row in rows if not recipe.data.licences or row.license in recipe.data.licences]
    if recipe.data.rows_max_per_source:
        seen: dict[str, int] = {}
        few = []
        for row in sorted(kept, key=lambda row: sha256(row.text.encode()).digest()):
            seen[row.source] = seen.get(row.source, 0) + 1
            if seen[row.source] <= recipe.data.rows_max_per_source:
                few.append(row)
        kept = few
    if not kept:
        raise Fatal(f"no row has a licence among {', '.join(recipe.data.licences)}")
    return kept


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is arithmetic of the device's own. Emulated on a processor without AVX-512 it takes longer than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu" and platform.machine() in {"x86_64", "AMD64"}:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return True


def merged(network: Network) -> Network:
    """The network with its adapters merged into the encoder; itself, where there are none."""
    if not hasattr(network.encoder, "merge_and_unload"):
        return network
    import copy

    twin = copy.deepcopy(network)
    twin.encoder = twin.encoder.merge_and_unload()
    return twin


class _Trainer:
    """State of one run; `run` is the story."""

    def __init__(
        self,
        rows: Sequence[LabelledRow],
        recipe: Recipe,
        out: Path,
        workers: Workers | None = None,
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.recipe, self.out, self.workers = recipe, out, workers or Workers()
        self.device = self.workers.device()
        self.bf16 = recipe.run.bf16 and computes_bf16(self.device)
        base = find_base(recipe.base)
        self.tokenizer = _tokenizer(base, recipe)
        split = splits_of(rows, valid_percent=recipe.data.valid_percent, test_percent=recipe.data.test_percent)
        spec = spec_of(base, rows, recipe)
        self.train_set, self.valid_set = (
            make_examples(
                [row for row, s in zip(rows, split, strict=True) if s == part],
                self.tokenizer,
                recipe,
                topics=spec.topics,
                events=spec.events,
            )
            for part in ("train", "valid")
        )
        self.valid_set = [example for example in self.valid_set if teaches(example, recipe)]
        if not self.train_set or not self.valid_set:
            raise Fatal("too few rows: both the training and the validation split need some; give more data")
        if not any(teaches(example, recipe) for example in self.train_set):
            raise Fatal("no row has a label for a task of the recipe: see its tasks, document_heads and mention_heads")
        told = check_classes(self.train_set)
        if recipe.run.bf16 and not self.bf16:
            told.append(
                "run.bf16 is left off: this processor has no bf16 arithmetic, and emulated it is slower than fp32"
            )
        self.network = build_network(base, spec, recipe).to(self.device)
        self.optimiser = build_optimiser(self.network, recipe)
        self.joiners = [self.tokenizer.encode(text, add_special_tokens=False).ids for text in JOINERS]
        self.steps_per_epoch = math.ceil(len(self._epoch(0)) / recipe.run.batch_documents)
        self.step = 0
        self.best_score, self.best_epoch = -math.inf, -1
        self.history: list[dict[str, Any]] = []
        self.losses: dict[str, list[float]] = {}  # of this epoch so far: task → [sum, steps]
        self.weights = class_weights(self.train_set, recipe)
        if self.workers.leads:
            (out / "tokenizer.json").write_text(self.tokenizer.to_str(), "utf-8")
            facts = {"licences": licences(rows), "rows": len(rows), "warnings": told}
            (out / "data.json").write_text(json.dumps(facts, indent=1), "utf-8")
            for text in told:
                warn(text)
        self._restore()

    def run(self, progress: Progress, steps_max: int | None) -> Trained:
        run = self.recipe.run
        total = run.epochs * self.steps_per_epoch
        for epoch in range(self.step // self.steps_per_epoch, run.epochs):
            freeze(self.network, self.recipe, epoch)
            examples = self._epoch(epoch)
            batches = batches_of(
                examples, batch_documents=run.batch_documents, rng=random.Random(f"{run.seed}/{epoch}")
            )
            for batch in batches[self.step - epoch * self.steps_per_epoch :]:
                losses = self._learn([examples[i] for i in batch], total)
                self.step += 1
                progress(self.step, total, losses | self._last())
                if self.step % run.checkpoint_every_steps == 0 or self.step == steps_max:
                    self._checkpoint()
                if self.step == steps_max:
                    return Trained(folder=self.out / BEST, metrics={}, epochs=epoch)
            if self.workers.agree(self.workers.leads and self._judge(epoch), self.device):
                break
            self._checkpoint()
        if not self.workers.leads:
            return Trained(folder=self.out / BEST, metrics={}, epochs=run.epochs)
        draw_curves(self.history, self.out / "curves.png")
        (self.out / CHECKPOINT).unlink(missing_ok=True)
        best = next(h for h in self.history if h["epoch"] == self.best_epoch)
        return Trained(folder=self.out / BEST, metrics=best["valid"], epochs=len(self.history))

    def _epoch(self, epoch: int) -> list[Example]:
        return epoch_examples(self.train_set, self.recipe, self.joiners, epoch)

    def _learn(self, examples: list[Example], total: int) -> dict[str, float]:
        self.network.train()
        self.workers.seed_step(self.recipe.run.seed, self.step)
        rate = rate_factor(self.step, total, self.recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * rate
        own = list(self.workers.share(examples))
        try:
            losses = self._backward(own) if own else {}
        except (MemoryError, RuntimeError) as err:
            if not _is_memory(err):
                raise
            longest = max(len(example.ids) for example in own)
            raise Fatal(
                f"step {self.step}: out of memory at {len(own)} texts of up to {longest} tokens; lower run.batch_documents "
                "or run.tokens_max; the last checkpoint is kept"
            ) from err
        self.workers.average_gradients(self.network)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        for name, value in losses.items():
            so_far = self.losses.setdefault(name, [0.0, 0])
            so_far[0], so_far[1] = so_far[0] + value, so_far[1] + 1
        return losses

    def _backward(self, examples: list[Example]) -> dict[str, float]:
        batch = collate(examples, self.network.spec.pad_id)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            answers = ask(self.network, batch)
        losses = losses_of(answers, batch, examples, self.recipe, self.weights)
        loss: Tensor = sum(losses.values(), torch.zeros((), device=self.device))
        if not torch.isfinite(loss):
            odd = [name for name, value in losses.items() if not torch.isfinite(value)]
            named = ", ".join(repr(example.name) for example in examples[:_ROWS_NAMED])
            raise Fatal(
                f"step {self.step}: the loss of {', '.join(odd)} is {loss.item()}; lower optimiser.rate or clip_norm; "
                f"the last checkpoint is kept. The batch has {len(examples)} rows: {named} …"
            )
        if loss.requires_grad:
            loss.backward()
        return {name: float(value.detach()) for name, value in losses.items()}

    def _judge(self, epoch: int) -> bool:
        """Evaluate, keep the best, say whether to stop."""
        metrics = validate(self.network, self.valid_set, bf16=self.bf16)
        means = {name: round(total / count, 5) for name, (total, count) in self.losses.items()}
        self.losses = {}
        self.history.append({"epoch": epoch, "step": self.step, "train": means, "valid": metrics})
        with (self.out / HISTORY).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.history[-1], sort_keys=True) + "\n")
        score = metrics.get(self.recipe.stop.metric, -math.inf)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch
            save_run(self.out / BEST, merged(self.network), self.out / "tokenizer.json")
        return epoch - self.best_epoch >= self.recipe.stop.patience

    def _last(self) -> dict[str, float]:
        """The metric that decides, as it was last judged."""
        metric = self.recipe.stop.metric
        last = self.history[-1]["valid"] if self.history else {}
        return {f"valid {metric}": last[metric]} if metric in last else {}

    def _checkpoint(self) -> None:
        if not self.workers.leads:
            return
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "losses": self.losses,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        half = self.out / f"{CHECKPOINT}.half"
        torch.save(state, half)
        half.replace(self.out / CHECKPOINT)

    def _restore(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")  # no code is run from a checkpoint
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.history, self.losses = state["step"], state["history"], state.get("losses", {})
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        torch.set_rng_state(state["random"])
        if state.get("random_cuda"):
            torch.cuda.set_rng_state_all(state["random_cuda"])


def _claim(out: Path, recipe: Recipe, data: str, *, resume: bool) -> None:
    """A run never overwrites another; an interrupted one goes on only with the same recipe and data."""
    path = out / RUN_FILE
    if path.exists():
        if not resume:
            raise Fatal(f"{out}: holds a run already; name another folder, or go on with --resume")
        before = json.loads(path.read_text("utf-8"))
        if before["data"] != data or Recipe.model_validate(before["recipe"]) != recipe:
            raise Fatal(f"{path}: recipe or data are not those of the interrupted run; name another folder")
        return
    if out.exists() and any(out.iterdir()):
        raise Fatal(f"{out}: is not empty; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    identity = {"recipe": json.loads(recipe.model_dump_json()), "data": data}
    path.write_text(json.dumps(identity, indent=1, sort_keys=True) + "\n", "utf-8")


def _tokenizer(base: Path, recipe: Recipe) -> Tokenizer:
    """Raises Fatal when it is not the one that the encoder was made with, as far as can be told."""
    path, config = base / "tokenizer.json", encoder_config(base)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as err:
        raise Fatal(f"{path}: not a tokenizer: {str(err)[:200]}") from err
    tokens, known = tokenizer.get_vocab_size(), int(config.get("vocab_size", 0))
    if known and not known - _PADDED_VOCABULARY <= tokens <= known:
        raise Fatal(
            f"{path}: has {tokens} tokens, but the encoder of config.json knows {known}; it belongs to another model"
        )
    tokenizer.no_padding()  # packaged tokenizers may pad as they come
    if len(tokenizer.encode("").ids) != 2:
        raise Fatal(f"{path}: must add one token before and one after a text, as encoders of the BERT family do")
    reads = int(config.get("max_position_embeddings", recipe.run.tokens_max))
    if recipe.run.tokens_max > reads:
        raise Fatal(f"run.tokens_max is {recipe.run.tokens_max}, but {base} reads at most {reads} tokens")
    tokenizer.enable_truncation(recipe.run.tokens_max)
    return tokenizer


_PADDED_VOCABULARY = 1_024  # embeddings are often rounded up to a multiple of a power of two


def _is_memory(err: Exception) -> bool:
    said = str(err).lower()
    return isinstance(err, MemoryError | torch.OutOfMemoryError) or "out of memory" in said or "can't allocate" in said


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
