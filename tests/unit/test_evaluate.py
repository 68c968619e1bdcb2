"""Figures, calibration and the report, on answers made by hand."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from monitor.errors import Fatal
from monitor.learning.calibrate import (
    calibration_figures,
    fit_abstention,
    fit_calibration,
    fit_event_thresholds,
    fit_evidence_threshold,
    fit_knots,
    fit_temperature,
    softmax,
)
from monitor.learning.card import model_card
from monitor.learning.evaluate import Answers, MentionPrediction, Prediction, evaluate, slices_of, word_tags
from monitor.learning.findings import averages, findings
from monitor.learning.metrics import classification
from monitor.learning.report import render_report
from monitor.learning.rows import LabelledMention, LabelledRow

SURE_BAD, SURE_GOOD = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8)
TEXT = "Acme did not win, <b>Bolt</b> gained 7%"


def rows() -> list[LabelledRow]:
    acme = LabelledMention(target="Acme", start=0, end=4, label="negative", score=-0.5, evidence=((5, 16),))
    bolt = LabelledMention(target="Bolt", start=21, end=25, label="positive", score=0.5, evidence=((30, 36),))
    return [
        LabelledRow(
            text=TEXT, source="a", label="negative", mentions=(acme, bolt), topic="markets", events=("Profit",)
        ),
        LabelledRow(text="Quiet day", source="b", label="positive", topic="people", events=()),
    ]


def answers(bolt: tuple[float, float, float] = SURE_GOOD) -> Answers:
    mentions = (
        MentionPrediction(probabilities=SURE_BAD, polarity=-0.5, evidence=((5, 16),)),
        MentionPrediction(probabilities=bolt, polarity=0.1, evidence=()),
    )
    return Answers(
        predictions=(
            Prediction(document=SURE_BAD, mentions=mentions, topic=(0.9, 0.1), events=("Profit",)),
            Prediction(document=SURE_BAD, mentions=(), topic=(0.9, 0.1), events=("Profit",)),
        ),
        topics=("markets", "people"),
        events=("Profit", "Turnover"),
    )


def test_evaluation_gives_the_agreed_figures() -> None:
    """Every value by hand: one text of two right, both companies right, one event too many, one phrase of two found."""
    found = evaluate(rows(), lambda _rows: answers())
    assert (found["sentiment"]["n"], found["sentiment"]["accuracy"]) == (2, 0.5)
    assert found["sentiment"]["per_class"]["negative"] == {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}
    assert found["mentions"]["accuracy"] == 1.0
    assert found["mentions"]["ece"] == pytest.approx(0.2)
    assert found["polarity"]["mse"] == pytest.approx(0.08)
    assert found["polarity"]["sign_accuracy"] == 1.0
    assert found["topic"]["accuracy"] == 0.5
    assert found["events"]["micro_f1"] == pytest.approx(2 / 3)
    assert found["evidence"]["n"] == 2  # three words found and right, one missed: "gained"
    assert found["evidence"]["token_f1"] == pytest.approx(6 / 7)


def test_only_what_is_labelled_is_judged() -> None:
    row = LabelledRow(text="Quiet day", topic="people")
    answer = Answers(
        predictions=(Prediction(document=SURE_BAD, mentions=(), topic=(0.9, 0.1)),), topics=("markets", "people")
    )
    assert set(evaluate([row], lambda _rows: answer)) == {"topic"}
    with pytest.raises(Fatal, match="nothing to evaluate"):
        evaluate([LabelledRow(text="Quiet day")], lambda _rows: answer)


def test_a_topic_the_model_does_not_know_counts_as_wrong() -> None:
    row = LabelledRow(text="Quiet day", topic="weather")
    answer = Answers(
        predictions=(Prediction(document=None, mentions=(), topic=(0.9, 0.1)),), topics=("markets", "people")
    )
    assert evaluate([row], lambda _rows: answer)["topic"]["accuracy"] == 0.0


def test_judgements_of_one_target_are_one_question_for_evidence() -> None:
    """Two rows of labels for one company, the second phrase found: half of the answer, not one right and one wrong."""
    both = tuple(LabelledMention(start=0, end=4, label="negative", evidence=(span,)) for span in ((5, 8), (13, 16)))
    said = tuple(MentionPrediction(probabilities=SURE_BAD, polarity=0.0, evidence=((5, 8),)) for _ in both)
    answer = Answers(predictions=(Prediction(document=None, mentions=said),))
    found = evaluate([LabelledRow(text=TEXT, mentions=both)], lambda _rows: answer)
    assert found["evidence"]["n"] == 1
    assert found["evidence"]["token_f1"] == pytest.approx(2 / 3)


def test_word_tags_do_not_hang_on_a_tokenizer() -> None:
    assert word_tags("up 7% today", [(3, 5)]).tolist() == [0, 1, 1, 0]


def test_figures_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    truth, p = rng.integers(0, 3, 200), rng.dirichlet([1, 1, 1], 200)
    found = classification(truth, p)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, p.argmax(1), average="macro"))
    assert found["weighted_f1"] == pytest.approx(metrics.f1_score(truth, p.argmax(1), average="weighted"))
    assert found["confusion"] == metrics.confusion_matrix(truth, p.argmax(1)).tolist()


def test_temperature_finds_by_how_much_the_logits_were_blown_up() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1.5, (4_000, 3))
    truth = np.array([rng.choice(3, p=p) for p in softmax(logits)])
    assert fit_temperature(logits * 3.0, truth) == pytest.approx(3.0, rel=0.1)


def test_abstention_keeps_the_stated_risk_at_the_widest_coverage() -> None:
    # confidence  .9 .8 .7 .6 .5   right y y n y n: four answers with one wrong are allowed at a quarter, five are not
    p = np.array([[c, (1 - c) * 0.6, (1 - c) * 0.4] for c in (0.9, 0.8, 0.7, 0.6, 0.5)])
    found = fit_abstention(p, [0, 0, 1, 0, 1], risk_max=0.25)
    assert found == {"abstain_below": 0.6, "coverage": 0.8, "risk": 0.25}
    assert fit_abstention(p, [1, 1, 1, 1, 1], risk_max=0.25)["coverage"] == 0.0


def test_knots_rise_and_straighten_a_saturated_scale() -> None:
    rng = np.random.default_rng(3)
    score = rng.uniform(-0.8, 0.8, 300)
    said = np.tanh(4 * score)
    knots = fit_knots(said, score)
    assert knots == sorted(knots)
    mapped = np.interp(said, (-1.0, -0.5, 0.0, 0.5, 1.0), knots)
    assert ((mapped - score) ** 2).mean() < 0.5 * ((said - score) ** 2).mean()


def test_knots_never_fall_even_where_the_rows_do() -> None:
    knots = fit_knots([-1.0, 0.0, 1.0], [0.5, 0.0, -0.5])
    assert knots == sorted(knots)


def test_thresholds_are_chosen_where_f1_is_best() -> None:
    p = np.array([[0.9], [0.7], [0.4], [0.2]] * 10)
    truth = np.array([[1], [1], [0], [0]] * 10)
    limit = fit_event_thresholds(p, truth)[0]
    assert 0.4 < limit <= 0.7
    tags = [(np.array([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2]]), np.array([0, 1]))]
    assert 0.2 < fit_evidence_threshold(tags) <= 0.5


def test_calibration_lowers_the_error_of_overconfident_answers() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 1.0, (2_000, 3))
    truth = np.array([rng.choice(3, p=p) for p in softmax(logits)])
    outputs = {"mention": (logits * 4, truth), "polarity": (logits[:50], np.zeros(50))}
    calibration = fit_calibration(outputs, risk_max=0.3)
    figures = calibration_figures(outputs, calibration)["mention"]
    assert figures["ece_after"] < 0.05 < figures["ece_before"]
    assert figures["risk"] <= 0.3 + 1e-9
    assert len(calibration["polarity"]["knots_y"]) == len(calibration["polarity"]["knots_x"])


def test_slices_name_what_is_hard() -> None:
    assert {"negation", "numbers", "several companies", "opposite fates", "source a"} <= set(slices_of(rows()))


def test_the_report_escapes_texts_and_shows_the_change() -> None:
    conventions = {"a": {"mention": {"head": "company", "by": "source"}}}
    found = findings(rows(), answers(), before=answers(bolt=SURE_BAD), conventions=conventions)
    page = render_report(found, title="T & U", before_name="base", after_name="tuned")
    assert "+0.500" in page  # companies: one of two right before, both after
    assert "<b>Bolt" not in page
    assert "T &amp; U" in page
    assert "Worst errors" in page
    assert page.count("<svg") == 2
    assert "weighted average" in page
    assert "its own" in page
    assert "Before: base. After: tuned." in page


def test_the_findings_are_one_json_object_with_all_that_the_page_shows() -> None:
    found = msgspec.json.decode(msgspec.json.encode(findings(rows(), answers(), before=answers(bolt=SURE_BAD))))
    assert found["worst"] == [
        {"about": "the text", "truth": "positive", "said": "negative", "sure": 0.8, "source": "b", "text": "Quiet day"}
    ]
    opposite = next(s for s in found["slices"] if (s["slice"], s["task"]) == ("opposite fates", "mentions"))
    assert (opposite["n"], opposite["before"], opposite["accuracy"]) == (2, 0.5, 1.0)
    assert found["reliability"]["mentions"] == [
        {"from": 0.8, "to": 0.9, "n": 2, "confidence": pytest.approx(0.8), "right": 1.0}
    ]


def test_averages_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    truth, p = rng.integers(0, 2, 200), rng.dirichlet([1, 1, 1], 200)  # the third label is only ever said
    found = averages(classification(truth, p))
    for name in ("micro", "macro", "weighted"):
        wanted = metrics.precision_recall_fscore_support(truth, p.argmax(1), average=name, zero_division=0)[:3]
        assert list(found[name].values()) == pytest.approx(list(wanted))


def test_sarcasm_and_the_kinds_that_a_row_is_given_are_slices() -> None:
    marked = [LabelledRow(text="Oh great, another profit warning", kinds=("sarcasm",)), LabelledRow(text="Plain news")]
    found = slices_of(marked)
    assert found["sarcasm (by its marks)"] == found["kind sarcasm"] == [0]


def test_the_card_names_every_source_with_its_licence() -> None:
    card = model_card(
        name="m",
        base_model="b",
        licences={"a": "MIT", "b": "not stated"},
        rows={"a": 3, "b": 4},
        figures={"test": {"a": {"mentions": {"n": 3, "accuracy": 0.5}}}},
        calibration={"mention": {"ece_before": 0.1, "ece_after": 0.02, "coverage": 0.9, "risk": 0.05}},
        served={"companies": "a"},
    )
    assert "| a | 3 | MIT |" in card
    assert "| b | 4 | not stated |" in card
    assert "| a | company | 3 | 0.500 |" in card


def test_evaluating_needs_no_torch() -> None:
    code = "import sys, monitor.learning, monitor.learning.evaluate, monitor.learning.served, monitor.learning.report, monitor.lab; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
