"""Secrets come from files or the environment and go nowhere else; what strangers write can't flood or forge a log."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path

import pytest
import structlog

from monitor.app import check_kafka, kafka_config, receivers_of, secrets_of
from monitor.clock import ManualClock
from monitor.errors import Fatal, Retryable, TapewatchError
from monitor.settings import TelemetrySettings, load_settings, secret
from monitor.store import Store
from monitor.telemetry import Health, Metrics, TelemetryServer, configure_logs
from monitor.telemetry.logs import Bounded
from tests.hostile import Authority

PLANTED = {
    "KAFKA_PASSWORD": "planted-kafka-password",
    "KEY_PASSWORD": "planted-key-password",
    "DATABASE": "postgresql://tapewatch:planted%2Fdatabase@127.0.0.1:1/db",
    "HOOK": "https://hooks.example/services/planted-token?key=planted-key",
    "SIGNING": "whsec_cGxhbnRlZC1zaWduaW5nLXNlY3JldA==",
    "PREVIOUS": "whsec_cGxhbnRlZC1wcmV2aW91cy1zZWNyZXQ=",
}
SHOWN = ("planted", "whsec_", "cGxhbnRlZ")
CONFIG = """
[watchlist]
path = "w"
[rules]
path = "r"
[kafka]
security_protocol = "SASL_SSL"
sasl_mechanism = "PLAIN"
sasl_username = "tapewatch"
sasl_password_env = "KAFKA_PASSWORD"
ssl_key_password_env = "KEY_PASSWORD"
[database]
url_env = "DATABASE"
[[receivers]]
name = "desk"
url_env = "HOOK"
secret_env = "SIGNING"
previous_secret_env = "PREVIOUS"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "tapewatch.toml"
    file.write_text(CONFIG)
    return file


def test_every_secret_of_a_configuration_is_known_to_the_log(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an error may quote of them, in any place of an event, is blanked out."""
    settings = load_settings(config)
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    configure_logs("json", "debug", secrets=secrets_of(settings))
    log = structlog.get_logger()
    try:
        raise ConnectionError(f"could not reach {PLANTED['DATABASE']} nor {PLANTED['HOOK']}")
    except ConnectionError:
        log.exception(
            "broken", nested={"list": [PLANTED["KAFKA_PASSWORD"], (PLANTED["SIGNING"],)]}, why=PLANTED["HOOK"]
        )
    log.error(f"event with {PLANTED['KEY_PASSWORD']}", error=ValueError("planted/database was refused"))
    structlog.reset_defaults()
    assert "could not reach" in out.getvalue()
    assert "ValueError" not in out.getvalue()
    for text in SHOWN:
        assert text not in out.getvalue()


def test_no_repr_shows_a_secret(config: Path) -> None:
    settings = load_settings(config)
    told = f"{settings!r} {kafka_config(settings, role='x')!r} {receivers_of(settings)!r}"
    for text in SHOWN:
        assert text not in told


def test_an_error_of_the_database_does_not_tell_the_password() -> None:
    for url in (PLANTED["DATABASE"], "postgresqlx://u:planted@h/db", "://u:planted@h", "postgresql://u:planted@h:x/db"):
        with pytest.raises(TapewatchError) as caught:
            Store.open(url)
        assert "planted" not in f"{caught.value} {caught.value.__cause__ if isinstance(caught.value, Fatal) else ''}"


def test_faults_of_a_configuration_quote_no_values(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in (
        CONFIG.replace('"PLAIN"', '"planted"'),
        CONFIG.replace('url_env = "HOOK"', 'url = "http://x.example/planted"'),
        CONFIG.replace('name = "desk"', 'name = "Planted planted"'),
        CONFIG + 'ca_file = 7\nallow_networks = ["planted"]\n',
        CONFIG + "planted = 'planted",
    ):
        config.write_text(broken)
        with pytest.raises(Fatal) as caught:
            load_settings(config)
        said = " ".join(caught.value.faults).replace(str(config), "").replace("receivers.0 (Planted planted)", "")
        assert "planted" not in said, said
    config.write_text(CONFIG)
    monkeypatch.setenv("SIGNING", "whsec_planted!")
    with pytest.raises(Fatal) as refused:
        receivers_of(load_settings(config))
    assert "planted" not in str(refused.value)


def test_a_password_in_the_file_is_a_fault_and_from_the_environment_it_is_none(tmp_path: Path) -> None:
    file = tmp_path / "tapewatch.toml"
    good = '[watchlist]\npath = "w"\n[rules]\npath = "r"\n'
    file.write_text(good + '[database]\nurl = "postgresql://u:planted@h/db"\n')
    with pytest.raises(Fatal) as caught:
        load_settings(file, {})
    assert any("database.url: holds a password" in fault and "planted" not in fault for fault in caught.value.faults)
    file.write_text(good)
    url = "postgresql://u:planted@h/db"
    assert load_settings(file, {"TAPEWATCH_DATABASE__URL": url}).database.url == url


def test_a_secret_is_read_from_a_file_without_its_line_end_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("planted\n")
    assert secret(file=tmp_path / "s", env=None, what="x") == "planted"
    with pytest.raises(Fatal, match=r"x: secret file .*none can't be read"):
        secret(file=tmp_path / "none", env=None, what="x")


def test_certificates_and_keys_that_cannot_be_used_are_faults_before_anything_starts(
    config: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.certificate("client", password=b"another-password")
    for lines, named in (
        (f'ssl_cafile = "{tmp_path}/none.pem"', "kafka.ssl_cafile"),
        (f'ssl_certfile = "{certificate}"\nssl_keyfile = "{key}"', "kafka.ssl_certfile"),
        (f'ssl_certfile = "{certificate}"\nssl_keyfile = "{tmp_path}/none.key"', "kafka.ssl_certfile"),
    ):
        config.write_text(CONFIG.replace("[database]", f"{lines}\n[database]"))
        with pytest.raises(Fatal, match=named) as caught:
            check_kafka(load_settings(config))
        assert "planted" not in str(caught.value)


def test_a_secret_is_blanked_out_before_a_text_is_cut() -> None:
    """Cut first, half of it would stay."""
    text = "x" * 990 + "planted-secret"
    assert "plan" not in Bounded(["planted-secret"])(None, "", {"event": text})["event"]


def test_nobody_writes_lines_or_moves_the_cursor_of_a_log() -> None:
    event = Bounded()(None, "", {"event": "e", "error": "bad\n2026-01-01 [info] forged\x1b[2J\x00"})
    assert "\n" not in event["error"]
    assert "\x1b" not in event["error"]


def test_an_event_is_bounded_however_much_is_put_into_it() -> None:
    deep: object = "deep"
    for _ in range(100):
        deep = {"more": [deep] * 2}
    event = Bounded()(None, "", {"event": "e", "long": "x" * 10**6, "many": ["y" * 5_000] * 10_000, "deep": deep})
    assert len(json.dumps(event)) < 60_000


def test_labels_are_bounded_in_number_and_in_length() -> None:
    metrics = Metrics()
    before = len(metrics.exposition())
    for number in range(1_000):
        metrics.count("score_dead_letters_total", label=f"{number}" * 10_000)
    assert len(metrics.exposition()) - before < 65 * 2 * 250, "64 values and the rest, at most 120 characters each"


def test_telemetry_listens_on_loopback_unless_told_otherwise() -> None:
    """127.0.0.2 reaches this machine too: only a port that listens everywhere answers there."""
    server = TelemetryServer(
        host=TelemetrySettings().host, port=0, key="k", metrics=Metrics(), health=Health({}), clock=ManualClock()
    )
    socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5)
    server.close()
    everywhere = TelemetryServer(
        host="0.0.0.0", port=0, key="k", metrics=Metrics(), health=Health({}), clock=ManualClock()
    )
    socket.create_connection(("127.0.0.2", everywhere.port), timeout=5).close()
    everywhere.close()


def test_an_error_of_the_database_may_be_tried_again() -> None:
    with pytest.raises(Retryable):
        Store.open(PLANTED["DATABASE"])
