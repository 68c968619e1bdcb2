"""`tapewatch deliveries`: what went out, who rests, and how to try again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.cli import CONFIGS, app
from monitor.store import ReceiverState, Store
from tests.unit.test_deliver_loop import write

RUN = CliRunner()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TAPEWATCH_DATABASE__URL", f"sqlite:///{tmp_path / 't.db'}")
    store = Store.open(f"sqlite:///{tmp_path / 't.db'}")
    write(store, ["desk", "boss"], alerts=["a", "b"])
    store.disable_receiver("desk", reason="gone: HTTP 410", now_ms=0)
    store.change_receiver(
        "boss", lambda s: ReceiverState(name=s.name, open_until_ms=4_000_000_000_000, consecutive_failures=7)
    )
    store.close()
    return str(CONFIGS / "default.toml")


def test_the_list_shows_rows_and_receivers_that_are_not_served(config: str) -> None:
    shown = RUN.invoke(app, ["deliveries", "list", "--config", config]).output
    assert "4 deliveries" in shown
    assert "desk: disabled since 1970-01-01T00:00:00Z, gone: HTTP 410" in shown
    assert "boss: rests until 2096-10-02T07:06:40Z, 7 failures" in shown
    told = json.loads(
        RUN.invoke(app, ["deliveries", "list", "--receiver", "desk", "--json", "--config", config]).output
    )
    assert {row["status"] for row in told["deliveries"]} == {"disabled"}
    assert [state["name"] for state in told["receivers"]] == ["boss", "desk"]


def test_a_retry_wakes_what_stopped_and_says_how_much(config: str) -> None:
    done = RUN.invoke(app, ["deliveries", "retry", "--all", "--receiver", "desk", "--json", "--config", config])
    assert (done.exit_code, json.loads(done.output)) == (0, {"retried": 2})
    again = RUN.invoke(app, ["deliveries", "retry", "--all", "--config", config])
    assert again.exit_code == 1, "nothing was left to retry"


@pytest.mark.parametrize("arguments", [[], ["--all", "some-id"], ["--receiver", "desk"]])
def test_a_retry_that_names_nothing_or_two_things_is_refused(config: str, arguments: list[str]) -> None:
    assert RUN.invoke(app, ["deliveries", "retry", *arguments, "--config", config]).exception is not None
