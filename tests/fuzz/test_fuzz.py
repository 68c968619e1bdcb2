"""The fuzzer's targets under Hypothesis: inputs near to what is valid, and texts made of what confuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import SEEDS, WORDS
from tests.fuzz.targets import TARGETS, answers, cleaner, decoder, linker, whole_way

pytestmark = pytest.mark.timeout(120)  # a hang fails here, whichever input it was
NEAR = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

odd_text = st.lists(
    st.sampled_from([word.decode("utf-8", "replace") for word in WORDS]) | st.text(max_size=6), max_size=30
).map("".join)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | odd_text
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_text, inner, max_size=4), max_leaves=12
)
times = st.datetimes().map(lambda moment: moment.isoformat() + "Z") | st.from_regex(
    r"\A\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)\Z"
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": odd_text | anything,
    "source": odd_text | anything,
    "channel": st.sampled_from(["news", "social", None, 1]),
    "published_at": times | anything,
    "title": odd_text | anything,
}
MORE: dict[str, st.SearchStrategy[Any]] = {
    "body": odd_text | anything,
    "symbols": st.lists(odd_text, max_size=120) | anything,
    "author": odd_text | anything,
    "author_followers": st.floats() | anything,
    "lang": anything,
    "url": odd_text,
    "more": anything,
}
messages = st.fixed_dictionaries(FIELDS, optional=MORE).map(lambda fields: json.dumps(fields).encode())
broken = st.tuples(messages, st.integers(0, 400), st.binary(max_size=3)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("number", range(len(SEEDS)))
def test_what_the_fuzzer_starts_from_holds(target: str, number: int) -> None:
    TARGETS[target](SEEDS[number])


@NEAR
@given(messages | broken | st.binary(max_size=300))
def test_a_message_is_a_document_or_a_refusal(data: bytes) -> None:
    decoder(data)
    whole_way(data)


@NEAR
@given(odd_text | st.text(max_size=300))
def test_a_cleaned_text_is_bounded_stable_and_leads_back(text: str) -> None:
    cleaner(text.encode("utf-8", "replace"))


@NEAR
@given(st.text(alphabet=st.characters(), max_size=60))
def test_even_lone_surrogates_are_cleaned(text: str) -> None:
    cleaner(b"s" + text.encode("utf-8", "surrogatepass"))


@NEAR
@given(odd_text)
def test_every_span_lies_in_the_text(text: str) -> None:
    linker(text.encode("utf-8", "replace"))


@NEAR
@given(
    st.integers(0, 999),
    st.text(max_size=60) | st.from_regex(r"\A\w{3}, \d{1,12} \w{3} \d{1,12} \d\d:\d\d:\d\d [+-]?\d{1,14}\Z"),
)
def test_whatever_a_receiver_answers_the_next_try_has_its_time(status: int, retry_after: str) -> None:
    answers(status.to_bytes(2, "big") + retry_after.encode("latin-1", "replace"))
