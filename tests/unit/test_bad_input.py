"""Clocks that are wrong, items out of their time, rules that can't be met, companies renamed: a clear error or a named fate."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.app import FileLine
from monitor.backtest.events import load_events
from monitor.cli import main
from monitor.errors import Fatal, Rejectable
from monitor.learning.rows import read_rows
from monitor.linking import Linker, load_watchlist
from monitor.loops.core import Fate, PartitionCore
from monitor.loops.watch import decode_letter, decode_mention
from monitor.offline import read_documents
from monitor.replay import lines
from monitor.settings import load_settings
from monitor.windows import Watermark, WatermarkPolicy
from tests.unit.test_core import HOUR_MS, MINUTE_MS, POLICY, RULES, START_MS, history, mention, play

HEAD = "symbol,name,aliases,exchange,sector,formerly\n"


def core() -> PartitionCore:
    return PartitionCore(policy=POLICY, rules=RULES)


def test_a_source_ahead_of_time_does_not_make_the_punctual_late() -> None:
    """Four minutes ahead are believed, but time goes no further than the clock on the wall."""
    mark = Watermark(policy=WatermarkPolicy(lateness_ms=120_000, future_max_ms=300_000))
    mark.observe("news/0", 10 * MINUTE_MS + 240_000, now_ms=10 * MINUTE_MS)
    assert mark.value_ms == 8 * MINUTE_MS
    running = core()
    now_ms = START_MS + HOUR_MS
    ahead, punctual = mention("AAA", now_ms + 240_000, 1), mention("AAA", now_ms - 60_000, 2)
    assert running.take(ahead, origin="news/0", now_ms=now_ms) is Fate.FOLDED
    assert running.take(punctual, origin="news/0", now_ms=now_ms) is Fate.FOLDED


def test_a_source_that_lags_is_late_and_holds_nobody_back() -> None:
    running = core()
    now_ms = START_MS + HOUR_MS
    running.take(mention("AAA", now_ms, 1), origin="news/0", now_ms=now_ms)
    lagging = mention("AAA", now_ms - 10 * MINUTE_MS, 2)
    assert running.take(lagging, origin="news/0", now_ms=now_ms) is Fate.LATE
    assert running.watermark_ms == now_ms - POLICY.lateness_ms


@pytest.mark.parametrize(
    ("away_ms", "fate"), [(-30 * 24 * HOUR_MS, Fate.LATE), (HOUR_MS, Fate.FUTURE), (3_650 * 24 * HOUR_MS, Fate.FUTURE)]
)
def test_an_item_out_of_its_time_has_a_name_and_changes_nothing(away_ms: int, fate: Fate) -> None:
    running, now_ms = core(), START_MS + 40 * 24 * HOUR_MS
    running.take(mention("AAA", now_ms, 1), origin="news/0", now_ms=now_ms)
    before = (running.watermark_ms, running.advance().buckets)
    assert running.take(mention("AAA", now_ms + away_ms, 2), origin="news/0", now_ms=now_ms) is fate
    assert (running.watermark_ms, running.advance().buckets) == before
    assert running.counts[fate] == 1


def test_a_company_that_falls_silent_for_ever_keeps_no_alert_open() -> None:
    """Renamed or struck from the list: nobody speaks of the old symbol, and its alert resolves by itself."""
    told = [*history(), *(mention("CCC", START_MS + (100 + k) * HOUR_MS, 9_000 + k, polarity=0.0) for k in range(60))]
    steps = [t for t in play(told).transitions if t.alert.entity == "BBB"]
    assert steps[0].change == "opened"
    assert steps[-1].change == "resolved"


def watchlist(folder: Path, rows: str) -> Path:
    path = folder / "list.csv"
    path.write_text(HEAD + rows, "utf-8")
    return path


def test_an_old_symbol_still_means_the_company(tmp_path: Path) -> None:
    """By cashtag, by ticker and by the source's tag; what is counted is counted under the new symbol."""
    linker = Linker(
        load_watchlist(watchlist(tmp_path, "NEWCO,Newco Industries,,NYSE,x,OLDCO|OLDER\nABC,Abacus Works,,NYSE,x,\n"))
    )
    assert [e.entity for e in linker.link("$OLDER climbs", channel="social")] == ["NEWCO"]
    assert [e.entity for e in linker.link("Results of (NYSE: OLDCO)")] == ["NEWCO"]
    assert [(e.entity, e.cue) for e in linker.link("Results", symbols=["OLDCO", "ABC"])] == [
        ("NEWCO", "symbol"),
        ("ABC", "symbol"),
    ]


def test_a_renaming_that_leaves_a_symbol_with_two_meanings_is_refused(tmp_path: Path) -> None:
    rows = "NEWCO,Newco Industries,,NYSE,x,OLDCO|A B\nABC,Abacus Works,,NYSE,x,OLDCO|NEWCO\n"
    with pytest.raises(Fatal) as caught:
        load_watchlist(watchlist(tmp_path, rows))
    faults = "\n".join(caught.value.faults)
    assert "line 3: formerly NEWCO of ABC: is still a company of its own in line 2" in faults
    assert "line 3: formerly OLDCO of ABC: is also NEWCO's" in faults
    assert "line 2: formerly A B of NEWCO: must be letters" in faults


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("[budget]\nfalse_alerts_per_day = 0\n", "budget.false_alerts_per_day: "),
        ("[time]\nlateness_s = 40000\n", "s is shorter than time.lateness_s (40000 s)"),
        ("[budget]\nburst = 0\ntone = 0\ndrift = 0\ndivergence = 0\n", "every detector's share is 0"),
        ("[voices]\nbrigade_accounts_min = 1\n", "voices.brigade_accounts_min: "),
        ("[voices]\nsource_cap = 0\n", "voices.source_cap: "),
    ],
)
def test_a_backtest_of_rules_that_cannot_be_met_says_so_and_exits_2(
    tmp_path: Path, rules: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, stream = tmp_path / "rules.toml", tmp_path / "none.jsonl"
    file.write_text(rules, "utf-8")
    stream.write_text("", "utf-8")
    monkeypatch.setattr(
        "sys.argv",
        ["tapewatch", "backtest", "--stream", str(stream), "--rules", str(file), "--out", str(tmp_path / "out")],
    )
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert f"{file}: " in (said := capsys.readouterr().err)
    assert told in said
    assert not (tmp_path / "out").exists()


NESTED = b'{"text":"x","rest":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def test_a_line_nested_without_end_is_a_line_like_others(tmp_path: Path) -> None:
    """The decoder gives up on it by its depth, not as on bytes that are no JSON; nothing that reads a file may fall over it."""
    file = tmp_path / "stream.jsonl"
    file.write_bytes(b'{"published_at":"2024-01-02T00:00:00Z"}\n' + NESTED + b"\n")
    (first_ms, _), (second_ms, line) = lines(file)
    assert (second_ms, line) == (first_ms, NESTED), "sent on as it is: the service quarantines it"
    with pytest.raises(Fatal) as caught:
        read_rows(file)
    assert any(fault.startswith(f"{file}: line 2: ") for fault in caught.value.faults)
    with pytest.raises(Fatal, match=r"stream\.jsonl: 2 fault"):
        load_events(file)


@pytest.mark.parametrize("value", [NESTED, b"\xff", b"[]", b""])
def test_foreign_bytes_on_our_own_topics_are_quarantined(value: bytes) -> None:
    message = FileLine(load_settings(Path("configs/default.toml")), Path("foreign"), 7, value)
    with pytest.raises(Rejectable, match=r"7.*not a scored mention"):
        decode_mention(message)
    assert decode_letter(message, 5).reason == "not_a_letter"


def test_a_backtest_tells_a_line_nested_without_end_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "stream.jsonl"
    file.write_bytes(
        NESTED + b'\n{"id":"1","source":"s","published_at":"2024-01-02T00:00:00Z","title":"Apple falls"}\n'
    )
    settings, warned = load_settings(Path("configs/default.toml")), list[str]()
    read = list(read_documents(settings, [file], None, progress=lambda _bytes: None, warn=warned.append))
    assert [document.id for document, _ in read] == ["1"]
    assert [told.startswith(f"{file}: line 1: ") for told in warned] == [True]
