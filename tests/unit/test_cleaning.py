"""Cleaning: what the model reads is plain, bounded, idempotent, and can be traced back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.intake import clean


@pytest.mark.parametrize(
    ("original", "cleaned"),
    [
        ("Acme falls", "Acme falls"),
        ("Acme  falls\n\thard ", "Acme falls hard"),
        ("A\u200bc\u2060me \u202efalls\u202c", "Acme falls"),
        ("Acme\U000e0041\U000e0042 falls", "Acme falls"),
        ("Johnson &amp; Johnson", "Johnson & Johnson"),
        ("Johnson &amp;amp; Johnson", "Johnson & Johnson"),
        ("<b>Acme</b> falls", "Acme falls"),
        ("Acme falls https://t.co/abc123 again", "Acme falls again"),
        ("ﬁne １２％", "fine 12%"),
        ("Acme !!!!!!!!!!!!!!", "Acme !!!!!"),
        ("loss < gain & more", "loss < gain & more"),
        ("", ""),
    ],
)
def test_disguise_and_noise_are_removed(original: str, cleaned: str) -> None:
    assert clean(original).text == cleaned


def test_a_span_of_the_clean_text_leads_back_to_the_original() -> None:
    original = "Shares of A&amp;T\u200b Corp  fell https://t.co/x sharply"
    cleaned = clean(original)
    start = cleaned.text.index("A&T Corp")
    begin, end = cleaned.to_original(start, start + len("A&T Corp"))
    assert original[begin:end] == "A&amp;T\u200b Corp"
    assert cleaned.to_clean(begin, end) == (start, start + len("A&T Corp"))


@given(st.text(max_size=200) | st.text(alphabet="&<>amp;lt#x3c /\u200b\u0301Aé\n", max_size=80))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = clean(text).text
    assert clean(once).text == once


@given(st.text(max_size=200))
def test_every_clean_character_has_a_place_in_the_original(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned.starts) == len(cleaned.ends) == len(cleaned.text)
    assert all(0 <= s < e <= len(text) for s, e in zip(cleaned.starts, cleaned.ends, strict=True))
    assert list(cleaned.starts) == sorted(cleaned.starts)


def test_a_flood_is_bounded_and_does_not_hang() -> None:
    for text in ("<" * 50_000, "&" * 50_000, "&amp;" * 20_000, "a\u0301" + "\u0301" * 50_000, "<!--" * 20_000):
        assert len(clean(text).text) <= 4_000
