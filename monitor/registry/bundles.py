"""Read and verify a bundle. A mismatch of label order or hash is refused: a wrong model that runs is worse than none."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from monitor.errors import Fatal
from monitor.records import LABELS, UNDECODABLE, Record
from monitor.registry.graphs import read_graph
from monitor.registry.signing import check_signature

SHIPPED = Path(__file__).parent / "shipped"
FORMAT = 1
_FILES = ("card.md", "model.onnx", "tokenizer.json")
_HEAD_LABELS = {"document": LABELS, "mention": LABELS, "evidence": ("O", "B", "I")}


class Head(Record, frozen=True, kw_only=True):
    """One task: its labels in the order of the logits, and how its answers are calibrated."""

    labels: tuple[str, ...]
    temperature: float = 1.0
    abstain_below: float = 0.0
    thresholds: tuple[float, ...] = ()
    threshold: float = 0.5


class Polarity(Record, frozen=True, kw_only=True):
    """Knots of the monotone map from p(+) − p(−) to a score in −1 … 1."""

    knots_x: tuple[float, ...] = (-1.0, 1.0)
    knots_y: tuple[float, ...] = (-1.0, 1.0)


class Convention(Record, frozen=True, kw_only=True):
    """A head that judges as some sources of labels do: its graph output, their names (or prefixes with *), its calibration."""

    output: str
    sources: tuple[str, ...] = ()
    temperature: float = 1.0
    polarity: Polarity = Polarity()


Conventions = dict[str, dict[str, Convention]]  # task (document | mention) → head → convention


class _File(Record, frozen=True, kw_only=True):
    sha256: str
    bytes: int


class _Manifest(Record, frozen=True, kw_only=True):
    format: int
    name: str
    base_model: str
    hidden: int
    tokens_max: int
    pad_id: int
    heads: dict[str, Head]
    polarity: Polarity
    data_fingerprint: str
    code_fingerprint: str
    files: dict[str, _File]
    conventions: Conventions = {}  # bundles of before 0.2 have the served heads alone
    activations: dict[str, tuple[float, float]] = {}
    metrics: dict[str, Any] = {}


class Bundle(Record, frozen=True, kw_only=True):
    """A verified bundle. `fingerprint` is the sha256 of its manifest, and so of everything in it.

    `activations`: tensor → range, for an int8 engine with fixed scales.
    """

    folder: Path
    name: str
    fingerprint: str
    base_model: str
    tokens_max: int
    pad_id: int
    heads: dict[str, Head]
    polarity: Polarity
    conventions: Conventions
    activations: dict[str, tuple[float, float]]
    metrics: dict[str, Any]

    @property
    def other_outputs(self) -> tuple[str, ...]:
        """Outputs of the graph that service does not need: the heads of the conventions that are not served."""
        served = {f"{task}_logits" for task in self.heads}
        every = (c.output for heads in self.conventions.values() for c in heads.values())
        return tuple(output for output in every if output not in served)

    @property
    def model(self) -> str:
        """How scores and alerts name it."""
        return f"{self.name}@{self.fingerprint[:12]}"

    @property
    def graph(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.json"


def load_bundle(folder: Path | None = None, *, trusted: Sequence[Path] = ()) -> Bundle:
    """The bundle in `folder`, or the shipped one. Raises Fatal naming the file and the key at fault.

    With `trusted` public keys (PEM files) a bundle that none of them signed is refused, the shipped one too.
    """
    folder = folder or SHIPPED
    path = folder / "manifest.json"
    try:
        blob = path.read_bytes()
    except OSError as err:
        raise Fatal(f"{path}: can't be read ({err.strerror}); name a bundle folder in [bundle] path") from err
    if trusted:
        check_signature(folder, blob, trusted)
    try:
        manifest = msgspec.json.decode(blob, type=_Manifest)
    except UNDECODABLE as err:
        raise Fatal(f"{path}: not a bundle manifest: {err}") from err
    if manifest.format != FORMAT:
        raise Fatal(f"{path}: format is {manifest.format}, this version reads {FORMAT}; export the bundle again")
    _check_heads(path, manifest)
    _check_files(folder, path, manifest)
    _check_graph(folder / "model.onnx", manifest.conventions)
    return Bundle(
        folder=folder,
        name=manifest.name,
        fingerprint=sha256(blob).hexdigest(),
        base_model=manifest.base_model,
        tokens_max=manifest.tokens_max,
        pad_id=manifest.pad_id,
        heads=manifest.heads,
        polarity=manifest.polarity,
        conventions=manifest.conventions,
        activations=manifest.activations,
        metrics=manifest.metrics,
    )


def _check_heads(path: Path, manifest: _Manifest) -> None:
    if "mention" not in manifest.heads:
        raise Fatal(f"{path}: heads.mention is missing; without it no company can be judged")
    for name, head in manifest.heads.items():
        wanted = _HEAD_LABELS.get(name)
        if wanted is not None and head.labels != wanted:
            raise Fatal(
                f"{path}: heads.{name}.labels is {', '.join(head.labels)}, must be {', '.join(wanted)} in this order"
            )
        if not head.temperature > 0:
            raise Fatal(f"{path}: heads.{name}.temperature is {head.temperature}, must be above 0")
        if name == "events" and len(head.thresholds) != len(head.labels):
            raise Fatal(f"{path}: heads.events has {len(head.labels)} labels but {len(head.thresholds)} thresholds")
    _check_knots(path, "polarity", manifest.polarity)
    for task, heads in manifest.conventions.items():
        for name, convention in heads.items():
            key = f"conventions.{task}.{name}"
            if not convention.temperature > 0:
                raise Fatal(f"{path}: {key}.temperature is {convention.temperature}, must be above 0")
            _check_knots(path, f"{key}.polarity", convention.polarity)


def _check_knots(path: Path, key: str, knots: Polarity) -> None:
    x, y = knots.knots_x, knots.knots_y
    if len(x) != len(y) or len(x) < 2 or list(x) != sorted(set(x)) or list(y) != sorted(y):
        raise Fatal(f"{path}: {key}.knots_x must rise, knots_y must not fall, and both must have the same length")


def _check_files(folder: Path, path: Path, manifest: _Manifest) -> None:
    for name in _FILES:
        stated = manifest.files.get(name)
        if stated is None:
            raise Fatal(f"{path}: files has no {name}")
        try:
            blob = (folder / name).read_bytes()
        except OSError as err:
            raise Fatal(f"{folder / name}: can't be read ({err.strerror}); the bundle is not whole") from err
        found = sha256(blob).hexdigest()
        if found != stated.sha256:
            raise Fatal(
                f"{folder / name}: sha256 is {found[:12]}…, files.{name}.sha256 of the manifest says "
                f"{stated.sha256[:12]}…; copy the bundle again"
            )


def _check_graph(path: Path, conventions: Conventions) -> None:
    """A graph may neither read other files nor run operators that we don't know; every convention's output is there."""
    model = read_graph(path)
    outputs = {output.name for output in model.graph.output}
    for task, heads in conventions.items():
        for name, convention in heads.items():
            if convention.output not in outputs:
                raise Fatal(f"{path}: has no output {convention.output}, which conventions.{task}.{name} names")
