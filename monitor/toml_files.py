"""TOML files that an operator writes: configurations, rules, recipes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from monitor.errors import Fatal


def read_toml(path: Path, *, missing: str) -> dict[str, Any]:
    """Its tables. Raises Fatal naming the file; `missing` says what that means and what to do when there is none."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as err:
        raise Fatal(f"{path}: {missing}") from err
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise Fatal(f"{path}: not readable as TOML: {err}") from err
