"""Configuration: strict, all faults at once, each with file and key."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.cli import app
from monitor.errors import Fatal
from monitor.settings import load_settings

GOOD = '[watchlist]\npath = "w.csv"\n[rules]\npath = "r.toml"\n'


def write(folder: Path, text: str) -> Path:
    file = folder / "tapewatch.toml"
    file.write_text(text, "utf-8")
    return file


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD), {})
    assert settings.watchlist.path == tmp_path / "w.csv"
    assert settings.rules.path == tmp_path / "r.toml"


def test_every_fault_is_reported_at_once_with_file_and_key(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + '[kafka]\nbootstrap = "x"\npartitions = 0\n')
    with pytest.raises(Fatal) as caught:
        load_settings(file, {})
    faults = caught.value.faults
    assert len(faults) == 2
    assert all(str(file) in fault for fault in faults)
    assert any("kafka.bootstrap: unknown key" in fault for fault in faults)
    assert any("kafka.partitions" in fault for fault in faults)


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + '[kafka]\nbootstrap_servers = "a:1"\n')
    settings = load_settings(file, {"TAPEWATCH_KAFKA__BOOTSTRAP_SERVERS": "b:2", "TAPEWATCH_SCORE__DEADLINE_MS": "50"})
    assert settings.kafka.bootstrap_servers == "b:2"
    assert settings.score.deadline_ms == 50


def test_an_environment_variable_that_fits_no_key_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"1 fault") as caught:
        load_settings(write(tmp_path, GOOD), {"TAPEWATCH_KAFKA__BROKER": "b:2"})
    assert "TAPEWATCH_KAFKA__BROKER" in caught.value.faults[0]


def test_a_receiver_without_a_secret_or_over_plain_http_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + '[[receivers]]\nname = "desk"\nurl = "http://example.com/x"\n')
    with pytest.raises(Fatal) as caught:
        load_settings(file, {})
    assert any("signed" in fault for fault in caught.value.faults)
    assert any("https" in fault for fault in caught.value.faults)


@pytest.mark.parametrize("text", ["not toml =", "\x00"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(Fatal, match=r"tapewatch\.toml"):
        load_settings(file, {})


def test_check_config_exits_with_2_and_names_the_key(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check-config", str(write(tmp_path, GOOD + "[kafka]\nx = 1\n"))])
    assert result.exit_code == 2
    assert "kafka.x" in result.output


def test_check_config_accepts_the_shipped_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    shipped = Path(__file__).parents[2] / "configs" / "default.toml"
    assert load_settings(shipped, {}).kafka.partitions == 4
