"""The network: one shared pretrained encoder and several task heads on it.

A text is encoded once, whatever is asked of it. A mention is judged from the mean of the whole text and the mean of the
mention's own tokens. Data sources that disagree about what `neutral` means have heads of their own; one of them is kept
for serving. Lives with the exporters, because a graph can only be exported from the network that made it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NETWORK_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "network.json", "model.safetensors", "tokenizer.json"
SENTIMENT = ("negative", "neutral", "positive")
EVIDENCE = ("O", "B", "I")
CONVENTION_TASKS = ("document", "mention")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """What is needed to build the network again: the encoder's configuration and its heads.

    `document_heads` and `mention_heads` are names of label conventions, each a three-class head; `serve_document` and
    `serve_mention` say which one answers in service.
    """

    encoder: dict[str, Any]
    base_model: str
    hidden: int
    pad_id: int
    tokens_max: int = 128
    document_heads: tuple[str, ...] = ()
    mention_heads: tuple[str, ...] = ()
    serve_document: str = ""
    serve_mention: str = ""
    topics: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    evidence: bool = False
    head_dropout: float = 0.1
    head_hidden: int = field(default=256)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> NetworkSpec:
        fields: dict[str, Any] = json.loads(text)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})  # type: ignore[arg-type]


class Network(nn.Module):
    """`forward` answers for every head; B documents of T tokens with M mentions, hidden size H."""

    def __init__(self, encoder: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = encoder
        h, wide, drop = spec.hidden, spec.head_hidden, spec.head_dropout
        self.document = nn.ModuleDict({name: _head(h, wide, 3, drop) for name in spec.document_heads})
        self.mention = nn.ModuleDict({name: _head(2 * h, wide, 3, drop) for name in spec.mention_heads})
        self.topic = _head(h, wide, len(spec.topics), drop) if spec.topics else None
        self.events = _head(h, wide, len(spec.events), drop) if spec.events else None
        self.question = nn.Linear(2 * h, wide) if spec.evidence else None
        self.answer = nn.Linear(h, wide) if spec.evidence else None
        self.tag = nn.Linear(wide, len(EVIDENCE)) if spec.evidence else None

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token states [B, T, H] and their mean over the text [B, H]."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return states, (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, mention_document: Tensor, mention_mask: Tensor
    ) -> dict[str, Any]:
        """`input_ids`, `attention_mask` int64 [B, T]; `mention_document` int64 [M]; `mention_mask` float [M, T].

        A mention whose mask is all zeros has no words of its own: it is judged from the whole text. Returns logits:
        `document` {name: [B, 3]}, `mention` {name: [M, 3]}, `topic` [B, 20], `events` [B, E], `evidence` [M, T, 3],
        and `embedding` [B, H] of unit length.
        """
        states, pooled = self.encode(input_ids, attention_mask)
        own = states[mention_document]
        weights = mention_mask.unsqueeze(-1).to(states.dtype)
        count = weights.sum(1)
        span = (own * weights).sum(1) / count.clamp(min=1.0)
        whole = pooled[mention_document]
        span = torch.where(count > 0, span, whole)
        asked = torch.cat([whole, span], dim=-1)
        result: dict[str, Any] = {
            "document": {name: head(pooled) for name, head in self.document.items()},
            "mention": {name: head(asked) for name, head in self.mention.items()},
            "embedding": pooled / pooled.norm(dim=-1, keepdim=True).clamp(min=1e-9),
        }
        if self.topic is not None:
            result["topic"] = self.topic(pooled)
        if self.events is not None:
            result["events"] = self.events(pooled)
        if self.question is not None and self.answer is not None and self.tag is not None:
            joined = nn.functional.gelu(self.answer(own) + self.question(asked).unsqueeze(1))
            result["evidence"] = self.tag(joined)
        return result


class ServedNetwork(nn.Module):
    """The network as the graph shows it: a fixed tuple of outputs in the order of `output_names`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, mention_document: Tensor, mention_mask: Tensor
    ) -> tuple[Tensor, ...]:
        spec = self.network.spec
        answers = self.network(input_ids, attention_mask, mention_document, mention_mask)
        found = {
            "topic_logits": answers.get("topic"),
            "event_logits": answers.get("events"),
            "evidence_logits": answers.get("evidence"),
            "embedding": answers["embedding"],
        }
        for task in CONVENTION_TASKS:
            found |= {output_of(spec, task, head): logits for head, logits in answers[task].items()}
        return tuple(found[name] for name in output_names(spec))


def output_names(spec: NetworkSpec) -> list[str]:
    """The outputs of the exported graph: what service asks for, then the heads of the other conventions."""
    there = {
        "document_logits": bool(spec.serve_document),
        "mention_logits": bool(spec.serve_mention),
        "topic_logits": bool(spec.topics),
        "event_logits": bool(spec.events),
        "evidence_logits": spec.evidence,
        "embedding": True,
    }
    served = [name for name, present in there.items() if present]
    every = [output_of(spec, "document", head) for head in spec.document_heads]
    every += [output_of(spec, "mention", head) for head in spec.mention_heads]
    return served + [name for name in every if name not in served]


def output_of(spec: NetworkSpec, task: str, head: str) -> str:
    """The output that a head of a convention answers on; the served one's is plainly `document_logits` or `mention_logits`."""
    served = spec.serve_document if task == "document" else spec.serve_mention
    return f"{task}_logits" if head == served else f"{task}_logits_{head}"


def save_run(folder: Path, network: Network, tokenizer_json: Path) -> None:
    """Weights, specification and tokenizer: all that `load_run` and the exporters need."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", torch.float32).contiguous() for name, value in network.state_dict().items()
    }
    save_file(weights, str(folder / WEIGHTS_FILE))
    (folder / NETWORK_FILE).write_text(network.spec.to_json(), "utf-8")
    if tokenizer_json.resolve() != (folder / TOKENIZER_FILE).resolve():
        (folder / TOKENIZER_FILE).write_bytes(tokenizer_json.read_bytes())


def load_run(folder: Path) -> Network:
    """A network in evaluation mode. Raises FileNotFoundError or ValueError naming the file at fault."""
    from safetensors.torch import load_file

    for name in (NETWORK_FILE, WEIGHTS_FILE, TOKENIZER_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: missing; is this the folder of a finished training run?")
    spec = NetworkSpec.from_json((folder / NETWORK_FILE).read_text("utf-8"))
    network = Network(empty_encoder(spec), spec)
    missing, unexpected = network.load_state_dict(load_file(str(folder / WEIGHTS_FILE)), strict=False)
    if missing or unexpected:
        raise ValueError(f"{folder / WEIGHTS_FILE}: does not fit {NETWORK_FILE}: {[*missing, *unexpected][:5]}")
    return network.eval()


def empty_encoder(spec: NetworkSpec) -> nn.Module:
    """The encoder of the specification without weights; attention is written out, so that the exporter can fuse it."""
    from transformers import AutoConfig, AutoModel

    fields = dict(spec.encoder)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    pooling = {"add_pooling_layer": False} if spec.encoder["model_type"] in {"bert", "mpnet", "roberta"} else {}
    return AutoModel.from_config(config, attn_implementation="eager", **pooling)


def _head(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inputs, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )
