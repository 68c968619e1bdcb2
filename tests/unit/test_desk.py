"""The desk's commands: what is asked for is what is stored, and what can't be meant is refused with a hint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.alerting import PageReason, Settled, Verdict
from monitor.cli import app
from monitor.errors import Fatal
from monitor.records import Suppression
from monitor.store import Store
from monitor.windows import BucketRow
from tests.unit.test_paging import START_MS, step, write
from tests.unit.test_silence_states import spoken

ROOT = Path(__file__).resolve().parents[2]
WHO = ["--author", "ann", "--reason", "earnings"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tapewatch.toml"
    path.write_text(
        f'[database]\nurl = "sqlite:///{tmp_path / "desk.db"}"\n[watchlist]\npath = "{ROOT}/configs/watchlists/us_large.csv"\n'
        f'[rules]\npath = "{ROOT}/configs/rules/default.toml"\n'
    )
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path / 'desk.db'}")
    yield opened
    opened.close()


def run(config: Path, *words: str, code: int = 0) -> dict:
    result = CliRunner().invoke(app, [*words, "--config", str(config), "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_silence_starts_where_event_time_stands_and_can_be_expired(config: Path, store: Store) -> None:
    write(store, 0, [], watermark=0, following=1)
    added = run(config, "silences", "add", *WHO, "--entity", "AAPL", "--for", "2h")
    assert added["starts_at"] == "2027-01-15T00:00:00Z"
    (listed,) = run(config, "silences", "list")["silences"]
    assert (listed["entity"], listed["author"], listed["reason"]) == ("AAPL", "ann", "earnings")
    assert run(config, "silences", "expire", str(added["id"]), "--author", "bob") == {"expired": True}
    assert run(config, "silences", "expire", str(added["id"]), "--author", "bob", code=1) == {"expired": False}
    assert run(config, "silences", "list")["silences"] == []
    assert run(config, "silences", "list", "--all")["silences"][0]["expired_by"] == "bob"


def test_a_mute_time_is_stored_with_its_days_and_hours(config: Path, store: Store) -> None:
    words = ["--sector", "Technology", "--up-to", "high", "--days", "sun,sat", "--between", "22:00-06:30"]
    span = ["--from", "2026-01-01T00:00:00+02:00", "--until", "2027-01-01T00:00:00Z"]
    run(config, "silences", "add", *WHO, *words, *span)
    (row,) = store.silences()
    assert (row.sector, row.severity_max, row.days, row.start_minute, row.until_minute) == (
        "Technology",
        "high",
        "sat,sun",
        22 * 60,
        6 * 60 + 30,
    )
    assert row.starts_at_ms == 1_767_218_400_000
    shown = CliRunner().invoke(app, ["silences", "list", "--config", str(config)])
    assert "Technology, up to high, sat,sun 22:00-06:30 UTC" in shown.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--for", "2h"], "or say --all"),
        (["--all", "--entity", "AAPL", "--for", "2h"], "or say --all"),
        (["--all"], "either --for or --until"),
        (["--entity", "NOBODY", "--for", "2h"], "no such symbol"),
        (["--sector", "Nothing", "--for", "2h"], "Technology"),
        (["--all", "--for", "soon"], "as in 90m"),
        (["--all", "--until", "2026-01-01T00:00:00"], "in which zone"),
        (["--all", "--from", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z"], "before it starts"),
        (["--all", "--for", "1d", "--days", "monday"], "write mon, tue"),
        (["--all", "--for", "1d", "--between", "9-5"], "22:00-06:00"),
    ],
)
def test_what_cannot_be_meant_is_refused(config: Path, words: list[str], hint: str) -> None:
    with pytest.raises(Fatal, match=hint):
        CliRunner().invoke(app, ["silences", "add", *WHO, *words, "--config", str(config)], catch_exceptions=False)


def test_an_alert_is_taken_on_by_the_beginning_of_its_id(config: Path, store: Store) -> None:
    with store.transaction() as t:
        t.record_transitions([step(0, "AAPL").transition])
    assert run(config, "alerts", "ack", "AAPL-neg", "--author", "ann")["alert"] == "AAPL-negative"
    assert run(config, "alerts", "list")["acknowledged"] == {"AAPL-negative": "ann"}
    assert run(config, "alerts", "ack", "MSFT", "--author", "ann", code=1)["acknowledged"] is False


def test_why_somebody_was_not_told_can_be_shown(config: Path, store: Store) -> None:
    with store.transaction() as t:
        t.record_transitions([step(0, "AAPL").transition])
        t.settle(
            [
                Settled(
                    alert="AAPL-negative",
                    sequence=1,
                    verdict=Verdict.SILENT,
                    reason=PageReason.SILENCED,
                    page="AAPL-negative",
                    silence=3,
                )
            ],
            now_ms=1,
        )
        t.keep_suppressions(
            [
                Suppression(
                    entity="AAPL",
                    kind="burst",
                    direction="negative",
                    reason="cooling_down",
                    at_ms=START_MS,
                    score=4.0,
                    needed=3.0,
                    voices=6.0,
                )
            ]
        )
    found = run(config, "alerts", "why", "AAPL")
    assert found["alerts"][0]["steps"][0]["reason"] == "silenced"
    assert found["suppressed"][0]["reason"] == "cooling_down"
    shown = CliRunner().invoke(app, ["alerts", "why", "AAPL", "--config", str(config)])
    assert "step 1: silent, silenced by silence 3" in shown.stdout
    assert "cooling_down (score 4, 3 needed)" in shown.stdout


@pytest.mark.parametrize(
    ("channel_until_h", "company_until_h", "hearing"),
    [(120, 120, "as_usual"), (120, 96, "silent"), (96, 96, "feed_down")],
)
def test_no_news_is_told_from_no_data(
    config: Path, store: Store, channel_until_h: int, company_until_h: int, hearing: str
) -> None:
    """At the 120th hour: the company still speaks, it alone has fallen silent, or its whole channel has."""
    monday_ms = START_MS + 3 * 86_400_000
    with store.transaction() as t:
        for hour in range(channel_until_h):
            one = spoken(hour, hour)
            t.note_heard([one] * 10, 0, now_ms=one.published_at_ms)
        t.upsert_buckets(
            BucketRow(
                entity="AAPL",
                channel="news",
                start_ms=monday_ms + hour * 3_600_000 + 59 * 60_000,
                raw_n=8,
                effective_n=8.0,
                negative=0.0,
                neutral=8.0,
                positive=0.0,
                polarity_sum=0.0,
                polarity_sq_sum=0.0,
            )
            for hour in range(company_until_h)
        )
    write(store, 0, [], watermark=3 * 86_400_000 + 120 * 3_600_000 - 1, following=1)
    (heard,) = run(config, "alerts", "why", "AAPL")["heard"]
    assert (heard["channel"], heard["hearing"]) == ("news", hearing)
