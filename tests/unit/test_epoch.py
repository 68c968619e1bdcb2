"""What one epoch learns from: sources by their passes, and pairs of texts told in one breath."""

from __future__ import annotations

import random

from monitor.learning.epoch import epoch_examples, joined_pairs, visited
from monitor.learning.features import Example, MentionExample, join
from monitor.learning.recipe import Recipe, Tasks

CLS, SEP, SEMICOLON = 101, 102, 7


def example(*words: int, fate: int = 1, tags: list[int] | None = None, source: str = "sentfin") -> Example:
    """[CLS] words [SEP]; the mention is the first word."""
    target = tuple(float(i == fate) for i in range(3))
    mention = MentionExample(tokens=[1], head="company", target=target, tags=tags)  # type: ignore[arg-type]
    return Example(ids=[CLS, *words, SEP], source=source, mentions=[mention])


def test_joined_texts_keep_whose_words_are_whose() -> None:
    """The mention of the second text moves with its words; the other text's words carry no evidence."""
    first = example(11, 12, fate=0, tags=[-100, 0, 1, -100])
    second = example(21, 22, 23, fate=2, tags=[-100, 0, 1, 2, -100])
    both = join(first, second, [SEMICOLON])
    assert both.ids == [CLS, 11, 12, SEMICOLON, 21, 22, 23, SEP]
    assert [[both.ids[t] for t in m.tokens] for m in both.mentions] == [[11], [21]]
    assert both.mentions[0].tags == [-100, 0, 1, 0, 0, 0, 0, -100]
    assert both.mentions[1].tags == [-100, 0, 0, 0, 0, 1, 2, -100]
    assert (both.document, both.topic, both.events) == (None, None, None)


def test_an_epoch_visits_each_source_as_often_as_the_recipe_says() -> None:
    examples = [example(n, source="big") for n in range(100)] + [example(n, source="small") for n in range(10)]
    chosen = visited(examples, {"b*": 0.25, "small": 2.5}, random.Random(1))
    assert sum(i < 100 for i in chosen) == 25
    assert sorted(chosen.count(i) for i in range(100, 110)) == [2] * 5 + [3] * 5
    assert visited(examples, {}, random.Random(1)) == list(range(110)), "without a word all are visited once"


def test_an_epoch_leaves_out_rows_that_teach_no_task_of_the_recipe() -> None:
    topical = Example(ids=[CLS, 1, SEP], source="topics", topic=3)
    tagged = example(2, tags=[-100, 1, -100], source="tagged")
    tagged.mentions[0].head = None
    examples = [topical, tagged, example(3)]

    def sources(**weights: float) -> list[str]:
        return [e.source for e in epoch_examples(examples, Recipe(tasks=Tasks(**weights)), [], 0)]

    assert sources() == ["sentfin", "tagged", "topics"]
    assert sources(topic=0.0) == ["sentfin", "tagged"]
    assert sources(topic=0.0, evidence=0.0) == ["sentfin"]
    assert sources(topic=0.0, mention=0.0) == ["tagged"]


def test_joined_pairs_mostly_have_different_fates() -> None:
    examples = [example(n, fate=n % 3) for n in range(60)] + [example(*range(50), fate=0)]
    pairs = joined_pairs(examples, "company", 200, [[SEMICOLON]], tokens_max=64, rng=random.Random(2))
    assert len(pairs) == 200
    assert all(len(pair.ids) <= 64 for pair in pairs), "texts that would be cut are left alone"
    different = sum(pair.mentions[0].target != pair.mentions[1].target for pair in pairs)
    assert 150 <= different < 200


def test_nothing_is_joined_where_no_mention_is_judged() -> None:
    assert joined_pairs([example(1)], "social", 5, [[SEMICOLON]], tokens_max=64, rng=random.Random(2)) == []
