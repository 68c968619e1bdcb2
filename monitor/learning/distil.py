"""A teacher's soft labels: what a larger fine-tuned network answers to texts that nobody has labelled.

The small network then learns from both: from people's labels by cross-entropy, from the teacher's probabilities by the same
loss, which for soft targets is the Kullback–Leibler divergence up to a constant (Hinton, Vinyals & Dean 2015, at T = 1).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from monitor.errors import Fatal
from monitor.learning.rows import LabelledMention, LabelledRow
from monitor.records import Document, LinkedEntity, ScoredMention, Span

T = TypeVar("T")
SOURCE = "teacher"
_EVEN = (1 / 3, 1 / 3, 1 / 3)
_ROWS_A_BATCH = 48
_NAMES_MAX = 2
_CAPITALISED = r"[A-Z][\w&'’-]*"
_NAME = re.compile(rf"\$[A-Za-z][A-Za-z.]*[A-Za-z]|(?:{_CAPITALISED})(?: (?:& )?{_CAPITALISED}){{0,2}}")


def names_in(text: str) -> tuple[LinkedEntity, ...]:
    """Who a text may speak of when no watchlist knows: its first cashtags or runs of capitalised words, at most two.

    What they are matters little: the small network learns what the teacher says of just these words.
    """
    found = [match for match in _NAME.finditer(text) if len(match[0]) > 1][:_NAMES_MAX]
    return tuple(LinkedEntity(entity=m[0], spans=(Span(start=m.start(), end=m.end()),), cue="name") for m in found)


def shares(pools: Sequence[int], rows_max: int) -> list[int]:
    """How many rows each pool of texts gives: as many as the others, and what a small one lacks the larger ones give."""
    given = [0] * len(pools)
    left = rows_max
    for taken, index in enumerate(sorted(range(len(pools)), key=pools.__getitem__)):
        given[index] = min(pools[index], left // (len(pools) - taken))
        left -= given[index]
    return given


def choose(
    texts: Sequence[T],
    judged: Sequence[Sequence[ScoredMention]],
    *,
    rows_max: int,
    polarity_min: float = 0.3,
    seed: int = 7,
) -> list[T]:
    """Half of the rows from texts in which some company is judged with a tone, half from the rest, as far as there are any.

    Most headlines are neutral: taken as they come, they would teach little else.
    """
    toned: list[T] = []
    calm: list[T] = []
    for each, mentions in zip(texts, judged, strict=True):
        (toned if any(abs(m.polarity) >= polarity_min for m in mentions) else calm).append(each)
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    rng.shuffle(toned)
    rng.shuffle(calm)
    half = min(len(toned), max(rows_max // 2, rows_max - len(calm)))
    chosen = toned[:half] + calm[: rows_max - half]
    rng.shuffle(chosen)
    return chosen


def question(document: Document, entities: Sequence[LinkedEntity], *, licence: str) -> LabelledRow:
    """A row without answers: the text, and the first of the words that name each company; each has some."""
    return LabelledRow(
        text=document.text,
        source=SOURCE,
        license=licence,
        probabilities=_EVEN,
        mentions=tuple(
            LabelledMention(
                target=document.text[entity.spans[0].start : entity.spans[0].end],
                start=entity.spans[0].start,
                end=entity.spans[0].end,
                probabilities=_EVEN,
            )
            for entity in entities
        ),
    )


def soften(
    teacher: Path, questions: Sequence[LabelledRow], *, progress: Callable[[int], None] = lambda _rows: None
) -> Iterator[LabelledRow]:
    """Each of the questions with the probabilities of the teacher's serving heads for the text and for each of its companies.

    `teacher`: the `best` folder of a training run. Raises Fatal when it isn't one, or lacks a serving head.
    """
    from tokenizers import Tokenizer

    from exporters.network import load_run

    try:
        network = load_run(teacher)
    except (FileNotFoundError, ValueError) as err:
        raise Fatal(f"{teacher}: not the best network of a training run: {err}") from err
    if not (network.spec.serve_document and network.spec.serve_mention):
        raise Fatal(f"{teacher}: a teacher needs a head for documents and one for mentions")
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(network.spec.tokens_max)
    rows = sorted(questions, key=lambda row: (len(row.text), row.text))
    for start in range(0, len(rows), _ROWS_A_BATCH):
        batch = rows[start : start + _ROWS_A_BATCH]
        yield from _answers(network, tokenizer, batch)
        progress(len(batch))


def _answers(network: Any, tokenizer: Any, rows: Sequence[LabelledRow]) -> Iterator[LabelledRow]:
    import msgspec
    import torch

    from monitor.learning.epoch import collate
    from monitor.learning.features import make_examples
    from monitor.learning.recipe import Data, Recipe

    spec = network.spec
    heads = Data(
        document_heads={SOURCE: spec.serve_document},
        mention_heads={SOURCE: spec.serve_mention},
        serve_document=spec.serve_document,
        serve_mention=spec.serve_mention,
    )
    examples = make_examples(rows, tokenizer, Recipe(data=heads), topics=(), events=())
    batch = collate(examples, spec.pad_id)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        answers = network(batch["input_ids"], batch["attention_mask"], batch["mention_document"], batch["mention_mask"])
    documents = answers["document"][spec.serve_document].float().softmax(-1).tolist()
    mentions = iter(answers["mention"][spec.serve_mention].float().softmax(-1).tolist())
    for row, document in zip(rows, documents, strict=True):
        yield msgspec.structs.replace(
            row,
            probabilities=_rounded(document),
            mentions=tuple(msgspec.structs.replace(m, probabilities=_rounded(next(mentions))) for m in row.mentions),
        )


def _rounded(values: Sequence[float]) -> tuple[float, float, float]:
    return (round(values[0], 4), round(values[1], 4), round(values[2], 4))
