"""Precision and recall of "is a copy" on pairs of real streams, which are not part of this repository.

`python -m tests.bench.novelty --streams DIR` (or TAPEWATCH_STREAMS=DIR). novelty_labels.jsonl names the pairs by file and
message, with what a person who read both said: copy, event (the same event, told anew or a step further) or unrelated.
Pairs lie within 24 hours and one company, and were drawn by how many words they share, so that hard ones prevail: what
shares nearly everything, most of what comes, is one pair in twenty here. Thresholds were set on the part "tune".
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from monitor.windows import NoveltyMemory, NoveltyPolicy

LABELS = Path(__file__).with_name("novelty_labels.jsonl")
BANDS = (0.3, 0.6, 1.0, 1.01)


class Pair(NamedTuple):
    """Two texts, and what the second is to the first."""

    one: str
    other: str
    label: str


class Labelled(msgspec.Struct, frozen=True):
    """A line of novelty_labels.jsonl."""

    stream: str
    one: str
    other: str
    label: str
    part: str


def is_heard_as_copy(pair: Pair) -> bool:
    """As the service decides: the memory hears one after the other."""
    memory = NoveltyMemory(NoveltyPolicy())
    first = memory.hear(0, pair.one, None, None).heard
    return memory.hear(60_000, pair.other, None, None).heard.root is first


def figures(pairs: Iterable[Pair]) -> dict[str, float]:
    """Precision and recall of `copy`."""
    told = [(is_heard_as_copy(pair), pair.label == "copy") for pair in pairs]
    right = sum(said and true for said, true in told)
    said, true = sum(said for said, _ in told), sum(true for _, true in told)
    return {
        "pairs": len(told),
        "copies": true,
        "precision": round(right / said, 3) if said else 1.0,
        "recall": round(right / true, 3) if true else 1.0,
    }


def jaccard(pair: Pair) -> float:
    one, other = set(pair.one.lower().split()), set(pair.other.lower().split())
    return len(one & other) / max(1, len(one | other))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=Path, default=os.environ.get("TAPEWATCH_STREAMS"), required=False)
    chosen = parser.parse_args()
    if chosen.streams is None:
        parser.error("name the folder of the streams with --streams or TAPEWATCH_STREAMS")
    labelled = [msgspec.json.decode(line, type=Labelled) for line in LABELS.read_bytes().splitlines()]
    texts = {name: _texts(Path(chosen.streams) / name) for name in sorted({each.stream for each in labelled})}
    pairs = {each: _pair(each, texts) for each in labelled}
    lost = [each for each, pair in pairs.items() if pair is None]
    if lost:
        sys.stderr.write(f"{len(lost)} pairs are not in {chosen.streams}, the first {lost[0].one}\n")
        return 1
    known = {each: pair for each, pair in pairs.items() if pair is not None}
    report: dict[str, object] = {
        "labels": {label: sum(each.label == label for each in labelled) for label in ("copy", "event", "unrelated")},
        "all": figures(known.values()),
        "test": figures(pair for each, pair in known.items() if each.part == "test"),
    }
    low = 0.0
    for high in BANDS:
        band = [pair for pair in known.values() if low <= jaccard(pair) < high]
        report[f"jaccard {low:g} to {min(high, 1.0):g}" if low < 1 else "jaccard 1"] = figures(band)
        low = high
    for name in texts:
        report[name] = figures(pair for each, pair in known.items() if each.stream == name)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0


def _texts(file: Path) -> dict[str, str]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return {
            f"{row['source']}:{row['id']}": "\n".join(filter(None, (row["title"], row.get("body")))) for row in rows
        }


def _pair(each: Labelled, texts: Mapping[str, Mapping[str, str]]) -> Pair | None:
    of = texts[each.stream]
    return Pair(of[each.one], of[each.other], each.label) if each.one in of and each.other in of else None


if __name__ == "__main__":
    sys.exit(main())
