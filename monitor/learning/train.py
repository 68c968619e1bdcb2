"""Fine-tune one encoder for all tasks at once. A run can be interrupted at any step and goes on bit for bit as it was.

Multi-task with masked losses: each row trains the heads that it has labels for. The order of batches follows from the
seed and the epoch alone, and a checkpoint keeps weights, optimiser, schedule and random state.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from exporters.network import Network, NetworkSpec, save_run
from monitor.errors import Fatal
from monitor.learning.bases import encoder_config, find_base
from monitor.learning.features import Example, join, make_examples
from monitor.learning.metrics import classification, multilabel, tag_f1
from monitor.learning.recipe import Recipe, head_for, named_for
from monitor.learning.rows import LabelledRow, fingerprint, licences, splits_of

RUN_FILE, CHECKPOINT, BEST, HISTORY = "run.json", "checkpoint.pt", "best", "history.jsonl"
JOINERS = (";", ",", "while", "as", "but", "and", "|", ".", "-", "; meanwhile", ", whereas", "even as")
Progress = Callable[[int, int, dict[str, float]], None]


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
    steps_max: int | None = None,
) -> Trained:
    """Train and leave everything in `out`. Raises Fatal if `out` holds another run, or when the loss is not a number.

    `steps_max` ends early with a checkpoint, as an interruption would.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    rows = _allowed(rows, recipe)
    identity = {"recipe": json.loads(recipe.model_dump_json()), "data": fingerprint(rows)}
    _claim(out, identity, resume=resume)
    _seed(recipe.run.seed)
    trainer = _Trainer(rows, recipe, out)
    return trainer.run(progress, steps_max)


def batches_of(examples: Sequence[Example], *, batch_documents: int, rng: random.Random) -> list[list[int]]:
    """Shuffled, but texts of like length together: pools of 32 batches are sorted by length, then cut, then mixed."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    pool = 32 * batch_documents
    batches = []
    for start in range(0, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lambda i: len(examples[i].ids))
        batches += [chunk[i : i + batch_documents] for i in range(0, len(chunk), batch_documents)]
    rng.shuffle(batches)
    return batches


def visited(examples: Sequence[Example], passes: dict[str, float], rng: random.Random) -> list[int]:
    """Which examples an epoch visits, by the passes of their sources; the count doesn't depend on `rng`."""
    by_source: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        by_source.setdefault(example.source, []).append(index)
    chosen: list[int] = []
    for source, indices in sorted(by_source.items()):
        wanted = named_for(passes, source)
        count = round(len(indices) * (1.0 if wanted is None else wanted))
        chosen += indices * (count // len(indices))
        chosen += rng.sample(indices, count % len(indices))
    return chosen


def joined_pairs(
    examples: Sequence[Example],
    head: str,
    count: int,
    joiners: Sequence[Sequence[int]],
    *,
    tokens_max: int,
    rng: random.Random,
) -> list[Example]:
    """`count` pairs of examples of one mention head in one breath; three in four have companies with different fates."""
    able = [e for e in examples if any(m.head == head for m in e.mentions) and len(e.ids) <= tokens_max // 2 - 4]
    by_fate: dict[int, list[Example]] = {}
    for example in able:
        fate = next(m.target for m in example.mentions if m.head == head)
        by_fate.setdefault(max(range(3), key=(fate or (0, 1, 0)).__getitem__), []).append(example)
    if len(able) < 2:
        return []
    pairs = []
    for _ in range(count):
        first = second = rng.choice(able)
        if len(by_fate) > 1 and rng.random() < 0.75:
            one, other = rng.sample(sorted(by_fate), 2)
            first, second = rng.choice(by_fate[one]), rng.choice(by_fate[other])
        while second is first:
            second = rng.choice(able)
        pairs.append(join(first, second, rng.choice(joiners)))
    return pairs


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, Any]:
    """Tensors of one batch, padded to a multiple of 8 tokens."""
    width = 8 * math.ceil(max(len(e.ids) for e in examples) / 8)
    ids = np.full((len(examples), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(examples), width), dtype=np.int64)
    mentions = [(i, m) for i, e in enumerate(examples) for m in e.mentions]
    spans = np.zeros((max(1, len(mentions)), width), dtype=np.float32)
    tags = np.full((max(1, len(mentions)), width), -100, dtype=np.int64)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        mask[row, : len(example.ids)] = 1
    for row, (_, mention) in enumerate(mentions):
        spans[row, mention.tokens] = 1.0
        if mention.tags is not None:
            tags[row, : len(mention.tags)] = mention.tags
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "mention_document": torch.tensor([i for i, _ in mentions] or [0], dtype=torch.int64),
        "mention_mask": torch.from_numpy(spans),
        "tags": torch.from_numpy(tags),
        "mentions": [mention for _, mention in mentions],
    }


class _Trainer:
    """State of one run; `run` is the story."""

    def __init__(self, rows: Sequence[LabelledRow], recipe: Recipe, out: Path) -> None:
        self.recipe, self.out = recipe, out
        base = find_base(recipe.base)
        self.tokenizer = _tokenizer(base, recipe)
        split = splits_of(rows, valid_percent=recipe.data.valid_percent, test_percent=recipe.data.test_percent)
        spec = _spec(base, rows, recipe)
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
        if not self.train_set or not self.valid_set:
            raise Fatal("too few rows: both the training and the validation split need some; give more data")
        self.network = _network(base, spec, recipe)
        self.optimiser = _optimiser(self.network, recipe)
        self.joiners = [self.tokenizer.encode(text, add_special_tokens=False).ids for text in JOINERS]
        self.steps_per_epoch = math.ceil(len(self._epoch(0)) / recipe.run.batch_documents)
        self.step = 0
        self.best_score, self.best_epoch = -math.inf, -1
        self.history: list[dict[str, Any]] = []
        (out / "tokenizer.json").write_text(self.tokenizer.to_str(), "utf-8")
        (out / "data.json").write_text(json.dumps({"licences": licences(rows), "rows": len(rows)}, indent=1), "utf-8")
        self.weights = _class_weights(self.train_set, recipe)
        self._restore()

    def run(self, progress: Progress, steps_max: int | None) -> Trained:
        run = self.recipe.run
        total = run.epochs * self.steps_per_epoch
        for epoch in range(self.step // self.steps_per_epoch, run.epochs):
            _freeze(self.network, self.recipe, epoch)
            examples = self._epoch(epoch)
            batches = batches_of(
                examples, batch_documents=run.batch_documents, rng=random.Random(f"{run.seed}/{epoch}")
            )
            for batch in batches[self.step - epoch * self.steps_per_epoch :]:
                losses = self._learn([examples[i] for i in batch], total)
                self.step += 1
                progress(self.step, total, losses)
                if self.step % run.checkpoint_every_steps == 0 or self.step == steps_max:
                    self._checkpoint()
                if self.step == steps_max:
                    return Trained(folder=self.out / BEST, metrics={}, epochs=epoch)
            if self._judge(epoch):
                break
            self._checkpoint()
        self._plot()
        (self.out / CHECKPOINT).unlink(missing_ok=True)
        best = next(h for h in self.history if h["epoch"] == self.best_epoch)
        return Trained(folder=self.out / BEST, metrics=best["valid"], epochs=len(self.history))

    def _epoch(self, epoch: int) -> list[Example]:
        """What one epoch learns from, in no order: the same for the same seed and epoch."""
        data, run = self.recipe.data, self.recipe.run
        rng = random.Random(f"{run.seed}/{epoch}/rows")
        chosen = [self.train_set[i] for i in visited(self.train_set, data.passes, rng)]
        served = sum(
            1.0 if (passes := named_for(data.passes, e.source)) is None else passes
            for e in self.train_set
            if any(m.head == data.serve_mention for m in e.mentions)
        )
        count = round(data.joined_share * served)
        return chosen + joined_pairs(
            self.train_set, data.serve_mention, count, self.joiners, tokens_max=run.tokens_max, rng=rng
        )

    def _learn(self, examples: list[Example], total: int) -> dict[str, float]:
        self.network.train()
        rate = _schedule(self.step, total, self.recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * rate
        batch = collate(examples, self.network.spec.pad_id)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.run.bf16):
            answers = _ask(self.network, batch)
        losses = _losses(answers, batch, examples, self.recipe, self.weights)
        loss: Tensor = sum(losses.values(), torch.zeros(()))
        if not torch.isfinite(loss):
            raise Fatal(
                f"step {self.step}: the loss is {loss.item()}; lower optimiser.rate or clip_norm; the last checkpoint is kept"
            )
        if loss.requires_grad:
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip_norm)
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return {name: float(value.detach()) for name, value in losses.items()}

    def _judge(self, epoch: int) -> bool:
        """Evaluate, keep the best, say whether to stop."""
        metrics = validate(self.network, self.valid_set, bf16=self.recipe.run.bf16)
        self.history.append({"epoch": epoch, "step": self.step, "valid": metrics})
        with (self.out / HISTORY).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.history[-1], sort_keys=True) + "\n")
        score = metrics.get(self.recipe.stop.metric, -math.inf)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch
            save_run(self.out / BEST, merged(self.network), self.out / "tokenizer.json")
        return epoch - self.best_epoch >= self.recipe.stop.patience

    def _checkpoint(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "random": torch.get_rng_state(),
        }
        half = self.out / f"{CHECKPOINT}.half"
        torch.save(state, half)
        half.replace(self.out / CHECKPOINT)

    def _restore(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)  # no code is run from a checkpoint
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.history = state["step"], state["history"]
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        torch.set_rng_state(state["random"])

    def _plot(self) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel="validation")
        names = sorted({name for h in self.history for name in h["valid"]})
        for name in names:
            axes.plot(
                [h["epoch"] + 1 for h in self.history], [h["valid"].get(name) for h in self.history], "o-", label=name
            )
        axes.legend(fontsize=7)
        figure.savefig(self.out / "curves.png", dpi=110)


@torch.no_grad()
def validate(network: Network, examples: Sequence[Example], *, bf16: bool = False) -> dict[str, float]:
    """Figures on a split, from the serving heads. `score` is the mean of those that there are."""
    gathered = predict(network, examples, bf16=bf16)
    metrics: dict[str, float] = {}
    for task in ("document", "mention"):
        if gathered[task]:
            probabilities, truth = map(np.array, zip(*gathered[task], strict=True))
            result = classification(truth, probabilities)
            metrics |= {f"{task}_accuracy": result["accuracy"], f"{task}_macro_f1": result["macro_f1"]}
    if gathered["topic"]:
        logits, truth = map(np.array, zip(*gathered["topic"], strict=True))
        metrics["topic_accuracy"] = float((logits.argmax(-1) == truth).mean())
    if gathered["events"]:
        probabilities, truth = map(np.array, zip(*gathered["events"], strict=True))
        metrics["events_micro_f1"] = multilabel(truth, probabilities >= 0.5)["micro_f1"]
    if gathered["evidence"]:
        metrics["evidence_token_f1"] = tag_f1([(np.array(t), np.array(p).argmax(-1)) for p, t in gathered["evidence"]])
    chosen = [v for k, v in metrics.items() if k.endswith(("macro_f1", "topic_accuracy", "micro_f1", "token_f1"))]
    metrics["score"] = float(np.mean(chosen)) if chosen else -math.inf
    return {name: round(value, 5) for name, value in metrics.items()}


@torch.no_grad()
def predict(network: Network, examples: Sequence[Example], *, bf16: bool = False) -> dict[str, list[Any]]:
    """(prediction, truth) pairs by task; only rows of the serving conventions count for `document` and `mention`."""
    network.eval()
    spec = network.spec
    gathered: dict[str, list[Any]] = {
        name: [] for name in ("document", "mention", "topic", "events", "evidence", "polarity")
    }
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    for start in range(0, len(order), 64):
        chosen = [examples[i] for i in order[start : start + 64]]
        batch = collate(chosen, spec.pad_id)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            answers = _ask(network, batch)
        for row, example in enumerate(chosen):
            if example.document is not None and example.document_head == spec.serve_document:
                logits = answers["document"][spec.serve_document][row].float()
                gathered["document"].append((logits.softmax(-1).numpy(), int(np.argmax(example.document))))
            if example.topic is not None and "topic" in answers:
                gathered["topic"].append((answers["topic"][row].float().numpy(), example.topic))
            if example.events is not None and "events" in answers:
                gathered["events"].append((answers["events"][row].float().sigmoid().numpy(), example.events))
        for row, mention in enumerate(batch["mentions"]):
            if mention.target is not None and mention.head == spec.serve_mention:
                p = answers["mention"][spec.serve_mention][row].float().softmax(-1).numpy()
                if max(mention.target) == 1.0:
                    gathered["mention"].append((p, int(np.argmax(mention.target))))
                else:
                    gathered["polarity"].append((float(p[2] - p[0]), mention.target[2] - mention.target[0]))
            if mention.tags is not None and "evidence" in answers:
                tags = np.array(mention.tags)
                p = answers["evidence"][row].float().softmax(-1).numpy()[: len(tags)]
                gathered["evidence"].append((p[tags >= 0], tags[tags >= 0]))
    return gathered


def merged(network: Network) -> Network:
    """The network with its adapters merged into the encoder; itself, where there are none."""
    if not hasattr(network.encoder, "merge_and_unload"):
        return network
    import copy

    twin = copy.deepcopy(network)
    twin.encoder = twin.encoder.merge_and_unload()
    return twin


def _ask(network: Network, batch: dict[str, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = network(
        batch["input_ids"], batch["attention_mask"], batch["mention_document"], batch["mention_mask"]
    )
    return answers


def _losses(
    answers: dict[str, Any], batch: dict[str, Any], examples: list[Example], recipe: Recipe, weights: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Mean loss of each task over the rows that have labels for it, times the task's weight."""
    tasks = recipe.tasks
    losses: dict[str, Tensor] = {}

    def three_way(task: str, weight: float, logits: dict[str, Tensor], wanted: list[tuple[int, str, Any]]) -> None:
        parts = []
        for name, answer in logits.items():
            rows = [(row, target) for row, head, target in wanted if head == name]
            if rows:
                index = torch.tensor([row for row, _ in rows])
                target = torch.tensor([t for _, t in rows], dtype=torch.float32)
                parts.append(
                    nn.functional.cross_entropy(
                        answer[index].float(),
                        target,
                        weight=weights.get(f"{task}/{name}"),
                        label_smoothing=recipe.run.label_smoothing,
                        reduction="sum",
                    )
                )
        if parts and weight:
            losses[task] = weight * torch.stack(parts).sum() / len(wanted)

    documents = [(i, e.document_head, e.document) for i, e in enumerate(examples) if e.document_head]
    three_way("document", tasks.document, answers["document"], documents)
    mentions = [(i, m.head, m.target) for i, m in enumerate(batch["mentions"]) if m.head]
    three_way("mention", tasks.mention, answers["mention"], mentions)
    topics = [(i, e.topic) for i, e in enumerate(examples) if e.topic is not None]
    if topics and "topic" in answers and tasks.topic:
        index, wanted = (torch.tensor(column) for column in zip(*topics, strict=True))
        losses["topic"] = tasks.topic * nn.functional.cross_entropy(answers["topic"][index].float(), wanted)
    events = [(i, e.events) for i, e in enumerate(examples) if e.events is not None]
    if events and "events" in answers and tasks.events:
        index = torch.tensor([i for i, _ in events])
        wanted = torch.tensor([e for _, e in events], dtype=torch.float32)
        losses["events"] = tasks.events * nn.functional.binary_cross_entropy_with_logits(
            answers["events"][index].float(), wanted, pos_weight=torch.full((wanted.shape[1],), 3.0)
        )
    if "evidence" in answers and tasks.evidence and bool((batch["tags"] >= 0).any()):
        losses["evidence"] = tasks.evidence * nn.functional.cross_entropy(
            answers["evidence"].float().flatten(0, 1), batch["tags"].flatten(), ignore_index=-100
        )
    return losses


def _class_weights(examples: Sequence[Example], recipe: Recipe) -> dict[str, Tensor]:
    """1 / sqrt(share) per class and head, mean 1; rare classes are heard without drowning the others."""
    if recipe.run.class_weights == "none":
        return {}
    sums: dict[str, np.ndarray] = {}
    for example in examples:
        if example.document_head:
            sums.setdefault(f"document/{example.document_head}", np.zeros(3))[:] += example.document
        for mention in example.mentions:
            if mention.head:
                sums.setdefault(f"mention/{mention.head}", np.zeros(3))[:] += mention.target
    found = {}
    for name, total in sums.items():
        weights = 1.0 / np.sqrt(np.maximum(total, 1.0) / max(1.0, total.sum()))
        weights[total == 0] = 0.0
        found[name] = torch.tensor(weights / weights[weights > 0].mean(), dtype=torch.float32)
    return found


def _allowed(rows: Sequence[LabelledRow], recipe: Recipe) -> list[LabelledRow]:
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


def _claim(out: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """A run never overwrites another; an interrupted one goes on only with the same recipe and data."""
    path = out / RUN_FILE
    text = json.dumps(identity, indent=1, sort_keys=True) + "\n"
    if path.exists():
        if not resume:
            raise Fatal(f"{out}: holds a run already; name another folder, or go on with --resume")
        if path.read_text("utf-8") != text:
            raise Fatal(f"{path}: recipe or data are not those of the interrupted run; name another folder")
        return
    if out.exists() and any(out.iterdir()):
        raise Fatal(f"{out}: is not empty; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _tokenizer(base: Path, recipe: Recipe) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(recipe.run.tokens_max)
    return tokenizer


def _spec(base: Path, rows: Sequence[LabelledRow], recipe: Recipe) -> NetworkSpec:
    config = encoder_config(base)
    heads = recipe.data

    def used(names: dict[str, str], weight: float, has: Callable[[LabelledRow], bool]) -> tuple[str, ...]:
        return tuple(sorted({h for r in rows if has(r) and (h := head_for(names, r.source))})) if weight else ()

    documents = used(
        heads.document_heads, recipe.tasks.document, lambda r: r.label is not None or r.probabilities is not None
    )
    mentions = used(
        heads.mention_heads,
        recipe.tasks.mention,
        lambda r: any(m.label or m.score is not None or m.probabilities for m in r.mentions),
    )
    topics = tuple(sorted({r.topic for r in rows if r.topic})) if recipe.tasks.topic else ()
    events = tuple(sorted({e for r in rows for e in r.events or ()})) if recipe.tasks.events else ()
    evidence = bool(recipe.tasks.evidence) and any(m.evidence for r in rows for m in r.mentions)
    return NetworkSpec(
        encoder=config,
        base_model=recipe.base,
        hidden=int(config.get("hidden_size", 768)),
        pad_id=int(config.get("pad_token_id") or 0),
        tokens_max=recipe.run.tokens_max,
        document_heads=documents,
        mention_heads=mentions,
        serve_document=heads.serve_document if heads.serve_document in documents else "",
        serve_mention=heads.serve_mention if heads.serve_mention in mentions else "",
        topics=topics,
        events=events,
        evidence=evidence,
        head_dropout=recipe.run.head_dropout,
        head_hidden=recipe.run.head_hidden,
    )


def _network(base: Path, spec: NetworkSpec, recipe: Recipe) -> Network:
    from transformers import AutoModel

    pooling = {"add_pooling_layer": False} if spec.encoder["model_type"] in {"bert", "mpnet", "roberta"} else {}
    encoder = AutoModel.from_pretrained(str(base), attn_implementation="eager", dtype=torch.float32, **pooling)
    if recipe.peft.kind != "none":
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=recipe.peft.rank,
            lora_alpha=recipe.peft.alpha,
            lora_dropout=recipe.peft.dropout,
            use_dora=recipe.peft.kind == "dora",
            target_modules="all-linear",
        )
        encoder = get_peft_model(encoder, adapters)
    return Network(encoder, spec)


def _layers(network: Network) -> list[nn.Module]:
    encoder = network.encoder
    while not hasattr(encoder, "encoder") and hasattr(encoder, "base_model"):
        encoder = encoder.base_model if encoder.base_model is not encoder else encoder.model
    return list(encoder.encoder.layer)


def _freeze(network: Network, recipe: Recipe, epoch: int) -> None:
    """Decide anew before each epoch; adapters always learn, and under them the encoder's own weights never do."""
    if recipe.peft.kind != "none":
        return
    policy, layers = recipe.freeze.policy, _layers(network)
    open_layers = {
        "none": len(layers),
        "heads": 0,
        "top": recipe.freeze.top_layers,
        "gradual": min(len(layers), epoch),
    }[policy]
    for parameter in network.encoder.parameters():
        parameter.requires_grad_(open_layers >= len(layers))
    for layer in layers[len(layers) - open_layers :]:
        for parameter in layer.parameters():
            parameter.requires_grad_(True)
    if recipe.freeze.word_embeddings:
        for name, parameter in network.encoder.named_parameters():
            if "word_embeddings" in name:
                parameter.requires_grad_(False)


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    """Heads learn faster than the encoder, lower layers slower than upper ones; norms and biases do not decay."""
    o = recipe.optimiser
    depth = {id(p): i for i, layer in enumerate(_layers(network)) for p in layer.parameters()}
    count = len(_layers(network))
    groups = []
    for name, parameter in network.named_parameters():
        inside = name.startswith("encoder.")
        below = count - depth.get(id(parameter), -1 if inside else count)
        rate = o.rate * (o.layer_decay**below if inside else o.head_rate_factor)
        decay = 0.0 if parameter.ndim < 2 else o.weight_decay
        groups.append({"params": [parameter], "lr": rate, "rate": rate, "weight_decay": decay})
    if o.kind == "sgd":
        return torch.optim.SGD(groups, lr=o.rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=o.rate, fused=True)


def _schedule(step: int, total: int, recipe: Recipe) -> float:
    warmup = max(1, round(recipe.optimiser.warmup * total))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    if recipe.optimiser.schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done)) if recipe.optimiser.schedule == "cosine" else 1.0


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)
