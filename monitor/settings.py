"""Configuration: one TOML file, overridden by environment variables `TAPEWATCH_SECTION__KEY`.

Unknown keys are refused and every fault is reported at once, each with file and key. Paths are relative to the file
that names them. Secrets are never written here: `*_file` and `*_env` name where they are.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from monitor.errors import Fatal
from monitor.toml_files import read_toml

SECRET_CHARS_MIN = 6  # shorter ones would blank out ordinary words
Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A frozen table of the file; unknown keys are faults."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    bootstrap_servers: str = "127.0.0.1:9092"
    topic_news: str = "news"
    topic_social: str = "social"
    topic_mentions: str = "mentions"
    topic_dead_letters: str = "dead-letters"
    group_prefix: str = "tapewatch"
    settle_ms: Annotated[int, Field(ge=0, le=10_000)] = 250
    create_topics: bool = True
    partitions: Positive = 4
    session_timeout_ms: Positive = 30_000
    max_poll_interval_ms: Positive = 300_000
    first_offset: Literal["earliest", "latest"] = "earliest"
    static_member: str | None = None
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_key_password_file: Path | None = None
    ssl_key_password_env: str | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password_file: Path | None = None
    sasl_password_env: str | None = None


class DatabaseSettings(Section):
    url: str = "sqlite:///tapewatch.db"
    url_env: str | None = None
    retention_days: Positive = 90


class WatchlistSettings(Section):
    path: Path


class BundleSettings(Section):
    """`path` unset means the shipped bundle. With `trusted_keys` only a bundle that one of them signed is served.
    `threads` are those of one batch; 0: all cores, shared by the batches in flight."""

    path: Path | None = None
    trusted_keys: tuple[Path, ...] = ()
    precision: Literal["fp32", "fp16", "int8"] = "int8"
    provider: Literal["cpu", "cuda"] = "cpu"
    cache_dir: Path | None = None
    threads: Annotated[int, Field(ge=0)] = 0


class IntakeSettings(Section):
    message_bytes_max: Positive = 262_144
    depth_max: Positive = 16
    text_chars_max: Positive = 20_000


class ScoreSettings(Section):
    batch_tokens_max: Positive = 2_048
    batch_documents_max: Positive = 256
    batches_in_flight: Annotated[int, Field(ge=1, le=8)] = 2
    deadline_ms: Positive = 200
    queue_documents_max: Positive = 4_096
    poll_messages_max: Positive = 1_000
    telemetry_port: Port = 9101


class WatchSettings(Section):
    batch_mentions_max: Positive = 1_000
    poll_ms: Positive = 200
    idle_tick_s: Seconds = 5.0
    telemetry_port: Port = 9102


class DeliverSettings(Section):
    poll_ms: Positive = 500
    telemetry_port: Port = 9103


class RulesSettings(Section):
    path: Path


class ReceiverSettings(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    url: str | None = None
    url_env: str | None = None
    secret_env: str | None = None
    secret_file: Path | None = None
    previous_secret_env: str | None = None
    previous_secret_file: Path | None = None
    allow_http: bool = False
    allow_private: bool = False
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    ca_file: Path | None = None
    min_severity: Literal["low", "medium", "high", "critical"] = "low"
    topics: Annotated[tuple[Literal["alerts", "operator"], ...], Field(min_length=1)] = ("alerts", "operator")
    timeout_s: Seconds = 10.0

    def address(self) -> str:
        """The URL, from the file or from the environment; checked when the file was loaded."""
        return self.url or os.environ[self.url_env or ""]


class TelemetrySettings(Section):
    host: str = "127.0.0.1"
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class ServiceSettings(Section):
    roles: tuple[Literal["score", "watch", "deliver"], ...] = ("score", "watch", "deliver")
    drain_s: Seconds = 10.0
    watchdog_s: Seconds = 60.0
    reload_s: Seconds = 300.0


class Settings(Section):
    """The whole file."""

    service: ServiceSettings = ServiceSettings()
    kafka: KafkaSettings = KafkaSettings()
    database: DatabaseSettings = DatabaseSettings()
    watchlist: WatchlistSettings
    bundle: BundleSettings = BundleSettings()
    intake: IntakeSettings = IntakeSettings()
    score: ScoreSettings = ScoreSettings()
    watch: WatchSettings = WatchSettings()
    deliver: DeliverSettings = DeliverSettings()
    rules: RulesSettings
    receivers: tuple[ReceiverSettings, ...] = ()
    telemetry: TelemetrySettings = TelemetrySettings()


def load_settings(path: Path, environ: dict[str, str] | None = None) -> Settings:
    """Read and validate. Raises Fatal with every fault, one line each: file, key, what is wrong."""
    environ = dict(os.environ) if environ is None else environ
    raw = read_toml(path, missing="no such file; name one with --config")
    faults = [*_written_secrets(path, raw), *_override(raw, environ)]
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as err:
        faults += [_fault(path, error) for error in err.errors(include_url=False, include_input=False)]
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=tuple(faults)) from err
    faults += [f"{path}: {fault}" for fault in _cross_checks(settings, environ)]
    if faults:
        raise Fatal(f"{path}: {len(faults)} fault(s)", faults=tuple(faults))
    return _with_absolute_paths(settings, path.resolve().parent)


def secret(*, file: Path | None, env: str | None, what: str) -> str | None:
    """A secret from a file or an environment variable; None if neither is named, Fatal if the named one is missing."""
    if file is not None:
        try:
            return file.read_text("utf-8").strip()
        except OSError as err:
            raise Fatal(f"{what}: secret file {file} can't be read: {err.strerror}") from err
    if env is not None:
        if not os.environ.get(env):
            raise Fatal(f"{what}: environment variable {env} is not set")
        return os.environ[env]
    return None


def url_secrets(url: str) -> tuple[str, ...]:
    """What of a URL must not be shown: its password as written and as meant, and the path and query of a webhook."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return (url,)
    password = (parts.password, unquote(parts.password)) if parts.password else ()
    address = (parts.path + (f"?{parts.query}" if parts.query else "")) if parts.scheme in {"http", "https"} else ""
    return tuple(text for text in (*password, address) if len(text) >= SECRET_CHARS_MIN)


def _written_secrets(path: Path, raw: dict[str, Any]) -> list[str]:
    """A configuration file is read by more people than a secret should be."""
    url = raw.get("database", {}).get("url") if isinstance(raw.get("database"), dict) else None
    try:
        written = isinstance(url, str) and urlsplit(url).password is not None
    except ValueError:
        return []  # no URL at all: said where it is used
    return [f"{path}: database.url: holds a password; put the URL into the environment, see database.url_env"] * written


def _override(raw: dict[str, Any], environ: dict[str, str]) -> list[str]:
    """TAPEWATCH_KAFKA__BOOTSTRAP_SERVERS=… wins over the file; a name that fits nothing is a fault."""
    faults = []
    if servers := environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        raw.setdefault("kafka", {})["bootstrap_servers"] = servers
    for name, value in sorted(environ.items()):
        if not name.startswith("TAPEWATCH_") or "__" not in name:
            continue
        section, _, key = name.removeprefix("TAPEWATCH_").lower().partition("__")
        field = Settings.model_fields.get(section)
        known = getattr(field.annotation, "model_fields", {}) if field else {}
        if key not in known:
            faults.append(f"environment {name}: no key [{section}] {key}")
            continue
        raw.setdefault(section, {})[key] = tuple(value.split(",")) if key == "roles" else value
    return faults


def _fault(path: Path, error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    message = "unknown key; remove it or correct its name" if error["type"] == "extra_forbidden" else error["msg"]
    return f"{path}: {key}: {message}"


def _cross_checks(settings: Settings, environ: dict[str, str]) -> list[str]:
    faults = []
    names = [receiver.name for receiver in settings.receivers]
    faults += [f"receivers: name {name!r} is used twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for index, receiver in enumerate(settings.receivers):
        key = f"receivers.{index} ({receiver.name})"
        if receiver.secret_env is None and receiver.secret_file is None:
            faults.append(f"{key}: needs secret_env or secret_file, or its messages could not be signed")
        if receiver.secret_env and not environ.get(receiver.secret_env):
            faults.append(f"{key}.secret_env: environment variable {receiver.secret_env} is not set")
        faults += [f"{key}.{fault}" for fault in _url_faults(receiver, environ)]
    kafka = settings.kafka
    topics = [kafka.topic_news, kafka.topic_social, kafka.topic_mentions, kafka.topic_dead_letters]
    if len(set(topics)) != len(topics):
        faults.append("kafka: the four topics must have different names")
    if kafka.security_protocol.startswith("SASL") and not (
        kafka.sasl_mechanism and kafka.sasl_username and (kafka.sasl_password_file or kafka.sasl_password_env)
    ):
        faults.append("kafka: SASL needs sasl_mechanism, sasl_username and sasl_password_file or sasl_password_env")
    return faults


def _url_faults(receiver: ReceiverSettings, environ: dict[str, str]) -> list[str]:
    if (receiver.url is None) == (receiver.url_env is None):
        return ["url: give either url or url_env (for a URL that holds a token)"]
    if receiver.url_env and not environ.get(receiver.url_env):
        return [f"url_env: environment variable {receiver.url_env} is not set"]
    url = receiver.url or environ[receiver.url_env or ""]
    if url.startswith("https://") or (receiver.allow_http and url.startswith("http://")):
        return []
    return ["url: must be https:// (http:// only with allow_http = true)"]


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    """Every path of the file, absolute: relative ones start at the file's own folder."""

    def absolute(section: Section) -> Section:
        changes: dict[str, object] = {}
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, Path) and not value.is_absolute():
                changes[name] = (base / value).resolve()
            elif isinstance(value, Section):
                changes[name] = absolute(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], Path):
                changes[name] = tuple((base / path).resolve() for path in value)
            elif isinstance(value, tuple) and value and isinstance(value[0], Section):
                changes[name] = tuple(absolute(item) for item in value)
        return section.model_copy(update=changes) if changes else section

    result = absolute(settings)
    assert isinstance(result, Settings)
    return result
