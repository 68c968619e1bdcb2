"""Judged mentions of a history, remembered by content: the same texts are judged once per bundle, whatever the rules.

What is kept is a batch and not a text: int8 engines scale a batch as a whole, so a text's score depends on its company, and
only whole batches make the same stream give the same bytes whatever was judged before. Each is a file of its own, written
when it is done: a run that is killed goes on where it was, and two runs may share the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from monitor.records import Document, LinkedEntity, ScoredMention

Linked = tuple[Document, tuple[LinkedEntity, ...]]
BATCH = 256


class Judge(Protocol):
    """Scores linked documents; one sequence of mentions a document."""

    def judge(self, documents: Sequence[Linked], *, now_ms: int) -> Sequence[Sequence[ScoredMention]]: ...


def score_documents(
    documents: Iterable[Linked],
    *,
    judge: Judge,
    bundle: str,
    cache_dir: Path | None = None,
    progress: Callable[[int], None] = lambda _count: None,
) -> list[ScoredMention]:
    """Judge every document that names an entity. `bundle` is the model's fingerprint; `progress` hears of each batch's size.

    A mention counts as scored when it was published, so that the same history gives the same bytes.
    """
    folder = cache_dir / f"scores-{sha256(bundle.encode()).hexdigest()[:24]}" if cache_dir is not None else None
    result: list[ScoredMention] = []
    for batch in _batches(pair for pair in documents if pair[1]):
        path = folder / f"{_key(batch)}.msgpack" if folder is not None else None
        known = _load(path)
        if known is None:
            judged = judge.judge(batch, now_ms=0)
            known = [msgspec.structs.replace(m, scored_at_ms=m.published_at_ms) for found in judged for m in found]
            _save(path, known)
        result += known
        progress(len(batch))
    return result


def _batches(documents: Iterable[Linked]) -> Iterator[list[Linked]]:
    stream = iter(documents)
    while batch := list(islice(stream, BATCH)):
        yield batch


def _key(batch: Sequence[Linked]) -> str:
    return sha256(msgspec.msgpack.encode(batch)).hexdigest()[:32]


def _load(path: Path | None) -> list[ScoredMention] | None:
    """A file that can't be read is none: it only costs time."""
    if path is None or not path.exists():
        return None
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=list[ScoredMention])
    except msgspec.MsgspecError:
        return None


def _save(path: Path | None, mentions: list[ScoredMention]) -> None:
    """All or nothing: a killed run leaves whole files."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(msgspec.msgpack.encode(mentions))
    part.replace(path)
