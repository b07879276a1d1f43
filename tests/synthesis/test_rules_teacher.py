"""The teacher without a model: what it asks, answers, judges and says again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclara.synthesis.tasks import Pair, Task
from openclara.synthesis.teachers.rules import RulesTeacher
from openclara.synthesis.teachers.rules.documents import split_sentences
from openclara.synthesis.teachers.rules.rewording import reword
from openclara.synthesis.teachers.rules.spans import capitals, find_facts, numerals
from openclara.synthesis.teachers.rules.teacher import carry_out
from openclara.synthesis.teachers.rules.verbs import base_form

TITLE = "Ada Brandt"
DOCUMENT = (
    "Ada Brandt (born 3 May 1901) was a Norwegian engineer. She was born in Bergen, Norway. "
    "In 1932, she designed the Nordfjord Bridge with 14 arches. The Nordfjord Bridge was opened by "
    "Olav Berg on 2 June 1935. Ada Brandt won the Holm Prize in 1940. Later she moved to Chicago."
)


def questions(kind: str = "simple_qa", **other) -> tuple[str, ...]:
    return carry_out(Task(kind, DOCUMENT, TITLE, **other)).questions


def answer(question: str, document: str = DOCUMENT, title: str = TITLE) -> str:
    return carry_out(Task("answer", document, title, question=question)).text


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("When was Ada Brandt born?", "3 May 1901"),
        ("Who was Ada Brandt?", "a Norwegian engineer"),
        ("Where was Ada Brandt born?", "Bergen, Norway"),
        ("In what year did Ada Brandt design the Nordfjord Bridge with 14 arches?", "1932"),
        ("Who opened the Nordfjord Bridge on 2 June 1935?", "Olav Berg"),
        ("When was the Nordfjord Bridge opened?", "2 June 1935"),
        ("In what year did Ada Brandt win the Holm Prize?", "1940"),
        ("What did Ada Brandt win in 1940?", "the Holm Prize"),
        ("Who won the Holm Prize in 1940?", "Ada Brandt"),
    ],
)
def test_it_asks_for_who_when_where_and_what(question: str, expected: str) -> None:
    assert question in questions()
    assert answer(question) == expected


def test_a_sentence_that_begins_with_a_comma_is_read_over() -> None:
    text = (
        "The Holm Bridge is in Norway. , was opened in 1932. It was designed by Olav Berg in 1940."
    )
    asked = carry_out(Task("simple_qa", text, "Holm Bridge")).questions
    assert not any(question.startswith("Who designed") for question in asked)


def test_complex_questions_take_two_sentences_and_have_the_answer_of_one() -> None:
    asked = questions("complex_qa")
    assert "When was the person who won the Holm Prize in 1940 born?" in asked
    assert "Which Norwegian engineer won the Holm Prize in 1940?" in asked
    assert answer("When was the person who won the Holm Prize in 1940 born?") == "3 May 1901"


def test_other_peoples_questions_are_answered_by_their_kind_or_not_at_all() -> None:
    assert answer("When was the Holm Prize won by Ada?") == "1940"
    assert answer("How many arches does the Nordfjord Bridge have?") == "14"
    assert answer("Who discovered penicillin?") == ""


def test_a_later_round_asks_for_what_is_uncovered_and_repeats_nothing() -> None:
    pairs = tuple(Pair(one, answer(one)) for one in questions())
    more = questions(pairs=pairs, uncovered=("Chicago",), round=1)
    assert more == (
        'Which name is missing from this sentence on Ada Brandt: "Later she moved to _____"?',
    )
    assert answer(more[0]) == "Chicago"
    assert questions(pairs=(*pairs, Pair(more[0], "Chicago")), round=2) == ()


def test_judges_accept_what_is_made_and_refuse_what_is_spoilt() -> None:
    def judged(question: str, said: str) -> bool:
        return carry_out(
            Task("judge_pair", DOCUMENT, TITLE, question=question, answer=said)
        ).verdict

    for question in (*questions(), *questions("complex_qa")):
        assert judged(question, answer(question)), question
        assert not judged(question, "Napoleon")
    assert not judged("When was Ada Brandt born?", "Bergen, Norway")
    assert not judged("How many people live on the moon?", "14")

    def faithful(said: str):
        return carry_out(Task("judge_paraphrase", DOCUMENT, TITLE, paraphrase=said))

    assert faithful(reword(DOCUMENT)).verdict
    assert "numbers" in faithful(reword(DOCUMENT).replace("1901", "1902")).reason
    assert "names" in faithful(reword(DOCUMENT).replace("Bergen", "Oslo")).reason
    assert "changed" in faithful(DOCUMENT).reason
    assert not faithful("").verdict


def test_a_paraphrase_says_it_differently_and_another_round_differently_again() -> None:
    said = reword(DOCUMENT)
    assert said != DOCUMENT
    assert said.startswith("Ada Brandt, born 3 May 1901, was a Norwegian engineer.")
    assert "She designed the Nordfjord Bridge with 14 arches in 1932." in said
    assert (
        len(
            {
                reword(DOCUMENT + " It is often located near a large number of films.", n)
                for n in range(6)
            }
        )
        > 1
    )


def test_the_same_task_gets_the_same_reply_and_costs_nothing() -> None:
    tasks = [Task("simple_qa", DOCUMENT, TITLE), Task("paraphrase", DOCUMENT, TITLE)]
    once, again = dict(RulesTeacher().perform(tasks)), dict(RulesTeacher().perform(tasks))
    assert once == again
    assert once[0].spent.requests == 0


@pytest.mark.parametrize(
    ("past", "base"),
    [
        ("stopped", "stop"),
        ("moved", "move"),
        ("carried", "carry"),
        ("wrote", "write"),
        ("released", "release"),
        ("opened", "open"),
        ("created", "create"),
        ("played", "play"),
        ("includes", "include"),
        ("has", "have"),
        ("toured", "tour"),
        ("published", "publish"),
    ],
)
def test_verbs_find_their_infinitive(past: str, base: str) -> None:
    assert base_form(past) == base


NAMES = st.sampled_from(
    [
        "Ada Brandt",
        "Olav Berg",
        "The Nordfjord Bridge",
        "It",
        "She",
        "NASA",
        "Élisabeth Lion",
        "The film",
        "A red deer",
        "The University of Oslo",
        "Which",
        "\u202eبرلين",
        "東京",
    ]
)
VERBS = st.sampled_from(
    [
        "was born in",
        "was designed by",
        "is a",
        "is the capital of",
        "won",
        "has",
        "moved to",
        "consists of",
        "was opened on",
        "are located in",
        "employed",
        "and",
        "(born 1950) is",
        "did not see",
    ]
)
OBJECTS = st.sampled_from(
    [
        "Bergen, Norway",
        "3 May 1901",
        "14 arches",
        "1,250 people in 1990",
        "the Holm Prize",
        "1999",
        "a singer, and later won the Cup in 2001",
        "Olav Berg and was built by Ada Brandt",
        "“x",
        "(",
        "because it is often located near films",
        "_____",
        "$5.50 [note 3]",
        "63 – 0",
    ]
)
LEADS = st.sampled_from(
    ["", "In 1932, ", "However, ", "Although he lost, ", "On 2 June 1935, ", "\n\n"]
)
SENTENCES = st.builds("{}{} {} {}.".format, LEADS, NAMES, VERBS, OBJECTS)
DOCUMENTS = st.one_of(
    st.lists(SENTENCES, min_size=1, max_size=8).map(" ".join), st.text(max_size=300)
)


@given(DOCUMENTS, st.sampled_from(["", "Ada Brandt", "The Nordfjord Bridge (1935)"]))
def test_every_answer_is_a_span_of_the_document_and_not_of_its_question(document, title) -> None:
    spaced = " ".join(document.split())
    for kind in ("simple_qa", "complex_qa"):
        for question in carry_out(Task(kind, document, title)).questions:
            assert question.endswith("?")
            said = answer(question, document, title)
            assert said
            assert said.lower() in f"{spaced} {title}".lower()


@given(DOCUMENTS, st.integers(0, 3))
def test_a_paraphrase_keeps_every_number_and_name(document: str, number: int) -> None:
    said = reword(document, number)
    assert set(numerals(said)) == set(numerals(document))
    inner = {
        word for one in split_sentences(document) for word in capitals(" ".join(one.split()[1:]))
    }
    assert inner <= capitals(said)


@given(st.text(max_size=200))
def test_facts_are_spans_of_the_sentence(sentence: str) -> None:
    assert all(fact in sentence for fact in find_facts(sentence))


def test_long_and_hostile_documents_come_to_an_end() -> None:
    for text in (
        "The A " * 5000,
        "(" * 9000,
        "A, " * 8000,
        "In 1990 " * 4000,
        "of the " * 6000,
        "Ada Brandt was born in " * 1500,
    ):
        carry_out(Task("simple_qa", text + ".", "A"))
        assert reword(text + ".")
