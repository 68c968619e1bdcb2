"""Judged mentions of a history, remembered by content: a text is judged once per bundle, whatever the rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
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
    path = cache_dir / f"scores-{sha256(bundle.encode()).hexdigest()[:24]}.msgpack" if cache_dir is not None else None
    known = _load(path)
    before = len(known)
    result: list[ScoredMention] = []
    stream = iter(documents)
    while batch := list(islice(stream, BATCH)):
        linked = [pair for pair in batch if pair[1]]
        keys = [_key(pair) for pair in linked]
        missing = {key: pair for key, pair in zip(keys, linked, strict=True) if key not in known}
        if missing:
            for key, mentions in zip(missing, judge.judge(list(missing.values()), now_ms=0), strict=True):
                known[key] = [msgspec.structs.replace(m, scored_at_ms=m.published_at_ms) for m in mentions]
        for key in keys:
            result += known[key]
        progress(len(batch))
    if path is not None and len(known) > before:
        _save(path, known)
    return result


def _key(linked: Linked) -> bytes:
    return sha256(msgspec.msgpack.encode(linked)).digest()[:16]


def _load(path: Path | None) -> dict[bytes, list[ScoredMention]]:
    """A cache that can't be read is no cache: it only costs time."""
    if path is None or not path.exists():
        return {}
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=dict[bytes, list[ScoredMention]])
    except msgspec.MsgspecError:
        return {}


def _save(path: Path, known: dict[bytes, list[ScoredMention]]) -> None:
    """All or nothing: a killed run leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(msgspec.msgpack.encode(known))
    part.replace(path)
