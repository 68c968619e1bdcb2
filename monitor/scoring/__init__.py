"""Scoring: documents with their companies become judged mentions, in padded batches on ONNX Runtime."""

from monitor.scoring.batching import BatchPolicy, cut_batches
from monitor.scoring.engine import Engine, OnnxEngine
from monitor.scoring.explain import Attribution, explain
from monitor.scoring.faithfulness import Faithfulness, faithfulness
from monitor.scoring.scorer import Scorer, ScorerPolicy

__all__ = [
    "Attribution",
    "BatchPolicy",
    "Engine",
    "Faithfulness",
    "OnnxEngine",
    "Scorer",
    "ScorerPolicy",
    "cut_batches",
    "explain",
    "faithfulness",
]
