"""Small real things for tests: a bundle that the real exporters made from a tiny random network, and a judge of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.clock import ManualClock
from monitor.records import Alert, AlertTransition, Document, Evidence, LinkedEntity, ScoredMention, mention_id

GOOD = {"soars", "beats", "record", "wins", "jumps", "upgrade"}
BAD = {"plunges", "misses", "fraud", "loses", "falls", "bankruptcy"}
WORDS = [
    *sorted(GOOD | BAD),
    "the",
    "a",
    "of",
    "in",
    "on",
    "after",
    "and",
    "its",
    "says",
    "shares",
    "stock",
    "profit",
    "loss",
    "apple",
    "tesla",
    "nvidia",
    "bank",
    "company",
]


def tiny_tokenizer() -> Any:
    """A word-piece tokenizer of a few dozen words and all letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *("##" + c for c in letters)]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def tiny_base(folder: Path) -> Path:
    """A Hugging Face folder with a random two-layer BERT of 16 dimensions."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
    )
    folder.mkdir(parents=True, exist_ok=True)
    BertModel(config, add_pooling_layer=False).save_pretrained(str(folder))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def tiny_run(folder: Path) -> Path:
    """A finished training run with every head, untrained."""
    import torch
    from transformers import AutoModel

    from exporters.network import Network, NetworkSpec, save_run
    from monitor.learning.bases import encoder_config

    base = tiny_base(folder.parent / f"{folder.name}-base")
    spec = NetworkSpec(
        encoder=encoder_config(base),
        base_model="tiny",
        hidden=16,
        pad_id=0,
        tokens_max=64,
        document_heads=("news",),
        mention_heads=("company", "phrase"),
        serve_document="news",
        serve_mention="company",
        topics=("markets", "people"),
        events=("Dividend", "Profit", "Turnover"),
        evidence=True,
        head_hidden=8,
    )
    torch.manual_seed(1)
    encoder = AutoModel.from_pretrained(str(base), attn_implementation="eager", add_pooling_layer=False)
    save_run(folder, Network(encoder, spec).eval(), base / "tokenizer.json")
    return folder


def tiny_bundle(folder: Path) -> Path:
    """A real bundle, exported with parity from `tiny_run`; rows of the source `phrases` are judged by a head of their own."""
    from exporters.bundle import export_bundle

    run = tiny_run(folder.parent / f"{folder.name}-run")
    straight = {"knots_x": [-1.0, 1.0], "knots_y": [-0.5, 0.5]}
    phrase = {"sources": ["phrases*"], "temperature": 2.0, "polarity": straight}
    calibration = {"conventions": {"mention": {"phrase": phrase, "company": {"sources": ["names"]}}}}
    export_bundle(
        run,
        folder,
        name="tiny",
        calibration=calibration,
        metrics={},
        card="# tiny\n",
        data_fingerprint="0" * 64,
        texts=[(" ".join(WORDS[start : start + 9]), [(0, 5)]) for start in range(len(WORDS) - 9)],
    )
    return folder


class WordJudge:
    """Scores by lists of words: sure, fast and always the same."""

    def judge(
        self, documents: Sequence[tuple[Document, tuple[LinkedEntity, ...]]], *, now_ms: int
    ) -> Sequence[Sequence[ScoredMention]]:
        return [[judged(document, entity, now_ms) for entity in entities] for document, entities in documents]


def an_alert(**facts: Any) -> Alert:
    """An open alert that says nothing in particular; what a test is about is given by name."""
    usual: dict[str, Any] = {
        "id": "a",
        "entity": "X",
        "kind": "burst",
        "direction": "negative",
        "opened_at": "2026-01-01T00:00:00Z",
        "resolved_at": None,
        "severity": "low",
        "p_value": 0.01,
        "polarity": -0.5,
        "effective_n": 3.0,
        "raw_n": 3,
        "baseline": {},
        "evidence": (),
        "counter_evidence": (),
        "flip_margin": 0.1,
        "model": "m",
        "rule": "r",
    }
    return Alert(**{**usual, **facts})


def judged(document: Document, entity: LinkedEntity, now_ms: int) -> ScoredMention:
    """One mention, judged by words."""
    words = set(document.text.lower().replace(",", " ").split())
    polarity = 0.8 * (bool(words & GOOD) - bool(words & BAD))
    p = {0.8: (0.05, 0.1, 0.85), -0.8: (0.85, 0.1, 0.05)}.get(polarity, (0.1, 0.8, 0.1))
    return ScoredMention(
        id=mention_id(document.key, entity.entity),
        entity=entity.entity,
        document=document.key,
        source=document.source,
        channel=document.channel,
        published_at_ms=document.published_at_ms,
        text=document.text,
        author=document.author,
        spans=entity.spans,
        cue=entity.cue,
        probabilities=p,
        polarity=polarity,
        evidence=(Evidence(start=0, end=len(document.title), quote=document.title),),
        model="words@1",
        scored_at_ms=now_ms,
    )


@dataclass(frozen=True, kw_only=True)
class Told:
    """A message of the pager about an alert's step."""

    page: str
    sequence: int
    event: str
    change: str
    at_ms: int
    severity: str
    alert: Alert | None
    body: dict[str, object] | None = None


def told(steps: list[AlertTransition]) -> list[Told]:
    return [
        Told(
            page=step.alert.id,
            sequence=number,
            event=f"alert.{step.change}",
            change=step.change,
            at_ms=step.at_ms,
            severity=step.alert.severity,
            alert=step.alert,
        )
        for number, step in enumerate(steps, 1)
    ]


class SettableClock(ManualClock):
    """Its wall time can be set; its intervals can't."""

    offset_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.offset_ms
