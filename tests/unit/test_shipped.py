"""What is shipped for production can be used as it stands, and says what it promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.settings import load_settings

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "docker" / "systemd" / "tapewatch@.service").read_text()


def test_the_production_example_is_a_configuration_with_or_without_its_comments(tmp_path: Path) -> None:
    """An option that is only written in a comment must exist, too."""
    text = (ROOT / "configs" / "prod.toml").read_text()
    load_settings(ROOT / "configs" / "prod.toml", {"TAPEWATCH_DATABASE_URL": "postgresql://h/db"})
    uncommented = re.sub(r"^# (?=(\[{1,2}\w+\]|\w+ = ))", "", text, flags=re.MULTILINE)
    assert uncommented.count("\n[bundle]") == 1
    file = tmp_path / "prod.toml"
    file.write_text(uncommented)
    settings = load_settings(file, {})
    assert settings.kafka.security_protocol == "SASL_SSL"
    assert settings.kafka.ssl_key_password_file is not None
    assert settings.bundle.trusted_keys
    assert settings.receivers[0].previous_secret_file is not None
    assert settings.receivers[0].allow_networks


@pytest.mark.parametrize(
    "line",
    [
        "Type=notify",
        "WatchdogSec=60",
        "Restart=always",
        "RestartPreventExitStatus=2",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "KillSignal=SIGTERM",
    ],
)
def test_the_unit_is_watched_restarted_and_reloaded(line: str) -> None:
    assert line in UNIT.splitlines()


def test_the_unit_gives_a_role_longer_to_drain_than_the_role_takes() -> None:
    stop_s = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1])  # type: ignore[index]
    settings = load_settings(ROOT / "configs" / "default.toml", {})
    assert stop_s > settings.service.drain_s
