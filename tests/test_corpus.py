"""The bundled corpus is complete, consistent and answerable from its own passages."""

from __future__ import annotations

import re

from openclara.corpus import passages, questions


def contains(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as whole words, in either case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def test_there_are_enough_passages_and_questions() -> None:
    asked = questions()
    assert len(passages()) >= 80
    assert len(asked) >= 160
    assert sum(len(question.passages) == 2 for question in asked) >= 20


def test_a_dozen_questions_are_for_demonstration() -> None:
    demo = questions(demo=True)
    assert len(demo) == 12
    assert sum(len(question.passages) == 2 for question in demo) >= 2
    assert set(demo) < set(questions())


def test_passages_have_a_title_and_the_right_length() -> None:
    for passage in passages():
        assert passage.title, passage.id
        assert 95 <= len(passage.text.split()) <= 155, passage.id
        assert passage.text == " ".join(passage.text.split()), passage.id


def test_ids_and_titles_are_unique() -> None:
    documents, asked = passages(), questions()
    assert len({passage.id for passage in documents}) == len(documents)
    assert len({passage.title.casefold() for passage in documents}) == len(documents)
    assert len({question.id for question in asked}) == len(asked)


def test_questions_name_one_or_two_different_known_passages() -> None:
    known = {passage.id for passage in passages()}
    for question in questions():
        assert len(question.passages) in (1, 2), question.id
        assert len(set(question.passages)) == len(question.passages), question.id
        assert set(question.passages) <= known, question.id


def test_the_first_answer_stands_in_a_named_passage() -> None:
    texts = {passage.id: passage.text for passage in passages()}
    for question in questions():
        first = question.answers[0]
        assert 1 <= len(first.split()) <= 6, question.id
        assert any(contains(texts[id_], first) for id_ in question.passages), question.id


def test_no_question_is_asked_twice() -> None:
    asked = [question.question.casefold() for question in questions()]
    assert all(text.endswith("?") for text in asked)
    assert len(set(asked)) == len(asked)


def test_every_passage_is_asked_about_at_least_twice() -> None:
    counts = {passage.id: 0 for passage in passages()}
    for question in questions():
        for id_ in question.passages:
            counts[id_] += 1
    assert [id_ for id_, count in counts.items() if count < 2] == []
