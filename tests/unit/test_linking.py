"""Which companies a text names: sentences of our own, ordinary and treacherous ones; precision and recall are printed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.errors import Fatal
from monitor.linking import Linker, LinkPolicy, load_watchlist
from monitor.linking.folding import fold

ROOT = Path(__file__).resolve().parents[2]
LINKER = Linker(load_watchlist(ROOT / "configs" / "watchlists" / "us_large.csv"))
HEADER = "symbol,name,aliases,exchange,sector\n"


def cases() -> list[tuple[str, str, set[str]]]:
    lines = (ROOT / "tests" / "data" / "linking_cases.txt").read_text("utf-8").splitlines()
    found = []
    for line in lines:
        if line and not line.startswith("#"):
            left, _, right = line.rpartition("=>")
            found.append(("social" if left[0] == "S" else "news", left[2:].strip(), set(right.split())))
    return found


def test_the_labelled_cases_are_linked_with_the_stated_precision_and_recall(
    record_property: Callable[[str, object], None],
) -> None:
    hit = said = meant = 0
    wrong = []
    for channel, text, expected in cases():
        got = {link.entity for link in LINKER.link(text, channel=channel)}  # type: ignore[arg-type]
        hit, said, meant = hit + len(got & expected), said + len(got), meant + len(expected)
        if got != expected:
            wrong.append(f"{text!r}: {sorted(got)} instead of {sorted(expected)}")
    precision, recall = hit / said, hit / meant
    record_property("told", f"linking: {len(cases())} cases, precision {precision:.3f}, recall {recall:.3f}")
    assert len(cases()) >= 200
    assert precision >= 0.95, wrong
    assert recall >= 0.95, wrong


def test_spans_point_into_the_original_text() -> None:
    text = "“Apple’s” rival Samsung and Micro\u00adsoft: Apple\u200b shares"
    for link in LINKER.link(text):
        assert all(fold(text[s.start : s.end]).startswith(("apple", "microsoft")) for s in link.spans)


def test_the_source_s_symbols_are_linked_without_spans() -> None:
    (link,) = LINKER.link("Chip stocks rally", symbols=["NASDAQ:NVDA", "$unknown"])
    assert (link.entity, link.spans, link.cue) == ("NVDA", (), "symbol")


def test_the_strongest_cue_is_told() -> None:
    assert [link.cue for link in LINKER.link("Nvidia and $NVDA and (NASDAQ: NVDA)")] == ["cashtag"]


@given(st.text(max_size=200))
def test_no_text_breaks_the_linker_and_every_span_lies_inside(text: str) -> None:
    for link in LINKER.link(text + " Apple shares " + text):
        assert all(0 <= span.start < span.end <= 2 * len(text) + 14 for span in link.spans)


def test_at_most_so_many_companies_are_linked() -> None:
    linker = Linker(load_watchlist(ROOT / "configs" / "watchlists" / "us_large.csv"), LinkPolicy(entities_max=2))
    assert len(linker.link("Microsoft, Nvidia, Netflix and Boeing")) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("A,Alpha,,,\nA,Beta,,,\n", "line 3: symbol A stands already in line 2"),
        ("A,Alpha,Same,,\nB,Beta,same,,\n", "line 3: 'same' of B is also A's in line 2"),
        ("A,,,,\n", "line 2: symbol A: name is empty"),
        ("A B,Alpha,,,\n", "line 2: symbol 'A B' must be"),
        ("A,Alpha,,,,extra\n", "line 2: more cells than columns"),
        ("", "no companies"),
    ],
)
def test_a_faulty_watchlist_is_refused_by_line(tmp_path: Path, rows: str, message: str) -> None:
    path = tmp_path / "watch.csv"
    path.write_text(HEADER + rows, "utf-8")
    with pytest.raises(Fatal) as caught:
        load_watchlist(path)
    assert any(message in fault and "watch.csv" in fault for fault in caught.value.faults)


def test_every_fault_of_a_watchlist_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "watch.csv"
    path.write_text(HEADER + "A,,,,\nA,Beta,,,\nC D,Gamma,,,\n", "utf-8")
    with pytest.raises(Fatal) as caught:
        load_watchlist(path)
    assert len(caught.value.faults) == 3


def test_the_watchlist_of_the_past_holds_those_that_are_gone() -> None:
    linker = Linker(load_watchlist(ROOT / "configs" / "watchlists" / "us_history.csv"))
    text = "WaMu, Lehman and AIG under pressure; First Republic Bank, Wirecard and Thomas Cook too"
    assert {link.entity for link in linker.link(text)} == {"WM", "LEH", "AIG", "FRC", "WDI.DE", "TCG.L"}


def test_the_market_as_a_whole_is_an_entity_of_its_own() -> None:
    """What is said of the index is not said of those who publish it."""
    texts = ["US STOCKS-Wall St tumbles on credit fears", "S&P 500 hits a record", "$SPY puts printing"]
    assert [[link.entity for link in LINKER.link(text, channel="social")] for text in texts] == [["SPY"]] * 3
    assert [link.entity for link in LINKER.link("S&P Global raises its dividend")] == ["SPGI"]
