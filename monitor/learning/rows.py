"""Labelled rows: read, checked, and split by text, so that no story stands on both sides of a split."""

from __future__ import annotations

import gzip
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import msgspec

from monitor.errors import Fatal
from monitor.records import LABELS, UNDECODABLE, Record

Split = Literal["train", "valid", "test", "left_out"]
GENERATED = "generated"  # the source of rows that `augment` writes
_TEXT_CHARS_MAX = 20_000
_NOISE = re.compile(r"https?://\S+|[$#@]\w+|\d[\d.,]*")
_WORDS = re.compile(r"[^\W_]+")


class LabelledMention(Record, frozen=True, kw_only=True):
    """One target of a row; `start`/`end` are code points of `text`, None where the target isn't in it literally.

    `probabilities` is a teacher's soft label (negative, neutral, positive).
    """

    target: str = ""
    start: int | None = None
    end: int | None = None
    label: str | None = None
    score: float | None = None
    evidence: tuple[tuple[int, int], ...] | None = None
    probabilities: tuple[float, float, float] | None = None


class LabelledRow(Record, frozen=True, kw_only=True):
    """One line of a labelled file; whatever is None was not asked of this text.

    `kinds`: what is hard about the text, by whoever wrote or chose it; evaluations show each kind apart.
    """

    text: str
    id: str = ""
    source: str = ""
    license: str = "not stated"
    label: str | None = None
    probabilities: tuple[float, float, float] | None = None
    mentions: tuple[LabelledMention, ...] = ()
    topic: str | None = None
    events: tuple[str, ...] | None = None
    published_at: str | None = None
    kinds: tuple[str, ...] = ()

    @property
    def soft(self) -> bool:
        """Labelled by a teacher, or written by our own grammar: it trains, and judges nothing."""
        by_teacher = self.probabilities is not None or any(m.probabilities is not None for m in self.mentions)
        return by_teacher or self.source == GENERATED


def read_rows(path: Path, *, faults_max: int = 20) -> list[LabelledRow]:
    """All rows of a .jsonl or .jsonl.gz file. Raises Fatal with every fault (up to `faults_max`), each with its line."""
    rows, faults = [], []
    for number, line in _lines(path):
        try:
            row = msgspec.json.decode(line, type=LabelledRow)
        except UNDECODABLE as err:
            faults.append(f"{path}: line {number}: {err}")
            row = None
        if row is not None:
            found = [f"{path}: line {number}: {fault}" for fault in row_faults(row)]
            faults += found
            rows.append(row)
        if len(faults) >= faults_max:
            faults.append(f"{path}: … and perhaps more; mend these first")
            break
    if not rows and not faults:
        faults.append(f"{path}: no rows")
    if faults:
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=tuple(faults))
    return rows


def row_faults(row: LabelledRow) -> Iterator[str]:
    """What is wrong with a row that could be read."""
    if not row.text.strip():
        yield "text is empty"
    if len(row.text) > _TEXT_CHARS_MAX:
        yield f"text has {len(row.text)} characters, at most {_TEXT_CHARS_MAX} are read"
    if row.label is not None and row.label not in LABELS:
        yield f"label {row.label!r} is none of {', '.join(LABELS)}"
    for index, mention in enumerate(row.mentions):
        yield from (f"mentions[{index}]: {fault}" for fault in _mention_faults(row.text, mention))


def groups_of(rows: Sequence[LabelledRow], *, jaccard: float = 0.6) -> list[int]:
    """A group number for each row; near-duplicates share one.

    Candidates share one of the six smallest hashes of their word pairs (bottom-k sketch, Broder 1997) and are verified on
    the Jaccard similarity of their word sets; groups are the connected components.
    """
    words = [_WORDS.findall(_NOISE.sub(" ", row.text.casefold())) for row in rows]
    sets = [frozenset(w) for w in words]
    parent = list(range(len(rows)))
    by_hash: dict[int, list[int]] = {}
    for index, ordered in enumerate(words):
        pairs = pairwise(ordered) if len(ordered) > 1 else [(word, "") for word in ordered]
        for key in sorted({crc32(f"{a} {b}".encode()) for a, b in pairs})[:6]:
            for other in by_hash.setdefault(key, [])[-20:]:
                a, b = _root(parent, index), _root(parent, other)
                if a != b and _similar(sets[index], sets[other], jaccard):
                    parent[max(a, b)] = min(a, b)
            by_hash[key].append(index)
    return [_root(parent, index) for index in range(len(rows))]


def splits_of(rows: Sequence[LabelledRow], *, valid_percent: int = 10, test_percent: int = 10) -> list[Split]:
    """Split by text: the hash of a group's smallest text decides, so that more data moves as few rows as possible.

    Rows of a teacher or of our own grammar are trained on, unless they are near-duplicates of what validates or tests: those
    are left out. They never change where a row of people's labels stands.
    """
    hard = [row for row in rows if not row.soft]
    groups = groups_of(hard)
    smallest: dict[int, str] = {}
    for row, group in zip(hard, groups, strict=True):
        text = " ".join(row.text.split())
        smallest[group] = min(smallest.get(group, text), text)
    bounds = {group: int(sha256(text.encode()).hexdigest()[:8], 16) % 100 for group, text in smallest.items()}

    def split(group: int) -> Split:
        if bounds[group] < test_percent:
            return "test"
        return "valid" if bounds[group] < test_percent + valid_percent else "train"

    sides = iter([split(group) for group in groups])
    if len(hard) == len(rows):
        return list(sides)
    found: list[Split] = ["train" if row.soft else next(sides) for row in rows]
    together = groups_of(rows)
    held_back = {group for group, side in zip(together, found, strict=True) if side != "train"}
    return [
        "left_out" if row.soft and group in held_back else side
        for row, group, side in zip(rows, together, found, strict=True)
    ]


def fingerprint(rows: Sequence[LabelledRow]) -> str:
    """Of what was trained on, whatever the order of files: sha256 in hex. The kinds of a row teach nothing."""
    learned = ({name: value for name, value in msgspec.structs.asdict(row).items() if name != "kinds"} for row in rows)
    digests = sorted(sha256(msgspec.json.encode(row)).digest() for row in learned)
    return sha256(b"".join(digests)).hexdigest()


def licences(rows: Sequence[LabelledRow]) -> dict[str, str]:
    """Source → licence as stated; all of them, where its rows have several."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.source or "unnamed", set()).add(row.license)
    return {source: ", ".join(sorted(stated)) for source, stated in sorted(found.items())}


def counts(rows: Sequence[LabelledRow]) -> Mapping[str, Any]:
    """How many rows each source has."""
    result: dict[str, int] = {}
    for row in rows:
        result[row.source] = result.get(row.source, 0) + 1
    return dict(sorted(result.items()))


def _mention_faults(text: str, mention: LabelledMention) -> Iterator[str]:
    if mention.label is not None and mention.label not in LABELS:
        yield f"label {mention.label!r} is none of {', '.join(LABELS)}"
    if mention.score is not None and not -1.0 <= mention.score <= 1.0:
        yield f"score {mention.score} lies outside -1 to 1"
    if (mention.start is None) != (mention.end is None):
        yield "start and end come together or not at all"
    spans = list(mention.evidence or ())
    if mention.start is not None and mention.end is not None:
        spans.append((mention.start, mention.end))
    for start, end in spans:
        if not 0 <= start < end <= len(text):
            yield f"span [{start}, {end}) lies outside the text of {len(text)} characters"
        elif any(_inside_character(text, at) for at in (start, end)):
            yield f"span [{start}, {end}) cuts the character {text[max(0, start - 1) : end + 1]!r} apart"


def _inside_character(text: str, at: int) -> bool:
    """Would a cut before `at` part what is read as one character: letter and accent, joined or toned emoji?"""
    if not 0 < at < len(text):
        return False
    joiner, after = "\u200d", text[at]
    toned = "\U0001f3fb" <= after <= "\U0001f3ff"
    joined = after == joiner or (text[at - 1] == joiner and unicodedata.category(after) in {"So", "Sk"})
    return unicodedata.category(after) in {"Mn", "Me"} or toned or joined


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
    except FileNotFoundError as err:
        raise Fatal(f"{path}: no such file") from err
    except (OSError, EOFError, zlib.error) as err:
        raise Fatal(f"{path}: line {number + 1} can't be read: {err}") from err


def _similar(a: frozenset[str], b: frozenset[str], jaccard: float) -> bool:
    shared = len(a & b)
    return shared >= jaccard * (len(a) + len(b) - shared)


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
