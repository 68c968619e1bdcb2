"""TLS and SASL as `configs/prod.toml` has them, against a real Apache Kafka with a listener of each kind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.app import check_kafka, kafka_config
from monitor.broker import free_port
from monitor.errors import TapewatchError
from monitor.intake.kafka import KafkaConfig, KafkaSink, KafkaSource, ensure_topics
from monitor.settings import Settings, load_settings
from tests.hostile import Authority
from tests.kafka_broker import ApacheKafka, _java

USER, PASSWORD, KEY_PASSWORD = "tapewatch", "planted-kafka-password", "planted-key-password"
KINDS = ("PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT")


class SecuredKafka(ApacheKafka):
    """A listener of each kind. TLS certificates are for the name `localhost` and for 127.0.0.1; SSL asks for the client's."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.ports = {kind: free_port() for kind in KINDS}
        self._authority = authority
        super().__init__(folder)

    def _format(self, cluster: str) -> None:
        certificate, key = self._authority.certificate("localhost")
        (self.folder / "broker.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
        listeners = ",".join(f"{kind}://127.0.0.1:{port}" for kind, port in self.ports.items())
        settings = dict(line.split("=", 1) for line in self.settings.read_text().splitlines())
        controller = settings["controller.quorum.bootstrap.servers"]
        users = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        settings |= {
            "listeners": f"{listeners},CONTROLLER://{controller}",
            "advertised.listeners": listeners,
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT," + ",".join(f"{kind}:{kind}" for kind in KINDS),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._authority.file),
            "listener.name.ssl.ssl.client.auth": "required",
        }
        for kind in ("sasl_ssl", "sasl_plaintext"):
            settings[f"listener.name.{kind}.plain.sasl.jaas.config"] = users
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                settings[f"listener.name.{kind}.{mechanism}.sasl.jaas.config"] = scram
        self.settings.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        credentials = [f"{m}=[name={USER},password={PASSWORD}]" for m in ("SCRAM-SHA-256", "SCRAM-SHA-512")]
        scrams = [part for one in credentials for part in ("--add-scram", one)]
        command = [*_java(), "kafka.tools.StorageTool", "format", "--standalone", "-t", cluster]
        subprocess.run([*command, "-c", str(self.settings), *scrams], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SecuredKafka]:
    broker = SecuredKafka(tmp_path_factory.mktemp("secured"), authority)
    broker.start()
    yield broker
    broker.kill()


Configure = Callable[..., Settings]


@pytest.fixture
def configured(tmp_path: Path, kafka: SecuredKafka, authority: Authority) -> Configure:
    """Settings for a listener, as an operator writes them: secrets in files of their own."""

    def settings(kind: str, *, host: str = "localhost", password: str = PASSWORD, **more: str) -> Settings:
        (tmp_path / "password").write_text(f"{password}\n")
        (tmp_path / "key-password").write_text(f"{KEY_PASSWORD}\n")
        keys = {"bootstrap_servers": f"{host}:{kafka.ports[kind]}", "security_protocol": kind}
        if "SSL" in kind:
            keys["ssl_cafile"] = str(authority.file)
        if "SASL" in kind:
            keys |= {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": USER, "sasl_password_file": "password"}
        lines = "".join(f'{name} = "{value}"\n' for name, value in {**keys, **more}.items() if value)
        file = tmp_path / "tapewatch.toml"
        file.write_text(f'[watchlist]\npath = "w"\n[rules]\npath = "r"\n[kafka]\npartitions = 1\n{lines}')
        return load_settings(file, {})

    return settings


def ensure(config: KafkaConfig, topics: dict[str, int]) -> None:
    ensure_topics(config, topics, create=True)


def round_trip(settings: Settings, name: str) -> bytes:
    """A message sent and read with nothing but these settings."""
    check_kafka(settings)
    config = kafka_config(settings, role="test")
    ensure(config, {name: 1})
    with closing(KafkaSink(config)) as sink:
        sink.send(name, key=None, value=b"through")
        sink.flush()
    with closing(KafkaSource(config, topics=(name,), group=name)) as source:
        for _ in range(300):
            for message in source.poll(10, 100):
                return message.value or b""
    return b"nothing came"


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("kind", "mechanism"),
    [("SASL_SSL", "SCRAM-SHA-512"), ("SASL_SSL", "PLAIN"), ("SASL_PLAINTEXT", "SCRAM-SHA-256")],
)
def test_messages_pass_with_sasl(configured: Configure, kind: str, mechanism: str) -> None:
    assert round_trip(configured(kind, sasl_mechanism=mechanism), f"{kind}-{mechanism}") == b"through"


@pytest.mark.kafka
def test_messages_pass_with_a_client_s_certificate_and_its_locked_key(
    configured: Configure, authority: Authority
) -> None:
    certificate, key = authority.certificate("client", password=KEY_PASSWORD.encode())
    settings = configured(
        "SSL", ssl_certfile=str(certificate), ssl_keyfile=str(key), ssl_key_password_file="key-password"
    )
    assert round_trip(settings, "client-certificate") == b"through"


@pytest.mark.kafka
@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "not-the-password"},
        {"password": "not-the-password", "sasl_mechanism": "PLAIN"},
        {"host": "127.0.0.2"},  # a name that the certificate does not have
        {"ssl_cafile": ""},  # the system's authorities do not know ours
    ],
    ids=["scram password", "plain password", "host name", "unknown authority"],
)
def test_what_is_wrong_stops_at_the_door_and_no_secret_is_told(
    configured: Configure, wrong: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    config = replace(kafka_config(configured("SASL_SSL", **wrong), role="test"), bootstrap_timeout_ms=1_500)
    with pytest.raises(TapewatchError) as caught:
        ensure(config, {"never": 1})
    told = f"{caught.value!r} {config!r} {capfd.readouterr()}"
    assert f"kafka {config.bootstrap_servers}" in told
    assert "or it refused certificate, name, user or password" in told
    for secret in ("not-the-password", PASSWORD):
        assert secret not in told


@pytest.mark.kafka
def test_without_the_certificate_that_the_broker_asks_for_nothing_passes(configured: Configure) -> None:
    with pytest.raises(TapewatchError):
        ensure(replace(kafka_config(configured("SSL"), role="test"), bootstrap_timeout_ms=1_500), {"never": 1})
